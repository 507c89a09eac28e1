"""Inception-ResNet-v2 as a maker of features (Szegedy, Ioffe, Vanhoucke, Alemi, AAAI 2017, arXiv 1602.07261).

- The form that was released with ImageNet weights, which begins with the plain stem of Inception-ResNet-v1 (figure 14
  there). Its five stages end where the picture is halved, so a pyramid can start from each of them.
- What comes after the last halving, the blocks of figure 19 and the classifier, is left out.
- Convolutions that halve, and two of the stem, do not pad: features are a little smaller than a half of a half.
- Normalization takes its statistics from the picture itself, which is what batch normalization in training mode does
  with batches of one (see `unsmear.models.deblurgan_v2`).
"""

import torch
from torch import Tensor, nn

WIDTHS = (32, 64, 192, 1088, 2080)
"""Channels after each stage."""


class Unit(nn.Module):
    """Convolution, normalization, ReLU."""

    def __init__(
        self, channels: int, out: int, kernel: int | tuple[int, int], *, stride: int = 1, pad: bool = True
    ) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if pad else (0, 0)
        self.conv = nn.Conv2d(channels, out, (height, width), stride=stride, padding=padding, bias=False)
        self.norm = nn.InstanceNorm2d(out, eps=1e-3, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `x` (B, C, H, W)."""
        return self.norm(self.conv(x)).relu_()


class Branches(nn.Module):
    """Several chains of layers over the same features, side by side."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `x` (B, C, H, W)."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class Residual(Branches):
    """Branches whose sum, scaled down, is added to what came in."""

    def __init__(self, channels: int, width: int, scale: float, *branches: nn.Module) -> None:
        super().__init__(*branches)
        self.scale = scale
        self.project = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `x` (B, C, H, W)."""
        return torch.add(x, self.project(super().forward(x)), alpha=self.scale).relu_()


def chain(channels: int, *units: tuple[int, int | tuple[int, int]], halve: bool = False) -> nn.Sequential:
    """Units of (channels, kernel) one after the other; if it halves, the last one does."""
    widths = [channels, *(out for out, _ in units)]
    last = len(units) - 1
    return nn.Sequential(
        *(
            Unit(widths[i], out, kernel, stride=2 if halve and i == last else 1, pad=not (halve and i == last))
            for i, (out, kernel) in enumerate(units)
        )
    )


def block_35() -> nn.Module:
    """Inception-ResNet-A, figure 16."""
    branches = chain(320, (32, 1)), chain(320, (32, 1), (32, 3)), chain(320, (32, 1), (48, 3), (64, 3))
    return Residual(320, 128, 0.17, *branches)


def block_17() -> nn.Module:
    """Inception-ResNet-B, figure 17."""
    return Residual(1088, 384, 0.1, chain(1088, (192, 1)), chain(1088, (128, 1), (160, (1, 7)), (192, (7, 1))))


class InceptionResNetV2(nn.Module):
    """Features of a picture at five scales.

    Pictures must be at least 75 pixels high and wide.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            (
                Unit(3, 32, 3, stride=2, pad=False),
                nn.Sequential(Unit(32, 32, 3, pad=False), Unit(32, 64, 3), nn.MaxPool2d(3, stride=2)),
                nn.Sequential(Unit(64, 80, 1), Unit(80, 192, 3, pad=False), nn.MaxPool2d(3, stride=2)),
                nn.Sequential(
                    Branches(
                        chain(192, (96, 1)),
                        chain(192, (48, 1), (64, 5)),
                        chain(192, (64, 1), (96, 3), (96, 3)),
                        nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False), Unit(192, 64, 1)),
                    ),
                    nn.Sequential(*(block_35() for _ in range(10))),
                    Branches(
                        chain(320, (384, 3), halve=True),
                        chain(320, (256, 1), (256, 3), (384, 3), halve=True),
                        nn.MaxPool2d(3, stride=2),
                    ),
                ),
                nn.Sequential(
                    nn.Sequential(*(block_17() for _ in range(20))),
                    Branches(
                        chain(1088, (256, 1), (384, 3), halve=True),
                        chain(1088, (256, 1), (288, 3), halve=True),
                        chain(1088, (256, 1), (288, 3), (320, 3), halve=True),
                        nn.MaxPool2d(3, stride=2),
                    ),
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
