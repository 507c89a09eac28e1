"""Convolution on a CPU by compiled kernels: layouts and tasks around them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unsmear.ops import convolution_kernels as kernels
from unsmear.ops import direct_convolution_kernels, transposed_convolution_kernels
from unsmear.ops.cpu import channels_last, fill, lanes, run
from unsmear.ops.memory import empty

# Lavin and Gray 2016, section 4.2: a filter by its values at 0, 1, -1, 2, -2 and infinity, scaled.
_G = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
# The same of filters of two taps, and which of four those are that even and odd pixels of the output see.
_G_TWO = [[1 / 4, 0], [-1 / 6, -1 / 6], [-1 / 6, 1 / 6], [1 / 24, 1 / 12], [1 / 24, -1 / 12], [0, 1]]
_SEEN = [[3, 1], [2, 0]]
_AT_ONCE = 2**20  # values of pictures that the gradient of weights takes at a time; it makes 36 for every 16 of them


def convolve(x: Tensor, weight: Tensor, bias: Tensor, relu: bool, onto: Tensor | None) -> Tensor:
    """Convolve x (B, C, H, W) with weight (C', C, 3, 3) and bias (C',), C whole registers and C' one at least.

    What comes is max(0, ...) if `relu`, and `onto` (B, C', H, W) more, if that is given. Gradients know one of both.
    """
    return _Convolve.apply(x, weight, bias, relu, onto)  # type: ignore[return-value]


def convolve_directly(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Convolve x (B, C, H, W) with weight (C', C, 3, 3) and bias (C',), C' whole registers; without gradients."""
    source, taps = channels_last(x), weight.detach().permute(2, 3, 1, 0).contiguous()
    batch, height, width, channels = source.shape
    out = empty(source, batch, -(-height // stride), -(-width // stride), len(weight))
    run(
        direct_convolution_kernels.convolve, batch * out.shape[1],
        source, taps, bias.detach(), out, height, width, channels, stride, len(weight),
    )  # fmt: skip
    return out.permute(0, 3, 1, 2)


def convolve_transposed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`convolution.convolve_transposed` of C and C' whole registers, without gradients."""
    source = channels_last(x)
    (batch, height, width, channels), outs = source.shape, weight.shape[1]
    filters = weight.detach()[:, :, _SEEN][..., _SEEN]  # (C, C', row, 2, column, 2)
    side = source.new_tensor(_G_TWO)
    taps = torch.kron(side, side) @ filters.permute(2, 4, 3, 5, 0, 1).reshape(2, 2, 4, channels * outs)
    out = empty(source, batch, 2 * height, 2 * width, outs)
    # A tile makes 10 x 10 pixels, of which a row and a column lie outside at the first ones.
    step = 2 * transposed_convolution_kernels.TILE
    down, across = (-(-(2 * size + 1) // step) for size in (height, width))
    tiles = batch * down * across
    run(
        transposed_convolution_kernels.double, -(-tiles // kernels.TILES),
        source, taps, bias.detach(), out, tiles, down, across, height, width, channels, outs,
    )  # fmt: skip
    return out.permute(0, 3, 1, 2)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, relu: bool, onto: Tensor | None) -> Tensor:
        y = _convolve(x, weight, bias, relu, onto)
        ctx.save_for_backward(x, weight, y if relu else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, rectified = ctx.saved_tensors
        for_x, for_weight, for_bias, _, for_onto = ctx.needs_input_grad
        grad_y = grad if rectified is None else torch.ops.aten.threshold_backward(grad, rectified, 0)
        filled = fill(channels_last(grad_y)).permute(0, 3, 1, 2)
        grad_x = grad_weight = None
        if for_x:  # what a pixel gave to its neighbors comes back from there, by the filters turned by half
            grad_x = _convolve(filled, weight, weight.new_zeros(x.shape[1]), turned=True)
        if for_weight:
            grad_weight = _weight_gradient(x, filled)[: len(weight)]
        return grad_x, grad_weight, grad_y.sum((0, 2, 3)) if for_bias else None, None, grad if for_onto else None


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor, relu: bool = False, onto: Tensor | None = None, turned: bool = False
) -> Tensor:
    source, taps = channels_last(x), _transformed(weight, turned)
    batch, height, width, channels = source.shape
    outs = weight.shape[1] if turned else len(weight)
    out = empty(source, batch, height, width, outs)
    tiles = _tiles(source)
    run(
        kernels.winograd, -(-tiles // kernels.TILES),
        source, taps, bias.detach(), out if onto is None else channels_last(onto), out,
        int(relu), int(onto is not None), tiles, height, width, channels, taps.shape[-1], outs,
    )  # fmt: skip
    return out.permute(0, 3, 1, 2)


def _weight_gradient(x: Tensor, grad_y: Tensor) -> Tensor:
    """What a gradient of (B, C', H, W) asks of the weights that convolved x (B, C, H, W): (C', C, 3, 3)."""
    pictures = max(1, _AT_ONCE // max(x[0].numel(), grad_y[0].numel()))
    products = x.new_zeros(36, x.shape[1], grad_y.shape[1])
    for some, grads in zip(channels_last(x).split(pictures), channels_last(grad_y).split(pictures), strict=True):
        products.baddbmm_(_tiled(kernels.transform_inputs, some).mT, _tiled(kernels.transform_gradients, grads))
    side = x.new_tensor(_G)
    taps = torch.kron(side, side).t() @ products.flatten(1)
    return taps.view(3, 3, x.shape[1], grad_y.shape[1]).permute(3, 2, 0, 1)


def _tiled(kernel: Callable[..., None], last: Tensor) -> Tensor:
    """The 36 values of every tile of (B, H, W, C), by a kernel: (36, tiles, C)."""
    tiles = _tiles(last)
    # Room for one more, or the 36 would often lie a power of two apart, where caches have few places for all of them.
    values = last.new_empty(36, tiles + 1, last.shape[3])
    run(kernel, -(-tiles // kernels.TILES), last, values, tiles + 1, tiles, *last.shape[1:])
    return values[:, :tiles]


def _tiles(last: Tensor) -> int:
    """Tiles of pictures (B, H, W, C)."""
    return last.shape[0] * -(-last.shape[1] // kernels.TILE) * -(-last.shape[2] // kernels.TILE)


def _transformed(weight: Tensor, turned: bool) -> Tensor:
    """G weight G^T of (C', C, 3, 3): (36, C, C'), both filled up with zeros to whole registers.

    If `turned`, it is that of the filters turned by half, from outputs to inputs: (36, C', C).
    """
    dense = weight.detach()
    if not (dense.is_contiguous() or dense.is_contiguous(memory_format=torch.channels_last)):
        dense = dense.contiguous()
    (outs, channels), (by_out, by_channel, down, right), start = dense.shape[:2], dense.stride(), 0
    if turned:
        outs, channels, by_out, by_channel = channels, outs, by_channel, by_out
        start, down, right = 2 * (down + right), -down, -right
    filled, room = (number + -number % lanes(dense) for number in (outs, channels))
    taps = (dense.new_empty if room == channels else dense.new_zeros)(36, room, filled)
    memory = dense.as_strided((dense.numel(),), (1,))
    run(
        kernels.transform_weights, channels,
        memory, taps, start, by_out, by_channel, down, right, room, filled, outs,
    )  # fmt: skip
    return taps
