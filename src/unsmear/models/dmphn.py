"""DMPHN: *Deep Stacked Hierarchical Multi-Patch Network for Image Deblurring* (Zhang, Dai, Li, Koniusz, CVPR 2019).

- The base model of SAPHN: the same patch hierarchy, whose lowest level sees 4 patches (1-2-4) or 8 (1-2-4-8). Every
  level is an encoder-decoder with weights of its own, and nothing but the bottleneck joins encoder and decoder.
- Level l + 1 hands up its features, which are added to those of level l, and a picture, which is added to the blurred
  one before level l sees it. There is no way past level 1: its decoder makes the sharp picture from features alone.
- Stacked, several such networks follow each other. Each takes the output before it for its picture and adds, level by
  level, the features before it; and what level 2 hands up holds the *first* output, too, whichever stack it is in.
- Published training supervises the output of level 1 only, in stacks the outputs of all of them alike, by the mean
  squared error (here `loss="mse"` and `lower_weight=1.0`); Adam at 1e-4, crops of 256 x 256.
- The paper leaves the layers to its code, whose initialization we take over, too.

Values are sRGB-encoded, [-0.5, 0.5]. Spatial sizes must be multiples of `size_multiple`.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import prod, sqrt
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unsmear.models.convolutions import Convolution, TransposedConvolution
from unsmear.models.network import Network
from unsmear.models.patches import stitch, to_patches

WIDTHS = (32, 64, 128)
"""Channels at each scale, finest first."""

_BLOCKS = 2  # residual blocks at each scale


@dataclass(frozen=True, kw_only=True)
class DMPHNConfig:
    """What can be chosen about the network.

    Args:
        levels: Levels of the patch hierarchy, 1 to 4; level l sees 2**(l-1) patches.
        stacks: Networks that follow each other.
    """

    levels: int = 3
    stacks: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= 4:
            raise ValueError(f"levels must be 1 to 4, not {self.levels}")
        if self.stacks < 1:
            raise ValueError(f"stacks must be at least 1, not {self.stacks}")


class ResidualBlock(nn.Module):
    """Two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Convolution(channels, channels)
        self.conv2 = Convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `x` (B, C, H, W)."""
        return self.conv2(self.conv1(x, relu=True), onto=x)


class Encoder(nn.Module):
    """One level's encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            Convolution(c, w, stride=1 if c == 3 else 2) for c, w in zip((3, *WIDTHS[:-1]), WIDTHS, strict=True)
        )
        self.blocks = nn.ModuleList(nn.Sequential(*(ResidualBlock(w) for _ in range(_BLOCKS))) for w in WIDTHS)

    def forward(self, x: Tensor) -> Tensor:
        """Encode a picture (B, 3, H, W); returns (B, 128, H / 4, W / 4)."""
        for down, blocks in zip(self.down, self.blocks, strict=True):
            x = down(x)
            for block in cast(nn.Sequential, blocks):  # called one by one, so that none of their inputs is kept
                x = block(x)
        return x


class Decoder(nn.Module):
    """One level's decoder."""

    def __init__(self) -> None:
        super().__init__()
        widths = WIDTHS[::-1]
        self.blocks = nn.ModuleList(nn.Sequential(*(ResidualBlock(w) for _ in range(_BLOCKS))) for w in widths)
        self.up = nn.ModuleList(TransposedConvolution(w, v) for w, v in pairwise(widths))
        self.last = Convolution(widths[-1], 3)

    def forward(self, x: Tensor) -> Tensor:
        """Decode features (B, 128, H / 4, W / 4); returns a picture (B, 3, H, W)."""
        for i, blocks in enumerate(self.blocks):
            if i > 0:
                x = self.up[i - 1](x)
            for block in cast(nn.Sequential, blocks):
                x = block(x)
        return self.last(x)


class Hierarchy(nn.Module):
    """One network of a stack; `encoders[l-1]` and `decoders[l-1]` are those of level l."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(Encoder() for _ in range(levels))
        self.decoders = nn.ModuleList(Decoder() for _ in range(levels))


class DMPHN(Network):
    """The network, or several of them stacked.

    Args:
        config: What to build.
        name: What the network is called in weights files and tables.
    """

    value_range = (-0.5, 0.5)
    # The borders between patches move with the picture, so a tile differs from the whole picture everywhere: by less
    # than a gray level in the mean, but by many at the tile's rim and along its own borders between patches.
    tile_overlap = 256

    def __init__(self, config: DMPHNConfig, name: str = "dmphn") -> None:
        super().__init__(config, name)
        self.config: DMPHNConfig = config
        self.stacks = nn.ModuleList(Hierarchy(config.levels) for _ in range(config.stacks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=sqrt(0.5 / (module.out_channels * prod(module.kernel_size))))
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this: halvings of the picture, and of each patch."""
        return 2 ** (self.config.levels // 2) * 2 ** (len(WIDTHS) - 1)

    @property
    def peak_bytes_per_pixel(self) -> float:
        """Working memory of one float32 pass without gradients, in bytes for each pixel of the picture.

        By `unsmear bench`, which measures it in a fresh process, 830 for `dmphn`, 880 for `dmphn-8` and 1080 for
        `dmphn-stack4` at 1280 x 720. What is told is eight feature maps of the finest scale, though a block needs
        three, as the allocator keeps some; and what stacks hand on.
        """
        handed_on = self.config.levels * WIDTHS[-1] // 16 + 3 * self.config.stacks
        return 4 * (8 * WIDTHS[0] + (handed_on if self.config.stacks > 1 else 0))

    def restore(self, x: Tensor) -> list[Tensor]:
        """Restore `x` (B, 3, H, W); returns the output of every stack."""
        outputs: list[Tensor] = []
        # Features by level: those of this stack or, until it has any, of the one before.
        newest: dict[int, Tensor] = {}
        for stack in cast(list[Hierarchy], self.stacks):
            seen = picture = outputs[-1] if outputs else x
            for level in range(self.config.levels, 0, -1):
                features = self._run(stack.encoders[level - 1], to_patches(seen, level))
                if level < self.config.levels:
                    features = features + stitch(newest[level + 1], level + 1)
                if outputs:
                    features = features + newest[level]
                newest[level] = features
                if level > 1:  # the decoder sees the patches of the level above
                    features = stitch(features, level)
                residual = self._run(stack.decoders[level - 1], features)
                for above in range(level - 1, 1, -1):
                    residual = stitch(residual, above)
                if level == 2 and outputs:
                    residual = residual + outputs[0]
                seen = picture + residual if level > 1 else residual
            outputs.append(seen)
        return outputs

    def _run(self, part: nn.Module, x: Tensor) -> Tensor:
        if self.checkpoint_activations and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(part, x, use_reentrant=False))
        return part(x)
