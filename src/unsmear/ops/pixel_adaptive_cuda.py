"""The pixel-adaptive convolution on a GPU: PyTorch operators around the Triton kernels.

They are registered with PyTorch, so that `torch.compile` takes them into its graphs. All floating-point arguments of a
call share one type: float32, bfloat16 or float16.
"""

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op, register_autograd, register_fake

from unsmear.ops import pixel_adaptive_triton as kernels
from unsmear.ops.cuda import channels_last, empty_image, launch, precision, room
from unsmear.ops.dispatch import is_depthwise

Shape = tuple[int, int, int, int]
"""Rows and columns of a tile, warps of a program, and pipeline stages (1: no tap is loaded ahead)."""

# By the room of the wider channels. Chosen by the registers and shared memory that the compiler reports, which is why
# narrow tiles load nothing ahead: their neighbors come from the first-level cache, which loading ahead goes around.
FULL: dict[int, Shape] = {16: (8, 16, 4, 1), 32: (8, 16, 4, 1), 64: (8, 16, 8, 1), 128: (8, 16, 8, 2)}
DEPTHWISE: dict[int, Shape] = {16: (8, 16, 4, 1), 32: (8, 16, 4, 1), 64: (8, 16, 8, 1), 128: (4, 16, 8, 1)}
WEIGHT: dict[int, Shape] = {16: (8, 16, 4, 1), 32: (8, 16, 4, 1), 64: (8, 16, 8, 1), 128: (8, 16, 8, 2)}
GENERATE: dict[int, Shape] = {16: (8, 16, 4, 1), 32: (8, 16, 4, 1), 64: (8, 16, 4, 1), 128: (8, 16, 4, 2)}
PROGRAMS = 512
"""How many programs share the gradient of a full filter, a part each: a few for every multiprocessor."""


@custom_op("unsmear::pixel_adaptive", mutates_args=())
def pixel_adaptive(x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Eq. 7 for x (B, Cin, H, W), kernel (B, k * k, H, W), weight (Cout, Cin, k, k) or (Cin, 1, k, k), and bias."""
    return _convolve(x, kernel, weight, bias)


@register_fake("unsmear::pixel_adaptive")
def _(x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return empty_image(x, weight.shape[0], *x.shape[2:])


@custom_op("unsmear::pixel_adaptive_gradients", mutates_args=())
def pixel_adaptive_gradients(grad: Tensor, x: Tensor, kernel: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, kernel and weight, given that of the output of `pixel_adaptive`."""
    grad_x, grad_kernel, grad_weight = _convolve_back(grad, x, kernel, weight)
    if grad_weight is None:
        grad_weight = _weight_gradient(grad, x, kernel, weight)
    return grad_x, grad_kernel, grad_weight.contiguous()


@register_fake("unsmear::pixel_adaptive_gradients")
def _(grad: Tensor, x: Tensor, kernel: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    grad_x = empty_image(x, *x.shape[1:])
    return grad_x, kernel.new_empty(kernel.shape), weight.new_empty(weight.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.has_bias = inputs[3] is not None


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_bias = grad.sum((0, 2, 3)) if ctx.has_bias and ctx.needs_input_grad[3] else None
    return *pixel_adaptive_gradients(grad, *ctx.saved_tensors), grad_bias


register_autograd("unsmear::pixel_adaptive", _gradients, setup_context=_keep)


@custom_op("unsmear::generate_factors", mutates_args=())
def generate_factors(x: Tensor, weight: Tensor, bias: Tensor, bounded: bool) -> Tensor:
    """Factors (B, k * k, H, W), planar: a convolution with weight (k * k, C, s, s), or the sigmoid of that."""
    taps, channels, side, _ = weight.shape
    batch, _, height, width = x.shape
    out = x.new_empty(batch, taps, height, width)
    high, wide, warps, stages = _fitting(GENERATE, x, channels)
    launch(
        kernels.generate, (_tiles(x, high, wide),), x.device,
        channels_last(x), weight.permute(2, 3, 1, 0).contiguous(), bias, out, height, width,
        C_IN=channels, ROOM_IN=room(channels), TAPS=taps, ROOM_TAPS=room(taps), SIDE=side, HIGH=high, WIDE=wide,
        BOUNDED=bounded, PRECISION=precision(x.dtype), num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


@register_fake("unsmear::generate_factors")
def _(x: Tensor, weight: Tensor, bias: Tensor, bounded: bool) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], *x.shape[2:])


def _keep_generated(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, ctx.bounded = inputs
    ctx.save_for_backward(x, weight, output)


def _generated_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, factors = ctx.saved_tensors
    if ctx.bounded:
        grad = torch.ops.aten.sigmoid_backward(grad, factors)
    radius, taps = weight.shape[-1] // 2, [len(weight)]
    gradients = torch.ops.aten.convolution_backward(
        grad, x, weight, taps, [1, 1], [radius, radius], [1, 1], False, [0, 0], 1, list(ctx.needs_input_grad[:3])
    )
    return *gradients, None


register_autograd("unsmear::generate_factors", _generated_gradients, setup_context=_keep_generated)


def _fitting(shapes: dict[int, Shape], x: Tensor, *channels: int) -> Shape:
    high, wide, warps, stages = shapes[room(max(channels))]
    if x.dtype == torch.float32:  # twice the size, and products of three parts
        return high // 2, wide, warps, 1
    if x.is_cuda and torch.cuda.get_device_properties(x.device).shared_memory_per_block_optin < 160 * 2**10:
        stages = 1
    return high, wide, warps, stages


def _tiles(x: Tensor, high: int, wide: int) -> int:
    batch, _, height, width = x.shape
    return batch * -(-height // high) * -(-width // wide)


def _convolve(x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    depthwise, (c_out, _, side, _) = is_depthwise(x, weight), weight.shape
    c_in, height, width = x.shape[1:]
    out = empty_image(x, c_out, height, width)
    high, wide, warps, stages = _fitting(DEPTHWISE if depthwise else FULL, x, c_in, c_out)
    launch(
        kernels.convolve, (_tiles(x, high, wide),), x.device,
        channels_last(x), kernel.contiguous(), weight.permute(2, 3, 1, 0).contiguous(), bias, None, out, None, None,
        height, width,
        C_IN=c_in, C_OUT=c_out, ROOM_IN=room(c_in), ROOM_OUT=room(c_out), SIDE=side, HIGH=high, WIDE=wide,
        DEPTHWISE=depthwise, PRECISION=precision(x.dtype), num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


def _convolve_back(grad: Tensor, x: Tensor, kernel: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of x and kernel, and in the depthwise form that of weight."""
    depthwise, (c_out, _, side, _) = is_depthwise(x, weight), weight.shape
    c_in, height, width = x.shape[1:]
    high, wide, warps, stages = _fitting(DEPTHWISE if depthwise else FULL, x, c_in, c_out)
    tiles = _tiles(x, high, wide)
    grad_x, grad_kernel = (
        empty_image(x, c_in, height, width),
        torch.zeros_like(kernel, memory_format=torch.contiguous_format),
    )
    parts = x.new_empty(tiles, side * side, c_in, dtype=torch.float32) if depthwise else None
    turned = weight.flip(2, 3).permute(2, 3, 1, 0) if depthwise else weight.flip(2, 3).permute(2, 3, 0, 1)
    launch(
        kernels.convolve, (tiles,), x.device,
        channels_last(grad), kernel.contiguous(), turned.contiguous(), None, channels_last(x), grad_x, grad_kernel,
        parts, height, width,
        C_IN=c_out, C_OUT=c_in, ROOM_IN=room(c_out), ROOM_OUT=room(c_in), SIDE=side, HIGH=high, WIDE=wide,
        DEPTHWISE=depthwise, PRECISION=precision(x.dtype), num_warps=warps, num_stages=stages,
    )  # fmt: skip
    grad_weight = None if parts is None else parts.sum(0).t().reshape(weight.shape).to(weight.dtype)
    return grad_x, grad_kernel, grad_weight


def _weight_gradient(grad: Tensor, x: Tensor, kernel: Tensor, weight: Tensor) -> Tensor:
    c_out, c_in, side, _ = weight.shape
    height, width = x.shape[2:]
    group = max(1, 128 // room(c_in))
    high, wide, warps, stages = _fitting(WEIGHT, x, c_in, c_out)
    tiles, groups = _tiles(x, high, wide), -(-side * side // group)
    tiles_in_part = -(-tiles // max(1, min(tiles, PROGRAMS // groups)))
    parts = x.new_empty(-(-tiles // tiles_in_part), side, side, c_in, c_out, dtype=torch.float32)
    launch(
        kernels.weight_gradient, (groups, len(parts)), x.device,
        channels_last(grad), channels_last(x), kernel.contiguous(), parts, height, width, tiles, tiles_in_part,
        C_IN=c_in, C_OUT=c_out, ROOM_IN=room(c_in), ROOM_OUT=room(c_out), SIDE=side, GROUP=group, HIGH=high, WIDE=wide,
        PRECISION=precision(x.dtype), num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return parts.sum(0).permute(3, 2, 0, 1).to(weight.dtype)
