"""How a process should use its processors and memory to restore pictures fast. The command line does this by itself."""

import ctypes
import os
import sys
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_KEPT = 2**31 - 1


def tune_process() -> None:
    """Set up the process, for all of it and for good; to be called before torch is imported.

    - OMP_WAIT_POLICY=PASSIVE, unless it is set: PyTorch's idle threads otherwise spin, and keep the processors from
      the operators' own threads.
    - With the GNU C library, freed memory is kept for what comes next. A feature map of 30 MB is otherwise given back
      to the system, fetched again and cleared for every layer, which takes longer than many of the layers. The process
      then stays at the size of its largest picture; the environment's MALLOC_TRIM_THRESHOLD_ is respected.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.platform == "linux" and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        with suppress(OSError, AttributeError):  # other C libraries have no mallopt
            library = ctypes.CDLL(None)
            library.mallopt(_MMAP_THRESHOLD, 2**30)
            library.mallopt(_TRIM_THRESHOLD, _KEPT)
