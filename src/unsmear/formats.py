"""The six file formats: how to know them, what they hold, and how to write a picture in one as it came."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, JpegImagePlugin, PngImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from unsmear.errors import ImageError, UsageError

READABLE = "JPEG, PNG, WebP, TIFF, BMP and AVIF"


@dataclass(frozen=True)
class Format:
    """What a file format can hold.

    Attributes:
        suffixes: File name extensions in lower case, the usual one first.
        has_alpha: Whether transparency survives in files that we write.
        max_side: Longest side in pixels.
        encoding: How to write a picture that comes from another format, as options of Pillow.
    """

    suffixes: tuple[str, ...]
    has_alpha: bool
    max_side: int
    encoding: dict[str, Any]


FORMATS = {
    "JPEG": Format((".jpg", ".jpeg", ".jpe", ".jfif"), False, 65_500, {"quality": 95, "subsampling": 0}),
    "PNG": Format((".png",), True, 2**31 - 1, {}),
    "WEBP": Format((".webp",), True, 16_383, {"quality": 95}),
    "TIFF": Format((".tif", ".tiff"), True, 2**31 - 1, {"compression": "tiff_adobe_deflate"}),
    "BMP": Format((".bmp",), False, 2**31 - 1, {}),
    "AVIF": Format((".avif",), True, 65_536, {"quality": 90}),
}

SUFFIXES = {suffix: name for name, format in FORMATS.items() for suffix in format.suffixes}
"""Name of the format by file name extension."""

_MIN_JPEG_QUALITY = 90
_LUMA_TABLE_SUM = 3688  # of the quantization table in Annex K of the JPEG standard, which is quality 50
_NEW_SUBFILE_TYPE, _BITS_PER_SAMPLE, _DNG_VERSION = 254, 258, 50706
_LOSSLESS_TIFF = ("raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "lzma", "zstd")


def format_of(path: Path) -> str:
    """Name of the format that a file name asks for.

    Raises:
        UsageError: If the extension is unknown.
    """
    try:
        return SUFFIXES[path.suffix.lower()]
    except KeyError:
        raise UsageError(f"{path}: end the name of the output with one of {' '.join(SUFFIXES)}") from None


def identify(head: bytes) -> str | None:
    """Name of the format by the first bytes of a file (64 are enough), or None if it is not one of ours."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if head.startswith(b"BM"):
        return "BMP"
    if head[4:8] == b"ftyp" and (b"avif" in head[8:64] or b"avis" in head[8:64]):
        return "AVIF"
    return None


def check_header(name: str, file: BinaryIO) -> None:
    """Refuse what Pillow would read as less than it is: 16 bits cut to 8, only previews of raw files.

    Args:
        name: Name of the format.
        file: The file; it is left anywhere.

    Raises:
        ImageError: If there are more than 8 bits per channel or several pages, or the file is a camera's raw
        file.
    """
    file.seek(0)
    head = file.read(65_536 if name == "AVIF" else 64)
    depth = 8
    if name == "PNG" and len(head) > 24:
        depth = head[24]
    if name == "AVIF" and (box := head.find(b"av1C")) >= 0:
        flags = head[box + 6] if len(head) > box + 6 else 0  # tier, high_bitdepth, twelve_bit, monochrome ...
        depth = (12 if flags & 0x20 else 10) if flags & 0x40 else 8
    if name == "TIFF":
        tags = ImageFileDirectory_v2(head[:16] if head[2:4] in (b"+\0", b"\0+") else head[:8])
        file.seek(tags.next)
        tags.load(file)
        is_preview = tags.get(_NEW_SUBFILE_TYPE, 0) & 1
        if is_preview or _DNG_VERSION in tags:
            raise ImageError("a raw file of a camera; develop it to JPEG or 8-bit TIFF first")
        if tags.next:
            raise ImageError("it has several pages; save the wanted one as a file of its own first")
        depth = max(tags.get(_BITS_PER_SAMPLE, (1,)))
    if depth > 8:
        raise ImageError(f"{depth}-bit pictures are not supported yet; convert it to 8 bits per channel first")


def is_lossless_webp(file: BinaryIO) -> bool:
    """Whether the pixels of a WebP file are in a lossless chunk. The file is left anywhere."""
    file.seek(12)
    while len(head := file.read(8)) == 8:
        tag, length = struct.unpack("<4sI", head)
        if tag in (b"VP8 ", b"VP8L"):
            return tag == b"VP8L"
        file.seek(length + length % 2, 1)
    return False


def own_encoding(img: Image.Image) -> dict[str, Any]:
    """How to write a picture in the format it came in, as options of Pillow. Only of use for that format.

    A JPEG of quality 90 or more keeps its own quantization tables. A lower quality is raised to 90: what
    restoring brought back would else be quantized away a second time. Color subsampling is kept either way.
    """
    if isinstance(img, JpegImagePlugin.JpegImageFile):
        return _jpeg_encoding(img)
    if isinstance(img, PngImagePlugin.PngImageFile):
        return {"pnginfo": _png_chunks(img)}
    if img.format == "WEBP" and img.info.get("lossless"):
        return {"lossless": True, "exact": True}
    if img.format == "TIFF" and img.info.get("compression") in _LOSSLESS_TIFF:
        return {"compression": img.info["compression"]}
    return FORMATS[img.format].encoding if img.format in FORMATS else {}


def _jpeg_encoding(img: JpegImagePlugin.JpegImageFile) -> dict[str, Any]:
    options: dict[str, Any] = {"quality": _MIN_JPEG_QUALITY}
    if _jpeg_quality(img.quantization[0]) >= _MIN_JPEG_QUALITY:
        options = {"qtables": img.quantization}
    options["subsampling"] = max(0, JpegImagePlugin.get_sampling(img))  # -1 is unknown: then keep all colors
    options["progressive"] = "progressive" in img.info
    for marker, segment in img.applist:
        if marker == "COM":
            options["comment"] = segment
        if marker == "APP13":  # IPTC: captions, keywords, credits
            header = struct.pack(">2sH", b"\xff\xed", len(segment) + 2)
            options["extra"] = options.get("extra", b"") + header + segment
    return options


def _jpeg_quality(table: list[int]) -> float:
    """Quality, 0 to 100, at which the IJG library scales the standard table to one as coarse as this."""
    scale = 100 * sum(table) / _LUMA_TABLE_SUM
    return (200 - scale) / 2 if scale <= 100 else 5000 / scale


def _png_chunks(img: PngImagePlugin.PngImageFile) -> PngImagePlugin.PngInfo:
    """Texts and color description. EXIF and XMP have their own way."""
    chunks = PngImagePlugin.PngInfo()
    for key, text in img.text.items():
        if key != "XML:com.adobe.xmp" and not key.startswith("Raw profile type"):
            chunks.add_text(key, text)
    if "gamma" in img.info:
        chunks.add(b"gAMA", struct.pack(">I", round(img.info["gamma"] * 100_000)))
    if "chromaticity" in img.info:
        points = (round(value * 100_000) for value in img.info["chromaticity"])
        chunks.add(b"cHRM", struct.pack(">8I", *points))
    if "srgb" in img.info:
        chunks.add(b"sRGB", bytes([img.info["srgb"]]))
    return chunks
