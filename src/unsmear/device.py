"""Which device computes, why, and how much of its memory may be used."""

from dataclasses import dataclass
from pathlib import Path

import torch

from unsmear.errors import UsageError

_GIB = 2**30
_ASSUMED_FREE = 4 * _GIB  # where the system does not tell


@dataclass(frozen=True)
class DeviceChoice:
    """A device, and the reason for it in a few words."""

    device: torch.device
    reason: str


def choose_device(name: str | torch.device = "auto") -> DeviceChoice:
    """Find the device that a name stands for.

    >>> choose_device("cpu")
    DeviceChoice(device=device(type='cpu'), reason='asked for')

    Args:
        name: "auto" (the first of cuda, mps and cpu that is there), "cpu", "cuda", "cuda:1" and so on, or
            "mps".

    Raises:
        UsageError: If there is no such device here.
    """
    name = str(name)
    if name == "auto":
        if torch.cuda.is_available():
            return DeviceChoice(torch.device("cuda"), f"found {torch.cuda.get_device_name()}")
        if torch.backends.mps.is_available():
            return DeviceChoice(torch.device("mps"), "found an Apple GPU")
        return DeviceChoice(torch.device("cpu"), f"no usable GPU: {_why_no_cuda()}")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdecimal()):
        raise UsageError(f"unknown device {name!r}: choose auto, cpu, cuda, cuda:1 and so on, or mps")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"device {name!r} cannot be used: {_why_no_cuda()}; take cpu or auto")
        if int(index or 0) >= torch.cuda.device_count():
            raise UsageError(f"device {name!r} does not exist: CUDA devices here: {torch.cuda.device_count()}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"device {name!r} cannot be used: no Apple GPU here; take cpu or auto")
    return DeviceChoice(torch.device(name), "asked for")


def free_memory(device: torch.device) -> int:
    """Bytes that new tensors on this device could take now; 4 GiB where the system does not tell."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        free = _ASSUMED_FREE
    return max(0, min(free, _container_free() or free))


def default_budget(device: torch.device) -> int:
    """Bytes of working memory taken when nobody says otherwise.

    On a GPU six tenths of what is free. On a CPU, where other programs live too, half of what is free and 2
    GiB at most; but 256 MiB at least, since a real shortage is noticed and answered with smaller tiles.
    """
    free = free_memory(device)
    if device.type != "cpu":
        return int(0.6 * free)
    return max(_GIB // 4, min(2 * _GIB, free // 2))


def _why_no_cuda() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return "this PyTorch is built for CPU only"
    return "PyTorch finds no working driver or card"


def _container_free() -> int | None:
    """Bytes left under the memory limit of the container, if there is one. File cache counts as free."""
    base = Path("/sys/fs/cgroup")
    for limit, used, cache in (
        (base / "memory.max", base / "memory.current", "file"),
        (base / "memory/memory.limit_in_bytes", base / "memory/memory.usage_in_bytes", "total_cache"),
    ):
        try:
            stat = dict(line.split() for line in (limit.parent / "memory.stat").read_text().splitlines())
            return int(limit.read_text()) - int(used.read_text()) + int(stat[cache])
        except (OSError, KeyError, ValueError):  # not there, or the limit reads "max"
            continue
    return None
