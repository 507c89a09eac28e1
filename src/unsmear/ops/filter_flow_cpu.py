"""Filter flow on a CPU: memory layouts and tasks around the compiled kernel."""

import torch
from torch import Tensor
from torch.nn import functional as F

from unsmear.ops import filter_flow_kernels as kernels
from unsmear.ops.cpu import fill, lanes, run
from unsmear.ops.filter_flow import rising
from unsmear.ops.memory import empty


def filter_flow(picture: Tensor, weights: Tensor, filters: Tensor, spacing: int) -> Tensor:
    """`filter_flow.filter_flow`, without gradients, of filters that turned by half are what they were."""
    picture, weights, filters = picture.detach(), weights.detach(), filters.detach()
    batch, channels, height, width = picture.shape
    side = filters.shape[-1]
    reach = side // 2
    around = F.pad(picture.contiguous(), (reach, reach + lanes(picture), reach, reach), mode="replicate")
    wide = around.shape[3]
    half = filters.flatten(1)[:, : side**2 // 2 + 1]
    mixed = fill(torch.tensordot(weights.movedim(1, 3), half, 1))  # (B, h, w, room)
    offsets = torch.arange(side**2 // 2)
    offsets = (offsets // side - reach) * wide + offsets % side - reach
    shares = F.pad(rising(spacing, picture), (0, lanes(picture)))
    out = empty(picture, batch, channels, height, width)
    run(
        kernels.flow, batch * height,
        around, offsets, mixed, shares, out,
        reach, spacing, *mixed.shape[1:], channels, height, width, *around.shape[2:],
    )  # fmt: skip
    return out
