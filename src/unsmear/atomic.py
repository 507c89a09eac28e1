"""Files that appear whole or not at all, whatever happens while they are written."""

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from unsmear.errors import ImageError


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside its place under a hidden name, then rename it. An existing file is replaced.

    A new file gets the permissions of any other new file; a replaced one keeps its own. A symbolic link
    stays, and what it points to is replaced.

    Raises:
        ImageError: If it cannot be written. Nothing is left behind then, nor after an interrupt.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".unsmear-{secrets.token_hex(8)}.tmp")
    try:
        if target.exists() and not target.is_file():
            raise ImageError(f"{path}: cannot be written: it is not a regular file")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with suppress(OSError):  # there is usually nothing whose permissions could be kept
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise ImageError(f"{path}: cannot be written: {error.strerror}") from None
