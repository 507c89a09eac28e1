"""A sheet for a person to judge by: a picture before and after, whole and in the details that changed most."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unsmear.samples import to_depth

_WIDTH = 720  # of each whole picture on the sheet, pixels
_DETAIL = 118  # side of a detail, pixels of the picture
_ZOOM = 2
_DETAILS = 3
_GAP = 6
_TEXT = 18


def compare_sheet(before: np.ndarray, after: np.ndarray) -> Image.Image:
    """Draw a picture before (left) and after (right), and below the details that changed most, at twice their size.

    Args:
        before: Values (H, W, 3): uint8, uint16, or float32 in [0, 1].
        after: The same shape and type.

    Returns:
        An RGB picture, 1446 pixels wide or less.
    """
    height, width = before.shape[:2]
    places, shown = _details(before, after), _DETAIL * _ZOOM
    whole_width = min(width, _WIDTH)
    whole_height = max(1, round(height * whole_width / width))
    column = max(whole_width, len(places) * (shown + _GAP) - _GAP)
    rows = _TEXT + whole_height + (_TEXT + shown if places else 0)
    sheet = Image.new("RGB", (2 * column + _GAP, rows), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for side, (name, values) in enumerate((("before", before), ("after", after))):
        left = side * (column + _GAP)
        draw.text((left + 2, 1), name, "black", font)
        whole = Image.fromarray(to_depth(values, np.uint8))
        sheet.paste(whole.resize((whole_width, whole_height), Image.Resampling.LANCZOS, reducing_gap=3), (left, _TEXT))
        if places:
            draw.text((left + 2, _TEXT + whole_height + 1), f"{name}: what changed most, twice as large", "black", font)
        for number, (y, x) in enumerate(places):
            detail = Image.fromarray(to_depth(values[y : y + _DETAIL, x : x + _DETAIL], np.uint8))
            detail = detail.resize((shown, shown), Image.Resampling.NEAREST)
            sheet.paste(detail, (left + number * (shown + _GAP), 2 * _TEXT + whole_height))
    return sheet


def _details(before: np.ndarray, after: np.ndarray) -> list[tuple[int, int]]:
    """Tops and lefts of the details that changed most, from left to right; none for small pictures."""
    height, width = before.shape[:2]
    if min(height, width) < _DETAIL:
        return []
    rows, cols = height // _DETAIL, width // _DETAIL
    change = np.zeros((rows, cols))
    for row in range(rows):  # a row at a time, as pictures may be large
        band = slice(row * _DETAIL, (row + 1) * _DETAIL), slice(0, cols * _DETAIL)
        difference = np.abs(after[band].astype(np.float32) - before[band].astype(np.float32))
        change[row] = difference.reshape(_DETAIL, cols, -1).mean((0, 2))
    best = np.argsort(change, axis=None)[::-1][:_DETAILS]
    chosen = (np.unravel_index(index, change.shape) for index in best)
    return sorted(((int(r) * _DETAIL, int(c) * _DETAIL) for r, c in chosen), key=lambda place: place[1])
