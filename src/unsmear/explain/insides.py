"""What can be shown of SAPHN only: where it looked, and how it filtered."""

import numpy as np
import torch
from torch import Tensor

from unsmear.errors import UsageError
from unsmear.explain import draw, maps
from unsmear.explain.maps import Explanation
from unsmear.explain.report import Panel, Section
from unsmear.models.saphn import SAPHN

_PAIRS, _FILTERS = 4, 4  # descriptors and filters that are shown
_ACROSS = 14  # filters along the longer side of the picture


def list_blocks(network: SAPHN, x: Tensor) -> list[str]:
    """All blocks with what their maps tell about a picture, a line each, the most telling first."""
    found = maps.survey(network, x)
    attention, filters = (dict.fromkeys(maps.blocks(network), 0.0) for _ in range(2))
    for name, scores in found.attention.items():
        attention[maps.block_of(name)] = max(attention[maps.block_of(name)], float(scores.max()))
    for name, score in found.filters.items():
        filters[maps.block_of(name)] = score
    ranked = sorted(attention, key=lambda block: -attention[block] - filters[block])
    row = "{:<24}{:>10}{:>9}  {}"
    lines = [row.format("block", "attention", "filters", "where")]
    return lines + [row.format(n, f"{attention[n]:.3f}", f"{filters[n]:.3f}", maps.describe(n)) for n in ranked]


def check_block(network: SAPHN, block: str) -> None:
    """Refuse a block that the network has not.

    Raises:
        UsageError: If there is none of this name.
    """
    if block not in maps.blocks(network):
        raise UsageError(f"no block {block!r} in {network.name}: choose one that --list-blocks tells")


def look_inside(network: SAPHN, x: Tensor, picture: np.ndarray, block: str | None) -> tuple[Explanation, list[Section]]:
    """Restore a picture, and draw the maps that tell most about it.

    Args:
        network: The network.
        x: The picture, padded, as `unsmear.explain.maps.explain` takes it.
        picture: The same without padding, uint8 (H, W, 3).
        block: Whose maps to draw; None to choose.
    """
    found = maps.survey(network, x)
    pairs = _choose_pairs(found.attention, block)
    filters = [n for n in found.filters if block in (None, maps.block_of(n))]
    filters = sorted(filters, key=lambda name: -found.filters[name])[:_FILTERS]
    told = maps.explain(network, x, {name for name, _ in pairs} | {*filters})
    sections = []
    if pairs:
        sections.append(_attention(told, pairs, picture, x.shape, chosen=block is None))
    if filters:
        sections.append(_filters(network, told, filters, picture, x))
    return told, sections


def _choose_pairs(scores: dict[str, Tensor], block: str | None) -> list[tuple[str, int]]:
    """Modules and descriptors, best first: each module's best one, or the best of a block's modules."""
    if block is None:
        best = {(name, int(score.argmax())): float(score.max()) for name, score in scores.items()}
    else:
        own = {name: score for name, score in scores.items() if maps.block_of(name) == block}
        best = {(name, k): float(value) for name, score in own.items() for k, value in enumerate(score)}
    return sorted(best, key=lambda pair: -best[pair])[:_PAIRS]


def _attention(
    told: Explanation, pairs: list[tuple[str, int]], picture: np.ndarray, shape: torch.Size, *, chosen: bool
) -> Section:
    panels = []
    for letter, (name, k) in zip("ABCD", pairs, strict=False):
        q, p = told.gather[name][0, k], told.distribute[name][0, k]
        count = told.gather[name].shape[1]
        even = q / q.mean()
        most = max(_quantile(even, 0.995), 2.0)
        panels.append(
            Panel(
                f"{letter}: gathered from",
                f"Descriptor {k + 1} of {count}, in multiples of an even share. {_where(name, shape, q)}",
                draw.glowing(picture, _over(even / most, shape, picture)),
                draw.Legend(draw.glow_colors(), ("0", f"{most / 2:.2g} x", f"{most:.2g} x or more")),
            )
        )
        low, high = _quantile(p, 0.005), _quantile(p, 0.995)
        panels.append(
            Panel(
                f"{letter}: handed out to",
                f"How much of what a pixel takes is descriptor {k + 1}; an even mixture has {1 / count:.1%}.",
                draw.glowing(picture, _over((p - low) / max(high - low, 1e-6), shape, picture)),
                draw.Legend(draw.glow_colors(), (f"{low:.1%}", f"{(low + high) / 2:.1%}", f"{high:.1%}")),
            )
        )
    text = (
        "Attention (section 2.1 of the paper) gathers a few descriptors, means of features, from all over the picture"
        " (Q, Eq. 1), and every pixel takes a mixture of them (P, Eq. 5). Levels 2 and up gather within patches, so"
        " breaks along the middle of the picture are theirs. "
    )
    text += (
        "Shown are the four modules whose maps tell most: gathering far from even, and mixtures that differ most."
        if chosen
        else "Shown are the descriptors of the block asked for that tell most."
    )
    return Section("Where it looked, and who took it", text, panels)


def _filters(network: SAPHN, told: Explanation, names: list[str], picture: np.ndarray, x: Tensor) -> Section:
    name = names[0]
    scale = x.shape[2] // told.kernels[name].shape[2]
    rows, cols = (-(-length // scale) for length in picture.shape[:2])
    kernels = told.kernels[name][0, :, :rows, :cols]
    weights = (kernels.abs() * maps.filter_shape(network, name)[:, None, None]).cpu().numpy()
    log = kernels.abs().clamp_min(1e-4).log2()
    log = (log - log.mean((1, 2), keepdim=True)).cpu().numpy()
    step = max(max(picture.shape) / _ACROSS, scale)
    grid = max(1, round(picture.shape[0] / step)), max(1, round(picture.shape[1] / step))
    side = round(len(weights) ** 0.5)
    high = max(float(weights.max()), 1e-9)
    most = min(max(float(np.quantile(np.abs(log), 0.9)), 0.05), 2.0)
    turn = maps.turning(network, x, name, told.kernels[name])
    panels = [
        Panel(
            "The filters, |K W|",
            f"{side} x {side} taps, {scale} px of the picture apart, drawn where they apply."
            f" {_where(name, x.shape, told.kernels[name])} Sizes are means over all channels, |K| mean |W|, since K is"
            " the same for all. Colors go by the square root, so that small taps show.",
            draw.filters(picture, (weights / high) ** 0.5, 0, 1, grid, signed=False),
            draw.Legend(draw.sequential(np.linspace(0, 1, 256)), ("0", f"{high / 4:.2g}", f"{high:.2g}")),
            is_wide=True,
        ),
        Panel(
            "How they differ from place to place",
            "Orange taps weigh more than the same tap does on average (geometric mean), blue ones less. Do filters"
            " follow directions? With the picture flipped about its diagonal, those that follow motion or edges flip,"
            f" too (+1), and those that ignore them stay (-1). Here: {turn:+.2f}.",
            draw.filters(picture, log, -most, most, grid, signed=True),
            draw.Legend(
                draw.diverging(np.linspace(-1, 1, 256)),
                (f"{2**-most:.2g} x or less", "1 x", f"{2**most:.2g} x or more"),
            ),
            is_wide=True,
        ),
        *(_departure(told.kernels[name][0], name, picture, x.shape) for name in names),
    ]
    text = (
        "Filtering (section 2.2) multiplies the taps of a learned filter W by factors K made at every pixel (Eq. 7);"
        " where K is 1 it is an ordinary convolution. These filters work on features deep inside: they are not the"
        " blur, nor what undoes it. In a network that follows motion they would stretch and turn with it; the second"
        " panel tells whether they do."
    )
    return Section("How it filtered", text, panels)


def _departure(kernels: Tensor, name: str, picture: np.ndarray, shape: torch.Size) -> Panel:
    departure = (kernels - 1).square().mean(0).sqrt()
    low, high = float(departure.min()), float(departure.max())
    glow = draw.glowing(picture, _over((departure - low) / max(high - low, 1e-6), shape, picture))
    legend = draw.Legend(draw.glow_colors(), (f"{low:.2f}", f"{(low + high) / 2:.2f}", f"{high:.2f}"))
    caption = f"{_where(name, shape, departure)} Root mean square over the taps; 0 is an ordinary convolution."
    return Panel("Departure from a convolution, ||K - 1||", caption, glow, legend)


def _where(name: str, shape: torch.Size, maps_there: Tensor) -> str:
    """A module in words, with the scale of its maps."""
    scale = shape[3] // maps_there.shape[-1]
    size = "full size" if scale == 1 else f"1/{scale} of the size"
    return f"{maps.describe(name).capitalize()}, {size} ({name})."


def _quantile(values: Tensor, share: float) -> float:
    """A quantile of a map; of very large ones, that of every nth value."""
    return float(values.flatten()[:: 1 + values.numel() // 2**20].quantile(share))


def _over(values: Tensor, shape: torch.Size, picture: np.ndarray) -> np.ndarray:
    """A map of the padded picture at the size of the picture, its padding cut off."""
    height, width = picture.shape[:2]
    return draw.enlarge(values.cpu().numpy(), shape[2], shape[3])[:height, :width]
