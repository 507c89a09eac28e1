"""MobileNetV2 as a maker of features (Sandler et al., CVPR 2018, arXiv 1801.04381, table 2).

- Its first five stages, each with the features at one scale; what comes after the second block of 160 channels is left
  out, as DeblurGAN-v2 does.
- Normalization takes its statistics from the picture itself, which is what batch normalization in training mode does
  with batches of one (see `unsmear.models.deblurgan_v2`).
"""

from itertools import pairwise

from torch import Tensor, nn

WIDTHS = (16, 24, 32, 64, 160)
"""Channels after each stage."""


class InvertedResidual(nn.Module):
    """A bottleneck turned inside out: expand, filter each channel on its own, project."""

    def __init__(self, channels: int, out: int, *, expansion: int = 6, stride: int = 1) -> None:
        super().__init__()
        self.is_residual = stride == 1 and channels == out
        wide = channels * expansion
        expand = _convolution(channels, wide, 1) if expansion != 1 else ()
        filter_each = _convolution(wide, wide, 3, stride=stride, groups=wide)
        self.layers = nn.Sequential(*expand, *filter_each, *_convolution(wide, out, 1)[:2])

    def forward(self, x: Tensor) -> Tensor:
        """Transform `x` (B, C, H, W)."""
        y = self.layers(x)
        return y.add_(x) if self.is_residual else y


class MobileNetV2(nn.Module):
    """Features of a picture at five scales."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.Sequential(*_convolution(3, 32, 3, stride=2))
        self.stages = nn.ModuleList(
            (
                nn.Sequential(first, InvertedResidual(32, 16, expansion=1)),
                _stage(16, 24, 24),
                _stage(24, 32, 32, 32),
                _stage(32, 64, 64, 64, 64),
                nn.Sequential(
                    InvertedResidual(64, 96),
                    InvertedResidual(96, 96),
                    InvertedResidual(96, 96),
                    *_stage(96, 160, 160),
                ),
            )
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of `x` (B, 3, H, W), values in [-1, 1]: `WIDTHS` channels at halves to 32nds, the finest first."""
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def _convolution(
    channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, nn.Module, nn.Module]:
    conv = nn.Conv2d(channels, out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return conv, nn.InstanceNorm2d(out, affine=True), nn.ReLU6(inplace=True)


def _stage(*widths: int) -> nn.Sequential:
    """Blocks from each of the widths to the next; the first of them halves."""
    blocks = (
        InvertedResidual(channels, out, stride=2 if i == 0 else 1) for i, (channels, out) in enumerate(pairwise(widths))
    )
    return nn.Sequential(*blocks)
