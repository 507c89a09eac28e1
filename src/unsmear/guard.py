"""Do no harm: where what a network made of a picture cannot be a deblurred version of it, the picture stays as it was.

Nobody knows the sharp picture, but what deblurring may do to a blurred one is limited:

- It gathers light where it came from, so the mean color of a neighborhood stays, but for what crosses its border.
- It makes edges steeper, and details stronger by a few times, but not what was flat.
- It makes details of all sizes stronger, not only the checkerboard of single pixels that faulty networks draw.
- It has nothing to do where the picture is sharp already: where slopes next to each other are not alike, and did not
  become steeper, the change is nothing but error.

All of it is judged by statistics of cells of 8 x 8 pixels and the cells around them, so that it takes little time and
memory, and the result fades from one to the other over 8 pixels. The limits were set on photographs blurred by
`unsmear.data.blur`; docs/guard.md tells how often the guard is wrong, what it finds, and what it cannot see.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unsmear.samples import luma, white

_CELL = 8
_STRIP = 8 * _CELL  # rows in work at once
_OPPONENT = np.array([[1 / 3, 1 / 2, -1 / 4], [1 / 3, -1 / 2, -1 / 4], [1 / 3, 0, 1 / 2]], np.float32)
_SEEN = 0.5  # gray levels from which on a value counts as taken back


def guard(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, float]:
    """Take back what no deblurring can have done, and what was none.

    Args:
        before: The picture, (H, W, 3), or gray (H, W) or (H, W, 1), of any size from 1 x 1: uint8, uint16, or float32
            in [0, 1].
        after: What a network made of it; the same shape and dtype.

    Returns:
        `after`, blended back towards `before` where it is not plausible; a new array of the same shape and dtype.
        And the share of its values, 0 to 1, that differ from `after` by half a gray level of 255 or more.

    Raises:
        ValueError: If shapes or dtypes differ.

    >>> flat = np.full((64, 64, 3), 100, np.uint8)
    >>> spoiled = flat.copy()
    >>> spoiled[:32, :32] = 0
    >>> result, share = guard(flat, spoiled)
    >>> bool((result == flat).all()), share
    (True, 0.25)
    """
    if before.shape != after.shape or before.dtype != after.dtype:
        raise ValueError(f"{before.dtype} {before.shape} and {after.dtype} {after.shape} are not of one kind")
    height, width = before.shape[:2]
    full = white(before.dtype)
    first, second = (x.reshape(height, width, -1) for x in (before, after))
    trust = _trust(_measure(first, second, 255 / full))
    result, changed = np.empty_like(second), 0
    for rows in _strips(height):
        doubt = 1 - _enlarge(trust, rows, width)
        strip = second[rows].astype(np.float32)
        taken_back = first[rows] - strip
        for channel in range(strip.shape[2]):  # twice as fast as all at once
            taken_back[..., channel] *= doubt
        strip += taken_back
        changed += np.count_nonzero(np.abs(taken_back, out=taken_back) >= _SEEN * full / 255)
        result[rows] = np.rint(strip, out=strip) if full > 1 else strip
    return result.reshape(after.shape), float(changed / after.size)


@dataclass(frozen=True)
class _Cells:
    """Statistics of all cells (rows, columns, ...), in gray levels of 255.

    Attributes:
        lowest: Least values before (3).
        highest: Largest values before (3).
        lowest_after: Least values after (3).
        highest_after: Largest values after (3).
        mean: Mean color before (3).
        change: Mean change of color (3).
        power: Mean square before, over pixels and channels.
        change_power: Mean square of the change, over pixels and channels.
        pattern: Mean square of that part of the change that is a checkerboard of single pixels.
        slopes: Mean squares of the slopes of luma across and down before (2).
        slopes_after: The same after (2).
        next_slopes: Mean products of each slope before with the next one across and down (2).
    """

    lowest: np.ndarray
    highest: np.ndarray
    lowest_after: np.ndarray
    highest_after: np.ndarray
    mean: np.ndarray
    change: np.ndarray
    power: np.ndarray
    change_power: np.ndarray
    pattern: np.ndarray
    slopes: np.ndarray
    slopes_after: np.ndarray
    next_slopes: np.ndarray


def _measure(before: np.ndarray, after: np.ndarray, scale: float) -> _Cells:
    strips = [_measure_strip(before[rows], after[rows], scale) for rows in _strips(len(before))]
    return _Cells(*(np.concatenate(parts) for parts in zip(*strips, strict=True)))


def _measure_strip(before: np.ndarray, after: np.ndarray, scale: float) -> tuple[np.ndarray, ...]:
    """The fields of `_Cells` for some rows of cells."""
    before, after = _fill(before), _fill(after)
    x, y = (np.multiply(values, scale, dtype=np.float32) for values in (before, after))
    change = y - x
    # Of every 2 x 2 pixels; the sign tells the phase, which does not matter.
    checks = (change[::2, ::2] - change[::2, 1::2] - change[1::2, ::2] + change[1::2, 1::2]) / 4
    slopes, slopes_after = _slopes(luma(x)), _slopes(luma(y))
    next_slopes = slopes.copy()
    next_slopes[:, :-1, 0] *= slopes[:, 1:, 0]
    next_slopes[:-1, :, 1] *= slopes[1:, :, 1]
    return (
        *(_reduce(values, f) * np.float32(scale) for values in (before, after) for f in (np.minimum, np.maximum)),
        _mean(x),
        _mean(change),
        _mean(np.square(x, out=x)).mean(axis=2),
        _mean(np.square(change, out=change)).mean(axis=2),
        _mean(np.square(checks, out=checks), _CELL // 2).mean(axis=2),
        _mean(np.square(slopes, out=slopes)),
        _mean(np.square(slopes_after, out=slopes_after)),
        _mean(next_slopes),
    )


def _trust(cells: _Cells) -> np.ndarray:
    """How far to follow the network in every cell, 0 to 1."""
    color, color_change = cells.mean @ _OPPONENT, _around(cells.change, 2) @ _OPPONENT
    crossing = _deviation(_around(color * color, 3), _around(color, 3))
    shift = (np.abs(color_change) / (2 + 0.3 * crossing)).max(axis=2)

    lowest, highest = _window(cells.lowest, 1, np.minimum), _window(cells.highest, 1, np.maximum)
    beyond = np.maximum(cells.highest_after - highest, lowest - cells.lowest_after)
    overshoot = (beyond / (6 + highest - lowest)).max(axis=2)

    mean = _around(cells.mean, 1)
    contrast = _deviation(_around(cells.power, 1), np.sqrt(np.square(mean).mean(axis=2)))
    growth = np.sqrt(cells.change_power) / (3 + 3 * contrast)
    pattern = np.sqrt(cells.pattern) / (2 + 0.5 * np.sqrt(_around(cells.change_power, 1)))

    wrong = np.maximum.reduce([shift, overshoot, growth, pattern])
    plausible = _window(_rise(-wrong, -1.5, -1), 1, np.minimum)  # gone halfway beyond a limit, and right beside that
    return np.minimum(plausible, _need(cells))


def _need(cells: _Cells) -> np.ndarray:
    """How much there was to deblur in every cell, 0 to 1, judged by some 136 x 136 pixels around it."""
    slopes, after, next_slopes = (_around(x, 8) + 1 for x in (cells.slopes, cells.slopes_after, cells.next_slopes))
    alike = (next_slopes - 1) / slopes  # the correlation of slopes: 1 - 1 / L for edges smeared over L pixels
    blurred = _rise(alike.max(axis=2), 0.15, 0.3)
    sharpened = _rise((after / slopes).max(axis=2), 1.08, 1.16)
    noisy = _rise(-alike.max(axis=2), 0.1, 0.2)  # slopes of noise have the opposite sign of the next
    return np.maximum.reduce([blurred, sharpened, noisy])


def _strips(height: int) -> Iterator[slice]:
    return (slice(top, min(top + _STRIP, height)) for top in range(0, height, _STRIP))


def _fill(values: np.ndarray) -> np.ndarray:
    """Three channels of whole cells: gray is repeated, and what lies beyond the border is what lies on it."""
    height, width = values.shape[:2]
    whole = np.pad(values, ((0, -height % _CELL), (0, -width % _CELL), (0, 0)), mode="edge")
    return np.broadcast_to(whole, (*whole.shape[:2], 3))


def _slopes(luma: np.ndarray) -> np.ndarray:
    """Differences to the next pixel across and down (H, W, 2)."""
    slopes = np.zeros((*luma.shape, 2), np.float32)
    np.subtract(luma[:, 1:], luma[:, :-1], out=slopes[:, :-1, 0])
    np.subtract(luma[1:], luma[:-1], out=slopes[:-1, :, 1])
    return slopes


def _reduce(values: np.ndarray, function: np.ufunc, cell: int = _CELL) -> np.ndarray:
    """Sums or extremes over cells: (H, W, C) to (H / cell, W / cell, C)."""
    height, width, channels = values.shape
    lines = function.reduce(values.reshape(height // cell, cell, width * channels), axis=1)
    return function.reduce(lines.reshape(height // cell, width // cell, cell, channels), axis=2)


def _mean(values: np.ndarray, cell: int = _CELL) -> np.ndarray:
    return _reduce(values, np.add, cell) / cell**2


def _window(cells: np.ndarray, radius: int, function: np.ufunc) -> np.ndarray:
    """Sums or extremes over (2 * radius + 1)**2 cells around each; beyond the border lies what lies on it."""
    for axis in (0, 1):
        length = cells.shape[axis]
        padded = np.pad(cells, [(radius * (a == axis),) * 2 for a in range(cells.ndim)], mode="edge")
        padded = np.moveaxis(padded, axis, 0)
        total = padded[:length].copy()
        for shift in range(1, 2 * radius + 1):
            function(total, padded[shift : shift + length], out=total)
        cells = np.moveaxis(total, 0, axis)
    return cells


def _around(cells: np.ndarray, radius: int) -> np.ndarray:
    """Means over the cells around each."""
    return _window(cells, radius, np.add) / (2 * radius + 1) ** 2


def _deviation(mean_square: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(mean_square - mean * mean, 0))


def _rise(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """From 0 at `low` to 1 at `high`, straight."""
    return np.clip((values - low) / (high - low), 0, 1)


def _enlarge(cells: np.ndarray, rows: slice, width: int) -> np.ndarray:
    """Linear interpolation of cells (rows, columns) for some rows of pixels, (rows, width)."""
    upper, lower, down = _between(np.arange(rows.start, rows.stop), cells.shape[0])
    left, right, across = _between(np.arange(width), cells.shape[1])
    lines = cells[upper] * (1 - down)[:, None] + cells[lower] * down[:, None]
    return lines[:, left] * (1 - across) + lines[:, right] * across


def _between(pixels: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cells before and after the middle of each pixel, and how far it is from the first to the second."""
    place = np.clip((pixels + 0.5) / _CELL - 0.5, 0, length - 1).astype(np.float32)
    first = place.astype(int)
    return first, np.minimum(first + 1, length - 1), place - first
