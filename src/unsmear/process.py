"""How a process should use its processors and memory to restore pictures fast. The command line does this by itself."""

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_KEPT = 2**31 - 1


def tune_process(*, training: bool = False) -> None:
    """Set up the process, for all of it and for good; to be called before torch is imported.

    - OMP_WAIT_POLICY=PASSIVE and GOMP_SPINCOUNT, unless they are set: PyTorch's idle threads otherwise spin for
      milliseconds, and keep the processors from the operators' own threads; but to sleep at once costs a wake-up for
      each of a thousand small steps. They look for work a few microseconds long.
    - With the GNU C library, freed memory is kept for what comes next. A feature map of 30 MB is otherwise given back
      to the system, fetched again and cleared for every layer, which takes longer than many of the layers. The process
      then stays at the size of its largest picture; the environment's MALLOC_TRIM_THRESHOLD_ is respected.
    - For training THP_MEM_ALLOC_ENABLE=1, unless it is set: PyTorch asks Linux for memory in pages of 2 MB, not 4 KB.
      Steps use the same memory again and again. A pass does not gain, and Linux takes long to find so large ones.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    if training:
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform == "linux" and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        with suppress(OSError, AttributeError):  # other C libraries have no mallopt
            library = ctypes.CDLL(None)
            library.mallopt(_MMAP_THRESHOLD, 2**25)
            library.mallopt(_TRIM_THRESHOLD, _KEPT)


def give_back_freed() -> None:
    """With the GNU C library on Linux, give freed memory back to the system, wherever in the process it lies.

    For a large pass, before the part that needs most: what others leave lies between what stays in use, in pieces of
    which few fit that part, so kept it would add to the peak. To fetch and clear some of it again takes time, too.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # other C libraries have no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def loading() -> Iterator[None]:
    """For the first import of PyTorch and what needs it: Python does not look for garbage among all that is loaded.

    It otherwise goes through every object so far again and again, to find nothing, and once more at the end. That is a
    quarter of the time that a small picture takes.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # what is loaded stays to the end
        gc.enable()
