"""Pictures in and out: pixels for the network, and all else kept, so that pictures come back as they were.

What a file is, is decided by its content, and only the decoder of that format runs. Whatever the header tells
(size, bit depth, animation, color mode) is judged before any pixel is decoded.

Refused, because it would be lost: more than 8 bits per channel, CMYK and other color modes, animations,
several pages. Changed knowingly: the EXIF orientation is applied and reset; thumbnails of the old picture go;
palettes become RGB and bilevel pictures gray, because restored pixels need more colors; a second picture
inside a JPEG (gain map, stereo view) is left out.
"""

import io
import math
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin

from unsmear.atomic import write_whole
from unsmear.errors import ImageError, OutOfMemoryError, UnsmearError, UsageError
from unsmear.exif import clean_exif, describe
from unsmear.formats import (
    FORMATS,
    READABLE,
    SUFFIXES,
    check_header,
    format_of,
    identify,
    is_lossless_webp,
    own_encoding,
)

MAX_MEGAPIXELS = 200.0
"""Pictures of more million pixels are refused from the header, unless more is allowed."""

_MAX_JPEG_METADATA = 65_500  # bytes of EXIF, and of XMP
_GRAY_MODES = ("1", "L", "LA")
_MODES = (*_GRAY_MODES, "P", "PA", "RGB", "RGBA")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_pillow = threading.Lock()


@dataclass(frozen=True)
class Picture:
    """A picture and what it takes to write it back as it came.

    Attributes:
        rgb: Upright sRGB-encoded values, uint8 (H, W, 3). Of a gray picture all channels are equal.
        alpha: Opacity, uint8 (H, W), or None.
        is_gray: Whether to write one channel of gray.
        format: Name of the file format, a key of `FORMATS`.
        exif: EXIF block with orientation 1 and without thumbnail, or empty.
        icc: ICC profile of `rgb`, or empty.
        xmp: XMP packet, or empty.
        dpi: Dots per inch across and down, or None.
        encoding: How it was encoded, as options of Pillow; holds for `format` only.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    is_gray: bool = False
    format: str = "PNG"
    exif: bytes = b""
    icc: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    encoding: dict[str, Any] = field(default_factory=dict)

    def with_rgb(self, rgb: np.ndarray) -> "Picture":
        """The same picture with other pixels, uint8 (H, W, 3) of the same size."""
        assert rgb.shape == self.rgb.shape
        assert rgb.dtype == np.uint8
        return replace(self, rgb=rgb)


def open_picture(source: Path | BinaryIO, *, max_megapixels: float = MAX_MEGAPIXELS) -> Picture:
    """Read a picture from a file or a binary stream.

    Args:
        source: A path, or a stream open for reading; one that cannot seek is read to its end.
        max_megapixels: Largest picture to decode, in million pixels.

    Raises:
        UsageError: If there is no such file, or it is no regular file.
        ImageError: If it is no picture, is damaged, too large, or of a kind that could not be written back.
        OutOfMemoryError: If the pixels do not fit into memory.
    """
    with _opened(source, max_megapixels) as img:
        img.load()
        return from_pil(img)


def probe(source: Path | BinaryIO, *, max_megapixels: float = MAX_MEGAPIXELS) -> tuple[int, int, str]:
    """Read only the header of a picture.

    Returns:
        Width and height in pixels once upright, and the name of the format.

    Raises:
        UnsmearError: As `open_picture` does, except for damage further inside the file.
    """
    with _opened(source, max_megapixels) as img:
        width, height = img.size
        if img.format != "TIFF":  # whose size Pillow gives upright
            _, orientation = clean_exif(img.info.get("exif") or b"")
            width, height = (height, width) if orientation > 4 else (width, height)
        return width, height, _format_name(img)


def from_pil(img: Image.Image) -> Picture:
    """Take over a PIL image with its metadata.

    Raises:
        ImageError: If its mode is not one of 1, L, LA, P, PA, RGB, RGBA.
    """
    _check_mode(img.mode)
    img.load()
    is_gray = img.mode in _GRAY_MODES
    pixels = img
    if img.has_transparency_data:
        pixels = img.convert("LA" if is_gray else "RGBA")
    if hasattr(img, "tag_v2"):  # a TIFF file, which Pillow has turned upright already
        exif, orientation = describe(img.getexif()), 1
    else:
        exif, orientation = clean_exif(img.info.get("exif") or b"")
    xmp = img.info.get("xmp") or b""
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    if orientation != 1:
        pixels = pixels.transpose(_TURNS[orientation])
        for tag in (b'tiff:Orientation="', b"<tiff:Orientation>"):
            xmp = xmp.replace(tag + b"%d" % orientation, tag + b"1")
    return Picture(
        rgb=np.array(pixels.convert("RGB")),
        alpha=np.array(pixels.getchannel("A")) if img.has_transparency_data else None,
        is_gray=is_gray,
        format=_format_name(img),
        exif=exif,
        icc=_fitting_profile(img.info.get("icc_profile") or b"", is_gray),
        xmp=xmp,
        dpi=_dpi(img),
        encoding=own_encoding(img),
    )


def to_pil(picture: Picture) -> Image.Image:
    """A PIL image of mode L, LA, RGB or RGBA, with the metadata in its `info`."""
    img = Image.fromarray(np.ascontiguousarray(picture.rgb))
    if picture.is_gray:
        img = img.convert("L")
    if picture.alpha is not None:
        img.putalpha(Image.fromarray(np.ascontiguousarray(picture.alpha)))
    img.info.update(_metadata(picture))
    return img


def save_picture(picture: Picture, destination: Path | BinaryIO, *, format: str | None = None) -> None:
    """Write a picture to a file, whole or not at all, or to a binary stream. An existing file is replaced.

    Args:
        picture: What to write.
        destination: A path, or a stream open for writing.
        format: Name of the file format. By default that of the extension of the path, or that of the picture.

    Raises:
        UsageError: If the extension is unknown.
        ImageError: If the format cannot hold the picture, or the file cannot be written.
        OutOfMemoryError: If the encoded picture does not fit into memory.
    """
    if format is None:
        format = format_of(destination) if isinstance(destination, Path) else picture.format
    name = _name(destination, "output")
    check_fits(picture, format, name)
    try:
        data = _encode(picture, format)
    except MemoryError:
        raise OutOfMemoryError(f"{name}: memory ran out while encoding; nothing was written") from None
    except Exception as error:  # encoders raise whatever they like
        raise ImageError(f"{name}: cannot be encoded as {format} ({error}); try another format") from error
    if isinstance(destination, Path):
        write_whole(destination, data)
    else:
        try:
            destination.write(data)
            destination.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ImageError(f"{name}: cannot be written: {error.strerror}") from None


def check_fits(picture: Picture, format: str, name: str) -> None:
    """Find out before the work whether a format can hold a picture.

    Args:
        picture: The picture to be written.
        format: Name of the file format.
        name: What to call the output in the message.

    Raises:
        ImageError: If it cannot.
    """
    limits = FORMATS[format]
    if picture.alpha is not None and not limits.has_alpha:
        raise ImageError(f"{name}: {format} cannot hold transparency, which the picture has; write .png or .webp")
    if max(picture.rgb.shape[:2]) > limits.max_side:
        raise ImageError(f"{name}: {format} pictures have at most {limits.max_side} pixels a side; write .png")
    if format == "JPEG" and max(len(picture.exif), len(picture.xmp)) > _MAX_JPEG_METADATA:
        raise ImageError(f"{name}: the metadata of this picture does not fit into a JPEG file; write .png")


def default_output(source: Path) -> Path:
    """Where the restored picture goes when nobody says otherwise: `name.deblurred.ext` beside the input."""
    return source.with_name(f"{source.stem}.deblurred{suffix_for(source)}")


def suffix_for(source: Path) -> str:
    """Extension for the result of a file: its own, or if that is unknown the usual one for its content."""
    if source.suffix.lower() not in SUFFIXES:
        with suppress(UnsmearError):  # whoever opens the file will be told what is wrong
            return FORMATS[probe(source)[2]].suffixes[0]
    return source.suffix


@contextmanager
def _opened(source: Path | BinaryIO, max_megapixels: float) -> Iterator[Image.Image]:
    """A picture of which only the header was read. What goes wrong inside is told in terms of the file."""
    name = _name(source, "input")
    try:
        with _open_file(source) as file, _limited_pillow(max_megapixels):
            yield _open_header(file)
    except (UsageError, OutOfMemoryError):
        raise
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except Image.DecompressionBombError:
        limit = f"larger than {max_megapixels:g} megapixels"
        raise ImageError(f"{name}: {limit}; raise --max-megapixels if you trust the file") from None
    except MemoryError:
        raise OutOfMemoryError(f"{name}: memory ran out while reading; close other programs") from None
    except Exception as error:  # decoders raise whatever they like on damaged files
        if isinstance(error, OSError) and error.strerror:
            raise ImageError(f"{name}: cannot be read: {error.strerror}") from None
        raise ImageError(f"{name}: the file is damaged or cut off ({error})") from error


def _name(file: Path | BinaryIO, otherwise: str) -> str:
    return str(file if isinstance(file, Path) else getattr(file, "name", otherwise))


def _open_file(source: Path | BinaryIO) -> Any:
    if not isinstance(source, Path):
        return nullcontext(source if source.seekable() else io.BytesIO(source.read()))
    try:
        mode = source.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{source}: no such file") from None
    if not stat.S_ISREG(mode):  # opening a pipe or device could wait for ever
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
        raise UsageError(f"{source}: is {what}, not a picture file")
    return source.open("rb")


@contextmanager
def _limited_pillow(max_megapixels: float) -> Iterator[None]:
    """Pillow with our limit of pixels, and silent. Both are settings of the whole process, hence the lock."""
    with _pillow, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = int(max_megapixels * 1_000_000) // 2  # Pillow refuses more than twice this
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _open_header(file: BinaryIO) -> Image.Image:
    file.seek(0)
    head = file.read(64)
    if not head:
        raise ImageError("the file is empty")
    name = identify(head)
    if name is None:
        raise ImageError(f"not a picture that unsmear reads ({READABLE})")
    check_header(name, file)
    lossless = name == "WEBP" and is_lossless_webp(file)
    try:
        img = Image.open(file, formats=[name])
    except Image.UnidentifiedImageError:
        raise ImageError(f"the {name} file is damaged or cut off") from None
    if lossless:
        img.info["lossless"] = True
    if name != "JPEG" and getattr(img, "is_animated", False):
        raise ImageError("it is animated; save the wanted frame as a file of its own first")
    _check_mode(img.mode)
    return img


def _check_mode(mode: str) -> None:
    if mode.startswith(("I", "F")):
        raise ImageError("16-bit pictures are not supported yet; convert it to 8 bits per channel first")
    if mode not in _MODES:
        raise ImageError(f"{mode} pictures are not supported; convert it to RGB first")


def _format_name(img: Image.Image) -> str:
    if img.format == "MPO":  # a JPEG with further pictures after the first
        return "JPEG"
    return img.format if img.format in FORMATS else "PNG"


def _fitting_profile(profile: bytes, is_gray: bool) -> bytes:
    """The ICC profile, unless it is for other channels than we write, as that of a gray palette would be."""
    space = profile[16:20]
    return profile if space == b"RGB " or (is_gray and space == b"GRAY") else b""


def _dpi(img: Image.Image) -> tuple[float, float] | None:
    if hasattr(img, "tag_v2") and 282 not in img.tag_v2:  # type: ignore[attr-defined] - then it is made up
        return None
    values = tuple(float(value) for value in img.info.get("dpi", ()))
    if len(values) == 2 and all(math.isfinite(value) and value > 0 for value in values):
        return values
    return None


def _metadata(picture: Picture) -> dict[str, Any]:
    """Exif, profile, XMP and resolution as options of Pillow, where there are any."""
    values = {"exif": picture.exif, "icc_profile": picture.icc, "xmp": picture.xmp, "dpi": picture.dpi}
    return {key: value for key, value in values.items() if value}


def _encode(picture: Picture, format: str) -> bytes:
    encoding = picture.encoding if picture.encoding and format == picture.format else FORMATS[format].encoding
    options = {**encoding, **_metadata(picture)}
    if format == "PNG":
        chunks = PngImagePlugin.PngInfo()
        chunks.chunks = list(options["pnginfo"].chunks) if "pnginfo" in options else []
        if picture.xmp:
            chunks.add_itxt("XML:com.adobe.xmp", picture.xmp)
        options["pnginfo"] = chunks
    if format == "TIFF":
        tags = Image.Exif()
        tags.load(picture.exif)
        options["exif"] = describe(tags, picture.xmp)
        if tags.get_ifd(34665) or tags.get_ifd(34853):
            options["compression"] = "raw"  # Pillow's compressed TIFF files cannot hold EXIF directories
    buffer = io.BytesIO()
    img = to_pil(picture)
    img.info.clear()
    img.save(buffer, format, **options)
    return buffer.getvalue()
