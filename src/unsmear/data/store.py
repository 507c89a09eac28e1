"""Decoded pictures in one memory-mapped file: decoded once, then shared by all workers and later runs."""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from unsmear.errors import ImageError, UsageError

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def list_pictures(folder: str | Path) -> list[Path]:
    """Picture files directly in a folder, by name.

    Raises:
        UsageError: If there is no such folder, or no picture in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not found:
        raise UsageError(f"{folder}: no pictures in this folder")
    return found


def default_cache() -> Path:
    """Where decoded pictures are kept: `$UNSMEAR_CACHE`, or the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("UNSMEAR_CACHE") or Path(home) / "unsmear")


class PictureStore(Sequence[np.ndarray]):
    """The pictures of some files, each (H, W, 3) uint8, read-only.

    The first use decodes them all into one file of the cache folder; it is found again by the files' names, sizes
    and dates. The store can be sent to worker processes: they map the same file.

    Args:
        files: Picture files.
        cache: Folder for the decoded pictures; None for `default_cache()`.

    Raises:
        ImageError: If a file cannot be decoded.
        UsageError: If the cache folder cannot be written.
    """

    def __init__(self, files: Sequence[Path], cache: Path | None = None) -> None:
        self.files = list(files)
        facts = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in self.files]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
        folder = default_cache() if cache is None else cache
        self._pixels, index = folder / f"{key}.pixels", folder / f"{key}.json"
        if not index.exists():  # written last: where it is, the pixels are whole
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._decode(index)
            except OSError as error:
                raise UsageError(f"{folder}: cannot cache decoded pictures: {error.strerror}") from None
        self._shapes: list[tuple[int, int, int]] = json.loads(index.read_text())
        self._map()

    def _decode(self, index: Path) -> None:
        mark = f"{os.getpid()}.part"
        pixels, shapes = self._pixels.with_suffix(f".{mark}"), []
        try:
            with pixels.open("wb") as file, ThreadPoolExecutor() as pool:
                for start in range(0, len(self.files), 16):  # a few at a time, not all in memory
                    for picture in pool.map(_read, self.files[start : start + 16]):
                        file.write(picture.tobytes())
                        shapes.append(picture.shape)
            os.replace(pixels, self._pixels)
        finally:
            pixels.unlink(missing_ok=True)
        part = index.with_suffix(f".{mark}")
        part.write_text(json.dumps(shapes))
        os.replace(part, index)

    def _map(self) -> None:
        sizes = [int(np.prod(shape)) for shape in self._shapes]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        self._flat = np.memmap(self._pixels, np.uint8, mode="r")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index):  # type: ignore[override]
        """The picture at an index; a slice gives a list of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self._flat[self._starts[index] : self._starts[index + 1]].reshape(self._shapes[index])

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_flat"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._map()


def _read(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: cannot be decoded for training: {error}") from None
