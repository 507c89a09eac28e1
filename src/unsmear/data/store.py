"""Decoded pictures in one memory-mapped file: decoded once, then shared by all processes and later runs."""

import hashlib
import json
import math
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from unsmear.data.video import frames_size, is_video, read_frames
from unsmear.errors import ImageError, UsageError
from unsmear.exif import clean_exif
from unsmear.formats import SUFFIXES
from unsmear.paths import is_own_name


def list_pictures(folder: str | Path) -> list[Path]:
    """Picture files directly in a folder, by name, but for our own results.

    Raises:
        UsageError: If there is no such folder, it cannot be read, or no picture is in it.
    """
    folder = Path(folder)
    try:
        found = sorted(p for p in folder.iterdir() if is_picture(p) and not is_own_name(p))
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read: {error.strerror}") from None
    if not found:
        raise UsageError(f"{folder}: no pictures in this folder")
    return found


def is_picture(path: Path) -> bool:
    """Whether a path is a visible file with the name of a picture that is decoded here: no HEIC, no raw files."""
    return SUFFIXES.get(path.suffix.lower(), "HEIF") != "HEIF" and not path.name.startswith(".") and path.is_file()


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture once upright, from its header.

    Raises:
        ImageError: If it has none.
    """
    try:
        with Image.open(path) as picture:
            # Not `getexif`, which decodes a PNG. The size of a TIFF is that of the upright picture already.
            _, orientation = clean_exif(picture.info.get("exif") or b"")
            width, height = picture.size
            lies = orientation > 4 and picture.format != "TIFF"
            return (width, height) if lies else (height, width)
    except Exception as error:  # decoders raise whatever they like on damaged files
        raise _undecodable(path, error) from None


def read_picture(path: Path) -> np.ndarray:
    """Pixels of a picture once upright, (H, W, 3) uint8.

    Raises:
        ImageError: If it cannot be decoded, or has more than 8 bits of gray.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith(("I", "F")):  # Pillow would clip them to white
                raise ValueError("16-bit gray is not supported")
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except Exception as error:
        raise _undecodable(path, error) from None


def default_cache() -> Path:
    """Where decoded pictures are kept, and may be deleted: `$UNSMEAR_CACHE`, or the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("UNSMEAR_CACHE") or Path(home) / "unsmear")


class PictureStore(Sequence[np.ndarray]):
    """The pictures of some files, upright, each (H, W, 3) uint8, read-only. A video gives all its frames.

    The first use decodes them all into one file of the cache folder, 3 bytes a pixel, which is found again by
    the names, sizes and dates of the files. The store can be sent to worker processes, which map the same
    file. Of several processes that start at once one decodes, and the others wait for it.

    Args:
        files: Picture and video files.
        cache: Folder for the decoded pictures; None for `default_cache()`.
        notice: Takes a sentence for a person before much is decoded.

    Attributes:
        files: The files.
        counts: Number of pictures in each of them.

    Raises:
        ImageError: If a file cannot be decoded.
        UsageError: If there are no files, they cannot be cached, or a package for videos is missing.
    """

    def __init__(
        self, files: Sequence[Path], cache: Path | None = None, *, notice: Callable[[str], None] = lambda text: None
    ) -> None:
        self.files = list(files)
        if not self.files:
            raise UsageError("there are no pictures to decode")
        folder = default_cache() if cache is None else cache
        self._path = folder / f"{_fingerprint(self.files)}.pixels"
        try:
            if not self._map():
                folder.mkdir(parents=True, exist_ok=True)
                with _alone_in(folder):
                    if not self._map():  # nobody else made it meanwhile
                        self._build(folder, notice)
        except OSError as error:
            why = f"cannot cache decoded pictures: {error.strerror}"
            raise UsageError(f"{folder}: {why}; set UNSMEAR_CACHE to another folder") from None

    def _map(self) -> bool:
        """Maps the file, if it is there and whole."""
        try:
            flat = np.memmap(self._path, np.uint8, mode="r")
        except (FileNotFoundError, ValueError):  # nothing can be mapped of an empty file
            return False
        # Height and width of every picture and their numbers in every file come last: a file cut off is known.
        num_bytes = 8 * len(self.files)
        if len(flat) < num_bytes:
            return False
        self.counts: list[int] = np.frombuffer(flat[-num_bytes:].tobytes(), "<i8").tolist()
        num_bytes += 16 * sum(self.counts)
        if min(self.counts) < 1 or len(flat) < num_bytes:
            return False
        sides = np.frombuffer(flat[-num_bytes : -8 * len(self.files)].tobytes(), "<i8")
        self._shapes = [(int(height), int(width), 3) for height, width in sides.reshape(-1, 2)]
        self._starts = [0]
        for height, width, channels in self._shapes:
            self._starts.append(self._starts[-1] + height * width * channels)
        self._flat = np.asarray(flat)
        return bool((sides > 0).all()) and self._starts[-1] + num_bytes == len(flat)

    def _build(self, folder: Path, notice: Callable[[str], None]) -> None:
        for old in folder.glob("*.part"):  # of processes that were killed
            with suppress(OSError):
                if time.time() - old.stat().st_mtime > _ABANDONED:
                    old.unlink()
        needed, free = sum(map(_decoded_size, self.files)), shutil.disk_usage(folder).free
        if needed > free:
            sizes = f"decoded pictures need {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
            wish = "a folder on a larger disk, or give fewer pictures and shorter videos"
            raise UsageError(f"{folder}: {sizes}; set UNSMEAR_CACHE to {wish}")
        if needed > _LARGE:
            notice(f"decoding {needed / 2**30:.1f} GiB of pictures into {folder}, once for this and later runs")
        part = self._path.with_suffix(f".{secrets.token_hex(4)}.part")
        try:
            with part.open("xb") as file, ThreadPoolExecutor() as pool:
                sides: list[int] = []
                counts = [0] * len(self.files)
                for start in range(0, len(self.files), 16):  # a few at a time, not all in memory
                    for number, pictures in enumerate(pool.map(_read, self.files[start : start + 16]), start):
                        for picture in pictures:
                            file.write(picture.tobytes())
                            sides += picture.shape[:2]
                            counts[number] += 1
                file.write(np.array(sides + counts, "<i8").tobytes())
                file.flush()
                os.fsync(file.fileno())
            if not self._map():
                os.replace(part, self._path)
                self._map()
        finally:
            part.unlink(missing_ok=True)

    def check_sides(self, least: int) -> None:
        """Check before the work that training crops can be taken from all pictures.

        Args:
            least: Pixels that crops need along both sides.

        Raises:
            UsageError: If a picture has fewer; names its file.
        """
        files = (file for file, count in zip(self.files, self.counts, strict=True) for _ in range(count))
        for file, (height, width, _) in zip(files, self._shapes, strict=True):
            if min(height, width) < least:
                size = f"{width} x {height} pixels, but crops need {least} along both sides"
                raise UsageError(f"{file}: {size}; leave it out, or make crop smaller")

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, index):  # type: ignore[override]
        """The picture at an index; a slice gives a list of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self._flat[self._starts[index] : self._starts[index + 1]].reshape(self._shapes[index])

    def __getstate__(self) -> dict[str, object]:
        return {"files": self.files, "_path": self._path}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        if not self._map():
            raise UsageError(f"{self._path}: decoded pictures vanished during the run; start it again")


_ABANDONED = 3600  # seconds without a write after which no process is at work on a file
_LARGE = 2**30  # bytes that a person would like to know of


def _read(path: Path) -> Iterable[np.ndarray]:
    return read_frames(path) if is_video(path) else [read_picture(path)]


def _decoded_size(path: Path) -> int:
    return frames_size(path) if is_video(path) else 3 * math.prod(picture_size(path))


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Lets in one process at a time. However it ends, the system opens the door for the next."""
    with (folder / "lock").open("ab") as file:
        with suppress(OSError):  # a network disk without locks: all decode, and the first to be ready is taken
            if sys.platform == "win32":
                import msvcrt

                while True:
                    try:
                        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                        break
                    except PermissionError:  # another process is inside
                        time.sleep(0.1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fingerprint(files: list[Path]) -> str:
    # What the store is made of: new words make old stores void.
    facts: list[object] = ["upright RGB, sides and counts last"]
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            raise ImageError(f"{file}: cannot be read: {error.strerror}") from None
        facts.append((str(file.resolve()), status.st_size, status.st_mtime_ns))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def _undecodable(path: Path, error: Exception) -> ImageError:
    return ImageError(f"{path}: cannot be decoded for training: {error}")
