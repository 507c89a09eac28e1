"""What a shutter lets in: the weighted average of planes that move, one sub-frame at a time or all at once."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def expose(planes: list[Tensor], motions: list[Tensor], weights: Tensor, nearness: Tensor, padding: str) -> Tensor:
    """Weighted average of the sub-frames, a few at a time to keep them in the cache.

    Args:
        planes: background (3, H + 2m, W + 2m) and objects (4, H + 2m, W + 2m) in front of it.
        motions: one motion a plane, (num_steps, 4, 2).
        weights: weight of every sub-frame, (num_steps,).
        nearness: share of its translation that the background makes, (H, W).
        padding: what lies beyond the planes, as `grid_sample` names it.
    """
    height, width = nearness.shape
    device = nearness.device
    y = torch.arange(height, device=device)[:, None] - (height - 1) / 2
    x = torch.arange(width, device=device) - (width - 1) / 2
    one = torch.ones_like(nearness)
    # grid_sample counts from -1 to 1 over a plane.
    unit = torch.tensor([2 / max(side - 1, 1) for side in (planes[0].shape[2], planes[0].shape[1])], device=device)
    rest = torch.tensor([[0.0, 0], [0, 0], [1, 0], [0, 1]], device=device)
    grids = [(motion + rest) * unit for motion in motions]
    bases = [torch.stack([n, one, x * one, y * one]).flatten(1) for n in (nearness, one)]
    sources = [_double(plane)[None] for plane in planes]
    total = torch.zeros(3 * height * width, device=device)
    chunk = max(2, _CHUNK_PIXELS // (height * width))
    for start in range(0, len(weights), chunk):
        share = weights[start : start + chunk]
        frames = []
        for depth, source in enumerate(sources):
            steps = grids[depth][start : start + chunk].mT.flatten(0, 1)
            grid = (steps @ bases[min(depth, 1)]).view(-1, 2, height, width).permute(0, 2, 3, 1)
            source = source.expand(len(share), -1, -1, -1)
            frames.append(functional.grid_sample(source, grid, padding_mode=padding, align_corners=True))
        total += share @ composite(frames).flatten(1)
    return total.view(3, height, width)


def expose_evenly(plane: Tensor, moves: Tensor, weights: Tensor, margin: int, padding: str) -> Tensor:
    """What `expose` makes of one plane whose points all move alike, as one product in the Fourier domain.

    Args:
        plane: (3, H + 2 * margin, W + 2 * margin).
        moves: displacement of every sub-frame in pixels, (num_steps, 2), x and y.
        weights: weight of every sub-frame, (num_steps,).
        margin: pixels on every side that serve as source only.
        padding: what lies beyond the plane, as `grid_sample` names it.
    """
    height, width = (side - 2 * margin for side in plane.shape[1:])
    reach = math.ceil(float(moves.abs().max())) + 2
    if reach > margin:
        mode = "replicate" if padding == "border" else "reflect"
        beyond = min(reach - margin, min(plane.shape[1:]) - 1)
        plane, margin = functional.pad(plane, [beyond] * 4, mode=mode), margin + beyond
    rows = torch.fft.fftfreq(plane.shape[1], device=plane.device)
    columns = torch.fft.rfftfreq(plane.shape[2], device=plane.device)
    response = (_displaced(rows, moves[:, 1]) * weights) @ _displaced(columns, moves[:, 0]).T
    light = torch.fft.irfft2(torch.fft.rfft2(plane) * response, s=plane.shape[1:])
    return light[:, margin : margin + height, margin : margin + width]


def _displaced(frequencies: Tensor, moves: Tensor) -> Tensor:
    """Frequency response of reading a line elsewhere, as from a doubled plane: (frequencies, moves), complex."""
    pixels = moves.floor()
    place = 2 * (moves - pixels)  # among a pixel, the midpoint to the next one and that one
    turn = torch.exp(2j * math.pi * frequencies)[:, None]
    midpoint = 0.5625 * (1 + turn) - 0.0625 * (1 / turn + turn**2)
    first_half = (1 - place) + place * midpoint
    second_half = (2 - place) * midpoint + (place - 1) * turn
    return turn**pixels * torch.where(place < 1, first_half, second_half)


# Sub-frames rendered at once, in pixels.
_CHUNK_PIXELS = 2**17


def composite(planes: list[Tensor]) -> Tensor:
    """Lays objects (..., 4, H, W) over a background (..., 3, H, W)."""
    picture = planes[0]
    for plane in planes[1:]:
        color, clear = plane.split([3, 1], dim=-3)
        picture = torch.addcmul(color, clear, picture)
    return picture


def _double(plane: Tensor) -> Tensor:
    """(C, H, W) to (C, 2H - 1, 2W - 1) by cubic interpolation; the given pixels stay as they are.

    Bilinear sampling of the doubled plane hardly softens it, whereas sampling the plane itself would
    teach the network to sharpen beyond the motion.
    """
    for _ in range(2):
        ends = functional.pad(plane, (0, 0, 1, 1), mode="replicate")
        between = (ends[:, 1:-2] + ends[:, 2:-1]) * 0.5625 - (ends[:, :-3] + ends[:, 3:]) * 0.0625
        doubled = plane.new_empty(plane.shape[0], 2 * plane.shape[1] - 1, plane.shape[2])
        doubled[:, ::2] = plane
        doubled[:, 1::2] = between
        plane = doubled.mT
    return plane
