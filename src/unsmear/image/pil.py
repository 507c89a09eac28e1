"""Pictures of 8 bits per channel, through Pillow: read, written, and exchanged as PIL images.

Only the decoder of the format that a file is runs on it, and what its header tells is judged before any pixel is
decoded.
"""

import io
import math
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, JpegImagePlugin

from unsmear.errors import ImageError
from unsmear.exif import clean_exif, describe, with_thumbnail, without_old_looks, without_orientation
from unsmear.formats import FORMATS
from unsmear.image.picture import Header, Picture, from_samples
from unsmear.image.png import chunks_of
from unsmear.image.tiff import PHOTOSHOP
from unsmear.samples import white

_GRAY_MODES = ("1", "L", "LA")
_MODES = (*_GRAY_MODES, "P", "PA", "RGB", "RGBA", "CMYK")
_PHOTOSHOP_MARK = b"Photoshop 3.0\0"
_THUMBNAIL_SIDE = 160  # as EXIF has it
_MORE = "further pictures of the file, such as a gain map, are left out"
_WITH_SMALL_VERSIONS = "JPEG", "MPO", "TIFF"  # of the same picture, as further frames
_TILE_MEGAPIXELS = 20  # tiles of TIFF files may be larger than the picture
_pillow = threading.Lock()


@contextmanager
def limited_pillow(max_megapixels: float) -> Iterator[None]:
    """Pillow with our limit of pixels, and silent. Both are settings of the whole process, hence the lock."""
    with _pillow, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = int(max_megapixels * 1_000_000) // 2  # Pillow refuses more than twice this
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def open_pil(file: BinaryIO, format: str) -> Header:
    """Read the header of a file.

    Args:
        file: The file, of 8 bits per channel.
        format: Name of its format.

    Raises:
        ImageError: If it is damaged, animated, or of an unknown color mode.
    """
    own: dict[str, Any] = {}
    if format == "PNG":
        own = dict(chunks_of(file))
    elif format == "AVIF":
        _check_avif(file)
    elif format == "WEBP" and _is_lossless_webp(file):
        own = {"lossless": True, "exact": True}
    file.seek(0)
    try:
        img = Image.open(file, formats=[format])
    except Image.UnidentifiedImageError:
        raise ImageError(f"the {format} file is damaged or cut off") from None
    if format not in _WITH_SMALL_VERSIONS and getattr(img, "is_animated", False):
        raise ImageError("it is animated; save the wanted frame as a file of its own first")
    check_mode(img.mode)
    width, height = img.size
    if format != "TIFF":  # whose size Pillow gives upright
        _, orientation = clean_exif(img.info.get("exif") or b"")
        width, height = (height, width) if orientation > 4 else (width, height)

    def decode() -> Picture:
        if format == "TIFF":  # whose tiles Pillow judges here, by a limit of the whole process
            with limited_pillow(2 * width * height / 1_000_000 + _TILE_MEGAPIXELS):
                img.load()
        picture = from_pil(img)
        return replace(picture, encoding=own) if own else picture

    return Header(format, width, height, decode)


def check_mode(mode: str) -> None:
    """Refuse what cannot be kept.

    Raises:
        ImageError: If the mode of a PIL image is not one of 1, L, LA, P, PA, RGB, RGBA, CMYK.
    """
    if mode not in _MODES:
        raise ImageError(f"{mode} pictures are not supported; convert it to RGB first")


def check_image(img: Image.Image) -> None:
    """Refuse PIL images that are not one picture of 8 bits per channel.

    Raises:
        ImageError: If it has more bits, several frames or pages, or no pixels, or cannot be decoded.
    """
    if img.mode.startswith(("I", "F")):  # to convert them would cut off what is brighter than 255
        raise ImageError(f"{img.mode} pictures are not supported; give an array of uint16, or of float32 from 0 to 1")
    if getattr(img, "is_animated", False) and img.format not in _WITH_SMALL_VERSIONS:
        raise ImageError("this is an animation, or has several pages; give one of them, as its copy()")
    if 0 in img.size:
        raise ImageError("the picture has no pixels")
    try:
        img.load()
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged files
        raise ImageError(f"the picture cannot be decoded ({' '.join(str(error).split())})") from error


def from_pil(img: Image.Image) -> Picture:
    """Take over a PIL image with its metadata.

    Raises:
        ImageError: If its mode is not one of 1, L, LA, P, PA, RGB, RGBA, CMYK, or it is CMYK without a usable profile.
    """
    check_mode(img.mode)
    img.load()
    has_alpha = img.has_transparency_data
    mode = "CMYK" if img.mode == "CMYK" else ("L" if img.mode in _GRAY_MODES else "RGB") + ("A" if has_alpha else "")
    samples = np.array(img.convert(mode))
    fields = metadata(img)
    if hasattr(img, "tag_v2"):
        fields["orientation"] = 1  # which Pillow has turned upright already
    return from_samples(samples.reshape(*samples.shape[:2], -1), has_alpha=has_alpha, **fields)


def metadata(img: Image.Image) -> dict[str, Any]:
    """What an image holds beside pixels, as arguments of `from_samples`."""
    orientation = 1
    if hasattr(img, "tag_v2"):
        exif = describe(img.getexif())
        photoshop = img.tag_v2.get(PHOTOSHOP, b"")  # type: ignore[attr-defined]
    else:
        exif, orientation = clean_exif(img.info.get("exif") or b"")
        segments = [data for marker, data in getattr(img, "applist", []) if marker == "APP13"]
        photoshop = b"".join(data[len(_PHOTOSHOP_MARK) :] for data in segments if data.startswith(_PHOTOSHOP_MARK))
    xmp = img.info.get("xmp") or b""
    return {
        "format": _format_name(img),
        "exif": exif,
        "orientation": orientation,
        "icc": img.info.get("icc_profile") or b"",
        "xmp": xmp.encode() if isinstance(xmp, str) else xmp,
        "photoshop": without_old_looks(photoshop) if isinstance(photoshop, bytes) else b"",
        "dpi": _dpi(img),
        "encoding": _own_encoding(img),
        "left_out": _MORE if img.format == "MPO" and getattr(img, "n_frames", 1) > 1 else "",
    }


def to_pil(picture: Picture) -> Image.Image:
    """A PIL image of mode L, LA, RGB, RGBA or CMYK, with the metadata in its `info`. More than 8 bits are rounded."""
    samples = picture.samples(np.uint8)
    if picture.cmyk is not None:
        img = Image.fromarray(samples, "CMYK")
    elif samples.shape[2] == 2:
        img = Image.merge("LA", [Image.fromarray(np.ascontiguousarray(samples[..., c])) for c in (0, 1)])
    else:
        img = Image.fromarray(np.ascontiguousarray(samples[..., 0] if samples.shape[2] == 1 else samples))
    values = {"exif": exif_of(picture), "icc_profile": picture.icc, "xmp": picture.xmp, "dpi": picture.dpi}
    img.info.update({key: value for key, value in values.items() if value})
    return img


def encode_pil(picture: Picture, format: str) -> bytes:
    """The bytes of a file of 8 bits per channel."""
    options = picture.encoding if picture.encoding and format == picture.format else FORMATS[format].encoding
    img = to_pil(picture)
    options = {} if format == "PNG" else {**options, **img.info}  # whose chunks we write ourselves
    if format == "JPEG" and not all(1 <= round(dots) < 2**16 for dots in options.get("dpi", ())):
        del options["dpi"]  # more or less than a JPEG can tell
    if format == "JPEG" and picture.photoshop:
        data = _PHOTOSHOP_MARK + picture.photoshop
        options["extra"] = struct.pack(">2sH", b"\xff\xed", len(data) + 2) + data
    if format == "AVIF" and picture.exif:  # else Pillow would put the block together anew
        options["exif"] = without_orientation(options["exif"])
    img.info.clear()
    buffer = io.BytesIO()
    img.save(buffer, format, **options)
    return buffer.getvalue()


def exif_of(picture: Picture) -> bytes:
    """The EXIF block of a picture, its thumbnail showing the picture as it is now."""

    def encode(room: int) -> bytes | None:
        step = max(1, max(picture.rgb.shape[:2]) // (4 * _THUMBNAIL_SIDE))
        values = picture.rgb[::step, ::step].astype(np.float32) * np.float32(255 / white(picture.rgb.dtype))
        small = Image.fromarray(np.rint(np.clip(values, 0, 255)).astype(np.uint8))
        for side in (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE // 2):
            small.thumbnail((side, side))
            for quality in (85, 70, 50):
                buffer = io.BytesIO()
                small.save(buffer, "JPEG", quality=quality)
                if buffer.tell() <= room:
                    return buffer.getvalue()
        return None

    return with_thumbnail(picture.exif, encode)


def _format_name(img: Image.Image) -> str:
    if img.format == "MPO":  # a JPEG with further pictures after the first
        return "JPEG"
    return img.format if img.format in FORMATS else "PNG"


def _dpi(img: Image.Image) -> tuple[float, float] | None:
    if hasattr(img, "tag_v2") and 282 not in img.tag_v2:  # type: ignore[attr-defined] - then it is made up
        return None
    values = tuple(float(value) for value in img.info.get("dpi", ()))
    if len(values) == 2 and all(math.isfinite(value) and value > 0 for value in values):
        return values
    return None


def _own_encoding(img: Image.Image) -> dict[str, Any]:
    """How to write a picture in the format it came in. Only of use for that format."""
    if isinstance(img, JpegImagePlugin.JpegImageFile):
        return _jpeg_encoding(img)
    if img.format == "TIFF":
        return {"compressed": img.info.get("compression") != "raw"}
    return FORMATS[img.format].encoding if img.format in FORMATS else {}


def _jpeg_encoding(img: JpegImagePlugin.JpegImageFile) -> dict[str, Any]:
    """The tables of the file itself, its color subsampling and the order of its scans.

    Higher quality than the file had would make it larger and hardly better: see docs/pictures.md.
    """
    options: dict[str, Any] = {"qtables": img.quantization, "progressive": "progressive" in img.info}
    options["subsampling"] = max(0, JpegImagePlugin.get_sampling(img))  # -1 is unknown: then keep all colors
    if "comment" in img.info:
        options["comment"] = img.info["comment"]
    return options


def _is_lossless_webp(file: BinaryIO) -> bool:
    """Whether the pixels of a WebP file are in a lossless chunk."""
    file.seek(12)
    while len(head := file.read(8)) == 8:
        tag, length = struct.unpack("<4sI", head)
        if tag in (b"VP8 ", b"VP8L"):
            return tag == b"VP8L"
        file.seek(length + length % 2, 1)
    return False


def _check_avif(file: BinaryIO) -> None:
    """Refuse what Pillow would cut to 8 bits."""
    file.seek(0)
    head = file.read(65_536)
    box = head.find(b"av1C")
    flags = head[box + 6] if 0 <= box < len(head) - 6 else 0  # tier, high_bitdepth, twelve_bit, monochrome ...
    if flags & 0x40:
        bits = 12 if flags & 0x20 else 10
        raise ImageError(f"{bits}-bit AVIF pictures are not supported; convert it to 16-bit PNG or TIFF first")
