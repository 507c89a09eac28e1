"""Where the operators compute: in compiled kernels, or in plain PyTorch."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from importlib.util import find_spec

import torch
from torch import Tensor

use_triton = torch.version.cuda is not None and find_spec("triton") is not None
"""Whether NVIDIA GPUs run Triton kernels. May be set to False, to compare them with plain PyTorch."""

_WIDEST = {torch.float32: 64, torch.bfloat16: 128, torch.float16: 128}
"""How many channels a program's share of shared memory has room for."""


_plain = ContextVar("_plain", default=False)


@contextmanager
def plain_operators() -> Iterator[None]:
    """Where processors work in plain PyTorch: loading the compiled kernels takes longer than one small picture.

    On one thread, as PyTorch's own sums depend on the number of threads, and those of the compiled kernels do not. For
    processes that do nothing else meanwhile: that number is the whole process's.
    """
    threads, token = torch.get_num_threads(), _plain.set(True)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _plain.reset(token)


def takes_kernels(x: Tensor) -> bool:
    """Whether the compiled CPU kernels can work on a tensor: on a processor, outside a graph being recorded."""
    return x.is_cpu and not is_recorded() and not _plain.get()


def is_recorded() -> bool:
    """Whether a graph is being recorded, which can only hold PyTorch operators."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()  # pyright: ignore[reportPrivateImportUsage]


def takes_triton(x: Tensor, *channels: int) -> bool:
    """Whether the Triton kernels can work on a tensor and on these numbers of channels, maps or taps.

    `torch.compile` may hold their operators, graphs that leave this machine may not. Older GPUs than those of compute
    capability 8.0 lack bfloat16.
    """
    if not (use_triton and x.is_cuda and x.numel() > 0 and max(channels) <= _WIDEST.get(x.dtype, 0)):
        return False
    leaves = torch.jit.is_tracing() or torch.compiler.is_exporting()  # pyright: ignore[reportPrivateImportUsage]
    return not leaves and torch.cuda.get_device_properties(x.device).major >= 8


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Where tensors keep their type, whatever autocast surrounds it."""
    # Devices that only count, such as "meta", have no autocast to switch off.
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def computing_type(x: Tensor) -> torch.dtype:
    """The type that a convolution of x computes in on a GPU: autocast's, or that of x."""
    return torch.get_autocast_dtype("cuda") if x.is_cuda and torch.is_autocast_enabled("cuda") else x.dtype


def is_depthwise(x: Tensor, weight: Tensor) -> bool:
    """Whether weights (C_out, C_in, side, side) filter every channel of x (B, C, H, W) alone."""
    return weight.shape[1] == 1 and weight.shape[0] == x.shape[1]
