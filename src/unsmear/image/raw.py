"""Camera raw files, developed by LibRaw to 16 bits per channel; the result is a TIFF file.

Developed plainly, as a start for a person's own work: white balance as the camera chose it, no brightening, highlights
clipped where the sensor clipped them, no sharpening or denoising, colors in Rec. 2020 (wide enough for what sensors
see) with a gamma of 2.2.
"""

import io
from types import ModuleType
from typing import Any, BinaryIO

from PIL import Image

from unsmear.errors import ImageError
from unsmear.exif import clean_exif
from unsmear.image import tiff
from unsmear.image.color import matrix_profile
from unsmear.image.deep import tiff_metadata
from unsmear.image.picture import Header, Picture, from_samples

REC_2020 = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
_GAMMA = 2.2


def load_rawpy() -> ModuleType:
    """The library.

    Raises:
        ImageError: If it is not installed.
    """
    try:
        import rawpy  # as it is an extra
    except (ImportError, OSError):
        raise ImageError("raw files of cameras need rawpy; pip install 'unsmear[raw]'") from None
    return rawpy


def open_raw(file: BinaryIO) -> Header:
    """Read the header of a camera raw file.

    Raises:
        ImageError: If it is damaged, of an unknown camera, or the library is missing.
    """
    library = load_rawpy()
    file.seek(0)
    data = file.read()
    try:
        raw = library.imread(io.BytesIO(data))
    except library.LibRawError as error:
        raise ImageError(
            f"the raw file is damaged, or of a camera that LibRaw does not know ({_words(error)})"
        ) from None
    sizes = raw.sizes
    width, height = (sizes.iheight, sizes.iwidth) if sizes.flip in (5, 6) else (sizes.iwidth, sizes.iheight)

    def decode() -> Picture:
        with raw:
            exif = _exif(data, raw, library)
            try:
                samples = raw.postprocess(
                    output_bps=16,
                    output_color=library.ColorSpace.Rec2020,
                    gamma=(_GAMMA, 0),
                    use_camera_wb=True,
                    no_auto_bright=True,
                )
            except library.LibRawError as error:
                raise ImageError(f"the raw file is damaged or cut off ({_words(error)})") from None
        icc = matrix_profile("Rec. 2020, gamma 2.2", REC_2020, _GAMMA)
        return from_samples(samples, format="TIFF", exif=exif, icc=icc)

    return Header("TIFF", width, height, decode, bytes_per_value=2)


def _words(error: Exception) -> str:
    reason = error.args[0] if error.args else error
    return (reason.decode("ascii", "replace") if isinstance(reason, bytes) else str(reason)).strip()


def _exif(data: bytes, raw: Any, library: ModuleType) -> bytes:
    """EXIF of the file itself where it is built like TIFF, else that of the preview in it."""
    if data[:4] in (b"II*\0", b"MM\0*"):
        return tiff_metadata(io.BytesIO(data), tiff.read_tags(io.BytesIO(data))[0])["exif"]
    try:
        preview = raw.extract_thumb()
    except library.LibRawError:  # there is none
        return b""
    if preview.format != library.ThumbFormat.JPEG:
        return b""
    with Image.open(io.BytesIO(preview.data), formats=["JPEG"]) as img:
        return clean_exif(img.info.get("exif") or b"")[0]
