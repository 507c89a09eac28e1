"""The file formats: how to know them by name and by content, and what they can hold."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from unsmear.errors import UsageError

READABLE = "JPEG, PNG, WebP, TIFF, BMP, AVIF, HEIC and camera raw"


@dataclass(frozen=True)
class Format:
    """What a file format can hold.

    Attributes:
        suffixes: File name extensions in lower case, the usual one first.
        has_alpha: Whether transparency survives in files that we write.
        max_side: Longest side in pixels.
        encoding: How to write a picture that comes from another format, in words of the module that writes it.
        dtypes: Depths that it holds, the deepest last.
        has_cmyk: Whether it holds CMYK.
    """

    suffixes: tuple[str, ...]
    has_alpha: bool
    max_side: int
    encoding: dict[str, Any]
    dtypes: tuple[type, ...] = (np.uint8,)
    has_cmyk: bool = False


FORMATS = {
    "JPEG": Format((".jpg", ".jpeg", ".jpe", ".jfif"), False, 65_500, {"quality": 95, "subsampling": 0}, has_cmyk=True),
    "PNG": Format((".png",), True, 2**31 - 1, {}, (np.uint8, np.uint16)),
    "WEBP": Format((".webp",), True, 16_383, {"quality": 95}),
    "TIFF": Format((".tif", ".tiff"), True, 2**31 - 1, {}, (np.uint8, np.uint16, np.float32), has_cmyk=True),
    "BMP": Format((".bmp",), False, 2**31 - 1, {}),
    "AVIF": Format((".avif",), True, 65_536, {"quality": 90}),
    "HEIF": Format((".heic", ".heif", ".hif"), True, 16_384, {"quality": 90, "chroma": 444}, (np.uint8, np.uint16)),
}

SUFFIXES = {suffix: name for name, format in FORMATS.items() for suffix in format.suffixes}
"""Name of the format by file name extension, of all that are read and written."""

RAW_SUFFIXES = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf"),
    *(".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
"""File name extensions of camera raw files, which are read only."""

_RAW_HEADS = (b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb", b"\0MRM")
_HEVC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis")


def format_of(path: Path) -> str:
    """Name of the format that a file name asks for.

    Raises:
        UsageError: If the extension is unknown.
    """
    try:
        return SUFFIXES[path.suffix.lower()]
    except KeyError:
        raise UsageError(f"{path}: end the name of the output with one of {' '.join(SUFFIXES)}") from None


def is_picture_name(path: Path) -> bool:
    """Whether a file is one that we read, by its name. Camera raw files are, once what they need is installed."""
    suffix = path.suffix.lower()
    return suffix in SUFFIXES or (suffix in RAW_SUFFIXES and find_spec("rawpy") is not None)


def identify(head: bytes) -> str | None:
    """Name of the format by the first bytes of a file (64 are enough), or None if it is none that we know.

    Beside those of `FORMATS` there are "RAW" for camera raw files (those that look like TIFF are told by their tags
    only), and "JXL" for JPEG XL.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "RAW" if head[8:10] == b"CR" else "TIFF"
    if head.startswith(b"BM"):
        return "BMP"
    if head[4:8] == b"ftyp":
        return _identify_boxes(head[8:64])
    if head.startswith(_RAW_HEADS):
        return "RAW"
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        return "JXL"
    return None


def _identify_boxes(brands: bytes) -> str | None:
    if brands.startswith(b"crx "):
        return "RAW"
    if b"avif" in brands or b"avis" in brands:
        return "AVIF"
    return "HEIF" if any(brand in brands for brand in _HEVC_BRANDS) else None
