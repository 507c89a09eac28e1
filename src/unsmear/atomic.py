"""Files that appear whole or not at all, whatever happens while they are written."""

import errno
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from unsmear.errors import ImageError


def write_whole(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file where nobody sees it, and give it its name when it is whole.

    A new file gets the permissions of any other new file; a replaced one keeps its own. A symbolic link
    stays, and what it points to is replaced.

    Args:
        path: Where to.
        data: What is to be in it.
        replace: Whether to replace a file that exists.

    Raises:
        ImageError: If it cannot be written, or exists and is to stay. Nothing is left behind then, nor after an
            interrupt. A process that is killed at once can leave a hidden file `.unsmear-*.tmp`, but not on Linux where
            the file is a new one.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            raise ImageError(f"{path}: cannot be written: it is not a regular file")
        if not _write_nameless(target, data):
            _write_hidden(target, data, replace)
    except OSError as error:
        raise ImageError(f"{path}: cannot be written: {error.strerror}") from None


def _write_nameless(target: Path, data: bytes) -> bool:
    """Write a new file that has no name at all before it is whole; False where that cannot be done."""
    if not hasattr(os, "O_TMPFILE") or os.path.lexists(target):
        return False
    try:
        descriptor = os.open(target.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except OSError:  # not every file system can
        return False
    with open(descriptor, "wb") as file:
        _fill(file, data)
        try:
            # The directory means nothing here, but without one Python would link the link in /proc.
            os.link(f"/proc/self/fd/{descriptor}", target, src_dir_fd=descriptor, follow_symlinks=True)
        except OSError:  # somebody else wrote one meanwhile
            return False
    return True


def _write_hidden(target: Path, data: bytes, replace: bool) -> None:
    """Write a file beside its place under a hidden name, then rename it."""
    temporary = target.with_name(f".unsmear-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            _fill(file, data)
        if not replace and target.exists():
            raise FileExistsError(errno.EEXIST, "a file of that name is there by now")
        with suppress(OSError):  # there is usually nothing whose permissions could be kept
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _fill(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
