"""Picture files written, whole or not at all."""

from pathlib import Path
from typing import BinaryIO

import numpy as np

from unsmear.atomic import write_whole
from unsmear.errors import ImageError, OutOfMemoryError
from unsmear.formats import FORMATS, format_of
from unsmear.image.deep import encode_deep_png, load_vips
from unsmear.image.heif import encode_heif, load_heif
from unsmear.image.picture import Picture
from unsmear.image.pil import encode_pil, exif_of
from unsmear.image.png import metadata_chunks, with_chunks
from unsmear.image.tiff import encode_tiff

_MAX_JPEG_METADATA = 65_500  # bytes of EXIF, of XMP, and of Photoshop's resources


def save_picture(
    picture: Picture, destination: Path | BinaryIO, *, format: str | None = None, replace: bool = True
) -> None:
    """Write a picture to a file, whole or not at all, or to a binary stream.

    The depth is that of the picture, or the greatest that the format holds.

    Args:
        picture: What to write.
        destination: A path, or a stream open for writing.
        format: Name of the file format. By default that of the extension of the path, or that of the picture.
        replace: Whether to replace a file that exists.

    Raises:
        UsageError: If the extension is unknown.
        ImageError: If the format cannot hold the picture, or the file cannot be written.
        OutOfMemoryError: If the encoded picture does not fit into memory.
    """
    if format is None:
        format = format_of(destination) if isinstance(destination, Path) else picture.format
    name = str(destination if isinstance(destination, Path) else getattr(destination, "name", "output"))
    check_fits(picture, format, name)
    try:
        data = _encode(picture, format)
    except MemoryError:
        raise OutOfMemoryError(f"{name}: memory ran out while encoding; nothing was written") from None
    except Exception as error:  # encoders raise whatever they like
        reason = " ".join(str(error).split())
        raise ImageError(f"{name}: cannot be encoded as {format} ({reason}); try another format") from error
    if isinstance(destination, Path):
        write_whole(destination, data, replace=replace)
    else:
        write_stream(destination, data)


def write_stream(stream: BinaryIO, data: bytes) -> None:
    """Write to a stream.

    Raises:
        BrokenPipeError: If its reader went away.
        ImageError: If it cannot be written otherwise.
    """
    try:
        stream.write(data)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ImageError(f"{getattr(stream, 'name', 'output')}: cannot be written: {error.strerror}") from None


def check_fits(picture: Picture, format: str, name: str) -> None:
    """Find out before the work whether a format can hold a picture.

    Args:
        picture: The picture to be written.
        format: Name of the file format.
        name: What to call the output in the message.

    Raises:
        ImageError: If it cannot, or an extra is needed that is not installed.
    """
    limits = FORMATS[format]
    if picture.alpha is not None and not limits.has_alpha:
        raise ImageError(f"{name}: {format} cannot hold transparency, which the picture has; write .png or .webp")
    if picture.cmyk is not None and not limits.has_cmyk:
        raise ImageError(f"{name}: {format} cannot hold CMYK, which the picture is; write .tif or .jpg")
    if max(picture.rgb.shape[:2]) > limits.max_side:
        raise ImageError(f"{name}: {format} pictures have at most {limits.max_side} pixels a side; write .png")
    if format == "JPEG" and max(map(len, (picture.exif, picture.xmp, picture.photoshop))) > _MAX_JPEG_METADATA:
        raise ImageError(f"{name}: the metadata of this picture does not fit into a JPEG file; write .png")
    try:
        if format == "HEIF":
            load_heif()
        if format == "PNG" and written_dtype(picture, format) != np.uint8:
            load_vips()
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None


def written_dtype(picture: Picture, format: str) -> type:
    """The depth to write: that of the picture, or the greatest that the format holds."""
    dtypes = FORMATS[format].dtypes
    return next((dtype for dtype in dtypes if picture.rgb.dtype == dtype), dtypes[-1])


def _encode(picture: Picture, format: str) -> bytes:
    own = picture.encoding if format == picture.format else {}
    if format == "HEIF":
        return encode_heif(picture)
    if format == "PNG":
        dtype = written_dtype(picture, format)
        data = encode_pil(picture, format) if dtype is np.uint8 else encode_deep_png(picture.samples(dtype))
        chunks = metadata_chunks(exif_of(picture), picture.icc, picture.xmp, picture.dpi)
        colors = [] if picture.icc else own.get("colors", [])  # which a profile stands above
        return with_chunks(data, [*colors, *chunks, *own.get("texts", [])])
    if format == "TIFF":
        samples = picture.samples(written_dtype(picture, format))
        return encode_tiff(
            samples.astype(np.float16) if own.get("half") else samples,
            has_alpha=picture.alpha is not None,
            compressed=own.get("compressed", True),
            exif=picture.exif,
            icc=picture.icc,
            xmp=picture.xmp,
            photoshop=picture.photoshop,
            dpi=picture.dpi,
        )
    return encode_pil(picture, format)
