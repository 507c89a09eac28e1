"""MIMO-UNet: *Rethinking Coarse-to-Fine Approach in Single Image Deblurring* (Cho et al., ICCV 2021, arXiv 2108.05054).

- One U-Net takes the picture at three scales and gives three estimates, coarsest first, instead of three networks in a
  row. Training supervises all of them.
- Smaller inputs enter as the features of a few convolutions (SCM), by way of a product with those from above (FAM).
- Each of the two finer decoders sees the encoders of all scales (AFF).
- Smaller inputs are every second pixel, as in the authors' program, and all resizing is to the nearest pixel.
- MIMO-UNet+ has 20 residual blocks at every scale instead of 8, and drops a tenth of the fused features in training.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from unsmear.models.network import Network


@dataclass(frozen=True, kw_only=True)
class MIMOUNetConfig:
    """What can be chosen about the network; the defaults are the paper's smaller one.

    Args:
        width: Channels at the finest scale; each coarser scale has twice as many. A multiple of 2.
        blocks: Residual blocks at each scale of the encoder, and of the decoder.
        dropout: Share of the channels of fused features that training drops.
    """

    width: int = 32
    blocks: int = 8
    dropout: float = 0.0


class ResidualBlock(nn.Module):
    """Two convolutions with a ReLU between, beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `x` (B, C, H, W)."""
        return self.conv2(functional.relu(self.conv1(x))) + x


class ShallowFeatures(nn.Module):
    """Features of a smaller input (SCM, section 3.1), the picture itself among them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        quarter, half = channels // 4, channels // 2
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(3, quarter, 3, padding=1),
                nn.Conv2d(quarter, half, 1),
                nn.Conv2d(half, half, 3, padding=1),
                nn.Conv2d(half, channels - 3, 1),
            ]
        )
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, C, H, W)."""
        features = x
        for conv in self.convs:
            features = functional.relu(conv(features))
        return self.mix(torch.cat([x, features], 1))


class Fusion(nn.Module):
    """Features of all scales made into those of one (AFF, section 3.3)."""

    def __init__(self, source: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(source, channels, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.drop = nn.Dropout2d(dropout)

    def forward(self, features: list[Tensor], scale: int) -> Tensor:
        """Fuse the features of scales 0, 1, ... at the size of one of them."""
        resized = [resize(f, 2.0 ** (i - scale)) for i, f in enumerate(features)]
        return self.drop(self.conv2(functional.relu(self.conv1(torch.cat(resized, 1)))))


def resize(x: Tensor, factor: float) -> Tensor:
    """Nearest pixels of (B, C, H, W) at another size."""
    return x if factor == 1 else functional.interpolate(x, scale_factor=factor)


def blocks(channels: int, number: int) -> nn.Sequential:
    """Residual blocks in a row."""
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(number)))


class MIMOUNet(Network):
    """The network of Fig. 2. Lists of modules count scales from the finest.

    Args:
        config: What to build.
        name: What the network is called in weights files and tables.
    """

    def __init__(self, config: MIMOUNetConfig, name: str = "mimo-unet") -> None:
        super().__init__(config, name)
        self.config: MIMOUNetConfig = config
        w0, w1, w2 = widths = [config.width * 2**i for i in range(3)]
        self.first = nn.Conv2d(3, w0, 3, padding=1)
        self.shallow = nn.ModuleList(map(ShallowFeatures, (w1, w2)))
        self.downs = nn.ModuleList(nn.Conv2d(w, 2 * w, 3, stride=2, padding=1) for w in (w0, w1))
        self.attend = nn.ModuleList(nn.Conv2d(w, w, 3, padding=1) for w in (w1, w2))  # FAM, section 3.1
        self.encoders = nn.ModuleList(blocks(w, config.blocks) for w in widths)
        self.fuse = nn.ModuleList(Fusion(sum(widths), w, config.dropout) for w in (w0, w1))
        self.decoders = nn.ModuleList(blocks(w, config.blocks) for w in widths)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 4, stride=2, padding=1) for w in (w0, w1))
        self.narrow = nn.ModuleList(nn.Conv2d(2 * w, w, 1) for w in (w0, w1))
        self.last = nn.ModuleList(nn.Conv2d(w, 3, 3, padding=1) for w in widths)

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this: two halvings."""
        return 4

    @property
    def peak_bytes_per_pixel(self) -> float:
        """Working memory of one float32 pass without gradients, in bytes for each pixel of the picture.

        By the growth of a fresh process at 512 x 384, 2450 to 2580: what is fused, of all scales at full size.
        """
        return 80 * self.config.width + 100

    def restore(self, x: Tensor) -> list[Tensor]:
        """Restore `x` (B, 3, H, W); the estimates are at a quarter, half and all of its size."""
        pictures = [x, resize(x, 0.5), resize(x, 0.25)]
        encoded = [self.encoders[0](functional.relu(self.first(x)))]
        for scale in (1, 2):
            features = functional.relu(self.downs[scale - 1](encoded[-1]))
            smaller = self.shallow[scale - 1](pictures[scale])
            features = features + self.attend[scale - 1](features * smaller)
            encoded.append(self.encoders[scale](features))
        skips = [self.fuse[scale](encoded, scale) for scale in (0, 1)]
        features, estimates = self.decoders[2](encoded[2]), []
        estimates.append(self.last[2](features) + pictures[2])
        for scale in (1, 0):
            features = functional.relu(self.ups[scale](features))
            features = functional.relu(self.narrow[scale](torch.cat([features, skips[scale]], 1)))
            features = self.decoders[scale](features)
            estimates.append(self.last[scale](features) + pictures[scale])
        return estimates
