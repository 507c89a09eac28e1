"""DeblurGAN-v2: the generator of *DeblurGAN-v2* (Kupyn, Martyniuk, Wu, Wang, ICCV 2019, arXiv 1908.03826).

- A feature pyramid over a classifier's features (section 3.1): a top-down path over four scales, a head on each, all
  of them joined at a quarter of the size; the half-size features enter after that. What it makes is added to the
  blurred picture and clamped.
- Two backbones: Inception-ResNet-v2 for quality, MobileNetV2 for speed. The third, MobileNet-DSC, was not released.
- The authors run it in training mode at inference. All normalization, that of the backbone included, so takes its
  statistics from the one picture at hand; here it is instance normalization, which does the same for every picture
  of a batch. Every pixel depends a little on the whole picture, and tiles of a large one do not agree exactly.
- The authors pad pictures with zeros, which is middle gray, at the bottom and on the right, to the next larger
  multiple of 32. Around a network of this package pictures are reflected instead, and no more than is needed.
- Our choices: convolutions before a normalization without a learned shift have no bias, as it would be taken out
  again; pictures of less than 128 pixels are padded with gray, as the backbones have nothing left to normalize there.

Spatial sizes must be multiples of 32. Values in `restore` are sRGB-encoded, [-1, 1].
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from unsmear.models import inception_resnet_v2, mobilenet_v2
from unsmear.models.network import Network

_LEAST = 128


@dataclass(frozen=True, kw_only=True)
class DeblurGANv2Config:
    """What can be chosen about the network; the defaults are the paper's best.

    Args:
        backbone: Whose features the pyramid is built on.
        width: Channels of the pyramid's heads; the pyramid has twice as many.
    """

    backbone: Literal["inception-resnet-v2", "mobilenet-v2"] = "inception-resnet-v2"
    width: int = 128

    def __post_init__(self) -> None:
        if self.backbone not in ("inception-resnet-v2", "mobilenet-v2"):
            raise ValueError(f"backbone must be 'inception-resnet-v2' or 'mobilenet-v2', not {self.backbone!r}")
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width must be even, not {self.width}")


class Head(nn.Module):
    """Two convolutions on one scale of the pyramid."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `x` (B, C, H, W)."""
        return self.conv2(self.conv1(x).relu_()).relu_()


class DeblurGANv2(Network):
    """The generator of DeblurGAN-v2.

    Args:
        config: What to build.
        name: What the network is called in weights files and tables.
    """

    value_range = (-1.0, 1.0)

    def __init__(self, config: DeblurGANv2Config, name: str = "deblurgan-v2") -> None:
        super().__init__(config, name)
        self.config: DeblurGANv2Config = config
        is_large = config.backbone == "inception-resnet-v2"
        self.backbone = inception_resnet_v2.InceptionResNetV2() if is_large else mobilenet_v2.MobileNetV2()
        half, *coarser = inception_resnet_v2.WIDTHS if is_large else mobilenet_v2.WIDTHS
        width, pyramid = config.width, 2 * config.width
        self.lateral_half = nn.Conv2d(half, width, 1, bias=False)
        # From here on from a quarter of the size to a 32nd.
        self.laterals = nn.ModuleList(nn.Conv2d(w, pyramid, 1, bias=False) for w in coarser)
        self.merges = nn.ModuleList(_smoothing(pyramid, pyramid) for _ in coarser[:-1])
        self.heads = nn.ModuleList(Head(pyramid, width) for _ in coarser)
        self.smooth_quarter = _smoothing(len(coarser) * width, width)
        self.smooth_half = _smoothing(width, width // 2)
        self.last = nn.Conv2d(width // 2, 3, 3, padding=1)

    @property
    def size_multiple(self) -> int:
        """Five halvings."""
        return 32

    @property
    def peak_bytes_per_pixel(self) -> float:
        """Working memory of one float32 pass without gradients, in bytes for each pixel of the picture.

        By the growth of a fresh process's peak memory in a pass over 1280 x 736, 899 with the large backbone and 607
        with the small one, at their presets' widths.
        """
        return 310 + 4.75 * self.config.width

    def restore(self, x: Tensor) -> list[Tensor]:
        """Restore `x` (B, 3, H, W), values in [-1, 1]; one estimate of the same shape and range."""
        height, width = x.shape[2:]
        padded = functional.pad(x, (0, max(0, _LEAST - width), 0, max(0, _LEAST - height)))
        residual = self._residual(padded)[..., :height, :width]
        return [(x + residual.tanh()).clamp(-1, 1)]

    def _residual(self, x: Tensor) -> Tensor:
        features = self.backbone(x)
        half = _fit(self.lateral_half(features[0]), x, 2)
        scales = [_fit(lateral(features[i]), x, 2 ** (i + 1)) for i, lateral in enumerate(self.laterals, start=1)]
        del features  # memory
        for i in range(len(scales) - 2, -1, -1):  # top-down
            scales[i] = self.merges[i](scales[i] + _enlarge(scales[i + 1], 2))
        heads = [_enlarge(head(scale), 2**i) for i, (head, scale) in enumerate(zip(self.heads, scales, strict=True))]
        del scales
        y = self.smooth_quarter(torch.cat(heads, dim=1))
        del heads
        y = self.smooth_half(_enlarge(y, 2) + half)
        return self.last(_enlarge(y, 2))


def _smoothing(channels: int, out: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, out, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.InstanceNorm2d(out), nn.ReLU(inplace=True))


def _enlarge(x: Tensor, times: int) -> Tensor:
    return functional.interpolate(x, scale_factor=times, mode="nearest") if times > 1 else x


def _fit(x: Tensor, picture: Tensor, divisor: int) -> Tensor:
    """Reflect the edges of features of a backbone that does not pad, up to that part of the picture's size."""
    rows, columns = (picture.shape[i] // divisor - x.shape[i] for i in (2, 3))
    if rows == columns == 0:
        return x
    before, above = columns // 2, rows // 2
    return functional.pad(x, (before, columns - before, above, rows - above), mode="reflect")
