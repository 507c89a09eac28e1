"""Patches of a picture, as the levels of a patch-hierarchical network see them.

Level l halves each patch of level l - 1: along the height at even levels, along the width at odd ones. Patches are
folded into the batch.
"""

import torch
from torch import Tensor


def to_patches(x: Tensor, level: int) -> Tensor:
    """Cut (B, C, H, W) into the patches of a level, (2**(level-1) * B, C, h, w)."""
    for number in range(2, level + 1):
        axis = 2 + number % 2
        if len(x) == 1 and axis == 2:  # in memory the upper half is before the lower one, as two of a batch are
            x = x.unflatten(axis, (2, -1)).movedim(axis, 0).flatten(0, 1)
        else:
            x = torch.cat(x.chunk(2, axis))
    return x


def stitch(x: Tensor, level: int) -> Tensor:
    """Join the patches of a level to those of the level above."""
    axis = 2 + level % 2
    if len(x) == 2 and axis == 2:
        return x.unflatten(0, (2, 1)).movedim(0, axis).flatten(axis, axis + 1)
    return torch.cat(x.chunk(2), axis)
