"""Passes over pictures of one size, recorded once and replayed: CUDA graphs.

A network is a thousand small steps, and Python takes longer to start most of them than a fast GPU to do them. A graph
starts all of them at once. It holds the memory of a pass as long as it is kept, so only one is, for the latest size.
"""

import logging
from collections.abc import Callable
from threading import Lock

import torch
from torch import Tensor

Pass = Callable[[Tensor], Tensor]

_BEFORE = 2
"""Passes over a size before one is recorded: they compile and choose kernels, and show that the size repeats."""


def record_graph(function: Pass, x: Tensor) -> Pass:
    """Record what a function does to a CUDA tensor of this size.

    Args:
        function: Something that only computes on the GPU, and has run for such a tensor before.
        x: The tensor.

    Returns:
        A function that does the same to tensors of this shape, and waits until it is done.

    Raises:
        RuntimeError: If something cannot be recorded, or replaying gives something else than the function.
    """
    expected, place, graph = function(x), x.clone(), torch.cuda.CUDAGraph()
    with torch.cuda.device(x.device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = function(place)

    def replay(x: Tensor) -> Tensor:
        with torch.cuda.device(x.device):
            place.copy_(x)
            graph.replay()
            y = result.clone()
            torch.cuda.current_stream().synchronize()  # the next call may come by another stream
        return y

    # Rounding may differ, because the libraries under PyTorch may choose other kernels.
    if not torch.allclose(replay(x), expected, rtol=0.02, atol=0.02, equal_nan=True):
        raise RuntimeError("the recorded pass gives something else")
    return replay


class Repeated:
    """A function that is recorded when the shapes of its argument repeat. Several threads take turns.

    Args:
        function: From tensor to tensor.
        record: What makes a replay of it; where it raises a RuntimeError the function itself goes on being called.
    """

    def __init__(self, function: Pass, record: Callable[[Pass, Tensor], Pass] = record_graph) -> None:
        self._function, self._record, self._lock = function, record, Lock()
        self._shape, self._count = torch.Size(), 0
        self._replay: Pass | None = None
        self._can_record = True

    def __call__(self, x: Tensor) -> Tensor:
        """The function's value at x."""
        with self._lock:
            if x.shape != self._shape:
                self._shape, self._count, self._replay = x.shape, 0, None
            self._count += 1
            if self._replay is None and self._can_record and self._count > _BEFORE:
                try:
                    self._replay = self._record(self._function, x)
                except RuntimeError as error:
                    self._can_record = False
                    logging.getLogger(__name__).info("passes cannot be recorded: %s", error)
            return self._function(x) if self._replay is None else self._replay(x)
