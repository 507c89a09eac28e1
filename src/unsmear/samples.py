"""How samples are stored: uint8, uint16 and float32 with white at 255, 65535 and 1; and the luma of colors."""

import numpy as np

REC601 = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in luma, by ITU-R BT.601, over encoded values."""


def white(dtype: np.dtype | type) -> int:
    """The value of white: 255, 65535, or 1."""
    return np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1


def to_depth(values: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """Values of another depth: rounded and clipped where that has whole numbers."""
    dtype = np.dtype(dtype)
    if values.dtype == dtype:
        return values
    if values.dtype == np.uint8 and dtype == np.uint16:
        return values.astype(np.uint16) * 257
    scaled = values.astype(np.float32) * np.float32(white(dtype) / white(values.dtype))
    if dtype.kind == "f":
        return scaled.astype(dtype)
    return np.rint(np.clip(scaled, 0, white(dtype))).astype(dtype)


def luma(picture: np.ndarray) -> np.ndarray:
    """Luma of a picture (H, W, 3), (H, W) float32, of its range."""
    return picture.astype(np.float32) @ np.array(REC601, np.float32)
