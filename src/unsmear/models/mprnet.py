"""MPRNet: *Multi-Stage Progressive Image Restoration* (Zamir et al., CVPR 2021, arXiv 2102.02808).

- Three stages. Two U-Nets see the picture as quadrants and as halves, which are put together between encoder and
  decoder; the third works at full size without any scaling. Each makes an estimate, and training supervises all.
- Between stages, features are weighted by what the estimate says of them (SAM, section 3.3), and features of all
  scales are handed on (CSFF, section 3.2).
- All blocks are convolutions with attention to channels (CAB); no convolution has a bias.
- The authors' program uses one PReLU for the whole network. Here every block has its own, which is one more number a
  block; converted weights repeat theirs.
- The means of channel attention are over the patch, picture or tile, as in the authors' program.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from unsmear.models.network import Network
from unsmear.models.patches import stitch, to_patches


@dataclass(frozen=True, kw_only=True)
class MPRNetConfig:
    """What can be chosen about the network; the defaults are the paper's for deblurring.

    Args:
        width: Channels at the finest scale of the U-Nets.
        wider: Channels that each coarser scale has more.
        third_wider: Channels that the third stage has more.
        third_blocks: Blocks in each of the three groups of the third stage.
        reduction: Channels for each number that channel attention is squeezed through.
    """

    width: int = 96
    wider: int = 48
    third_wider: int = 32
    third_blocks: int = 8
    reduction: int = 4

    @property
    def widths(self) -> list[int]:
        """Channels at each scale of the U-Nets, finest first."""
        return [self.width + i * self.wider for i in range(3)]


def conv(source: int, channels: int, kernel: int = 3) -> nn.Conv2d:
    """A convolution that keeps sizes."""
    return nn.Conv2d(source, channels, kernel, padding=kernel // 2, bias=False)


class Block(nn.Module):
    """Two convolutions and attention to channels, beside the identity (CAB)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.conv1, self.activation, self.conv2 = conv(channels, channels), nn.PReLU(), conv(channels, channels)
        self.squeeze = conv(channels, channels // reduction, 1)
        self.excite = conv(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `x` (B, C, H, W)."""
        y = self.conv2(self.activation(self.conv1(x)))
        mean = functional.adaptive_avg_pool2d(y, 1)
        return y * torch.sigmoid(self.excite(functional.relu(self.squeeze(mean)))) + x


def resize(x: Tensor, factor: float) -> Tensor:
    """Bilinear interpolation of (B, C, H, W) at another size."""
    return functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


class Encoder(nn.Module):
    """The encoder of a U-Net, which the features of the stage before may enter."""

    def __init__(self, config: MPRNetConfig, follows: bool) -> None:
        super().__init__()
        w = config.widths
        self.levels = nn.ModuleList(nn.Sequential(*(Block(c, config.reduction) for _ in range(2))) for c in w)
        self.downs = nn.ModuleList(conv(w[i], w[i + 1], 1) for i in range(2))
        self.from_encoder = nn.ModuleList(conv(c, c, 1) for c in w) if follows else None
        self.from_decoder = nn.ModuleList(conv(c, c, 1) for c in w) if follows else None

    def forward(self, x: Tensor, before: tuple[list[Tensor], list[Tensor]] | None = None) -> list[Tensor]:
        """Encode `x`, given what encoder and decoder made before; features of every scale, finest first."""
        features = []
        for scale, blocks in enumerate(self.levels):
            if scale:
                x = self.downs[scale - 1](resize(x, 0.5))
            x = blocks(x)
            if before and self.from_encoder is not None and self.from_decoder is not None:
                encoded, decoded = before
                x = x + self.from_encoder[scale](encoded[scale]) + self.from_decoder[scale](decoded[scale])
            features.append(x)
        return features


class Decoder(nn.Module):
    """The decoder of a U-Net."""

    def __init__(self, config: MPRNetConfig) -> None:
        super().__init__()
        w = config.widths
        self.levels = nn.ModuleList(nn.Sequential(*(Block(c, config.reduction) for _ in range(2))) for c in w)
        self.skips = nn.ModuleList(Block(c, config.reduction) for c in w[:2])
        self.ups = nn.ModuleList(conv(w[i + 1], w[i], 1) for i in range(2))

    def forward(self, encoded: list[Tensor]) -> list[Tensor]:
        """Decode the features of every scale, finest first; features of every scale."""
        x = self.levels[2](encoded[2])
        features = [x]
        for scale in (1, 0):
            x = self.levels[scale](self.ups[scale](resize(x, 2)) + self.skips[scale](encoded[scale]))
            features.insert(0, x)
        return features


class Supervision(nn.Module):
    """An estimate, and features weighted by it (SAM)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features, self.picture, self.weights = (
            conv(channels, channels, 1),
            conv(channels, 3, 1),
            conv(3, channels, 1),
        )

    def forward(self, x: Tensor, blurred: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, H, W), and an estimate of the sharp picture."""
        estimate = self.picture(x) + blurred
        return self.features(x) * torch.sigmoid(self.weights(estimate)) + x, estimate


class ThirdStage(nn.Module):
    """The stage at full size: three groups of blocks, each followed by features of one scale of stage 2."""

    def __init__(self, config: MPRNetConfig) -> None:
        super().__init__()
        w, channels = config.widths, config.width + config.third_wider

        def group() -> nn.Sequential:
            blocks = (Block(channels, config.reduction) for _ in range(config.third_blocks))
            return nn.Sequential(*blocks, conv(channels, channels))

        def ups() -> nn.ModuleList:  # from scale i to full size, one scale after the other
            return nn.ModuleList(nn.ModuleList(conv(w[j], w[j - 1], 1) for j in range(i, 0, -1)) for i in range(3))

        self.groups = nn.ModuleList(group() for _ in range(3))
        self.up_encoded, self.up_decoded = ups(), ups()
        self.from_encoder = nn.ModuleList(conv(config.width, channels, 1) for _ in range(3))
        self.from_decoder = nn.ModuleList(conv(config.width, channels, 1) for _ in range(3))

    def forward(self, x: Tensor, encoded: list[Tensor], decoded: list[Tensor]) -> Tensor:
        """Transform `x` (B, C, H, W), given the features of stage 2 at every scale."""
        for scale, group in enumerate(self.groups):
            x = group(x) + x
            for features, ups, enter in (
                (encoded[scale], self.up_encoded[scale], self.from_encoder[scale]),
                (decoded[scale], self.up_decoded[scale], self.from_decoder[scale]),
            ):
                for up in ups:  # type: ignore[union-attr]
                    features = up(resize(features, 2))
                x = x + enter(features)
        return x


class MPRNet(Network):
    """The network of Fig. 2.

    Args:
        config: What to build.
        name: What the network is called in weights files and tables.
    """

    def __init__(self, config: MPRNetConfig, name: str = "mprnet") -> None:
        super().__init__(config, name)
        self.config: MPRNetConfig = config
        w, third = config.width, config.width + config.third_wider
        self.shallow = nn.ModuleList(nn.Sequential(conv(3, w), Block(w, config.reduction)) for _ in range(3))
        self.encoders = nn.ModuleList(Encoder(config, follows) for follows in (False, True))
        self.decoders = nn.ModuleList(Decoder(config) for _ in range(2))
        self.supervise = nn.ModuleList(Supervision(w) for _ in range(2))
        self.merge = nn.ModuleList([conv(2 * w, w), conv(2 * w, third)])
        self.third = ThirdStage(config)
        self.last = conv(third, 3)

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this: two halves, and two halvings of each."""
        return 8

    @property
    def peak_bytes_per_pixel(self) -> float:
        """Working memory of one float32 pass without gradients, in bytes for each pixel of the picture.

        By the growth of a process from 128 x 96 to 352 x 256, 7809: some fifteen maps of the third stage.
        """
        return 62 * (self.config.width + self.config.third_wider)

    def restore(self, x: Tensor) -> list[Tensor]:
        """Restore `x` (B, 3, H, W); one estimate a stage."""
        halves = to_patches(x, 2)
        encoded = [stitch(f, 3) for f in self.encoders[0](self.shallow[0](to_patches(x, 3)))]
        decoded = self.decoders[0](encoded)
        carried, first = self.supervise[0](decoded[0], halves)

        features = self.merge[0](torch.cat([self.shallow[1](halves), carried], 1))
        encoded = [stitch(f, 2) for f in self.encoders[1](features, (encoded, decoded))]
        decoded = self.decoders[1](encoded)
        carried, second = self.supervise[1](decoded[0], x)

        features = self.merge[1](torch.cat([self.shallow[2](x), carried], 1))
        return [stitch(first, 2), second, self.last(self.third(features, encoded, decoded)) + x]
