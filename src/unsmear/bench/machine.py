"""What the machine is, and what it can do: the rates that every network is held against."""

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from unsmear import __version__

_SIDE, _GPU_SIDE = 2048, 8192  # of the matrices, but not beyond
_SLOW = 0.1  # seconds for a product, since some processors would take a minute in float16
_COPIED = 2**28  # bytes, more than any cache holds


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and with what a measurement was made.

    Attributes:
        processor: Name of the processor.
        processors: How many of them the system shows.
        threads: Threads that PyTorch computes with.
        device: What computed, such as "cpu" or "cuda".
        device_name: Name of the processor or card behind it.
        system: Operating system.
        python: Version of Python.
        torch: Version of PyTorch.
        unsmear: Version of unsmear.
        commit: Commit of unsmear, where it was installed from the address of a repository.
        wait_policy: OMP_WAIT_POLICY in the environment; idle threads disturb the others unless it is PASSIVE.
    """

    processor: str
    processors: int | None
    threads: int
    device: str
    device_name: str
    system: str
    python: str
    torch: str
    unsmear: str
    commit: str | None
    wait_policy: str | None


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What the machine can do.

    Attributes:
        product: Operations per second, two for each multiply-accumulate, of a product of square matrices.
        product_side: Side of these matrices.
        convolution: Operations per second of a 3x3 convolution of 128 channels, channels-last.
        matrix: The larger of the two, the matrix rate.
        copy: Bytes per second of a large copy, those read and those written.
    """

    product: float
    product_side: int
    convolution: float
    matrix: float
    copy: float


def describe(device: torch.device) -> Machine:
    """Look up what there is to know."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # another system, or another kind of processor
        pass
    return Machine(
        processor=processor,
        processors=os.cpu_count(),
        threads=torch.get_num_threads(),
        device=str(device),
        device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
        system=platform.platform(),
        python=platform.python_version(),
        torch=torch.__version__,
        unsmear=__version__,
        commit=_commit(),
        wait_policy=os.environ.get("OMP_WAIT_POLICY"),
    )


def _commit() -> str | None:
    try:
        origin = metadata.distribution("unsmear").read_text("direct_url.json")
    except metadata.PackageNotFoundError:  # run from its source
        return None
    return json.loads(origin or "{}").get("vcs_info", {}).get("commit_id")


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that some work takes, with the device idle before and after."""
    wait(device)
    begin = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - begin


def wait(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Probes:
    """The work that shows the machine's rates, ready to be timed in turn with something else.

    Args:
        device: Where to compute.
        dtype: Type of the matrices and features.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._side, product = _product(device, dtype)
        batch = 4 if device.type == "cpu" else 256
        x, weight = (
            torch.randn(shape, device=device).to(dtype, memory_format=torch.channels_last)
            for shape in ((batch, 128, 64, 64), (128, 128, 3, 3))
        )
        source, target = (torch.ones(_COPIED // 4, device=device) for _ in range(2))
        convolution = partial(F.conv2d, x, weight, padding=1)
        convolution()  # the first call plans and allocates
        self._work: list[tuple[int, Callable[[], object]]] = [  # how much, and what
            (2 * self._side**3, product),
            (2 * x.numel() * weight[0].numel(), convolution),
            (2 * _COPIED, partial(target.copy_, source)),
        ]
        self._seconds: list[list[float]] = [[] for _ in self._work]

    def run(self) -> None:
        """Time everything once."""
        for (_, work), seconds in zip(self._work, self._seconds, strict=True):
            seconds.append(timed(work, self._device))

    def rates(self) -> Rates:
        """Rates by the medians of all runs so far."""
        product, convolution, copy = (
            amount / float(np.median(seconds)) for (amount, _), seconds in zip(self._work, self._seconds, strict=True)
        )
        return Rates(
            product=product,
            product_side=self._side,
            convolution=convolution,
            matrix=max(product, convolution),
            copy=copy,
        )


def _product(device: torch.device, dtype: torch.dtype) -> tuple[int, Callable[[], object]]:
    """A product of large matrices, and their side."""
    side = 256 if device.type == "cpu" else _GPU_SIDE
    while True:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        product = partial(torch.mm, a, a, out=b)
        product()
        if side >= _SIDE or timed(product, device) > _SLOW:
            return side, product
        side *= 2
