"""Deblurring of arrays of any size within a memory budget.

Networks see float tensors whose sides are multiples of something; what stands between them and pictures is here.
Pictures stay uint8 (or whatever they came as) and are turned into floating point tile by tile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from unsmear.device import choose_device, default_budget
from unsmear.errors import ImageError, ModelError, OutOfMemoryError, UsageError
from unsmear.models import DEFAULT_MODEL, load_model
from unsmear.precision import HalfPrecisionError, Runner, choose_dtype
from unsmear.samples import white
from unsmear.tiling import OVERLAP, TilePlan, merge_tiles, plan_tiles, reflect_indices

Progress = Callable[[int, int], None]
"""Called with the tiles done and the tiles in all, at first with none done; and from the start again when
memory ran out and the tiles had to shrink."""

Quality = Literal["normal", "best"]

_MAX_HALVINGS = 3
_GIB = 2**30
# Resident memory as measured on Linux (docs/tiling.md): PyTorch, compiled kernels and all that comes with them after a
# first tiny picture; and the share of what plans reckon with that networks take in the end, as plans must not be wrong.
_PROCESS_BYTES = 390 * 2**20
_TAKEN_OF_PLAN = 0.8


@dataclass(frozen=True)
class _How:
    strength: float
    quality: Quality
    progress: Progress | None


class ArrayDeblurrer:
    """A network kept ready to deblur arrays; `unsmear.Deblurrer`, which tells what the arguments are, adds the rest.

    It may be used from several threads at once.
    """

    def __init__(
        self,
        model: str | Path | nn.Module = DEFAULT_MODEL,
        *,
        device: str | torch.device = "auto",
        memory_gib: float | None = None,
        dtype: str = "auto",
    ) -> None:
        if memory_gib is not None and not (isinstance(memory_gib, Real) and memory_gib > 0):
            raise UsageError(f"memory_gib must be a number above 0, not {memory_gib!r}")
        choice = choose_device(device)
        network = model if isinstance(model, nn.Module) else load_model(model)
        for attribute in ("name", "size_multiple", "peak_bytes_per_pixel"):
            if not hasattr(network, attribute):
                raise UsageError(f"the network {type(network).__name__} has no attribute {attribute!r}")
        computes_in = choose_dtype(dtype, choice.device, half_is_enough=bool(getattr(network, "half_precision", True)))
        self.name = str(network.name)
        self.device = choice.device
        self.device_reason = choice.reason
        self._size_multiple = int(network.size_multiple)  # type: ignore[arg-type]
        self._bytes_per_pixel = float(network.peak_bytes_per_pixel)  # type: ignore[arg-type]
        self._overlap = int(getattr(network, "tile_overlap", OVERLAP))
        self._side = int(getattr(network, "tile_side", 0))
        self._memory = None if memory_gib is None else memory_gib * _GIB
        network = network.to(self.device, torch.float32).eval()
        self._weights_bytes = sum(weight.nbytes for weight in network.parameters())
        self._run = Runner(network, self.device, computes_in, halve_weights=network is not model)

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in now."""
        return self._run.dtype

    def restore(
        self,
        image: np.ndarray,
        *,
        strength: float = 1.0,
        quality: Quality = "normal",
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Deblur an array of any size.

        Where memory runs out all the same, the sides of the tiles are halved and the picture is started
        again, up to three times.

        Args:
            image: sRGB-encoded values, (H, W, 3), or gray (H, W) or (H, W, 1); uint8, uint16, or float32 in
                [0, 1].
            strength: How far to go from the input (0) to the network's output (1).
            quality: "normal"; or "best", the mean over all eight turns and flips, which takes eight times as long.
            progress: Told of every tile done.

        Returns:
            A new array of the same shape and dtype.

        Raises:
            ImageError: If the array is of another kind.
            UsageError: If `strength` is out of range.
            ModelError: If the network's output is not finite.
            OutOfMemoryError: If not even small tiles fit into memory.
        """
        _check_image(image)
        if not (isinstance(strength, Real) and 0 <= strength <= 1):
            raise UsageError(f"strength must be 0 to 1, not {strength!r}")
        if quality not in get_args(Quality):
            raise UsageError(f"quality must be 'normal' or 'best', not {quality!r}")
        if strength == 0:
            return image.copy()
        how = _How(strength, quality, progress)
        try:
            return self._restore_fitting(image, how)
        except HalfPrecisionError as error:
            self._run.widen(error)
        return self._restore_fitting(image, how)

    def _restore_fitting(self, image: np.ndarray, how: _How) -> np.ndarray:
        """Restore an array with the largest tiles that memory takes."""
        height, width = image.shape[:2]
        plan = self.plan(height, width)
        for halvings in range(1 + _MAX_HALVINGS):
            if halvings > 0:
                plan = self.plan(height, width, budget=plan.peak_bytes / 4)
            try:
                return self._restore_tiled(image, plan, how)
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
            # Past the except clause, so that the traceback no longer holds the tensors of the attempt.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        raise OutOfMemoryError(
            f"memory ran out with a picture of {width} x {height} pixels, even in {plan};"
            " close other programs, or take a smaller picture or model"
        )

    def plan(self, height: int, width: int, *, budget: float | None = None) -> TilePlan:
        """How a picture of this size would be divided now, if it had to be done in float32.

        Args:
            height: Height of the picture in pixels.
            width: Width of the picture in pixels.
            budget: Working memory in bytes; None for `self.budget()`.

        Raises:
            OutOfMemoryError: If not even the smallest tile fits the budget.
        """
        return plan_tiles(
            height,
            width,
            multiple=self._size_multiple,
            bytes_per_pixel=self._bytes_per_pixel,
            budget=self.budget() if budget is None else budget,
            overlap=self._overlap,
            side=self._side,
        )

    def budget(self) -> float:
        """Working memory in bytes that one picture may take now: `memory_gib`, or a share of what is free."""
        return default_budget(self.device) if self._memory is None else self._memory

    def expected_peak(self, height: int, width: int, *, bytes_per_value: int) -> int:
        """Peak resident memory of an `unsmear deblur` of one picture, in bytes; usually right within 20 %.

        The process with its network, the picture before and after, and what the passes over tiles take. What they
        take on a GPU is memory of the GPU, told by `plan`, and not counted here.

        Args:
            height: Height of the picture in pixels.
            width: Width of the picture in pixels.
            bytes_per_value: Of the pictures' arrays: 1, 2 or 4.

        Raises:
            OutOfMemoryError: If not even the smallest tile fits the budget.
        """
        passes = _TAKEN_OF_PLAN * self.plan(height, width).peak_bytes if self.device.type == "cpu" else 0
        pictures = 2 * height * width * 3 * bytes_per_value
        return int(_PROCESS_BYTES + self._weights_bytes + pictures + passes)

    def _restore_tiled(self, image: np.ndarray, plan: TilePlan, how: _How) -> np.ndarray:
        source = image.reshape(plan.height, plan.width, -1)
        restored = np.empty(source.shape, source.dtype)
        full = white(source.dtype)
        done = 0

        def compute(top: int, left: int) -> np.ndarray:
            nonlocal done
            rows = reflect_indices(top, top + plan.tile_height, plan.height)
            cols = reflect_indices(left, left + plan.tile_width, plan.width)
            tile = self._restore_tile(source[rows[:, None], cols], full, how.quality)
            done += 1
            if how.progress is not None:
                how.progress(done, plan.num_tiles)
            return tile

        if how.progress is not None:
            how.progress(0, plan.num_tiles)
        for top, strip in merge_tiles(plan, compute):
            rows = slice(top, top + len(strip))
            if source.shape[2] == 1:
                strip = strip.mean(axis=2, keepdims=True)
            np.clip(strip, 0, 1, out=strip)
            strip *= full
            if how.strength < 1:
                strip *= how.strength
                strip += np.multiply(source[rows], 1 - how.strength, dtype=np.float32)
            if full > 1:
                np.rint(strip, out=strip)
            restored[rows] = strip
        return restored.reshape(image.shape)

    @torch.inference_mode()
    def _restore_tile(self, tile: np.ndarray, full: int, quality: Quality) -> np.ndarray:
        """Values (H, W, 1 or 3) in [0, full] through the network, as float32 (H, W, 3)."""
        if tile.dtype == np.uint16:  # which PyTorch does little with
            tile = tile.astype(np.float32)
        x = torch.from_numpy(tile).to(self.device).permute(2, 0, 1)[None].expand(-1, 3, -1, -1)
        x = x.to(torch.float32, memory_format=torch.channels_last) / full
        y = self._run(x) if quality == "normal" else self._run_all_ways(x)
        if y.shape != x.shape:
            raise ModelError(f"model {self.name!r} turned {tuple(x.shape)} into {tuple(y.shape)}; the shape must stay")
        if not y.sum().isfinite():  # one number tells of all, without a map of them
            raise ModelError(
                f"model {self.name!r} gave values that are no finite numbers, nothing was written; check its"
                " weights, or take another model"
            )
        return y[0].permute(1, 2, 0).cpu().numpy()

    def _run_all_ways(self, x: Tensor) -> Tensor:
        """The mean of the passes over all eight turns and flips of a tile, each turned back."""
        total = torch.zeros_like(x)
        for turns in range(4):
            for flipped in (False, True):
                way = x.rot90(turns, (2, 3))
                way = (way.flip(3) if flipped else way).contiguous(memory_format=torch.channels_last)
                y = self._run(way)
                total += (y.flip(3) if flipped else y).rot90(-turns, (2, 3))
        return total / 8


def _check_image(image: np.ndarray) -> None:
    if not isinstance(image, np.ndarray):
        raise ImageError(f"an image must be a path, PIL image, array or tensor, not {type(image).__name__}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)) or image.size == 0:
        raise ImageError(f"an array must be (H, W, 3), or gray (H, W) or (H, W, 1), not {image.shape}")
    if image.dtype not in (np.uint8, np.uint16, np.float32):
        raise ImageError(f"an array must be uint8, uint16, or float32 in [0, 1], not {image.dtype}: convert it first")
    if image.dtype == np.float32 and not (image.min() >= 0 and image.max() <= 1):
        raise ImageError("a float32 array must hold values in [0, 1] only")


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; on CPU and MPS PyTorch says so by the words of a RuntimeError only."""
    words = ("DefaultCPUAllocator", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)
