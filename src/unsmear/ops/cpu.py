"""What the CPU operators share: memory layouts, and compiled kernels on the threads that torch uses."""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from unsmear.ops.simd import VECTOR_BYTES


@cache
def _helpers(num: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num, thread_name_prefix="unsmear")


# Threads do not survive a fork: the child starts its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.cache_clear)


def run(kernel: Callable[..., None], tasks: int, *args: Tensor | int) -> None:
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
    flat.clear()  # a helper that was cancelled keeps the list until its thread comes round to it


def lanes(tensor: Tensor) -> int:
    """Numbers of a tensor that one register holds."""
    return VECTOR_BYTES // tensor.element_size()


def fill(tensor: Tensor) -> Tensor:
    """Pad the last dimension with zeros to whole registers; dense and without gradient."""
    tensor = tensor.detach()
    missing = -tensor.shape[-1] % lanes(tensor)
    return (F.pad(tensor, (0, missing)) if missing else tensor).contiguous()


def channels_last(image: Tensor) -> Tensor:
    """(B, C, H, W) in any layout to dense (B, H, W, C), which is free if it is channels-last already."""
    return image.detach().permute(0, 2, 3, 1).contiguous()


def to_image(last: Tensor, channels: int) -> Tensor:
    """The reverse of `channels_last`, without channels that `fill` added."""
    return last[..., :channels].contiguous().permute(0, 3, 1, 2)
