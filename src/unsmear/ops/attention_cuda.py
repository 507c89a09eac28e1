"""Global attention on a GPU, forward and backward: PyTorch operators around the Triton kernels.

They are registered with PyTorch, so that `torch.compile` takes them into its graphs. Of 16-bit features the factors of
a product are rounded to 16 bits, as in any convolution; sums and softmaxes are float32.
"""

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op, register_autograd, register_fake

from unsmear.ops import attention_triton as kernels
from unsmear.ops.cuda import channels_last, empty_image, launch, precision, room

PARTS = 512
"""How many programs share the sums over the pixels: a few for every multiprocessor, each with 4 blocks at least."""
SHAPES: dict[int, tuple[int, int, int]] = {16: (128, 4, 2), 32: (128, 4, 2), 64: (64, 4, 2), 128: (64, 8, 1)}
"""Pixels of a block, warps of a program, and pipeline stages (1: nothing is loaded ahead), by room of the channels."""


@custom_op("unsmear::gather", mutates_args=())
def gather(x: Tensor, source: Tensor | None, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eqs. 1 and 2 for x (B, C, H, W), source (B, C', H, W) or None for x, weight (N, C) and bias (N).

    Returns:
        Descriptors (B, N, C'), and for the gradients the highest logits and the sums of exponentials (B, N).
    """
    x_last, source_last = channels_last(x), None if source is None else channels_last(source)
    width, maps = _width(x, source), len(weight)
    shape, stretch, parts = _shape(x, width)
    sums = x.new_empty(len(x), parts, maps, width, dtype=torch.float32)
    tops, totals = x.new_empty(2, len(x), parts, maps, dtype=torch.float32)
    launch(
        kernels.gather, (parts, len(x)), x.device,
        x_last, source_last, *_wide(weight, bias), sums, tops, totals, x[0, 0].numel(), stretch,
        **_constants(x, width, maps, shape),
    )  # fmt: skip
    descriptors, top, total = _empty_descriptors(x, width, maps)
    launch(
        kernels.merge, (maps, len(x)), x.device,
        sums, tops, totals, descriptors, top, total, parts, MAPS=maps, WIDTH=width, ROOM_W=room(width), ROWS=32,
    )  # fmt: skip
    return descriptors, top, total


@register_fake("unsmear::gather")
def _(x: Tensor, source: Tensor | None, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_descriptors(x, _width(x, source), len(weight))


@custom_op("unsmear::gather_gradients", mutates_args=())
def gather_gradients(
    grad: Tensor, x: Tensor, source: Tensor | None, weight: Tensor, bias: Tensor,
    descriptors: Tensor, top: Tensor, total: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, source, weight and bias, given that of the descriptors; source's is empty where it is x."""
    x_last, source_last = channels_last(x), None if source is None else channels_last(source)
    width, maps = _width(x, source), len(weight)
    shape, stretch, parts = _shape(x, width)
    grad_x, grad_source, grad_weight, grad_bias = _empty_gradients(x, source, parts, weight)
    launch(
        kernels.gather_gradients, (parts, len(x)), x.device,
        x_last, source_last, *_wide(weight, bias, descriptors, top, total, grad),
        grad_x, None if source is None else grad_source, grad_weight, grad_bias, x[0, 0].numel(), stretch,
        **_constants(x, width, maps, shape),
    )  # fmt: skip
    return grad_x, grad_source, grad_weight.sum((0, 1)).to(weight.dtype), grad_bias.sum((0, 1)).to(bias.dtype)


@register_fake("unsmear::gather_gradients")
def _(
    grad: Tensor, x: Tensor, source: Tensor | None, weight: Tensor, bias: Tensor,
    descriptors: Tensor, top: Tensor, total: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    grad_x, grad_source, _, _ = _empty_gradients(x, source, 1, weight)
    return grad_x, grad_source, weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _keep_gather(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.set_materialize_grads(False)


def _gather_gradients(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    grad_x, grad_source, grad_weight, grad_bias = gather_gradients(grad, *ctx.saved_tensors)
    return grad_x, None if ctx.saved_tensors[1] is None else grad_source, grad_weight, grad_bias


register_autograd("unsmear::gather", _gather_gradients, setup_context=_keep_gather)


@custom_op("unsmear::distribute", mutates_args=())
def distribute(descriptors: Tensor, x: Tensor, weight: Tensor, bias: Tensor, onto: Tensor | None) -> Tensor:
    """Eqs. 5 and 6 for descriptors (B, N, C'), x (B, C, H, W), weight (N, C), bias (N), onto (B, C', H, W) or None.

    Returns:
        (B, C', H, W) in the type of x.
    """
    _, maps, width = descriptors.shape
    shape, *_ = _shape(x, width)
    out = empty_image(x, width, *x.shape[2:])
    launch(
        kernels.distribute, (-(-x[0, 0].numel() // shape[0]), len(x)), x.device,
        channels_last(x), *_wide(weight, bias, descriptors), None if onto is None else channels_last(onto), out,
        x[0, 0].numel(), **_constants(x, width, maps, shape),
    )  # fmt: skip
    return out


@register_fake("unsmear::distribute")
def _(descriptors: Tensor, x: Tensor, weight: Tensor, bias: Tensor, onto: Tensor | None) -> Tensor:
    return empty_image(x, descriptors.shape[2], *x.shape[2:])


@custom_op("unsmear::distribute_gradients", mutates_args=())
def distribute_gradients(
    grad: Tensor, descriptors: Tensor, x: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of descriptors, x, weight and bias, given that of the output."""
    _, maps, width = descriptors.shape
    shape, stretch, parts = _shape(x, width)
    grad_x, _, grad_weight, grad_bias = _empty_gradients(x, None, parts, weight)
    grad_descriptors = x.new_empty(len(x), parts, maps, width, dtype=torch.float32)
    launch(
        kernels.distribute_gradients, (parts, len(x)), x.device,
        channels_last(x), *_wide(weight, bias, descriptors), channels_last(grad),
        grad_x, grad_descriptors, grad_weight, grad_bias, x[0, 0].numel(), stretch,
        **_constants(x, width, maps, shape),
    )  # fmt: skip
    return (
        grad_descriptors.sum(1).to(descriptors.dtype),
        grad_x,
        grad_weight.sum((0, 1)).to(weight.dtype),
        grad_bias.sum((0, 1)).to(bias.dtype),
    )


@register_fake("unsmear::distribute_gradients")
def _(
    grad: Tensor, descriptors: Tensor, x: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_x = empty_image(x, *x.shape[1:])
    return descriptors.new_empty(descriptors.shape), grad_x, weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _keep_distribute(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])


def _distribute_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *distribute_gradients(grad, *ctx.saved_tensors), grad if ctx.needs_input_grad[4] else None


register_autograd("unsmear::distribute", _distribute_gradients, setup_context=_keep_distribute)


def _width(x: Tensor, source: Tensor | None) -> int:
    return x.shape[1] if source is None else source.shape[1]


def _wide(*tensors: Tensor) -> list[Tensor]:
    return [tensor.to(torch.float32).contiguous() for tensor in tensors]


def _shape(x: Tensor, width: int) -> tuple[tuple[int, int, int], int, int]:
    """Rows of a block, warps and stages; pixels of a stretch; and how many of them there are."""
    rows, warps, stages = SHAPES[room(max(x.shape[1], width))]
    if x.dtype == torch.float32:  # twice the size, and products of three parts
        rows, stages = 64, 1
    blocks = -(-x[0, 0].numel() // rows)
    blocks_each = -(-blocks // max(1, min(PARTS // len(x), blocks // 4)))
    return (rows, warps, stages), blocks_each * rows, -(-blocks // blocks_each)


def _constants(x: Tensor, width: int, maps: int, shape: tuple[int, int, int]) -> dict[str, Any]:
    rows, warps, stages = shape
    channels = x.shape[1]
    return {
        "CHANNELS": channels, "WIDTH": width, "MAPS": maps,
        "ROOM_C": room(channels), "ROOM_W": room(width), "ROOM_M": room(maps),
        "ROWS": rows, "PRECISION": precision(x.dtype), "num_warps": warps, "num_stages": stages,
    }  # fmt: skip


def _empty_descriptors(x: Tensor, width: int, maps: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, one = x.shape[0], torch.float32
    return (
        x.new_empty(batch, maps, width, dtype=one),
        x.new_empty(batch, maps, dtype=one),
        x.new_empty(batch, maps, dtype=one),
    )


def _empty_gradients(x: Tensor, source: Tensor | None, parts: int, weight: Tensor) -> tuple[Tensor, ...]:
    """Memory for the gradients of x and source, and parts of those of weight and bias."""
    shape = (x.shape[0], parts, *weight.shape)
    return (
        empty_image(x, *x.shape[1:]),
        x.new_empty(0) if source is None else empty_image(source, *source.shape[1:]),
        x.new_empty(shape, dtype=torch.float32),
        x.new_empty(shape[:3], dtype=torch.float32),
    )
