"""The pixel-adaptive convolution on a CPU: memory layouts and tasks around the compiled kernels."""

import torch
from torch import Tensor

from unsmear.ops import pixel_adaptive_kernels as kernels
from unsmear.ops.cpu import channels_last, fill, lanes, run, to_image
from unsmear.ops.memory import empty

_PARTS_BYTES = 2**26  # limit of the memory for partial sums of the gradient of a full weight


def _panels(filled: Tensor) -> int:
    """How many registers wide `product` should be."""
    return 2 if filled.shape[-1] % (2 * lanes(filled)) == 0 else 1


def _bias(bias: Tensor | None, x: Tensor, channels: int) -> Tensor:
    return fill(x.new_zeros(channels) if bias is None else bias)


def _blocks(x: Tensor) -> int:
    return x.shape[0] * -(-x.shape[2] // kernels.BLOCK_ROWS)


def _chunks(weight: Tensor) -> Tensor:
    """(C, 1, k, k) to (chunks of a register, k * k, lanes)."""
    taps = fill(weight.flatten(1).t())
    return taps.unflatten(1, (-1, lanes(taps))).transpose(0, 1).contiguous()


def depthwise(x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor | None, *, transposed: bool = False) -> Tensor:
    """Eq. 7 with weight (C, 1, k, k); transposed, the gradient of x, given that of the output as x."""
    k, channels, (height, width) = weight.shape[-1], x.shape[1], x.shape[2:]
    source, factors = fill(channels_last(x)), channels_last(kernel)
    taps = _chunks(weight.flip(2, 3) if transposed else weight)
    out = empty(source, *source.shape)
    run(
        kernels.depthwise(k, "turned" if transposed else "given"), _blocks(x),
        source, factors, taps, _bias(bias, x, channels), out, height, width, source.shape[-1],
    )  # fmt: skip
    return to_image(out, channels)


def depthwise_generated(
    x: Tensor, generator_weight: Tensor, generator_bias: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Eq. 7 with weight (C, 1, k, k) and the kernel 2 sigmoid(generator_weight (k * k, C) @ x + generator_bias)."""
    k, channels, (height, width) = weight.shape[-1], x.shape[1], x.shape[2:]
    source = fill(channels_last(x))
    by_tap = torch.cat([fill(generator_weight).t(), generator_bias.detach()[None]])
    out = empty(source, *source.shape)
    run(
        kernels.depthwise(k, "made"), _blocks(x),
        source, fill(by_tap), _chunks(2 * weight), _bias(bias, x, channels), out, height, width, source.shape[-1],
    )  # fmt: skip
    return to_image(out, channels)


def depthwise_gradients(grad: Tensor, x: Tensor, kernel: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of kernel and weight of `depthwise`."""
    k, channels, (height, width) = weight.shape[-1], x.shape[1], x.shape[2:]
    source, factors, taps = fill(channels_last(x)), channels_last(kernel), _chunks(weight)
    grad_factors, parts = torch.empty_like(factors), taps.new_empty(_blocks(x), *taps.shape)
    run(
        kernels.depthwise_gradients(k, _panels(source)), len(parts),
        fill(channels_last(grad)), source, factors, taps, grad_factors, parts, height, width, source.shape[-1],
    )  # fmt: skip
    grad_weight = parts.sum(0).transpose(1, 2).flatten(0, 1)[:channels]
    return to_image(grad_factors, k * k), grad_weight.reshape(weight.shape)


def full(x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Eq. 7 with weight (Cout, Cin, k, k)."""
    c_out, c_in, k, _ = weight.shape
    batch, _, height, width = x.shape
    taps = fill(weight.permute(2, 3, 1, 0))
    out = empty(x, batch, height, width, taps.shape[-1])
    run(
        kernels.full(_panels(taps)), batch * height,
        channels_last(x), channels_last(kernel), taps, _bias(bias, x, c_out), out,
        height, width, c_in, taps.shape[-1], k,
    )  # fmt: skip
    return to_image(out, c_out)


def full_gradients(grad: Tensor, x: Tensor, kernel: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and kernel of `full`."""
    c_out, c_in, k, _ = weight.shape
    batch, _, height, width = x.shape
    slopes, source, factors, taps = (
        channels_last(grad),
        fill(channels_last(x)),
        channels_last(kernel),
        fill(weight.permute(2, 3, 0, 1)),
    )
    grad_x, grad_factors = torch.zeros_like(source), torch.empty_like(factors)
    blocks = -(-height // max(kernels.BLOCK_ROWS, k - 1))
    for turn in range(2):
        run(
            kernels.full_gradients(_panels(taps)), batch * ((blocks + 1 - turn) // 2),
            slopes, source, factors, taps, grad_x, grad_factors,
            height, width, taps.shape[-1], c_out, k, turn,
        )  # fmt: skip
    return to_image(grad_x, c_in), to_image(grad_factors, k * k)


def full_gradient_weight(grad: Tensor, x: Tensor, kernel: Tensor, weight: Tensor) -> Tensor:
    """Gradient of weight of `full`."""
    c_out, c_in, k, _ = weight.shape
    batch, _, height, width = x.shape
    source = fill(channels_last(x))
    groups = max(1, min(8, _PARTS_BYTES // (weight.numel() * weight.element_size())))
    parts = source.new_empty(groups, k, k, c_out, source.shape[-1])
    run(
        kernels.full_gradient_weight(_panels(source)), groups * k,
        channels_last(grad), source, channels_last(kernel), parts,
        batch * height, height, width, source.shape[-1], c_out, k, groups,
    )  # fmt: skip
    return parts.sum(0)[..., :c_in].permute(2, 3, 0, 1)
