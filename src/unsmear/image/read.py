"""Picture files read: what a file is, is decided by its content, and only the decoder of that format runs.

Whatever the header tells (size, depth, animation, color mode) is judged before any pixel is decoded.
"""

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from unsmear.errors import ImageError, OutOfMemoryError, UnsmearError, UsageError
from unsmear.formats import FORMATS, RAW_SUFFIXES, READABLE, SUFFIXES, identify
from unsmear.image import tiff
from unsmear.image.deep import open_deep_png, open_deep_tiff
from unsmear.image.heif import open_heif
from unsmear.image.picture import Header, Picture
from unsmear.image.pil import limited_pillow, open_pil
from unsmear.image.raw import open_raw
from unsmear.paths import REPORT, RESULT, SHEET

MAX_MEGAPIXELS = 200.0
"""Pictures of more million pixels are refused from the header, unless more is allowed."""


def open_picture(
    source: str | Path | BinaryIO, *, max_megapixels: float = MAX_MEGAPIXELS, deep: bool = True
) -> Picture:
    """Read a picture from a file or a binary stream.

    Args:
        source: A path, or a stream open for reading; one that cannot seek is read to its end.
        max_megapixels: Largest picture to decode, in million pixels.
        deep: Whether the caller can do with more than 8 bits per channel; if not, such pictures are refused.

    Raises:
        UsageError: If there is no such file, or it is no regular file.
        ImageError: If it is no picture, is damaged, too large, or of a kind that could not be written back; or an extra
            is needed that is not installed.
        OutOfMemoryError: If the pixels do not fit into memory.
    """
    with _opened(source, max_megapixels) as header:
        if header.bytes_per_value > 1 and not deep:
            raise ImageError("more than 8 bits per channel are of no use here; convert it to 8 bits first")
        picture = header.decode()
        if picture.rgb.shape[:2] != (header.height, header.width):
            raise ImageError("the file is damaged: its header tells of another size than its pixels have")
        return picture


def probe(source: str | Path | BinaryIO, *, max_megapixels: float = MAX_MEGAPIXELS) -> Header:
    """Read only the header of a picture. Its `decode` is of no use any more.

    Raises:
        UnsmearError: As `open_picture` does, except for damage further inside the file.
    """
    with _opened(source, max_megapixels) as header:
        return header


def default_output(source: Path) -> Path:
    """Where the restored picture goes when nobody says otherwise: `name.deblurred.ext` beside the input."""
    return source.parent / f"{source.stem}{RESULT}{suffix_for(source)}"


def sheet_beside(target: Path) -> Path:
    """Where the sheet with a picture before and after goes: `name.ext.compare.png` beside the restored one.

    The extension is part of it because cameras give `name.jpg` and `name.dng` of one picture.
    """
    return target.with_name(f"{target.stem.removesuffix(RESULT)}{target.suffix}{SHEET}.png")


def report_beside(photo: Path) -> Path:
    """Where what is told of a photo goes when nobody says otherwise: `name.explained.png` beside it."""
    return photo.parent / f"{photo.stem}{REPORT}.png"


def suffix_for(source: Path) -> str:
    """Extension for the result of a file: its own, or if that cannot be written the usual one for its content."""
    if source.suffix.lower() in RAW_SUFFIXES:
        return FORMATS["TIFF"].suffixes[0]
    if source.suffix.lower() not in SUFFIXES:
        with suppress(UnsmearError):  # whoever opens the file will be told what is wrong
            return FORMATS[probe(source).format].suffixes[0]
    return source.suffix


@contextmanager
def _opened(source: str | Path | BinaryIO, max_megapixels: float) -> Iterator[Header]:
    """A picture of which only the header was read. What goes wrong inside is told in terms of the file."""
    source = Path(source) if isinstance(source, str) else source
    name = str(source if isinstance(source, Path) else getattr(source, "name", "input"))
    try:
        with _open_file(source) as file:
            with limited_pillow(max_megapixels):  # for the header only, so that several threads may decode
                header = _open_header(file)
            if header.width * header.height > max_megapixels * 1_000_000:
                raise Image.DecompressionBombError
            yield header
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
        reason = " ".join(str(error).split())
        raise ImageError(f"{name}: the file is damaged or cut off ({reason})") from error


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


def _open_header(file: BinaryIO) -> Header:
    file.seek(0)
    head = file.read(64)
    if not head:
        raise ImageError("the file is empty")
    match identify(head):
        case None:
            raise ImageError(f"not a picture that unsmear reads ({READABLE})")
        case "JXL":
            raise ImageError("JPEG XL is not read; convert it first: djxl picture.jxl picture.png")
        case "RAW":
            return open_raw(file)
        case "HEIF":
            return open_heif(file)
        case "PNG" if len(head) > 24 and head[24] > 8:
            return open_deep_png(file)
        case "TIFF":
            return _open_tiff(file)
        case name:
            return open_pil(file, name)


def _open_tiff(file: BinaryIO) -> Header:
    pages = tiff.read_tags(file)
    tags = pages[0]
    if _is_reduced(tags) or tiff.DNG_VERSION in tags:  # the picture itself is elsewhere in the file
        return open_raw(file)
    if not all(_is_reduced(page) for page in pages[1:]):
        raise ImageError("it has several pages; save the wanted one as a file of its own first")
    if max(tags.get(tiff.BITS_PER_SAMPLE, (1,))) > 8:
        return open_deep_tiff(file, tags)
    return open_pil(file, "TIFF")


def _is_reduced(tags: Any) -> bool:
    """Whether a page is a small version of another one."""
    return bool(tags.get(tiff.NEW_SUBFILE_TYPE, 0) & 1)
