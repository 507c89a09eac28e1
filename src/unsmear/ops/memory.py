"""Memory for the feature maps of passes on a processor: one region, from which they are taken and to which they return.

The C library gives maps of more than 32 MiB back to the system at once, which then has to find and clear them anew for
every layer, and what it keeps of smaller ones lies between others in pieces of which few fit again. In a region of its
own every map takes the first place where it fits, and what is free lies together.
"""

import math
import mmap
import os
import sys
import weakref
from bisect import insort
from collections import deque
from functools import cache
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor

SMALLEST = 2**20  # bytes: for less the C library is as good
_STEP = 64 * 65  # bytes, whole lines of caches, which have few places for what lies a power of two apart
_NORESERVE = 0x4000  # mmap.MAP_NORESERVE, from Python 3.13 on: what is not touched counts for nothing
_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")


def empty(like: Tensor, *shape: int) -> Tensor:
    """A tensor of this shape, with the type of `like` and any values, for what a compiled kernel gives.

    In inference mode it lies in the region if it is large and has room there, and gives its place back once it and all
    that share its memory are gone.
    """
    size = math.prod(shape) * like.element_size()
    region = _region(os.getpid()) if size >= SMALLEST and torch.is_inference_mode_enabled() else None
    memory = None if region is None else region.take(size)
    if memory is None:
        return like.new_empty(shape)
    return torch.from_numpy(memory).view(like.dtype).view(shape)


class Region:
    """Memory that the system provides once it is touched.

    Args:
        size: Bytes.

    Raises:
        OSError: If there is no room for so much.
    """

    def __init__(self, size: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
        self._bytes = np.frombuffer(mmap.mmap(-1, size, flags=flags), np.uint8)
        self._holes = [(0, size)]  # where and how many bytes, in order
        self._returned: deque[tuple[int, int]] = deque()  # tensors go at any moment, on any thread
        self._lock = Lock()

    def take(self, size: int) -> np.ndarray | None:
        """Free bytes, this many, as long as they or a view of them live, of the first hole that is large enough.

        None if there is no such hole.
        """
        whole = -(-size // _STEP) * _STEP
        with self._lock:
            self._join_holes()
            for index, (start, room) in enumerate(self._holes):
                if room < whole:
                    continue
                if index + 1 < len(self._holes):
                    # At its end, which leaves what is larger more room in a pass of `saphn`, and as much in others.
                    self._holes[index] = start, room - whole
                    start += room - whole
                else:
                    self._holes[index] = start + whole, room - whole
                break
            else:
                return None
        memory = self._bytes[start : start + size]
        weakref.finalize(memory, self._returned.append, (start, whole)).atexit = False
        return memory

    def _join_holes(self) -> None:
        while self._returned:
            insort(self._holes, self._returned.popleft())
        joined = self._holes[:1]
        for start, room in self._holes[1:]:
            before, length = joined[-1]
            if before + length == start:
                joined[-1] = before, length + room
            else:
                joined.append((start, room))
        self._holes = joined


@cache
def _region(process: int) -> Region | None:
    """That of a process, which is another after a fork; half as large as the machine's memory, or None."""
    if sys.platform != "linux" or _counts_untouched():
        return None
    try:
        return Region(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    except OSError:
        return None


def _counts_untouched() -> bool:
    """Whether untouched memory counts, to a limit of the process or of a system that promises no more than it has."""
    import resource

    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    try:
        return limited or _OVERCOMMIT.read_text().strip() == "2"
    except OSError:
        return True
