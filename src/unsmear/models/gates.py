"""How much of each of several estimates to take, at every place.

Motion of some ten pixels is seen at full size, at a half and at a quarter alike, and to undo it twice is worse than not
at all. Each estimate is a guess by what is seen at its own size. How much it would change, beside the detail that there
is and beside what the others would, tells which of them to follow, and how far.
"""

from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unsmear.models.spectra import mean_around

CELL = 32  # pixels: side of the squares that have a share each
COMPARED, COLORS_COMPARED = 14, 8  # channels of what `compare` tells of three estimates, and `compare_colors` of one
_AROUND = 3  # cells along each side that are compared
_EVERY = 2  # of the pixels along each side are enough to compare by
_NONE = 1e-8  # mean square of what is no change, and no detail
_HIDDEN = 32


class Gates(nn.Module):
    """Finds how much to take of each change.

    Args:
        compared: Channels of what it goes by.
        count: Number of changes.
    """

    def __init__(self, compared: int, count: int) -> None:
        super().__init__()
        self.first = nn.Linear(compared, _HIDDEN)
        self.second = nn.Linear(_HIDDEN, _HIDDEN)
        self.last = nn.Linear(_HIDDEN, count)
        nn.init.zeros_(self.last.weight)
        nn.init.ones_(self.last.bias)  # all of all, before anything is learned

    def forward(self, compared: Tensor, height: int, width: int) -> Tensor:
        """Find the share, in [0, 1], to take at every pixel, (B, count, height, width).

        Args:
            compared: What `compare` or `compare_colors` tells, (B, channels, h, w), float32.
            height: Of the picture, pixels.
            width: Likewise.
        """
        shares = self.shares(compared.permute(0, 2, 3, 1).to(self.first.weight.dtype))
        shares = shares.float().permute(0, 3, 1, 2).contiguous()
        return functional.interpolate(shares, scale_factor=CELL, mode="bilinear")[..., :height, :width]

    def shares(self, compared: Tensor) -> Tensor:
        """The shares (..., count), in [0, 1], by what is compared, (..., channels)."""
        seen = functional.gelu(self.first(compared))
        seen = seen + functional.gelu(self.second(seen))
        return _Bounded.apply(self.last(seen))  # type: ignore[return-value]


class _Bounded(torch.autograd.Function):
    """Clamps to [0, 1]. Those beyond have a gradient, too, if it leads back: else they never could."""

    @staticmethod
    def forward(ctx: Any, shares: Tensor) -> Tensor:
        ctx.save_for_backward(shares)
        return shares.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (shares,) = ctx.saved_tensors
        away = (shares > 1) & (gradient < 0) | (shares < 0) & (gradient > 0)
        return gradient.masked_fill(away, 0)


def compare(fine: Tensor, estimates: Tensor) -> Tensor:
    """Compare estimates (B, count, H, W) with `detail` of a picture and with each other, around every cell.

    Returns:
        (B, channels, h, w), where h = H / 32, rounded up. Around the cell, and then in the whole picture: how much
        detail there is, how much each estimate changes beside it, both as logarithms, and how alike any two are.
    """
    count, every = estimates.shape[1], estimates[..., ::_EVERY, ::_EVERY]
    pairs = list(combinations(range(count), 2))
    one, other = ([pair[side] for pair in pairs] for side in (0, 1))
    products = torch.cat([fine.square(), every.square(), every[:, one] * every[:, other]], 1)
    compared = []
    for mean in _means(products):
        much, power, alike = mean.split([1, count, len(pairs)], 1)
        much, power = (much + _NONE).log10(), power + _NONE
        compared += [much, power.log10() - much, alike / (power[:, one] * power[:, other]).sqrt()]
    return torch.cat(compared, 1)


def compare_colors(fine: Tensor, change: Tensor, fine_colors: Tensor, color_change: Tensor) -> Tensor:
    """Compare what one estimate changes of the colors with what it changes of the luma, around every cell.

    Where colors have no detail as fine as the luma has, as in most photos of cameras and scanners, what undoes the
    motion of the luma finds little in them but noise.

    Args:
        fine: `detail` of the luma, (B, 1, H / 2, W / 2), float32.
        change: What is added to the luma, (B, 1, H, W).
        fine_colors: `detail` of what colors have beyond the luma, (B, n, H / 2, W / 2).
        color_change: What is added to that, (B, n, H, W).

    Returns:
        (B, 8, h, w), where h = H / 32, rounded up. Around the cell, and then in the whole picture, as logarithms: how
        much detail there is in the luma, how much is changed beside it, how much detail there is in colors beside it,
        and how much is changed beside that.
    """
    change, color_change = (some[..., ::_EVERY, ::_EVERY] for some in (change, color_change))
    powers = [some.square().mean(1, keepdim=True) for some in (fine, change, fine_colors, color_change)]
    compared = []
    for mean in _means(torch.cat(powers, 1)):
        much, changed, colors, colors_changed = (mean + _NONE).log10().split(1, 1)
        compared += [much, changed - much, colors - much, colors_changed - colors]
    return torch.cat(compared, 1)


def _means(products: Tensor) -> tuple[Tensor, Tensor]:
    """Means of (B, C, H / 2, W / 2) around every cell, and in the whole picture, (B, C, h, w) each."""
    cells = functional.avg_pool2d(products, CELL // _EVERY, ceil_mode=True)
    return mean_around(cells, _AROUND), cells.mean((2, 3), keepdim=True).expand_as(cells)


def detail(x: Tensor) -> Tensor:
    """What in (B, C, H, W) is finer than some five pixels, at every second pixel of every second row."""
    around = functional.avg_pool2d(x, 5, stride=_EVERY, padding=2, count_include_pad=False)
    return x[..., ::_EVERY, ::_EVERY] - around
