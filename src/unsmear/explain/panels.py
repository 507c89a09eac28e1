"""What can be shown of every network: the picture before and after, how far it is smeared, and what was added."""

import numpy as np

from unsmear.explain import draw
from unsmear.explain.extent import CELL, BlurExtent, measure_extent
from unsmear.explain.local import RADIUS
from unsmear.explain.report import Panel, Section
from unsmear.samples import to_depth


def compare(before: np.ndarray, after: np.ndarray) -> Section:
    """The picture before and after, with estimates of its blur.

    Args:
        before: The input, (H, W, 3), values in [0, 1].
        after: The output, likewise.
    """
    measured = [measure_extent(picture) for picture in (before, after)]
    most = max(4.0, *(float(np.quantile(extent.length, 0.98)) for extent in measured))
    panels = [
        Panel("Input", "As the network saw it.", to_depth(before, np.uint8)),
        Panel("Output", "As the network gave it.", to_depth(after, np.uint8)),
        _extent("Estimated blur of the input", before, measured[0], most),
        _extent("Estimated blur of the output", after, measured[1], most),
    ]
    text = (
        "The blur is estimated from the picture alone, by how soft its edges are, as the length in pixels of the"
        " straight motion that would smear them as much. It is a rough guide and no part of the network: sharp"
        " photographs read about 2, motion reads about two thirds of its length, and above 12 px less; defocus and soft"
        " texture count as blur. Gray: too few edges to judge by."
    )
    return Section("The picture", text, panels)


def _extent(title: str, picture: np.ndarray, extent: BlurExtent, most: float) -> Panel:
    height, width = picture.shape[:2]
    rows, cols = extent.length.shape
    lengths, seen = (
        draw.enlarge(cells, rows * CELL, cols * CELL)[:height, :width] for cells in (extent.length, extent.is_seen)
    )
    gray = to_depth(picture, np.uint8).mean(2, keepdims=True)
    image = draw.sequential(lengths / most) * (gray / 255 * 0.3 + 0.7)
    image = np.rint(np.where(seen[..., None] > 0.5, image, gray * 0.4 + 60)).astype(np.uint8)
    every = max(2, round(max(rows, cols) / 16))
    longer = next((n for n in (10, 5, 2) if n * most < 1.5 * every * CELL), 1)
    shown = np.zeros(extent.length.shape, bool)
    shown[every // 2 :: every, every // 2 :: every] = True
    y, x = np.nonzero(shown & extent.is_seen & (extent.roundness < 0.7) & (extent.length > 1))
    strokes = (x + 0.5) * CELL, (y + 0.5) * CELL, longer * extent.length[y, x], extent.angle[y, x]
    caption = (
        f"Median where there are edges: {extent.typical:.1f} px. Strokes: its direction where one stands out,"
        f" {longer} times as long as the smear."
        if np.isfinite(extent.typical)
        else "There are no edges to judge by."
    )
    legend = draw.Legend(draw.sequential(np.linspace(0, 1, 256)), ("0", f"{most / 2:.1f}", f"{most:.1f} px or more"))
    return Panel(title, caption, draw.strokes(image, *strokes), legend)


def changes(parts: dict[str, np.ndarray], text: str) -> Section:
    """What was added to the picture, in parts.

    Args:
        parts: Each part with its title, (h, w, 3), in units of the full range.
        text: What the parts are.
    """
    panels = []
    for title, change in parts.items():
        factor, levels = draw.amplification(change), 255 * np.abs(change)
        how = f"Amplified {factor} times" if factor > 1 else "Not amplified"
        caption = f"{how}. Mean size {levels.mean():.2f}, largest {levels.max():.1f} of 255 levels."
        panels.append(Panel(title, caption, draw.amplified(change, factor)))
    text += (
        " Plain gray is no change; colors say which channels change. Fine patterns vanish in small pictures: a page"
        " (.html) can enlarge them."
    )
    return Section("What was added", text, panels)


def whole_filters(before: np.ndarray, after: np.ndarray, filters: np.ndarray) -> Section:
    """The network as a filter of pixels.

    Args:
        before: What the filters lie on, (H, W, 3), values in [0, 1].
        after: What the network makes of it, likewise.
        filters: (k * k, rows, cols), as `unsmear.explain.local` gives them.
    """
    taps, rows, cols = filters.shape
    added = filters.copy()
    added[taps // 2] -= 1
    most = max(float(np.quantile(np.abs(added), 0.99)), 1e-3)
    side = 2 * RADIUS + 1
    image = draw.filters(to_depth(before, np.uint8), added, -most, most, (rows, cols), signed=True)
    caption = (
        f"How much each of the {side} x {side} input pixels around a place adds to the output pixel in the middle, in"
        " gray values, less the pixel itself. Orange adds, blue takes away; all white: nothing happens. The sizes sum"
        f" to {np.median(np.abs(added).sum(0)):.2f} (median)."
    )
    legend = draw.Legend(draw.diverging(np.linspace(-1, 1, 256)), (f"-{most:.2g} or less", "0", f"{most:.2g} or more"))
    height, width = before.shape[:2]
    text = (
        "The derivatives of output pixels by input pixels: all layers together, as one filter for each place. What"
        " undoes straight motion is stretched along it, with blue on both sides of the middle; what just sharpens is"
        " round."
    )
    panels = [
        Panel("Filters of pixels", caption, image, legend, is_wide=True),
        Panel(
            "Where they lie",
            f"The middle {width} x {height} px of the output.",
            to_depth(after, np.uint8),
            is_wide=True,
        ),
    ]
    return Section("The network as a filter of the picture", text, panels)
