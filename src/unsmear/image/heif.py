"""HEIC pictures, of 8 to 12 bits per channel, through pillow-heif."""

import io
import re
import threading
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from unsmear.errors import ImageError
from unsmear.exif import clean_exif
from unsmear.formats import FORMATS
from unsmear.image.color import matrix_profile
from unsmear.image.picture import Header, Picture, from_samples
from unsmear.image.pil import exif_of

DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_P3_PRIMARIES, _SRGB_PRIMARIES = 12, (1, 2)
_HDR_CURVES = (16, 18)  # PQ and HLG
_TURNED = re.compile(rb"(tiff:Orientation(?:=\"|>))[2-8]")
_settings = threading.Lock()


def load_heif() -> ModuleType:
    """The library.

    Raises:
        ImageError: If it is not installed.
    """
    try:
        import pillow_heif  # as it is an extra
    except (ImportError, OSError):
        raise ImageError("HEIC pictures need pillow-heif; pip install 'unsmear[heif]'") from None
    return pillow_heif


def open_heif(file: BinaryIO) -> Header:
    """Read the header of a HEIC file. Of several pictures in it, the one that it shows first is meant.

    Raises:
        ImageError: If it is damaged, or of colors that could not be kept, or the library is missing.
    """
    library = load_heif()
    file.seek(0)
    img = library.open_heif(file, convert_hdr_to_8bit=False)
    width, height = img.size
    bits = int(img.info["bit_depth"])
    # How the picture lies is told by the container, and done already; EXIF tells it a second time.
    exif, _ = clean_exif(img.info.get("exif") or b"")
    fields = {
        "exif": exif,
        "xmp": img.info.get("xmp") or b"",
        "icc": img.info.get("icc_profile") or _profile(img.info.get("nclx_profile") or {}),
        "encoding": {"quality": 90, "chroma": img.info.get("chroma", 420), "bits": bits},
    }

    def decode() -> Picture:
        samples = np.asarray(img)
        samples = samples.reshape(*samples.shape[:2], -1)
        if bits > 8:  # as many bits on top of 16, of which the highest number is not yet white
            most = (1 << bits) - 1
            samples = np.rint((samples >> (16 - bits)) * np.float32(65535 / most)).astype(np.uint16)
        return from_samples(samples, has_alpha=img.has_alpha, format="HEIF", **fields)

    return Header("HEIF", width, height, decode, bytes_per_value=2 if bits > 8 else 1)


def encode_heif(picture: Picture) -> bytes:
    """The bytes of a HEIC file; of pictures of more than 8 bits 10, or as many as the file had it came from."""
    library = load_heif()
    options: dict[str, Any] = picture.encoding if picture.format == "HEIF" else FORMATS["HEIF"].encoding
    deep = picture.rgb.dtype != np.uint8
    samples = picture.samples(np.uint16 if deep else np.uint8)
    if samples.shape[2] == 2:
        samples = samples[..., [0, 0, 0, 1]]
    bits = max(10, options.get("bits", 10)) if deep else 8
    if deep:
        samples = np.rint(samples * np.float32(((1 << bits) - 1) / 65535)).astype(np.uint16) << (16 - bits)
    mode = _MODES[samples.shape[2]]
    if deep:
        mode = "I;16" if mode == "L" else mode + ";16"
    height, width = samples.shape[:2]
    xmp = _TURNED.sub(rb"\g<1>1", picture.xmp)  # else pillow-heif would have viewers turn the picture by it
    info = {"exif": exif_of(picture), "xmp": xmp, "icc_profile": picture.icc}
    kept = {key: value for key, value in info.items() if value}
    buffer = io.BytesIO()
    with _settings:
        before = library.options.SAVE_HDR_TO_12_BIT
        library.options.SAVE_HDR_TO_12_BIT = bits == 12
        try:
            img = library.from_bytes(mode, (width, height), samples.tobytes())
            img.save(buffer, quality=options["quality"], chroma=options["chroma"], **kept)
        finally:
            library.options.SAVE_HDR_TO_12_BIT = before
    return buffer.getvalue()


def _profile(nclx: dict[str, Any]) -> bytes:
    """An ICC profile for colors that are told by numbers only."""
    primaries, curve = nclx.get("color_primaries", 2), nclx.get("transfer_characteristics", 2)
    if curve in _HDR_CURVES or primaries not in (*_SRGB_PRIMARIES, _P3_PRIMARIES):
        raise ImageError("an HDR picture (PQ, HLG or Rec. 2020); convert it to 16-bit TIFF with a color profile first")
    return matrix_profile("Display P3", DISPLAY_P3, None) if primaries == _P3_PRIMARIES else b""
