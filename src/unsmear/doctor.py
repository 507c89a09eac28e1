"""A look at the installation: what is there, what is chosen and why, and what will fit into memory."""

import os
import platform
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from unsmear import __version__
from unsmear.errors import OutOfMemoryError, UnsmearError

if TYPE_CHECKING:
    from unsmear.restore import Deblurrer

Finding = tuple[str, str, bool]
"""What was looked at, what was found, and whether that is fine."""

_MODULES = {
    "torch": "torch",
    "numpy": "numpy",
    "numba": "numba",
    "pillow": "PIL",
    "safetensors": "safetensors",
}
_GIB = 2**30


def examine() -> Iterator[Finding]:
    """Look at one thing after the other, as far as the one before allows."""
    yield "unsmear", __version__, True
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", True
    is_complete = True
    for package, module in _MODULES.items():
        try:
            import_module(module)
        except Exception as error:  # broken installations raise anything, and finding them is the point
            is_complete = False
            yield package, f"cannot be used: {error}", False
        else:
            yield package, version(package), True
    if is_complete:
        yield from _examine_formats()
        yield from _examine_device()


def _examine_formats() -> Iterator[Finding]:
    from PIL import features

    lacking = [name for name in ("jpg", "zlib", "libtiff", "webp", "avif") if not features.check(name)]
    yield "formats", f"this Pillow lacks {', '.join(lacking)}" if lacking else "all can be used", not lacking


def _examine_device() -> Iterator[Finding]:
    import torch

    from unsmear.device import choose_device, default_budget, free_memory
    from unsmear.models import DEFAULT_MODEL
    from unsmear.precision import choose_dtype
    from unsmear.restore import Deblurrer

    choice = choose_device()
    free, budget = free_memory(choice.device) / _GIB, default_budget(choice.device) / _GIB
    dtype = str(choose_dtype("auto", choice.device)).removeprefix("torch.")
    yield "device", f"{choice.device} ({choice.reason}), computing in {dtype}", True
    yield "threads", f"{torch.get_num_threads()} on {os.cpu_count()} processors", True
    yield "memory", f"{free:.1f} GiB free, of which one picture may take {budget:.1f} GiB", True
    try:
        deblurrer = Deblurrer(DEFAULT_MODEL)
    except UnsmearError as error:
        yield "model", str(error), False
    else:
        yield (
            "model",
            f"{deblurrer.name}, the default; whole pictures up to {_largest_whole(deblurrer)}",
            True,
        )


def _largest_whole(deblurrer: "Deblurrer") -> str:
    """The largest picture of 3:2 that is done in one piece; larger ones are done in tiles. By bisection."""
    fits, too_large = 1, 30_000
    while too_large - fits > 1:
        half = (fits + too_large) // 2
        try:
            is_whole = deblurrer.plan(2 * half, 3 * half).num_tiles == 1
        except OutOfMemoryError:
            is_whole = False
        fits, too_large = (half, too_large) if is_whole else (fits, half)
    return f"{3 * fits} x {2 * fits} pixels, larger ones in tiles"
