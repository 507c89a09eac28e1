"""Pictures of more than 8 bits per channel: PNG and TIFF files read, and PNG files written, by libvips.

Pillow would cut their values to 8 bits without a word, so without libvips they are refused.
"""

import logging
import os
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from unsmear.errors import ImageError
from unsmear.exif import describe, without_old_looks
from unsmear.image import pil, tiff
from unsmear.image.picture import Header, Picture, from_samples
from unsmear.image.png import chunks_of

_UNSIGNED, _FLOAT = 1, 3
_INCHES_PER_UNIT = {2: 1.0, 3: 2.54}
_LIKELY = 0.5  # share of values that must lie in [0, 1] for those to be black and white


def load_vips() -> ModuleType:
    """The library.

    Raises:
        ImageError: If it is not installed.
    """
    os.environ.setdefault("VIPS_BLOCK_UNTRUSTED", "1")  # only the decoders that are fuzzed
    try:
        import pyvips  # as it is an extra
    except (ImportError, OSError):
        raise ImageError("more than 8 bits per channel need libvips; pip install 'unsmear[photo]'") from None
    logging.getLogger("pyvips").setLevel(logging.ERROR)  # it warns of every tag that it does not know
    pyvips.cache_set_max(0)  # every picture is seen once
    return pyvips


def open_deep_png(file: BinaryIO) -> Header:
    """Read the header of a PNG file of 16 bits per channel.

    Raises:
        ImageError: If it is damaged, or libvips is missing.
    """
    load_vips()
    file.seek(0)
    try:
        img = Image.open(file, formats=["PNG"])
    except Image.UnidentifiedImageError:
        raise ImageError("the PNG file is damaged or cut off") from None
    if getattr(img, "is_animated", False):
        raise ImageError("it is animated; save the wanted frame as a file of its own first")
    fields = {**pil.metadata(img), "encoding": chunks_of(file)}
    width, height = img.size[::-1] if fields["orientation"] > 4 else img.size

    def decode() -> Picture:
        samples = _read(file, "pngload_buffer", img.size)
        return from_samples(samples, has_alpha=samples.shape[2] in (2, 4), **fields)

    return Header("PNG", width, height, decode, bytes_per_value=2)


def open_deep_tiff(file: BinaryIO, tags: ImageFileDirectory_v2) -> Header:
    """Read the header of a TIFF file of 16 bits per channel, whole numbers or floating point, or 32-bit floating point.

    Args:
        file: The file.
        tags: Its first directory.

    Raises:
        ImageError: If it is of another kind, or libvips is missing.
    """
    load_vips()
    bits, kinds = set(tags.get(tiff.BITS_PER_SAMPLE, (1,))), set(tags.get(tiff.SAMPLE_FORMAT, (_UNSIGNED,)))
    if len(bits) > 1 or len(kinds) > 1:
        raise ImageError("its channels differ in depth; convert it to 16-bit RGB first")
    depth, kind = bits.pop(), kinds.pop()
    if (depth, kind) not in ((16, _UNSIGNED), (16, _FLOAT), (32, _FLOAT)):
        raise ImageError(f"TIFF pictures of this {depth}-bit kind are not supported; convert it to 16-bit RGB first")
    colors = {0: 1, 1: 1, 2: 3}.get(tags.get(tiff.PHOTOMETRIC, 2))
    extra = tags.get(tiff.EXTRA_SAMPLES, ())
    if colors is None or len(extra) > 1 or tags.get(tiff.SAMPLES_PER_PIXEL, 1) != colors + len(extra):
        raise ImageError("it is neither gray nor RGB, or has further channels; convert it to 16-bit RGB first")
    orientation = tags.get(tiff.ORIENTATION, 1)
    width, height = tags[tiff.WIDTH], tags[tiff.HEIGHT]
    width, height = (height, width) if orientation > 4 else (width, height)
    encoding: dict[str, Any] = {"compressed": tags.get(tiff.COMPRESSION, 1) != 1}
    if (depth, kind) == (16, _FLOAT):
        encoding["half"] = True
    fields = {**tiff_metadata(file, tags), "orientation": orientation, "encoding": encoding}

    def decode() -> Picture:
        samples = _read(file, "tiffload_buffer", (tags[tiff.WIDTH], tags[tiff.HEIGHT]))
        if samples.dtype.kind == "f":
            _check_range(samples)
        return from_samples(samples[..., : colors + len(extra)], has_alpha=len(extra) == 1, format="TIFF", **fields)

    return Header("TIFF", width, height, decode, bytes_per_value=4 if kind == _FLOAT else 2)


def tiff_metadata(file: BinaryIO, tags: ImageFileDirectory_v2) -> dict[str, Any]:
    """What a TIFF or raw file holds beside pixels, as arguments of `from_samples`, without the orientation."""
    exif = Image.Exif()
    file.seek(0)
    exif.load_from_fp(file)  # type: ignore[arg-type]
    dpi = None
    unit = _INCHES_PER_UNIT.get(tags.get(296, 2))
    if unit is not None and 282 in tags and 283 in tags:
        dpi = float(tags[282]) * unit, float(tags[283]) * unit
        dpi = dpi if min(dpi) > 0 and max(dpi) < float("inf") else None
    found = {name: tags.get(tag, b"") for name, tag in (("icc", tiff.ICC), ("xmp", tiff.XMP), ("shop", tiff.PHOTOSHOP))}
    icc, xmp, photoshop = (value if isinstance(value, bytes) else b"" for value in found.values())
    return {"exif": describe(exif), "icc": icc, "xmp": xmp, "photoshop": without_old_looks(photoshop), "dpi": dpi}


def encode_deep_png(samples: np.ndarray) -> bytes:
    """The bytes of a PNG file of 16 bits per channel, nothing but pixels in it.

    Args:
        samples: uint16 (H, W, C), C of 1 to 4.
    """
    vips = load_vips()
    image = vips.Image.new_from_array(np.ascontiguousarray(samples))
    image = image.copy(interpretation="grey16" if samples.shape[2] < 3 else "rgb16")
    return image.pngsave_buffer(compression=6, filter="sub", bitdepth=16, keep="none")


def _read(file: BinaryIO, loader: str, size: tuple[int, int]) -> np.ndarray:
    """All values of a picture, (H, W, C), if it is of the width and height that its header told."""
    vips = load_vips()
    file.seek(0)
    try:
        image = getattr(vips.Image, loader)(file.read(), fail_on="truncated", access="sequential")
        if (image.width, image.height) != size:  # libvips understood the file in another way: it could be far larger
            raise ImageError("the file is damaged: it tells of several sizes")
        samples = image.numpy()
    except vips.Error as error:
        reason = (str(error).splitlines() or [""])[-1].strip()
        raise ImageError(f"the file is damaged or cut off ({reason})") from None
    return samples.reshape(image.height, image.width, image.bands)


def _check_range(samples: np.ndarray) -> None:
    if not np.isfinite(samples).all():
        raise ImageError("some of its values are no finite numbers; mend or convert it first")
    if ((samples >= 0) & (samples <= 1)).mean() < _LIKELY:
        raise ImageError("most of its floating point values lie outside 0 (black) to 1 (white); scale them first")
