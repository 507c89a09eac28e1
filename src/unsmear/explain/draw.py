"""Arrays to pictures: color maps, maps over a picture, filters on a grid, strokes. Pictures are uint8 (H, W, 3).

Colors run evenly from dark to light, or from blue over white to orange, so that they can be told apart with any color
vision and in gray print.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

_DARK_TO_LIGHT = ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"]
_BLUE_TO_ORANGE = ["123f6d", "2a6fae", "76a9d6", "c0d7ea", "f6f6f6", "fbd2a4", "ee9a4c", "c9621a", "7a3404"]
_GLOW = ["000000", "3b0f00", "8a3000", "d96a00", "ffb000", "fff2a0"]

_FILTERS_WIDE = 984  # pixels
_COVERED = 0.75  # of the distance between filters


@dataclass(frozen=True)
class Legend:
    """What the colors of a picture stand for.

    Attributes:
        colors: From left to right, uint8 (n, 3).
        labels: What stands below them, spread evenly from the left end to the right end.
    """

    colors: np.ndarray
    labels: tuple[str, ...]


def sequential(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1], any shape, as colors from dark violet to light yellow; beyond, the ends."""
    return _colors(values, _DARK_TO_LIGHT)


def diverging(values: np.ndarray) -> np.ndarray:
    """Values in [-1, 1], any shape, as colors from blue over white to orange; beyond, the ends."""
    return _colors(np.asarray(values) / 2 + 0.5, _BLUE_TO_ORANGE)


def glowing(picture: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A map over a picture: the picture dim and gray, the more glowing the higher the value.

    Args:
        picture: (H, W, 3) uint8.
        values: (H, W), 0 for nothing to 1 for most.
    """
    values = np.clip(values, 0, 1)[..., None]
    dim = picture.astype(np.float32).mean(2, keepdims=True) * 0.5
    return (
        np.rint(dim * (1 - 0.85 * values) + _colors(values[..., 0], _GLOW) * 0.85 * values**0.5)
        .clip(0, 255)
        .astype(np.uint8)
    )


def glow_colors() -> np.ndarray:
    """The colors of `glowing` on mid-gray, for a legend."""
    return glowing(np.full((1, 256, 3), 110, np.uint8), np.linspace(0, 1, 256)[None])[0]


def enlarge(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map (h, w) at the scale of the picture, linearly in between, float32 (height, width)."""
    image = Image.fromarray(np.ascontiguousarray(values, np.float32), "F")
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def amplified(change: np.ndarray, factor: float) -> np.ndarray:
    """A change of a picture (H, W, 3), in units of its full range, around mid-gray."""
    return np.rint(127.5 + 255 * factor * change).clip(0, 255).astype(np.uint8)


def amplification(change: np.ndarray) -> int:
    """The factor of 1, 2, 5, 10, 20, 50 and so on, at most 1000, by which nearly all of a change stays in range."""
    most = float(np.quantile(np.abs(change), 0.98))
    wanted = 0.5 / max(most, 1e-9)
    return max((f for power in range(3) for f in (10**power, 2 * 10**power, 5 * 10**power) if f <= wanted), default=1)


def filters(
    picture: np.ndarray, weights: np.ndarray, low: float, high: float, grid: tuple[int, int], *, signed: bool
) -> np.ndarray:
    """Filters on a grid over a dim picture, each where it applies.

    Args:
        picture: (H, W, 3) uint8.
        weights: (k * k, h, w), covering the same picture.
        low: The weight of the first color.
        high: The weight of the last color.
        grid: Rows and columns of filters.
        signed: Whether colors diverge from the middle.

    Returns:
        The picture about `_FILTERS_WIDE` pixels wide or high, where its filters leave room for it.
    """
    taps, rows, cols = weights.shape
    side = math.isqrt(taps)
    pitch = max(_FILTERS_WIDE // max(grid), 3 * side + 4)
    tap = min(16, int(_COVERED * pitch / side))
    tile = tap * side
    gray = Image.fromarray(picture).convert("L").resize((grid[1] * pitch, grid[0] * pitch), Image.Resampling.LANCZOS)
    canvas = np.repeat((np.asarray(gray)[..., None] * 0.5 + 20).astype(np.uint8), 3, 2)
    for i, j in np.ndindex(*grid):
        y, x = int((i + 0.5) * rows / grid[0]), int((j + 0.5) * cols / grid[1])
        level = (weights[:, y, x].reshape(side, side) - low) / max(high - low, 1e-9)
        colors = diverging(2 * level - 1) if signed else sequential(level)
        top, left = (n * pitch + (pitch - tile) // 2 for n in (i, j))
        canvas[top - 1 : top + tile + 1, left - 1 : left + tile + 1] = 255
        canvas[top : top + tile, left : left + tile] = np.kron(colors, np.ones((tap, tap, 1), np.uint8))
    return canvas


def strokes(picture: np.ndarray, x: np.ndarray, y: np.ndarray, length: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Strokes over a picture, centered at (x, y), all of them (n,), lengths in pixels, angles from right to down."""
    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    thick = max(1, round(max(picture.shape) / 400))
    for cx, cy, long, turn in zip(x, y, length, angle, strict=True):
        dx, dy = math.cos(turn) * long / 2, math.sin(turn) * long / 2
        for color, wide in (((0, 0, 0), thick + 2), ((255, 255, 255), thick)):
            pen.line((cx - dx, cy - dy, cx + dx, cy + dy), fill=color, width=wide)
    return np.asarray(image)


def _colors(values: np.ndarray, stops: list[str]) -> np.ndarray:
    table = np.array([list(bytes.fromhex(stop)) for stop in stops], np.float32)
    place = np.clip(np.nan_to_num(np.asarray(values, np.float32)), 0, 1) * (len(stops) - 1)
    first = np.minimum(place.astype(int), len(stops) - 2)
    part = (place - first)[..., None]
    return np.rint(table[first] * (1 - part) + table[first + 1] * part).astype(np.uint8)
