"""Deblurring of whatever people hold: files, PIL images, arrays, tensors. The same kind comes back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from unsmear.arrays import ArrayDeblurrer, Progress, Quality
from unsmear.batch import Job
from unsmear.errors import ImageError, UsageError
from unsmear.guard import guard as guarded
from unsmear.image import MAX_MEGAPIXELS, Picture, check_image, default_output, from_pil, to_pil
from unsmear.models import DEFAULT_MODEL
from unsmear.paths import exists
from unsmear.pipeline import Treated, run_job

AnyImage = TypeVar("AnyImage", np.ndarray, Tensor, Image.Image)


class Deblurrer(ArrayDeblurrer):
    """A network kept ready to deblur pictures. It may be used from several threads at once, and be pickled.

    >>> import numpy as np
    >>> from unsmear import Deblurrer
    >>> deblurrer = Deblurrer(device="cpu")
    >>> photo = np.full((45, 60, 3), 128, np.uint8)
    >>> deblurrer(photo).shape
    (45, 60, 3)

    Args:
        model: A name of `list_models()`, a weights file, or a network of your own. Such a network takes and
            returns float32 (B, 3, H, W) with values in [0, 1], and has the attributes `name`, `size_multiple`
            (of H and W) and `peak_bytes_per_pixel` (working memory of one pass); `half_precision`, `tile_overlap` and
            `tile_side` are respected where it has them (see `unsmear.models.network`). It is moved to the device and
            set to evaluation mode and float32; for 16 bits it runs under autocast.
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

    @overload
    def __call__(
        self,
        image: AnyImage,
        *,
        strength: float = 1.0,
        quality: Quality = "normal",
        guard: bool = True,
        progress: Progress | None = None,
    ) -> AnyImage: ...

    @overload
    def __call__(
        self,
        image: str | Path,
        *,
        strength: float = 1.0,
        quality: Quality = "normal",
        guard: bool = True,
        output: str | Path | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Path: ...

    def __call__(
        self,
        image: str | Path | np.ndarray | Tensor | Image.Image,
        *,
        strength: float = 1.0,
        quality: Quality = "normal",
        guard: bool = True,
        output: str | Path | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Path | np.ndarray | Tensor | Image.Image:
        """Deblur an image and give back the same kind.

        Args:
            image: A path; a PIL image; an array as in `restore`; or a floating point tensor (3, H, W) or
                (B, 3, H, W) with values in [0, 1].
            strength: How far to go from the input (0) to the network's output (1).
            quality: "normal"; or "best", the mean over all eight turns and flips, which takes eight times as long.
            guard: Whether to leave as it was what no deblurring can have changed that way (see `unsmear.guard`).
                `restore` gives what the network made of an array.
            output: With a path, where to write; by default `name.deblurred.ext` beside the input.
            overwrite: Whether an existing output may be replaced.
            progress: Told of every tile done.

        Returns:
            For a path the path written; for a PIL image one of mode L, LA, RGB, RGBA or CMYK. Both carry alpha and
            metadata over. For arrays and tensors the same type, shape, dtype and device.

        Raises:
            ImageError: If the image cannot be read or is not of a kind given above.
            UsageError: If the output exists, or an argument is out of range.
            ModelError: If the network's output is not finite; nothing is written then.
            OutOfMemoryError: If not even small tiles fit into memory.
        """

        def treat(array: np.ndarray) -> np.ndarray:
            restored = self.restore(array, strength=strength, quality=quality, progress=progress)
            return guarded(array, restored)[0] if guard else restored

        if isinstance(image, str | Path):
            return _treat_file(Path(image), output, overwrite, treat)
        if output is not None:
            raise UsageError("output= is for images given by their path; save this one yourself")
        if isinstance(image, Image.Image):
            check_image(image)
            picture = from_pil(image)
            return to_pil(picture.with_srgb(treat(picture.srgb())))
        if isinstance(image, Tensor):
            return _treat_tensor(image, treat)
        return treat(image)


def _treat_tensor(image: Tensor, treat: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    if image.dim() == 4 and len(image) > 0:
        return torch.stack([_treat_tensor(item, treat) for item in image])
    if image.dim() != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise ImageError(
            f"a tensor must be floating point (3, H, W) or (B, 3, H, W), not {image.dtype} {tuple(image.shape)}"
        )
    treated = torch.from_numpy(treat(image.detach().to("cpu", torch.float32).permute(1, 2, 0).numpy()))
    return treated.permute(2, 0, 1).to(image.device, image.dtype).contiguous()


def _treat_file(
    path: Path, output: str | Path | None, overwrite: bool, treat: Callable[[np.ndarray], np.ndarray]
) -> Path:
    destination = default_output(path) if output is None else Path(output)
    if exists(destination) and not overwrite:
        raise UsageError(f"{destination}: exists already; choose another output, or set overwrite=True")

    def treat_picture(job: Job, picture: Picture) -> Treated:
        return Treated(picture.with_srgb(treat(picture.srgb())))

    run_job(Job(path, destination, overwrite=overwrite), treat_picture, max_megapixels=MAX_MEGAPIXELS)
    return destination


@overload
def deblur(
    image: AnyImage,
    *,
    model: str | Path | nn.Module = DEFAULT_MODEL,
    device: str | torch.device = "auto",
    dtype: str = "auto",
    strength: float = 1.0,
    quality: Quality = "normal",
    guard: bool = True,
) -> AnyImage: ...


@overload
def deblur(
    image: str | Path,
    *,
    model: str | Path | nn.Module = DEFAULT_MODEL,
    device: str | torch.device = "auto",
    dtype: str = "auto",
    strength: float = 1.0,
    quality: Quality = "normal",
    guard: bool = True,
    output: str | Path | None = None,
    overwrite: bool = False,
) -> Path: ...


def deblur(
    image: str | Path | np.ndarray | Tensor | Image.Image,
    *,
    model: str | Path | nn.Module = DEFAULT_MODEL,
    device: str | torch.device = "auto",
    dtype: str = "auto",
    strength: float = 1.0,
    quality: Quality = "normal",
    guard: bool = True,
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
        quality: "normal" or "best", as for `Deblurrer`.
        guard: Whether to leave as it was what no deblurring can have changed that way, as for `Deblurrer`.
        output: With a path, where to write; by default `name.deblurred.ext` beside the input.
        overwrite: Whether an existing output may be replaced.

    Returns:
        The same kind as `image`; for a path the path written.

    Raises:
        UnsmearError: As `Deblurrer` and its call do.
    """
    restore = cast(Callable[..., Any], Deblurrer(model, device=device, dtype=dtype))  # the overloads know no union
    return restore(image, strength=strength, quality=quality, guard=guard, output=output, overwrite=overwrite)
