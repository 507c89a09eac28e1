"""Regular patterns to train on: bricks, tiles, fences, facades and cloth, of which photos to train on have few.

What repeats has a spectrum with gaps and peaks of its own, and one who looks for a motion's may take them for it.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

_CELL = 5, 64  # pixels: shortest and longest sides of what repeats


def random_pattern(crop: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Turn a share of all crops into patterns.

    A piece of the crop is repeated in rows, turned, seen at an angle, in half of the cases with every other row moved
    by half, as bricks are laid, and with joints around the pieces. Pieces differ in brightness, and something of the
    crop shows through, as nothing that is built or woven repeats exactly.

    Args:
        crop: (1, C, H, W), values in [0, 1].
        share: Of crops that are changed, in [0, 1].
        rng: On the CPU.

    Returns:
        As many, of the same range; the crop itself if it is left as it is.
    """
    if not share:
        return crop
    happens, bricks, jointed, light, through, uneven = torch.rand(6, generator=rng).tolist()
    if happens >= share:
        return crop
    height, width = crop.shape[2:]
    shortest, longest = (math.log(side) for side in _CELL)
    sides = (shortest + (longest - shortest) * torch.rand(2, generator=rng)).exp().tolist()
    down, right = (min(round(side), limit) for side, limit in zip(sides, (height, width), strict=True))
    piece = _textured_piece(crop, down, right, rng)
    if jointed < 0.5:
        joint = 1 + int(0.1 * min(down, right))
        piece = piece.clone()
        piece[..., :joint, :] = piece[..., :joint] = light

    rows, columns = _places(height, width, rng)
    rows = rows / down
    row = rows.floor()
    columns = columns / right + (0.5 * (row % 2) if bricks < 0.5 else 0.0)
    column = columns.floor()
    repeated = functional.pad(piece, (1, 1, 1, 1), mode="circular")
    # Places in the piece, as grid_sample counts: -1 and 1 are the outer edges of what is sampled.
    across = ((columns - column) * right + 1) / (right + 2) * 2 - 1
    along = ((rows - row) * down + 1) / (down + 2) * 2 - 1
    pattern = functional.grid_sample(repeated, torch.stack([across, along], -1)[None], align_corners=False)

    brightness = 1 + 0.3 * uneven * (torch.rand(64, 64, generator=rng) - 0.5)
    pattern = pattern * brightness[row.long() % 64, column.long() % 64]
    through = 0.5 * through**2
    return ((1 - through) * pattern + through * crop).clamp(0, 1)


def _textured_piece(crop: Tensor, down: int, right: int, rng: torch.Generator) -> Tensor:
    """Of three pieces of a crop (1, C, H, W) the one that varies most: (1, C, down, right)."""
    pieces = []
    for _ in range(3):
        top, left = (
            int(torch.randint(side - size + 1, (), generator=rng))
            for side, size in zip(crop.shape[2:], (down, right), strict=True)
        )
        pieces.append(crop[..., top : top + down, left : left + right])
    return max(pieces, key=lambda piece: piece.var().item())


def _places(height: int, width: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Where in the plane of a pattern every pixel lies, in pixels: rows and columns, (H, W) each."""
    turned, *slope = torch.rand(3, generator=rng).tolist()
    # In half of the cases upright, or all but: walls and windows mostly are.
    angle = math.pi * turned if turned < 0.5 else 0.1 * (turned - 0.75)
    y, x = torch.meshgrid(torch.arange(height) - height / 2, torch.arange(width) - width / 2, indexing="ij")
    away = 1 + 0.4 * ((slope[0] - 0.5) * y + (slope[1] - 0.5) * x) / max(height, width)
    y, x = y / away, x / away
    return math.cos(angle) * y - math.sin(angle) * x, math.sin(angle) * y + math.cos(angle) * x
