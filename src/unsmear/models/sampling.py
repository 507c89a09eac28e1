"""Halving and doubling as the frameworks of 2018 did them: the grids share their first pixel, not their centers.

Pixel i of a half-size grid lies on pixel 2 * i of the full one. PyTorch's own layers put it between 2 * i and
2 * i + 1, or pad alike on all sides, so weights trained with TensorFlow 1 or Caffe need these.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class SameConv2d(nn.Conv2d):
    """A convolution whose output is its input's size over `stride`, padded as TensorFlow does: the odd pixel last.

    Args:
        in_channels: Channels of what it takes.
        out_channels: Channels of what it gives.
        kernel: Side of the filters, odd.
        stride: 1, or 2 for even sizes only.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        # With a stride of 1 an odd kernel needs as much padding before as after, which the layer does itself.
        super().__init__(in_channels, out_channels, kernel, stride, padding=kernel // 2 if stride == 1 else 0)
        self.before, self.after = (kernel - stride) // 2, (kernel - stride + 1) // 2

    def forward(self, input: Tensor) -> Tensor:
        """Filter `input` (B, C, H, W); returns (B, C', H / stride, W / stride)."""
        if self.stride[0] > 1:
            input = functional.pad(input, (self.before, self.after) * 2)
        return super().forward(input)


def halve(x: Tensor, times: int = 1) -> Tensor:
    """Every second pixel of (B, C, H, W), first to last, `times` over: bilinear on shared grids, without a blur."""
    return x[..., :: 2**times, :: 2**times]


def double(x: Tensor, border: Literal["edge", "zero"] = "edge") -> Tensor:
    """Twice the size of `x` (B, C, H, W), new pixels halfway between the old.

    Args:
        x: Features or pictures.
        border: What lies beyond the last row and column: the "edge" once more (TensorFlow 1), or "zero" (the resize
            layer of Caffe's forks).
    """
    height, width = x.shape[-2:]
    x = functional.pad(x, (0, 1, 0, 1), mode="replicate" if border == "edge" else "constant")
    size = (2 * height + 1, 2 * width + 1)
    return functional.interpolate(x, size, mode="bilinear", align_corners=True)[..., :-1, :-1]


def initialize(network: nn.Module) -> None:
    """Fresh weights as TensorFlow 1 and Caffe drew them: Glorot's uniform distribution, biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
            if isinstance(module.bias, torch.Tensor):
                nn.init.zeros_(module.bias)
