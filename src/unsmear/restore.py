"""Deblurring of real pictures: any size, any kind of input, within a memory budget.

Networks see float tensors whose sides are multiples of something; `Deblurrer` is what stands between them and
people. Pictures stay uint8 (or whatever they came as) and are turned into floating point tile by tile.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from unsmear.batch import Job, run_job
from unsmear.device import choose_device, default_budget
from unsmear.errors import ImageError, ModelError, OutOfMemoryError, UsageError
from unsmear.image import MAX_MEGAPIXELS, default_output, from_pil, to_pil
from unsmear.models import DEFAULT_MODEL, load_model
from unsmear.precision import HalfPrecisionError, Runner, choose_dtype
from unsmear.tiling import OVERLAP, TilePlan, merge_tiles, plan_tiles, reflect_indices

Progress = Callable[[int, int], None]
"""Called with the tiles done and the tiles in all, at first with none done; and from the start again when
memory ran out and the tiles had to shrink."""

AnyImage = TypeVar("AnyImage", np.ndarray, Tensor, Image.Image)

_MAX_HALVINGS = 3
_GIB = 2**30


class Deblurrer:
    """A network kept ready to deblur pictures. It may be used from several threads at once.

    >>> import numpy as np
    >>> from unsmear import Deblurrer
    >>> deblurrer = Deblurrer(device="cpu")
    >>> photo = np.full((45, 60, 3), 128, np.uint8)
    >>> deblurrer(photo).shape
    (45, 60, 3)

    Args:
        model: A name of `list_models()`, a weights file, or a network of your own. Such a network takes and
            returns float32 (B, 3, H, W) with values in [0, 1], and has the attributes `name`, `size_multiple`
            (of H and W) and `peak_bytes_per_pixel` (working memory of one pass); `half_precision` and `tile_overlap`
            are respected where it has them (see `unsmear.models.network`). It is moved to the device and set to
            evaluation mode and float32; for 16 bits it runs under autocast.
        device: "auto", "cpu", "cuda", "cuda:1" and so on, or "mps".
        memory_gib: Working memory that one picture may take, in GiB. None for a share of what is free; on a
            CPU at most 2 GiB. Larger pictures are done in overlapping tiles.
        dtype: What the network computes in: "float32", "bfloat16", "float16", or "auto" for 16 bits on CUDA devices
            and float32 elsewhere. Where 16 bits ever give numbers that are not finite, or black, the picture is done
            again in float32, as all are from then on, and the log says so once.

    Attributes:
        name: Name of the network.
        device: Where it computes.
        device_reason: Why there, in a few words.

    Raises:
        UsageError: If the model or device is unknown, or an argument is out of range.
        ModelError: If the weights are missing or damaged.
    """

    def __init__(
        self,
        model: str | Path | nn.Module = DEFAULT_MODEL,
        *,
        device: str = "auto",
        memory_gib: float | None = None,
        dtype: str = "auto",
    ) -> None:
        if memory_gib is not None and not memory_gib > 0:
            raise UsageError(f"memory_gib must be more than 0, not {memory_gib}")
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
        self._memory = None if memory_gib is None else memory_gib * _GIB
        network = network.to(self.device, torch.float32).eval()
        self._run = Runner(network, self.device, computes_in, halve_weights=network is not model)

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in now."""
        return self._run.dtype

    @overload
    def __call__(
        self,
        image: AnyImage,
        *,
        strength: float = 1.0,
        progress: Progress | None = None,
    ) -> AnyImage: ...

    @overload
    def __call__(
        self,
        image: str | Path,
        *,
        strength: float = 1.0,
        output: str | Path | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Path: ...

    def __call__(
        self,
        image: str | Path | np.ndarray | Tensor | Image.Image,
        *,
        strength: float = 1.0,
        output: str | Path | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Path | np.ndarray | Tensor | Image.Image:
        """Deblur an image and give back the same kind.

        Args:
            image: A path; a PIL image; an array as in `restore`; or a floating point tensor (3, H, W) or
                (B, 3, H, W) with values in [0, 1].
            strength: How far to go from the input (0) to the network's output (1).
            output: With a path, where to write; by default `name.deblurred.ext` beside the input.
            overwrite: Whether an existing output may be replaced.
            progress: Told of every tile done.

        Returns:
            For a path the path written; for a PIL image one of mode L, LA, RGB or RGBA. Both carry alpha and
            metadata over. For arrays and tensors the same type, shape, dtype and device.

        Raises:
            ImageError: If the image cannot be read or is not of a kind given above.
            UsageError: If the output exists, or an argument is out of range.
            ModelError: If the network's output is not finite; nothing is written then.
            OutOfMemoryError: If not even small tiles fit into memory.
        """
        if isinstance(image, str | Path):
            return self._restore_file(Path(image), output, overwrite, strength, progress)
        if output is not None:
            raise UsageError("output= is for images given by their path; save this one yourself")
        if isinstance(image, Image.Image):
            picture = from_pil(image)
            return to_pil(picture.with_rgb(self.restore(picture.rgb, strength=strength, progress=progress)))
        if isinstance(image, Tensor):
            return self._restore_tensor(image, strength, progress)
        return self.restore(image, strength=strength, progress=progress)

    def restore(self, image: np.ndarray, *, strength: float = 1.0, progress: Progress | None = None) -> np.ndarray:
        """Deblur an array of any size.

        Where memory runs out all the same, the sides of the tiles are halved and the picture is started
        again, up to three times.

        Args:
            image: sRGB-encoded values, (H, W, 3), or gray (H, W) or (H, W, 1); uint8, or float32 in [0, 1].
            strength: How far to go from the input (0) to the network's output (1).
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
        if not 0 <= strength <= 1:
            raise UsageError(f"strength must be 0 to 1, not {strength}")
        if strength == 0:
            return image.copy()
        try:
            return self._restore_fitting(image, strength, progress)
        except HalfPrecisionError as error:
            self._run.widen(error)
        return self._restore_fitting(image, strength, progress)

    def _restore_fitting(self, image: np.ndarray, strength: float, progress: Progress | None) -> np.ndarray:
        """Restore an array with the largest tiles that memory takes."""
        height, width = image.shape[:2]
        plan = self.plan(height, width)
        for halvings in range(1 + _MAX_HALVINGS):
            if halvings > 0:
                plan = self.plan(height, width, budget=plan.peak_bytes / 4)
            try:
                return self._restore_tiled(image, plan, strength, progress)
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
        )

    def budget(self) -> float:
        """Working memory in bytes that one picture may take now: `memory_gib`, or a share of what is free."""
        return default_budget(self.device) if self._memory is None else self._memory

    def _restore_tiled(
        self, image: np.ndarray, plan: TilePlan, strength: float, progress: Progress | None
    ) -> np.ndarray:
        source = image.reshape(plan.height, plan.width, -1)
        restored = np.empty(source.shape, source.dtype)
        full = 255 if source.dtype == np.uint8 else 1
        done = 0

        def compute(top: int, left: int) -> np.ndarray:
            nonlocal done
            rows = reflect_indices(top, top + plan.tile_height, plan.height)
            cols = reflect_indices(left, left + plan.tile_width, plan.width)
            tile = self._restore_tile(source[rows[:, None], cols], full)
            done += 1
            if progress is not None:
                progress(done, plan.num_tiles)
            return tile

        if progress is not None:
            progress(0, plan.num_tiles)
        for top, strip in merge_tiles(plan, compute):
            rows = slice(top, top + len(strip))
            if source.shape[2] == 1:
                strip = strip.mean(axis=2, keepdims=True)
            np.clip(strip, 0, 1, out=strip)
            strip *= full
            if strength < 1:
                strip *= strength
                strip += np.multiply(source[rows], 1 - strength, dtype=np.float32)
            if full == 255:
                np.rint(strip, out=strip)
            restored[rows] = strip
        return restored.reshape(image.shape)

    @torch.inference_mode()
    def _restore_tile(self, tile: np.ndarray, full: int) -> np.ndarray:
        """Values (H, W, 1 or 3) in [0, full] through the network, as float32 (H, W, 3)."""
        x = torch.from_numpy(tile).to(self.device).permute(2, 0, 1)[None].expand(-1, 3, -1, -1)
        x = x.to(torch.float32, memory_format=torch.channels_last) / full
        y = self._run(x)
        if y.shape != x.shape:
            raise ModelError(f"model {self.name!r} turned {tuple(x.shape)} into {tuple(y.shape)}; the shape must stay")
        if not y.sum().isfinite():  # one number tells of all, without a map of them
            raise ModelError(
                f"model {self.name!r} gave values that are no finite numbers, nothing was written; check its"
                " weights, or take another model"
            )
        return y[0].permute(1, 2, 0).cpu().numpy()

    def _restore_tensor(self, image: Tensor, strength: float, progress: Progress | None) -> Tensor:
        if image.dim() == 4 and len(image) > 0:
            return torch.stack([self._restore_tensor(item, strength, progress) for item in image])
        if image.dim() != 3 or image.shape[0] != 3 or not image.is_floating_point():
            raise ImageError(
                f"a tensor must be floating point (3, H, W) or (B, 3, H, W), not {image.dtype} {tuple(image.shape)}"
            )
        array = image.detach().to("cpu", torch.float32).permute(1, 2, 0).numpy()
        restored = torch.from_numpy(self.restore(array, strength=strength, progress=progress))
        return restored.permute(2, 0, 1).to(image.device, image.dtype).contiguous()

    def _restore_file(
        self,
        path: Path,
        output: str | Path | None,
        overwrite: bool,
        strength: float,
        progress: Progress | None,
    ) -> Path:
        destination = default_output(path) if output is None else Path(output)
        if destination.exists() and not overwrite:
            raise UsageError(f"{destination}: exists already; choose another output, or set overwrite=True")
        restore = partial(self.restore, strength=strength, progress=progress)
        run_job(Job(path, destination), restore, max_megapixels=MAX_MEGAPIXELS)
        return destination


@overload
def deblur(
    image: AnyImage,
    *,
    model: str | Path | nn.Module = DEFAULT_MODEL,
    device: str = "auto",
    dtype: str = "auto",
    strength: float = 1.0,
) -> AnyImage: ...


@overload
def deblur(
    image: str | Path,
    *,
    model: str | Path | nn.Module = DEFAULT_MODEL,
    device: str = "auto",
    dtype: str = "auto",
    strength: float = 1.0,
    output: str | Path | None = None,
    overwrite: bool = False,
) -> Path: ...


def deblur(
    image: str | Path | np.ndarray | Tensor | Image.Image,
    *,
    model: str | Path | nn.Module = DEFAULT_MODEL,
    device: str = "auto",
    dtype: str = "auto",
    strength: float = 1.0,
    output: str | Path | None = None,
    overwrite: bool = False,
) -> Path | np.ndarray | Tensor | Image.Image:
    """Deblur one image: `Deblurrer(model, ...)(image, ...)`. For several, keep a `Deblurrer`.

    >>> import numpy as np
    >>> import unsmear
    >>> unsmear.deblur(np.full((45, 60), 0.5, np.float32)).shape
    (45, 60)

    Args:
        image: A path, PIL image, array or tensor, as for `Deblurrer`.
        model: A name of `list_models()`, a weights file, or a network of your own.
        device: "auto", "cpu", "cuda", "cuda:1" and so on, or "mps".
        dtype: "auto", "float32", "bfloat16" or "float16", as for `Deblurrer`.
        strength: How far to go from the input (0) to the network's output (1).
        output: With a path, where to write; by default `name.deblurred.ext` beside the input.
        overwrite: Whether an existing output may be replaced.

    Returns:
        The same kind as `image`; for a path the path written.

    Raises:
        UnsmearError: As `Deblurrer` and its call do.
    """
    restore = cast(Callable[..., Any], Deblurrer(model, device=device, dtype=dtype))  # the overloads know no union
    return restore(image, strength=strength, output=output, overwrite=overwrite)


def _check_image(image: np.ndarray) -> None:
    if not isinstance(image, np.ndarray):
        raise ImageError(f"an image must be a path, PIL image, array or tensor, not {type(image).__name__}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)) or image.size == 0:
        raise ImageError(f"an array must be (H, W, 3), or gray (H, W) or (H, W, 1), not {image.shape}")
    if image.dtype not in (np.uint8, np.float32):
        raise ImageError(f"an array must be uint8, or float32 in [0, 1], not {image.dtype}: convert it first")
    if image.dtype == np.float32 and not (image.min() >= 0 and image.max() <= 1):
        raise ImageError("a float32 array must hold values in [0, 1] only")


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; on CPU and MPS PyTorch says so by the words of a RuntimeError only."""
    words = ("DefaultCPUAllocator", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)
