"""What each pixel of the output is made of: the network as a filter of the picture's own pixels.

However a network works, close to one picture it is linear: the derivatives of an output pixel by the input pixels
around it are the filter that the network applies there. One backward pass gives the filters of many places, as long as
these lie further apart than the filters reach; what reaches further mixes with the neighbors' and is cut off.
"""

import torch
from torch import Tensor

from unsmear.models.network import Network

RADIUS = 6
"""Reach of the filters that are kept, in pixels: they are 13 x 13."""

SPACING = 48
"""Distance between places, in pixels, at least."""


def local_filters(network: Network, x: Tensor, height: int, width: int) -> Tensor:
    """The filters that the whole network applies, at places spread evenly.

    Args:
        network: The network.
        x: One picture (1, 3, H, W), values in [0, 1], sides multiples of `network.size_multiple`.
        height: Rows of `x` that are no padding.
        width: Columns likewise.

    Returns:
        (k * k, rows, cols), k = 2 * RADIUS + 1: by how much the gray value of the output pixel changes with that of
        each input pixel around it. A network that does nothing has 1 in the middle and 0 elsewhere.
    """
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_(True)
        rows, cols = (_places(length) for length in (height, width))
        gray = network(x)[0].mean(0)
        (slopes,) = torch.autograd.grad(gray[rows[:, None], cols].sum(), x)
    around = torch.nn.functional.pad(slopes[0].sum(0), (RADIUS,) * 4)
    windows = around.unfold(0, 2 * RADIUS + 1, 1).unfold(1, 2 * RADIUS + 1, 1)[rows[:, None], cols]
    return windows.flatten(2).permute(2, 0, 1)


def _places(length: int) -> Tensor:
    count = max(1, length // SPACING)
    return ((torch.arange(count) + 0.5) * length / count).long()
