"""What is scored: networks, pictures that somebody else restored, and the blurred pictures as they are."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from unsmear.arrays import Quality
from unsmear.data.pairs import Pair
from unsmear.errors import ImageError, UsageError
from unsmear.formats import SUFFIXES
from unsmear.image import open_picture
from unsmear.models import list_models, shipped_weights
from unsmear.paths import exists
from unsmear.restore import Deblurrer

BLURRED = "blurred input"
"""What the blurred pictures are called in tables; every gain is one over them."""


@dataclass(frozen=True)
class Restored:
    """A restored picture, uint8 (H, W, 3), and in how many tiles it was done; 1 is whole, 0 is by somebody else."""

    picture: np.ndarray
    tiles: int


class Restorer(Protocol):
    """Something that gives a picture for a pair.

    Attributes:
        name: What it is called in tables, as it was asked for.
        sha256: Of the weights; empty where there are none.
    """

    name: str
    sha256: str

    def version(self, pair: Pair) -> str:
        """What tells this restored picture from another: if it changes, the picture is scored again."""
        ...

    def restore(self, pair: Pair, blurred: np.ndarray) -> Restored:
        """Restore the blurred picture of a pair, uint8 (H, W, 3)."""
        ...


class Blurred:
    """The blurred pictures as they are: the first row of every table."""

    name, sha256 = BLURRED, ""

    def version(self, pair: Pair) -> str:
        """Always the same."""
        return ""

    def restore(self, pair: Pair, blurred: np.ndarray) -> Restored:
        """The picture itself."""
        return Restored(blurred, 0)


class Network:
    """A network with its weights.

    Args:
        model: A name of `list_models()`, or a weights file.
        device: Where to compute, as for `Deblurrer`.
        memory_gib: Working memory for a picture, as for `Deblurrer`.
        quality: "normal", or "best" for the mean over all eight turns and flips.

    Raises:
        UsageError: If the model or device is unknown.
        ModelError: If the weights are missing or damaged.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str = "auto",
        memory_gib: float | None = None,
        quality: Quality = "normal",
    ) -> None:
        self.name = str(model)
        self.quality: Quality = quality
        self.deblurrer = Deblurrer(model, device=device, dtype="float32", memory_gib=memory_gib)
        shipped = shipped_weights(self.name) if self.name in list_models() else None
        self.sha256 = hash_file(shipped or Path(model))

    def version(self, pair: Pair) -> str:
        """The weights."""
        return self.sha256

    def restore(self, pair: Pair, blurred: np.ndarray) -> Restored:
        """Restore a picture, clamped and rounded to 8 bits.

        Raises:
            UnsmearError: As `Deblurrer.restore` does.
        """
        tiles = 1

        def count(done: int, total: int) -> None:
            nonlocal tiles
            tiles = total

        return Restored(self.deblurrer.restore(blurred, quality=self.quality, progress=count), tiles)


class Stored:
    """A folder of pictures that some other program restored, named as the pairs are: `SCENE/000001.png`.

    Args:
        folder: The folder.
        pairs: What will be asked for.

    Raises:
        UsageError: If a picture is missing.
    """

    sha256 = ""

    def __init__(self, folder: str | Path, pairs: tuple[Pair, ...]) -> None:
        self.name = str(folder)
        found = ((pair, _find(Path(folder), pair.name)) for pair in pairs)
        self._files = {pair: file for pair, file in found if file}
        missing = [pair.name for pair in pairs if pair not in self._files]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UsageError(f"{folder}: there is no restored picture {missing[0]}.png{more}; name them as the pairs")

    def version(self, pair: Pair) -> str:
        """The content of the file."""
        return hash_file(self._files[pair])

    def restore(self, pair: Pair, blurred: np.ndarray) -> Restored:
        """Read the picture.

        Raises:
            ImageError: If it cannot be read, or is of another size than the blurred one.
        """
        picture = open_picture(self._files[pair], deep=False).rgb
        if picture.shape != blurred.shape:
            (height, width), (own_height, own_width) = blurred.shape[:2], picture.shape[:2]
            sizes = f"{own_width} x {own_height} pixels, but its pair {width} x {height}"
            raise ImageError(f"{self._files[pair]}: has {sizes}; scores need equal sizes")
        return Restored(picture, 0)


def hash_file(path: Path) -> str:
    """SHA-256 of the content of a file, in hexadecimal.

    Raises:
        ImageError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from None


def _find(folder: Path, name: str) -> Path | None:
    files = (folder / f"{name}{suffix}" for suffix in (".png", *SUFFIXES))
    return next((file for file in files if exists(file) and file.is_file()), None)
