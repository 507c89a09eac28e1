"""Pictures inside of HTML pages."""

import base64
import io

import numpy as np
from PIL import Image


def data_uri(picture: np.ndarray) -> str:
    """A picture (H, W) or (H, W, 3), uint8, as a JPEG copy that an `img` can have for its address."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(file, "JPEG", quality=92, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
