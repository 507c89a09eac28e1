"""3x3 convolution on a CPU by Winograd's minimal filtering: memory layouts and tasks around the compiled kernel."""

import torch
from torch import Tensor

from unsmear.ops import convolution_kernels as kernels
from unsmear.ops.cpu import channels_last, fill, run

# Lavin and Gray 2016, section 4.2: a filter by its values at 0, 1, -1, 2, -2 and infinity, scaled.
_G = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]


def convolve(x: Tensor, weight: Tensor, bias: Tensor, relu: bool, onto: Tensor | None) -> Tensor:
    """Convolve x (B, C, H, W) with weight (C', C, 3, 3) and bias (C',), C whole registers and C' one at least.

    What comes is max(0, ...) if `relu`, and `onto` (B, C', H, W) more, if that is given; it knows no gradient.
    """
    source, taps = channels_last(x), transformed(weight)
    batch, height, width, channels = source.shape
    out = source.new_empty(batch, height, width, len(weight))
    run(
        kernels.winograd, batch * -(-height // kernels.TILE),
        source, taps, bias.detach(), out if onto is None else channels_last(onto), out,
        int(relu), int(onto is not None), height, width, channels, taps.shape[-1], len(weight),
    )  # fmt: skip
    return out.permute(0, 3, 1, 2)


def transformed(weight: Tensor) -> Tensor:
    """G weight G^T of (C', C, 3, 3): (36, C, C'), C' filled up to whole registers."""
    side = weight.new_tensor(_G)
    taps = fill(weight.permute(2, 3, 1, 0))
    return (torch.kron(side, side) @ taps.flatten(2).flatten(0, 1)).view(-1, *taps.shape[2:])
