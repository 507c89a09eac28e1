"""NAFNet: *Simple Baselines for Image Restoration* (Chen, Chu, Zhang, Sun, ECCV 2022, arXiv 2204.04676).

- A U-Net whose blocks hold no activation function: halves of the channels are multiplied with each other instead
  (SimpleGate), and attention to channels is a product with their linearly mixed means (SCA), section 4.
- Every block starts as the identity, because what it adds is scaled by learned factors that start at zero.
- The GoPro form: one block at every scale but the coarsest encoder, which has 28.
- Left out: the authors' test-time converter (TLC), which takes the means of SCA over windows as large as 1.5 times the
  crops of training. Here they are over the whole picture, or tile; the authors' scores were made with it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from unsmear.models.network import Network


@dataclass(frozen=True, kw_only=True)
class NAFNetConfig:
    """What can be chosen about the network; the defaults are the larger GoPro network of the paper.

    Args:
        width: Channels at the finest scale; each coarser scale has twice as many.
        encoder_blocks: Blocks at each encoder scale, finest first.
        middle_blocks: Blocks at the bottom.
        decoder_blocks: Blocks at each decoder scale, coarsest first.
    """

    width: int = 64
    encoder_blocks: tuple[int, ...] = (1, 1, 1, 28)
    middle_blocks: int = 1
    decoder_blocks: tuple[int, ...] = (1, 1, 1, 1)

    def __post_init__(self) -> None:
        for name in ("encoder_blocks", "decoder_blocks"):  # JSON knows no tuples
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.encoder_blocks) != len(self.decoder_blocks):
            raise ValueError("encoder_blocks and decoder_blocks must name the same number of scales")


class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channels of every pixel."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (B, C, H, W)."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def gate(x: Tensor) -> Tensor:
    """SimpleGate: the product of two halves of the channels, (B, 2 * C, H, W) to (B, C, H, W)."""
    first, second = x.chunk(2, dim=1)
    return first * second


class Block(nn.Module):
    """Fig. 3d: a spatial half with attention to channels, and a pointwise half."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        twice = 2 * channels
        self.norm1 = ChannelNorm(channels, eps=1e-6)
        self.expand1 = nn.Conv2d(channels, twice, 1)
        self.depthwise = nn.Conv2d(twice, twice, 3, padding=1, groups=twice)
        self.attend = nn.Conv2d(channels, channels, 1)
        self.reduce1 = nn.Conv2d(channels, channels, 1)
        self.scale1 = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.norm2 = ChannelNorm(channels, eps=1e-6)
        self.expand2 = nn.Conv2d(channels, twice, 1)
        self.reduce2 = nn.Conv2d(channels, channels, 1)
        self.scale2 = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Transform `x` (B, C, H, W)."""
        y = gate(self.depthwise(self.expand1(self.norm1(x))))
        y = y * self.attend(functional.adaptive_avg_pool2d(y, 1))  # SCA
        x = x + self.reduce1(y) * self.scale1
        return x + self.reduce2(gate(self.expand2(self.norm2(x)))) * self.scale2


def blocks(channels: int, number: int) -> nn.Sequential:
    """Blocks in a row."""
    return nn.Sequential(*(Block(channels) for _ in range(number)))


class NAFNet(Network):
    """The U-Net of Fig. 2c, made of these blocks.

    Args:
        config: What to build.
        name: What the network is called in weights files and tables.
    """

    def __init__(self, config: NAFNetConfig, name: str = "nafnet") -> None:
        super().__init__(config, name)
        self.config: NAFNetConfig = config
        widths = [config.width * 2**i for i in range(len(config.encoder_blocks) + 1)]
        self.first = nn.Conv2d(3, widths[0], 3, padding=1)
        self.encoders = nn.ModuleList(map(blocks, widths, config.encoder_blocks))
        self.downs = nn.ModuleList(nn.Conv2d(w, 2 * w, 2, stride=2) for w in widths[:-1])
        self.middle = blocks(widths[-1], config.middle_blocks)
        self.ups = nn.ModuleList(nn.Conv2d(w, 2 * w, 1, bias=False) for w in widths[:0:-1])
        self.decoders = nn.ModuleList(map(blocks, widths[-2::-1], config.decoder_blocks))
        self.last = nn.Conv2d(widths[0], 3, 3, padding=1)

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this: a halving for each scale."""
        return 2 ** len(self.downs)

    @property
    def peak_bytes_per_pixel(self) -> float:
        """Working memory of one float32 pass without gradients, in bytes for each pixel of the picture.

        By the growth of a fresh process at 512 x 384, 2011 with 64 channels and 1163 with 32: some eight maps of the
        finest scale.
        """
        return 32 * self.config.width + 250

    def restore(self, x: Tensor) -> list[Tensor]:
        """Restore `x` (B, 3, H, W)."""
        features, skips = self.first(x), []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skips.append(encoder(features))
            features = down(skips[-1])
        features = self.middle(features)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            features = decoder(functional.pixel_shuffle(up(features), 2) + skips.pop())
        return [self.last(features) + x]
