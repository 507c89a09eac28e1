"""DeepDeblur: *Deep Multi-scale CNN for Dynamic Scene Deblurring* (Nah, Kim, Lee, CVPR 2017).

- A Gaussian pyramid of the blurred picture is restored from its coarsest scale to its finest, each by a plain residual
  network with weights of its own: 5x5 convolutions at full width, no strides, no normalization.
- What a scale restored is enlarged by a convolution and a pixel shuffle, and stands beside the next scale's picture.
  Nothing adds the blurred picture to the output.
- This is the authors' PyTorch version: residual blocks end without a ReLU, and its pyramid is that of scikit-image,
  a Gaussian of 2/3 pixel (7 taps, borders mirrored) and then the mean of 2 x 2 pixels.
- Published training supervises all scales alike by the mean absolute difference (the nearest here is
  `loss="charbonnier"` with `lower_weight=1.0`); the paper used the mean squared error and a small adversarial term.

Values are sRGB-encoded gray levels around zero, [-127.5, 127.5]. Spatial sizes must be multiples of `size_multiple`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from unsmear.models.network import Network


@dataclass(frozen=True, kw_only=True)
class DeepDeblurConfig:
    """What can be chosen about the network.

    Args:
        scales: Pictures of the pyramid, each half as large as the one before.
        blocks: Residual blocks at each scale.
        width: Channels everywhere.
    """

    scales: int = 3
    blocks: int = 19
    width: int = 64

    def __post_init__(self) -> None:
        for name in ("scales", "blocks", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


class ResidualBlock(nn.Module):
    """Two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 5, padding=2)
        self.conv2 = nn.Conv2d(channels, channels, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `x` (B, C, H, W)."""
        # In place: no gradient needs what a convolution gave.
        return self.conv2(functional.relu(self.conv1(x), inplace=True)).add_(x)


class Scale(nn.Module):
    """The residual network of one scale, and for all but the finest what enlarges its estimate."""

    def __init__(self, channels: int, config: DeepDeblurConfig, is_finest: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, config.width, 5, padding=2)
        self.blocks = nn.Sequential(*(ResidualBlock(config.width) for _ in range(config.blocks)))
        self.last = nn.Conv2d(config.width, 3, 5, padding=2)
        self.enlarge = None if is_finest else nn.Conv2d(3, 12, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """Restore a picture (B, 3, h, w), or one with an estimate beside it (B, 6, h, w); returns (B, 3, h, w)."""
        x = self.first(x)
        for block in self.blocks:  # called one by one, so that none of their inputs is kept
            x = block(x)
        return self.last(x)


class DeepDeblur(Network):
    """The multi-scale network.

    Args:
        config: What to build.
        name: What the network is called in weights files and tables.
    """

    value_range = (-127.5, 127.5)
    tile_overlap = 256  # 40 convolutions see 80 pixels in every direction, at the coarsest scale 320 of the picture's

    def __init__(self, config: DeepDeblurConfig, name: str = "deepdeblur") -> None:
        super().__init__(config, name)
        self.config: DeepDeblurConfig = config
        self.scales = nn.ModuleList(  # coarsest first
            Scale(3 if i == 0 else 6, config, is_finest=i == config.scales - 1) for i in range(config.scales)
        )

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this: halvings of the picture."""
        return 2 ** (self.config.scales - 1)

    @property
    def peak_bytes_per_pixel(self) -> float:
        """Working memory of one float32 pass without gradients, in bytes for each pixel of the picture.

        By `unsmear bench`, which measures it in a fresh process, 1210 at 640 x 480. What is told is five feature maps,
        though a block needs three, as the allocator keeps some; and pictures.
        """
        return 4 * 5 * self.config.width + 100

    def restore(self, x: Tensor) -> list[Tensor]:
        """Restore `x` (B, 3, H, W); returns the estimates of all scales, coarsest first."""
        pyramid = [x]
        while len(pyramid) < self.config.scales:
            pyramid.append(halve(pyramid[-1]))
        estimates: list[Tensor] = []
        seen = pyramid.pop()
        for scale in self.scales:
            estimates.append(scale(seen))
            if pyramid:
                enlarged = functional.pixel_shuffle(scale.enlarge(estimates[-1]), 2)  # pyright: ignore[reportCallIssue]
                seen = torch.cat([pyramid.pop(), enlarged], dim=1)
        return estimates


def halve(x: Tensor) -> Tensor:
    """Smooth (B, C, H, W) and halve its even height and width, as scikit-image's `pyramid_gaussian` does."""
    taps = torch.exp(-0.5 * (torch.arange(-3.0, 4.0, device=x.device) * 1.5).square())
    taps = functional.pad(taps, (0, 1)) + functional.pad(taps, (1, 0))  # smoothed, then the mean of two
    taps = (taps / taps.sum()).to(x.dtype)
    for dim in (2, 3):
        length = x.shape[dim]
        inside = torch.arange(-3, length + 3, device=x.device) % (2 * length)  # mirrored, however short it is
        x = x.index_select(dim, torch.minimum(inside, 2 * length - 1 - inside))
        weight = taps.reshape((-1, 1) if dim == 2 else (1, -1)).expand(x.shape[1], 1, -1, -1)
        x = functional.conv2d(x, weight, stride=(2, 1) if dim == 2 else (1, 2), groups=x.shape[1])
    return x
