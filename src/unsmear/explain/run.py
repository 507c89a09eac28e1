"""Explaining one picture: what of it is looked at, and what is drawn of that."""

import numpy as np
import torch
from torch import Tensor

from unsmear.device import default_budget, free_memory
from unsmear.errors import ModelError, OutOfMemoryError, UsageError
from unsmear.explain import panels
from unsmear.explain.insides import check_block, list_blocks, look_inside
from unsmear.explain.local import local_filters
from unsmear.explain.report import Report, Section
from unsmear.models.network import Network
from unsmear.models.saphn import SAPHN
from unsmear.samples import to_depth
from unsmear.tiling import reflect_indices, round_up

_WINDOW = (336, 480)  # height and width of what the network is differentiated on
_BACKWARD = 9  # memory of a pass with gradients, over that of one without


def cut_middle(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of a picture (H, W, 3), at most so high and wide."""
    top, left = (max(0, have - most) // 2 for have, most in zip(picture.shape[:2], (height, width), strict=True))
    return picture[top : top + height, left : left + width]


def pad(picture: np.ndarray, network: Network, device: torch.device) -> Tensor:
    """A picture (H, W, 3) in [0, 1] as the network takes it: (1, 3, H', W'), mirrored beyond its right and bottom edge.

    Raises:
        OutOfMemoryError: If one pass would not fit into memory.
    """
    padded = [round_up(length, network.size_multiple) for length in picture.shape[:2]]
    if padded[0] * padded[1] * network.peak_bytes_per_pixel > free_memory(device):
        raise OutOfMemoryError(
            f"{network.name} needs more memory than there is for {picture.shape[1]} x {picture.shape[0]} pixels"
            " at once; choose a smaller --max-side"
        )
    rows, cols = (reflect_indices(0, to, length) for to, length in zip(padded, picture.shape[:2], strict=True))
    mirrored = np.ascontiguousarray(picture[rows[:, None], cols].transpose(2, 0, 1))
    return torch.from_numpy(mirrored)[None].to(device)


def explain_picture(
    network: Network, picture: np.ndarray, *, name: str, whole: tuple[int, int], block: str | None = None
) -> Report:
    """Draw all there is to show of what a network does to a picture.

    Args:
        network: The network on its device, in evaluation mode.
        picture: sRGB-encoded values in [0, 1], float32 (H, W, 3).
        name: What the picture is called.
        whole: Height and width of the picture that it was cut from, in pixels.
        block: Whose maps to draw; None to choose.

    Raises:
        ModelError: If the output is not finite.
        OutOfMemoryError: If the picture is too large for one pass.
        UsageError: If there is no such block.
    """
    if block is not None:
        if not isinstance(network, SAPHN):
            raise UsageError(f"--block is for SAPHN networks, which {network.name} is not; leave it out")
        check_block(network, block)
    height, width = picture.shape[:2]
    x = pad(picture, network, next(network.parameters()).device)
    inside: list[Section] = []
    if isinstance(network, SAPHN):
        told, inside = look_inside(network, x, to_depth(picture, np.uint8), block)
        output, levels = told.output, network.config.levels
        names = [f"Level {level}" for level in range(levels, 0, -1)]
        text = f"Level {levels} works on the smallest patches and comes first, level 1 on the whole picture and last."
        if network.blind is not None:
            names.insert(0, "Filters")
            text += " Before them all, fixed filters are mixed by what the spectrum tells."
        parts = dict(zip(names, told.residuals, strict=True))
    else:
        with torch.no_grad():
            estimates = network.estimates(x)
        output = estimates[-1]
        parts = {f"Estimate {i}": e - _shrunk(x, e) for i, e in enumerate(estimates[:-1], 1)}
        text = "The output less the input, after the same of estimates on the way, where the network makes any."
    if not output.isfinite().all():
        raise ModelError(f"{network.name} gave values that are no finite numbers; check its weights, or take another")
    after = _array(output, height, width)
    drawn = {
        title: _array(part, *(-(-n * part.shape[2] // x.shape[2]) for n in (height, width)))
        for title, part in parts.items()
    }
    sections = [
        panels.compare(picture, after.clip(0, 1)),
        panels.changes({**drawn, "All together": after - picture}, text),
        *inside,
    ]
    window = _window(network, x.device)
    if window is not None:
        middle = cut_middle(picture, *window)
        filters = local_filters(network, pad(middle, network, x.device), *middle.shape[:2]).cpu().numpy()
        sections.append(panels.whole_filters(middle, cut_middle(after, *window), filters))
    size = f"{width} x {height} px"
    if (height, width) != whole:
        size = f"The middle {size} of {whole[1]} x {whole[0]} px"
    subtitle = f"{size}, restored by {network.name} in one pass."
    if not isinstance(network, SAPHN):
        subtitle += " Attention maps and per-pixel filters are shown of SAPHN networks only."
    return Report(f"What {network.name} did to {name}", subtitle, sections)


def list_picture_blocks(network: Network, picture: np.ndarray) -> list[str]:
    """The blocks of a network, the most telling first, as lines.

    Raises:
        UsageError: If the network is no SAPHN.
    """
    if not isinstance(network, SAPHN):
        raise UsageError(f"--list-blocks is for SAPHN networks, which {network.name} is not")
    return list_blocks(network, pad(picture, network, next(network.parameters()).device))


def _shrunk(x: Tensor, like: Tensor) -> Tensor:
    return torch.nn.functional.adaptive_avg_pool2d(x, (like.shape[2], like.shape[3]))


def _array(x: Tensor, height: int, width: int) -> np.ndarray:
    return x[0].permute(1, 2, 0)[:height, :width].float().cpu().numpy()


def _window(network: Network, device: torch.device) -> tuple[int, int] | None:
    """Height and width of what memory allows to differentiate the network on; None if that is too little."""
    pixels = default_budget(device) / (_BACKWARD * network.peak_bytes_per_pixel)
    shrunk = min(1.0, (pixels / (_WINDOW[0] * _WINDOW[1])) ** 0.5)
    return (int(_WINDOW[0] * shrunk), int(_WINDOW[1] * shrunk)) if shrunk >= 0.25 else None
