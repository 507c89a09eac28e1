"""A network that is timed: how it is loaded, run, run part by part, and what memory it takes."""

import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unsmear.bench.machine import timed, wait
from unsmear.bench.work import count_work, parts
from unsmear.device import free_memory
from unsmear.errors import OutOfMemoryError, UsageError
from unsmear.models import create_model, list_models, load_model, shipped_weights
from unsmear.models.network import Network
from unsmear.tiling import round_up

REST = "rest"
"""The kind of what is outside of all counted modules: element-wise work, and moving data."""

_GIB = 2**30


class Subject:
    """A network on its device, with a picture.

    Args:
        name: A name of `list_models()`, with or without weights, or a weights file.
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.
        device: Where to compute.
        dtype: Type of weights and features.

    Attributes:
        network: The network.
        weights: "shipped", "file", or "random" where there are none.
        height: Height of the picture, padded as `Deblurrer` pads.
        width: Width of the picture, likewise.
        macs: Multiply-accumulates of a pass, by kind.
        traffic: Least bytes that a pass moves, by kind.

    Raises:
        UsageError: If there is no such model, or the device cannot compute it in this type.
        ModelError: If the weights file is damaged.
        OutOfMemoryError: If a pass will not fit into what is free.
    """

    def __init__(self, name: str, height: int, width: int, device: torch.device, dtype: torch.dtype) -> None:
        self.name, self.device = name, device
        network, self.weights = _load(name)
        self.height, self.width = (round_up(length, network.size_multiple) for length in (height, width))
        needed, free = network.peak_bytes_per_pixel * self.height * self.width, free_memory(device)
        if needed > free:
            raise OutOfMemoryError(
                f"a pass of {name!r} at {width}x{height} takes about {needed / _GIB:.1f} GiB, but only"
                f" {free / _GIB:.1f} GiB are free; take a smaller size"
            )
        self.macs, self.traffic = count_work(network, self.height, self.width, dtype)
        try:
            self.network = network.to(device, dtype)
            self.network(_picture(network.size_multiple, network.size_multiple, device, dtype))
        except (RuntimeError, TypeError) as error:
            if dtype is torch.float32:
                raise
            reason = str(error).partition("\n")[0]
            raise UsageError(f"device {device} cannot compute {name!r} in {dtype}: {reason}; take float32") from None
        self._picture = _picture(self.height, self.width, device, dtype)

    def run(self) -> None:
        """One pass."""
        self.network(self._picture)

    def run_parts(self) -> dict[str, float]:
        """One pass with the device waited for around every part; seconds by kind, `REST` included."""
        seconds, begin = dict.fromkeys(self.traffic, 0.0), 0.0

        def start(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            nonlocal begin
            wait(self.device)
            begin = time.perf_counter()

        def stop(kind: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            wait(self.device)
            seconds[kind] += time.perf_counter() - begin

        handles = []
        for kind, part in parts(self.network):
            handles += [part.register_forward_pre_hook(start), part.register_forward_hook(partial(stop, kind))]
        try:
            whole = timed(self.run, self.device)
        finally:
            for handle in handles:
                handle.remove()
        return {**seconds, REST: whole - sum(seconds.values())}

    def memory(self) -> int | None:
        """Bytes that a pass takes at its peak, beside the network and PyTorch; None where that cannot be told."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            self.run()
            return torch.cuda.max_memory_allocated(self.device) - before
        if self.device.type != "cpu" or _peak() is None:
            return None
        # The peak of a process never falls: only that of a fresh one shows what a pass adds. A session of its own keeps
        # Ctrl-C from it, so it ends without a word, killed once this process has been interrupted.
        arguments = f"{self.name!r}, {self.height}, {self.width}, {self._picture.dtype}, {torch.get_num_threads()}"
        code = (
            "from unsmear.process import tune_process; tune_process(); import torch;"
            f"from unsmear.bench.subject import peak_growth; print(peak_growth({arguments}))"
        )
        fresh = subprocess.run([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, start_new_session=True)
        if fresh.returncode < 0:
            raise OutOfMemoryError(
                f"the process that tried a pass of {self.name!r} was killed, most likely for want of memory; take a"
                " smaller size"
            )
        fresh.check_returncode()
        return int(fresh.stdout)


@torch.inference_mode()
def peak_growth(name: str, height: int, width: int, dtype: torch.dtype, threads: int) -> int:
    """Bytes by which a pass on the CPU raises the peak of this process, which should be a fresh one.

    Args:
        name: As for `Subject`.
        height: Height of the picture, a multiple of the network's `size_multiple`.
        width: Width of the picture, likewise.
        dtype: Type of weights and features.
        threads: Threads to compute with.
    """
    torch.set_num_threads(threads)
    network, cpu = _load(name)[0].to(dtype), torch.device("cpu")
    network(_picture(network.size_multiple, network.size_multiple, cpu, dtype))  # loads all that is loaded late
    picture, before = _picture(height, width, cpu, dtype), _peak()
    network(picture)
    return (_peak() or 0) - (before or 0)


def _peak() -> int | None:
    """Bytes that this process had in memory at its peak so far."""
    try:  # on Linux getrusage goes on from the peak of the parent process
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _load(name: str) -> tuple[Network, str]:
    """A network on the CPU, and where its weights are from."""
    if name in list_models() and shipped_weights(name) is None:
        network = create_model(name).eval()
        return network.to(memory_format=torch.channels_last), "random"  # pyright: ignore[reportCallIssue]
    return load_model(name), "shipped" if name in list_models() else "file"


def _picture(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.rand(1, 3, height, width).to(device, dtype, memory_format=torch.channels_last)
