"""What a network computes in: float32, or 16 bits as long as these are enough."""

import logging
import math
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from unsmear.errors import UsageError
from unsmear.replay import Pass, Repeated

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class HalfPrecisionError(Exception):
    """16 bits were not enough for a picture: it has to be done again."""


def choose_dtype(name: str, device: torch.device, *, half_is_enough: bool = True) -> torch.dtype:
    """Find the type that a name stands for.

    >>> choose_dtype("auto", torch.device("cpu"))
    torch.float32

    Args:
        name: "float32", "bfloat16", "float16", or "auto": the fastest that is safe, which is bfloat16 on NVIDIA GPUs
            since 2020 (it has the range of float32), float16 on those since 2017, and float32 elsewhere.
        device: Where to compute.
        half_is_enough: Whether the network works in 16 bits.

    Raises:
        UsageError: If the name is another one, or of 16 bits where these are not enough.
    """
    if name in DTYPES and name != "float32" and not half_is_enough:
        raise UsageError(f"this network does not work in {name}: choose float32 or auto")
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise UsageError(f"unknown dtype {name!r}: choose one of auto, {', '.join(DTYPES)}")
    if device.type != "cuda" or not half_is_enough:
        return torch.float32
    major = torch.cuda.get_device_properties(device).major
    return torch.bfloat16 if major >= 8 else torch.float16 if major >= 7 else torch.float32


class Runner:
    """A network on its device. Pictures, and the sums that estimates are, stay float32 whatever it computes in.

    Args:
        network: The network, in float32 on its device. It stays as it is.
        device: That device. On CUDA devices passes over repeated sizes are replayed.
        dtype: What to compute in at first.
        halve_weights: Whether to keep weights in 16 bits, too, which saves converting them in every pass.
    """

    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype, *, halve_weights: bool) -> None:
        self._network, self._device, self._lock = network, device, Lock()
        self._halve_weights = halve_weights
        weights = deepcopy(network).to(dtype) if halve_weights and dtype != torch.float32 else network
        self._now = dtype, self._pass(weights, dtype)

    def __reduce__(self) -> tuple[Any, ...]:  # for copies, and for other processes: locks cannot go there
        return partial(Runner, halve_weights=self._halve_weights), (self._network, self._device, self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in now."""
        return self._now[0]

    def __call__(self, x: Tensor) -> Tensor:
        """One pass over x (B, 3, H, W), values in [0, 1]; float32.

        Raises:
            HalfPrecisionError: If 16 bits give numbers that are not finite, or black for a picture that is not.
        """
        dtype, run = self._now
        y = run(x)
        if dtype != torch.float32:
            total, highest, mean = torch.stack([y.sum(), y.amax(), x.mean()]).tolist()
            name = str(dtype).removeprefix("torch.")
            if not math.isfinite(total):
                raise HalfPrecisionError(f"{name} gave values that are no finite numbers")
            if highest < mean / 4 - 0.01:
                raise HalfPrecisionError(f"{name} gave a black picture")
        return y

    def widen(self, reason: HalfPrecisionError) -> None:
        """Compute in float32 from now on, and say so in the log, once."""
        with self._lock:
            if self.dtype != torch.float32:
                self._now = torch.float32, self._pass(self._network, torch.float32)
                logging.getLogger(__name__).warning("%s: computing in float32 from now on", reason)

    def _pass(self, network: nn.Module, dtype: torch.dtype) -> Pass:
        def function(x: Tensor) -> Tensor:
            with nullcontext() if dtype == torch.float32 else torch.autocast(self._device.type, dtype=dtype):
                return network(x).to(torch.float32)

        return Repeated(function) if self._device.type == "cuda" else function
