"""Restormer: *Efficient Transformer for High-Resolution Image Restoration* (Zamir et al., CVPR 2022, arXiv 2111.09881).

- A U-Net of transformer blocks. Attention is between channels (MDTA, section 3.1), so that its cost grows with the
  number of pixels and not with its square.
- The pointwise half of a block is gated by half of its own channels (GDFN, section 3.2).
- The finest decoder keeps the channels of both of its inputs, and is followed by refinement at full size.
- No convolution has a bias. The authors train with crops that grow from 128 to 384 pixels and shrinking batches; a run
  with one crop size is ours.
- At test time attention is over the whole picture or tile, as in the authors' program.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from unsmear.models.nafnet import ChannelNorm
from unsmear.models.network import Network


@dataclass(frozen=True, kw_only=True)
class RestormerConfig:
    """What can be chosen about the network; the defaults are the paper's.

    Args:
        width: Channels at the finest scale; each coarser scale has twice as many.
        blocks: Blocks at each scale of the encoder and the decoder, finest first; the last is the bottom.
        refinement_blocks: Blocks after the decoder.
        heads: Groups of channels at each scale that attend among themselves.
        expansion: Channels of the pointwise half, for each channel of the block.
    """

    width: int = 48
    blocks: tuple[int, ...] = (4, 6, 6, 8)
    refinement_blocks: int = 4
    heads: tuple[int, ...] = (1, 2, 4, 8)
    expansion: float = 2.66

    def __post_init__(self) -> None:
        for name in ("blocks", "heads"):  # JSON knows no tuples
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.blocks) != len(self.heads):
            raise ValueError("blocks and heads must name the same number of scales")
        if any(self.width * 2**i % heads for i, heads in enumerate(self.heads)):
            raise ValueError("the channels of every scale must divide into its heads")


class ChannelAttention(nn.Module):
    """Attention between channels (MDTA, Eq. 1)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.depthwise = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `x` (B, C, H, W)."""
        # (B, 3 * C, H, W) to three of (B, heads, C / heads, H * W)
        q, k, v = self.depthwise(self.qkv(x)).flatten(2).unflatten(1, (3, self.heads, -1)).unbind(1)
        likeness = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).mT
        attention = (likeness * self.temperature).softmax(-1)
        return self.project((attention @ v).flatten(1, 2).unflatten(2, x.shape[2:]))


class GatedFeedForward(nn.Module):
    """The pointwise half of a block, with a look at neighbors (GDFN, Eq. 2)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.depthwise = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.project = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `x` (B, C, H, W)."""
        gate, value = self.depthwise(self.expand(x)).chunk(2, dim=1)
        return self.project(functional.gelu(gate) * value)


class Block(nn.Module):
    """A transformer block."""

    def __init__(self, channels: int, heads: int, expansion: float) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels)
        self.attend = ChannelAttention(channels, heads)
        self.norm2 = ChannelNorm(channels)
        self.feed = GatedFeedForward(channels, int(channels * expansion))

    def forward(self, x: Tensor) -> Tensor:
        """Transform `x` (B, C, H, W)."""
        x = x + self.attend(self.norm1(x))
        return x + self.feed(self.norm2(x))


class Restormer(Network):
    """The network of Fig. 2. Lists of modules count scales from the finest.

    Args:
        config: What to build.
        name: What the network is called in weights files and tables.
    """

    def __init__(self, config: RestormerConfig, name: str = "restormer") -> None:
        super().__init__(config, name)
        self.config: RestormerConfig = config
        widths = [config.width * 2**i for i in range(len(config.blocks))]
        # The finest decoder works on twice the channels: its input is not narrowed.
        wide = [2 * widths[0], *widths[1:-1]]

        def blocks(channels: int, heads: int, number: int) -> nn.Sequential:
            return nn.Sequential(*(Block(channels, heads, config.expansion) for _ in range(number)))

        self.first = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.encoders = nn.ModuleList(map(blocks, widths, config.heads, config.blocks))
        self.downs = nn.ModuleList(nn.Conv2d(w, w // 2, 3, padding=1, bias=False) for w in widths[:-1])
        self.ups = nn.ModuleList(nn.Conv2d(w, 2 * w, 3, padding=1, bias=False) for w in widths[1:])
        self.narrow = nn.ModuleList([nn.Identity(), *(nn.Conv2d(2 * w, w, 1, bias=False) for w in widths[1:-1])])
        self.decoders = nn.ModuleList(map(blocks, wide, config.heads[:-1], config.blocks[:-1]))
        self.refinement = blocks(wide[0], config.heads[0], config.refinement_blocks)
        self.last = nn.Conv2d(wide[0], 3, 3, padding=1, bias=False)

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this: a halving between scales."""
        return 2 ** len(self.downs)

    @property
    def peak_bytes_per_pixel(self) -> float:
        """Working memory of one float32 pass without gradients, in bytes for each pixel of the picture.

        By the growth of a process from 128 x 96 to 352 x 256, 6892: the finest decoder works on 510 channels.
        """
        return 146 * self.config.width

    def restore(self, x: Tensor) -> list[Tensor]:
        """Restore `x` (B, 3, H, W)."""
        features, skips = self.first(x), []
        for encoder, down in zip(self.encoders[:-1], self.downs, strict=True):
            skips.append(encoder(features))
            features = functional.pixel_unshuffle(down(skips[-1]), 2)
        features = self.encoders[-1](features)
        for scale in reversed(range(len(skips))):
            features = torch.cat([functional.pixel_shuffle(self.ups[scale](features), 2), skips.pop()], 1)
            features = self.decoders[scale](self.narrow[scale](features))
        return [self.last(self.refinement(features)) + x]
