"""Tiles for pictures too large for memory: where they lie, how they blend, and how rows of them are merged.

A plan is made of integers only, so it can be shown before any work is done. Three properties carry it:

- All tiles have one size, a multiple of what the network asks for, and start at multiples of it. A network
  with strided convolutions then sees every pixel in the same phase as in the whole picture, and repeated
  shapes are fast.
- Neighbors overlap, and only neighbors. The outer quarter of each overlap is dropped, because there the
  network saw padding instead of picture; over the middle half one tile fades into the next along a raised
  cosine. A network with global attention judges each tile a little differently, and the fade turns such a
  step into a slope.
- Merging keeps one row of tiles in memory, never the whole picture in floating point.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from unsmear.errors import OutOfMemoryError

OVERLAP = 128
"""Pixels shared by neighboring tiles: 32 dropped, 64 faded, 32 dropped."""

_MIN_TILE = 64
_CHANNELS = 3
_TILE_BYTES = 40  # per pixel of a tile: its copies on the way into the network and, weighted, into the strip
_STRIP_BYTES = 4 * _CHANNELS  # per pixel of a strip: float32 sums
_MIB, _GIB = 2**20, 2**30


@dataclass(frozen=True, kw_only=True)
class TilePlan:
    """How one picture is divided. Lengths are in pixels; `rows` and `cols` count tiles.

    Tiles may reach beyond the bottom and right edge of the picture, by less than `multiple` pixels; what lies
    there is a reflection of the picture (see `reflect_indices`).

    Attributes:
        height: Height of the picture.
        width: Width of the picture.
        tile_height: Height of every tile, a multiple of `multiple`.
        tile_width: Width of every tile, a multiple of `multiple`.
        rows: Number of tiles from top to bottom.
        cols: Number of tiles from left to right.
        overlap: Least number of pixels that neighbors share.
        multiple: What tile sizes and positions are multiples of.
        peak_bytes: Estimated working memory in bytes, beside the model and the picture itself.
    """

    height: int
    width: int
    tile_height: int
    tile_width: int
    rows: int
    cols: int
    overlap: int
    multiple: int
    peak_bytes: int

    @property
    def num_tiles(self) -> int:
        """Number of tiles in all; 1 means that the picture is done whole."""
        return self.rows * self.cols

    @property
    def tops(self) -> list[int]:
        """First row of each row of tiles."""
        return _starts(self.height, self.tile_height, self.rows, self.multiple)

    @property
    def lefts(self) -> list[int]:
        """First column of each column of tiles."""
        return _starts(self.width, self.tile_width, self.cols, self.multiple)

    def __str__(self) -> str:
        memory = f"{self.peak_bytes / _GIB:.2f} GiB"
        if self.num_tiles == 1:
            return f"whole picture, {memory}"
        size = f"{self.tile_width} x {self.tile_height} px"
        return f"{self.cols} x {self.rows} tiles of {size}, overlap {self.overlap} px, {memory}"


def plan_tiles(
    height: int,
    width: int,
    *,
    multiple: int,
    bytes_per_pixel: float,
    budget: float,
    overlap: int = OVERLAP,
    side: int = 0,
) -> TilePlan:
    """Find the plan that computes the fewest pixels within a memory budget: the whole picture where it fits.

    Tiles are at least four overlaps and 64 pixels long. Where that does not fit the budget, the overlap is
    halved, twice at most. Tiles of `side` pixels and more are preferred to such as share more or compute less.

    Args:
        height: Height of the picture, at least 1.
        width: Width of the picture, at least 1.
        multiple: What the sides of a tile must be multiples of.
        bytes_per_pixel: Working memory of the network per pixel of a tile, in bytes.
        budget: Working memory allowed, in bytes.
        overlap: Pixels that neighboring tiles share; rounded up to a multiple of `multiple`.
        side: Pixels that tiles should be high and wide, if the picture is.

    Raises:
        OutOfMemoryError: Not even the smallest tile fits the budget.
    """
    side = round_up(min(side, height, width), multiple)

    def is_small(plan: TilePlan) -> bool:
        return min(plan.tile_height, plan.tile_width) < side

    plans: list[TilePlan] = []
    small: TilePlan | None = None
    for shared in (overlap, overlap // 2, overlap // 4):
        shared = max(multiple, round_up(shared, multiple))
        plans = list(_all_plans(height, width, shared, multiple, bytes_per_pixel, side))
        fitting = [plan for plan in plans if plan.peak_bytes <= budget]
        if fitting:
            best = min(fitting, key=lambda plan: (is_small(plan), plan.num_tiles * plan.tile_height * plan.tile_width))
            if not is_small(best):
                return best
            small = small or best
    if small:
        return small
    least = min(plan.peak_bytes for plan in plans)
    raise OutOfMemoryError(
        f"a picture of {width} x {height} pixels takes {least / _MIB:.1f} MiB even in the smallest tiles,"
        f" but only {budget / _MIB:.1f} MiB may be used; close other programs, allow more memory, or take a"
        " smaller model"
    )


def reflect_indices(start: int, stop: int, length: int) -> np.ndarray:
    """Indices `start` to `stop` - 1 of a line of `length` pixels that goes on as its own mirror image.

    The edge pixel is not repeated, and reflection repeats as often as needed, so that a line of one pixel
    works too.
    """
    period = max(1, 2 * (length - 1))
    index = np.arange(start, stop) % period
    return np.minimum(index, period - index) if length > 1 else index


def tile_weights(starts: list[int], tile: int, index: int) -> np.ndarray:
    """Blending weights of one tile along one axis, float32 (tile,) in [0, 1]; over all tiles they sum to 1.

    Args:
        starts: First pixel of every tile along this axis.
        tile: Length of every tile.
        index: Which tile the weights are for.
    """
    weights = np.ones(tile, np.float32)
    if index > 0:
        shared = starts[index - 1] + tile - starts[index]
        weights[:shared] = _fade_in(shared)
    if index + 1 < len(starts):
        shared = starts[index] + tile - starts[index + 1]
        weights[tile - shared :] = _fade_in(shared)[::-1]
    return weights


def merge_tiles(plan: TilePlan, compute: Callable[[int, int], np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Compute all tiles, row by row, and yield the blended picture in strips from top to bottom.

    Args:
        plan: Where the tiles lie.
        compute: Takes the top and left of a tile, gives back its values as float32 (tile_height, tile_width,
            3).

    Yields:
        The first row of a strip, and its values as float32 (rows, width, 3). The array is a view of the
        working
        memory: the caller may change it, and must be done with it before asking for the next.
    """
    tops, lefts = plan.tops, plan.lefts
    strip = np.zeros((plan.tile_height, plan.width, _CHANNELS), np.float32)
    for row, top in enumerate(tops):
        row_weights = tile_weights(tops, plan.tile_height, row)[:, None, None]
        for col, left in enumerate(lefts):
            weights = row_weights * tile_weights(lefts, plan.tile_width, col)[:, None]
            target = strip[:, left : left + plan.tile_width]
            target += (compute(top, left) * weights)[:, : target.shape[1]]
        stop = tops[row + 1] if row + 1 < plan.rows else plan.height
        done = stop - top
        yield top, strip[:done]
        kept = plan.tile_height - done
        strip[:kept] = strip[done:]
        strip[kept:] = 0


def round_up(length: int, multiple: int) -> int:
    """The least multiple that is no shorter than a length."""
    return -(-length // multiple) * multiple


def _all_plans(
    height: int, width: int, overlap: int, multiple: int, bytes_per_pixel: float, side: int
) -> Iterator[TilePlan]:
    for rows, tile_height in _divisions(height, overlap, multiple, side):
        for cols, tile_width in _divisions(width, overlap, multiple, side):
            tile_bytes = tile_height * tile_width * (bytes_per_pixel + _TILE_BYTES)
            yield TilePlan(
                height=height,
                width=width,
                tile_height=tile_height,
                tile_width=tile_width,
                rows=rows,
                cols=cols,
                overlap=overlap,
                multiple=multiple,
                peak_bytes=int(tile_bytes) + tile_height * width * _STRIP_BYTES,
            )


def _divisions(length: int, overlap: int, multiple: int, side: int) -> Iterator[tuple[int, int]]:
    """All (number of tiles, length of a tile) for one axis, fewest tiles first; of one number in `side`, too."""
    padded = round_up(length, multiple)
    count, tile = 1, padded
    while count == 1 or tile >= max(4 * overlap, _MIN_TILE):
        yield count, tile
        if tile < side and count == 2:  # of more, those would overlap that are not neighbors
            yield count, side
        count += 1
        tile = round_up(-(-(padded + (count - 1) * overlap) // count), multiple)


def _starts(length: int, tile: int, count: int, multiple: int) -> list[int]:
    """First pixels of `count` tiles spread evenly over a line, all multiples of `multiple`."""
    room = (round_up(length, multiple) - tile) // multiple
    return [index * room // max(1, count - 1) * multiple for index in range(count)]


def _fade_in(length: int) -> np.ndarray:
    """Raised cosine from 0 to 1 over the middle half of an overlap; with its mirror image it sums to 1."""
    position = (np.arange(length) + 0.5 - length / 4) / (length / 2)
    return (0.5 - 0.5 * np.cos(np.pi * np.clip(position, 0, 1))).astype(np.float32)
