"""Filter banks on a CPU: memory layouts and tasks around the compiled kernel."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from unsmear.ops import filter_bank_kernels as kernels
from unsmear.ops.cpu import run
from unsmear.ops.filter_bank import signs
from unsmear.ops.memory import empty


class Prepared(NamedTuple):
    """A picture and symmetric filters as the kernel wants them."""

    planes: Tensor
    values: Tensor
    counts: Tensor
    sizes: Tensor
    order: Tensor
    side: int
    fold: int


def prepare(planes: Tensor, filters: Tensor, fold: int) -> Prepared:
    """Prepare a picture (B, fold * fold, h, w) with a margin, and symmetric filters (count, side, side)."""
    planes = F.pad(planes, (0, 2 * kernels.PIXELS))  # which the last registers of a row read, and nothing uses
    return Prepared(planes, *_by_kind(filters), filters.shape[1], fold)


def mix(bank: Prepared, weights: Tensor, onto: Tensor) -> Tensor:
    """Mix the filters by weights (B, count, h, w) at every pixel.

    Returns `onto` (B, colors * fold * fold, h, w) plus, for every color, what that gives.
    """
    batch, channels, height, width = onto.shape
    out = empty(onto, batch, height, width, channels)
    run(
        kernels.mix, batch * height,
        *bank[:5], *_pixels(weights), *_pixels(onto), out,
        bank.side, bank.fold, *bank.planes.shape[2:], height, width, len(bank.order), channels // bank.fold**2,
    )  # fmt: skip
    return out.permute(0, 3, 1, 2)


def _by_kind(filters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values of the filters by the kinds of the kernel, how many of each and of how many terms, and which they are."""
    reach = filters.shape[1] // 2
    flip, transposition = signs(filters)
    down, across = torch.triu_indices(reach + 1, reach + 1)
    quarter = filters[:, reach:, reach:]
    # The sums count a pixel twice that is its own mirror image by a flip, four times if by both.
    quarter = quarter[:, down, across] / (1.0 + (down == 0)) / (1.0 + (across == 0))
    kinds = [
        (flip > 0) & (transposition > 0),
        (flip > 0) & (transposition <= 0),
        (flip <= 0) & (transposition > 0),
        (flip <= 0) & (transposition <= 0),
    ]
    terms = [down >= 0, down < across, down > 0, (down > 0) & (down < across)]
    order = torch.cat([torch.nonzero(kind)[:, 0] for kind in kinds])
    counts, sizes = (torch.stack([some.sum() for some in parts]) for parts in (kinds, terms))
    values = [quarter[kind][:, term].flatten() for kind, term in zip(kinds, terms, strict=True)]
    return torch.cat(values), counts, sizes, order


def _pixels(x: Tensor) -> tuple[Tensor, int]:
    """Memory in which the channels of (B, C, h, w) lie side by side, and how far it is to the next pixel.

    Some channels of a picture that is channels-last in memory are not copied.
    """
    batch, channels, height, width = x.shape
    last = x.detach().permute(0, 2, 3, 1)
    step = last.stride(2)
    first = 1 if batch == 1 else 0  # how far it is to the next picture means nothing if there is none
    if last.stride()[first:] != (height * width * step, width * step, step, 1)[first:]:
        last, step = last.contiguous(), channels
    return last.as_strided(((batch * height * width - 1) * step + channels,), (1,)), step
