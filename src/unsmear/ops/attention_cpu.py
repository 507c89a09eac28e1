"""Global attention on a CPU, forward and backward: memory layouts and tasks around the compiled kernels."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from unsmear.ops import attention_kernels as kernels
from unsmear.ops.cpu import channels_last, fill, run, to_image
from unsmear.ops.memory import empty


def gather(x: Tensor, source: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Eqs. 1 and 2 for features x (B, C, H, W), source (B, C', H, W), weight (N, C) and bias (N); gives (B, N, C')."""
    return _Gather.apply(x, source, weight, bias)  # type: ignore[return-value]


def distribute(descriptors: Tensor, x: Tensor, weight: Tensor, bias: Tensor, onto: Tensor, overwrite: bool) -> Tensor:
    """Eqs. 5 and 6 for descriptors (B, N, C'), x (B, C, H, W), weight (N, C), bias (N), onto (B, C', H, W); like it.

    With `overwrite`, which knows no gradients, the result may lie where `onto` was.
    """
    return _Distribute.apply(descriptors, x, weight, bias, onto, overwrite)  # type: ignore[return-value]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x_last = _features(x)
        source_last = x_last if source is x else _features(source)
        by_map, floor = _maps(weight, bias)
        (batch, pixels, channels), width, maps = x_last.shape, source_last.shape[2], len(floor)
        chunks = -(-pixels // kernels.CHUNK)
        sums = x_last.new_zeros(batch, chunks, maps, width)
        totals = x_last.new_zeros(batch, chunks, maps)
        tops = torch.full_like(totals, torch.finfo(totals.dtype).min)
        run(
            kernels.gather, batch * chunks,
            x_last, source_last, by_map, floor, sums, tops, totals, pixels, channels, width, maps,
        )  # fmt: skip
        top = tops.amax(1)
        parts = (tops - top[:, None]).exp()
        total = (parts * totals).sum(1)
        descriptors = (parts[..., None] * sums).sum(1) / total[..., None]
        ctx.save_for_backward(x, source, weight, bias, descriptors, top, total)
        return descriptors[:, : len(weight), : source.shape[1]]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, source, weight, bias, descriptors, top, total = ctx.saved_tensors
        x_last = _features(x)
        source_last = x_last if source is x else _features(source)
        by_map, floor = _maps(weight, bias)
        (batch, pixels, channels), width, maps = x_last.shape, source_last.shape[2], len(floor)
        grad = F.pad(grad, (0, width - grad.shape[2], 0, maps - grad.shape[1])).contiguous()
        grad_x = torch.zeros_like(x_last)
        grad_source = grad_x if source is x else torch.zeros_like(source_last)
        parts = batch * -(-pixels // kernels.CHUNK)
        grad_weight, grad_bias = x_last.new_zeros(parts, maps, channels), x_last.new_zeros(parts, maps)
        run(
            kernels.gather_gradients, parts,
            x_last, source_last, by_map, by_map.t().contiguous(), floor - top, 1 / total,
            grad, grad.mT.contiguous(), (descriptors * grad).sum(2),
            grad_x, grad_source, grad_weight, grad_bias, pixels, channels, width, maps,
        )  # fmt: skip
        return (
            _like(grad_x, x),
            None if source is x else _like(grad_source, source),
            grad_weight.sum(0)[: len(weight), : weight.shape[1]],
            grad_bias.sum(0)[: len(weight)],
        )


class _Distribute(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, descriptors: Tensor, x: Tensor, weight: Tensor, bias: Tensor, onto: Tensor, overwrite: bool
    ) -> Tensor:
        x_last, onto_last = _features(x), _features(onto)
        by_map, floor = _maps(weight, bias)
        (batch, pixels, channels), width, maps = x_last.shape, onto_last.shape[2], len(floor)
        out = onto_last if overwrite else empty(onto_last, *onto_last.shape)
        run(
            kernels.distribute, batch * -(-pixels // kernels.CHUNK),
            x_last, by_map, floor, _padded(descriptors, maps, width), onto_last, out, int(overwrite),
            pixels, channels, width, maps,
        )  # fmt: skip
        ctx.save_for_backward(descriptors, x, weight, bias)
        return _like(out, onto)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        descriptors, x, weight, bias = ctx.saved_tensors
        x_last, grad_last = _features(x), _features(grad)
        by_map, floor = _maps(weight, bias)
        (batch, pixels, channels), width, maps = x_last.shape, grad_last.shape[2], len(floor)
        chunks = -(-pixels // kernels.CHUNK)
        grad_x, grad_descriptors = torch.zeros_like(x_last), x_last.new_zeros(batch, chunks, maps, width)
        grad_weight = x_last.new_zeros(batch * chunks, maps, channels)
        grad_bias = x_last.new_zeros(batch * chunks, maps)
        run(
            kernels.distribute_gradients, batch * chunks,
            x_last, by_map, by_map.t().contiguous(), floor, _padded(descriptors, maps, width).mT.contiguous(),
            grad_last, grad_x, grad_descriptors, grad_weight, grad_bias, pixels, channels, width, maps,
        )  # fmt: skip
        return (
            grad_descriptors.sum(1)[:, : descriptors.shape[1], : descriptors.shape[2]],
            _like(grad_x, x),
            grad_weight.sum(0)[: len(weight), : weight.shape[1]],
            grad_bias.sum(0)[: len(weight)],
            grad,
            None,
        )


def _features(x: Tensor) -> Tensor:
    """(B, C, H, W) to dense (B, pixels, C), C whole registers, without a copy where it is that already."""
    return fill(channels_last(x)).flatten(1, 2)


def _like(last: Tensor, image: Tensor) -> Tensor:
    """The reverse of `_features`."""
    return to_image(last.unflatten(1, image.shape[2:]), image.shape[1])


def _maps(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (N, C) as (C, N) and bias, filled up to whole registers by maps that get nothing."""
    turned = fill(fill(weight).t())
    return turned, F.pad(bias.detach(), (0, turned.shape[1] - len(bias)), value=-1e30)


def _padded(descriptors: Tensor, maps: int, width: int) -> Tensor:
    _, given, channels = descriptors.shape
    return F.pad(descriptors.detach(), (0, width - channels, 0, maps - given)).contiguous()
