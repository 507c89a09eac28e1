"""Pictures in and out: pixels for the network, and all else kept, so that pictures come back as they were.

What is kept of which format, and what is refused, is told in docs/pictures.md.
"""

from unsmear.image.picture import Picture
from unsmear.image.pil import check_image, from_pil, to_pil
from unsmear.image.read import (
    MAX_MEGAPIXELS,
    default_output,
    open_picture,
    probe,
    report_beside,
    sheet_beside,
    suffix_for,
)
from unsmear.image.write import check_fits, save_picture, write_stream, written_dtype

__all__ = [
    "MAX_MEGAPIXELS",
    "Picture",
    "check_fits",
    "check_image",
    "default_output",
    "from_pil",
    "open_picture",
    "probe",
    "report_beside",
    "save_picture",
    "sheet_beside",
    "suffix_for",
    "to_pil",
    "write_stream",
    "written_dtype",
]
