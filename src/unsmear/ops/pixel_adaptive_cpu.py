"""The pixel-adaptive convolution on a CPU: memory layouts, tasks and threads around the compiled kernels."""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from unsmear.ops import pixel_adaptive_kernels as kernels
from unsmear.ops.simd import VECTOR_BYTES

_PARTS_BYTES = 2**26  # limit of the memory for partial sums of the gradient of a full weight


@cache
def _helpers(num: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num, thread_name_prefix="unsmear")


# Threads do not survive a fork: the child starts its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.cache_clear)


def _run(kernel: Callable[..., None], tasks: int, *args: Tensor | int) -> None:
    """Call kernel(*args, first, last) for slices of range(tasks), on as many threads as torch uses."""
    flat = [arg.reshape(-1).numpy() if isinstance(arg, Tensor) else arg for arg in args]
    threads = torch.get_num_threads()
    num = 1 if threads == 1 else min(tasks, 4 * threads)  # 4: the others take over from a thread that is held up
    slices = deque((n * tasks // num, (n + 1) * tasks // num) for n in range(num))

    def work() -> None:
        while True:
            try:
                first, last = slices.popleft()
            except IndexError:
                return
            kernel(*flat, first, last)

    helpers = [_helpers(threads - 1).submit(work) for _ in range(min(threads, num) - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():  # too late to matter, if it has not even begun
            helper.result()


def _lanes(tensor: Tensor) -> int:
    return VECTOR_BYTES // tensor.element_size()


def _fill(tensor: Tensor) -> Tensor:
    """Pad the last dimension with zeros to whole registers; dense and without gradient."""
    tensor = tensor.detach()
    missing = -tensor.shape[-1] % _lanes(tensor)
    return (F.pad(tensor, (0, missing)) if missing else tensor).contiguous()


def _panels(filled: Tensor) -> int:
    """How many registers wide `product` should be."""
    return 2 if filled.shape[-1] % (2 * _lanes(filled)) == 0 else 1


def _last(image: Tensor) -> Tensor:
    """(B, C, H, W) in any layout to dense (B, H, W, C), which is free if it is channels-last already."""
    return image.detach().permute(0, 2, 3, 1).contiguous()


def _image(last: Tensor, channels: int) -> Tensor:
    """The reverse of `_last`, without channels that `_fill` added."""
    return last[..., :channels].contiguous().permute(0, 3, 1, 2)


def _bias(bias: Tensor | None, x: Tensor, channels: int) -> Tensor:
    return _fill(x.new_zeros(channels) if bias is None else bias)


def _blocks(x: Tensor) -> int:
    return x.shape[0] * -(-x.shape[2] // kernels.BLOCK_ROWS)


def _chunks(weight: Tensor) -> Tensor:
    """(C, 1, k, k) to (chunks of a register, k * k, lanes)."""
    taps = _fill(weight.flatten(1).t())
    return taps.unflatten(1, (-1, _lanes(taps))).transpose(0, 1).contiguous()


def depthwise(x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor | None, *, transposed: bool = False) -> Tensor:
    """Eq. 7 with weight (C, 1, k, k); transposed, the gradient of x, given that of the output as x."""
    k, channels, (height, width) = weight.shape[-1], x.shape[1], x.shape[2:]
    source, factors = _fill(_last(x)), _last(kernel)
    taps = _chunks(weight.flip(2, 3) if transposed else weight)
    out = torch.empty_like(source)
    _run(
        kernels.depthwise(k, transposed), _blocks(x),
        source, factors, taps, _bias(bias, x, channels), out, height, width, source.shape[-1],
    )  # fmt: skip
    return _image(out, channels)


def depthwise_gradients(grad: Tensor, x: Tensor, kernel: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of kernel and weight of `depthwise`."""
    k, channels, (height, width) = weight.shape[-1], x.shape[1], x.shape[2:]
    source, factors, taps = _fill(_last(x)), _last(kernel), _chunks(weight)
    grad_factors, parts = torch.empty_like(factors), taps.new_empty(_blocks(x), *taps.shape)
    _run(
        kernels.depthwise_gradients(k, _panels(source)), len(parts),
        _fill(_last(grad)), source, factors, taps, grad_factors, parts, height, width, source.shape[-1],
    )  # fmt: skip
    grad_weight = parts.sum(0).transpose(1, 2).flatten(0, 1)[:channels]
    return _image(grad_factors, k * k), grad_weight.reshape(weight.shape)


def full(x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Eq. 7 with weight (Cout, Cin, k, k)."""
    c_out, c_in, k, _ = weight.shape
    batch, _, height, width = x.shape
    taps = _fill(weight.permute(2, 3, 1, 0))
    out = x.new_empty(batch, height, width, taps.shape[-1])
    _run(
        kernels.full(_panels(taps)), batch * height,
        _last(x), _last(kernel), taps, _bias(bias, x, c_out), out, height, width, c_in, taps.shape[-1], k,
    )  # fmt: skip
    return _image(out, c_out)


def full_gradients(grad: Tensor, x: Tensor, kernel: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and kernel of `full`."""
    c_out, c_in, k, _ = weight.shape
    batch, _, height, width = x.shape
    slopes, source, factors, taps = (
        _last(grad),
        _fill(_last(x)),
        _last(kernel),
        _fill(weight.permute(2, 3, 0, 1)),
    )
    grad_x, grad_factors = torch.zeros_like(source), torch.empty_like(factors)
    blocks = -(-height // max(kernels.BLOCK_ROWS, k - 1))
    for turn in range(2):
        _run(
            kernels.full_gradients(_panels(taps)), batch * ((blocks + 1 - turn) // 2),
            slopes, source, factors, taps, grad_x, grad_factors,
            height, width, taps.shape[-1], c_out, k, turn,
        )  # fmt: skip
    return _image(grad_x, c_in), _image(grad_factors, k * k)


def full_gradient_weight(grad: Tensor, x: Tensor, kernel: Tensor, weight: Tensor) -> Tensor:
    """Gradient of weight of `full`."""
    c_out, c_in, k, _ = weight.shape
    batch, _, height, width = x.shape
    source = _fill(_last(x))
    groups = max(1, min(8, _PARTS_BYTES // (weight.numel() * weight.element_size())))
    parts = source.new_empty(groups, k, k, c_out, source.shape[-1])
    _run(
        kernels.full_gradient_weight(_panels(source)), groups * k,
        _last(grad), source, _last(kernel), parts,
        batch * height, height, width, source.shape[-1], c_out, k, groups,
    )  # fmt: skip
    return parts.sum(0)[..., :c_in].permute(2, 3, 0, 1)
