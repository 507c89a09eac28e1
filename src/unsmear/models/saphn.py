"""SAPHN: the network of *Adaptive Single Image Deblurring* (Suin, Purohit, Rajagopalan, arXiv 2201.00155).

- A patch hierarchy: the lowest level sees the picture as 4 patches, the next as 2 halves, level 1 whole. Every
  level is an encoder-decoder with its own weights, and hands its estimate and its features to the next.
- Every residual block holds a content-aware module (section 2.2) between its two convolutions: global attention
  beside pixel-dependent filtering, fused by a sum (Eq. 8). Decoder blocks also attend to the encoder.
- The paper leaves open: scales and widths (here those of its base model DMPHN, 32/64/128), activations (one ReLU a
  block), the number of attention maps (half the channels), what is queried in cross attention (maps from the
  consumer, features from the source), and where levels meet (at the coarsest scale).
- Our choices: every content-aware module starts as the identity, and the network as the identity map, by way of a
  residual from each level's input to its estimate (`residual=False` gives the base model's form without it); the
  small preset works on a 2 x 2 pixel-unshuffled picture with depthwise filters and thin lower levels.

Spatial sizes must be multiples of `size_multiple`. Values in and out are sRGB-encoded, [0, 1].
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from unsmear.models.blind_deconvolution import FAR, BlindDeconvolution, FilterMixture
from unsmear.models.convolutions import Convolution, TransposedConvolution
from unsmear.models.network import Network
from unsmear.models.patches import stitch, to_patches
from unsmear.ops import distribute_descriptors, gate_descriptors, gather_descriptors, pixel_dependent_filter
from unsmear.ops.dispatch import takes_kernels
from unsmear.process import give_back_freed

_LARGE = 2**20  # values of a picture: smaller passes leave little behind
_TILE_SIDE = 512  # pixels: in less, attention does not tell one place the blur that another one shows (docs/tiling.md)


@dataclass(frozen=True, kw_only=True)
class SAPHNConfig:
    """What can be chosen about the network; the defaults are the paper's.

    Args:
        widths: Channels at each scale of level 1, finest first; their number is the paper's N.
        lower_widths: The same for levels 2 and up; None for the widths of level 1.
        encoder_blocks: Residual blocks at each encoder scale, the paper's M.
        decoder_blocks: Residual blocks at each decoder scale, the paper's P.
        levels: Levels of the patch hierarchy, 1 to 4; level l sees 2**(l-1) patches.
        channels_per_map: Channels for each attention map: C2 = C / channels_per_map.
        kernel_size: Side of the pixel-dependent filters.
        filters: "full" (C x C filters, the paper) or "depthwise" (one filter a channel).
        attention: Whether content-aware modules have the global branch.
        cross_attention: Whether decoder blocks attend to the encoder.
        filtering: Whether content-aware modules have the local branch.
        merge: How lower-level features enter: by cross-level "attention" (the paper), or "add+attention".
        attention_kernel: Side of the convolutions that make attention maps.
        generator_kernel: Side of the convolution that makes kernel maps.
        bounded_kernels: Whether kernel maps are kept between 0 and 2 by a sigmoid. Without it Eq. 7 multiplies
            features by a linear map of themselves, and training diverged at learning rates of 1e-3.
        unshuffle: Side of the pixel blocks folded into channels before the network; 1 for none.
        residual: Whether every level predicts the difference to its input.
        skips: Whether decoders add the encoder's features of their scale, each channel by a learned factor. In the
            paper only attention and the coarsest scale join the two.
        filter_basis: Filters of `blind_deconvolution` that are mixed at every pixel, before the first level and by
            every level beside what it predicts; 0 for none, as in the paper.
        blind_filters: Filters that are mixed before the first level, if any are; 0 for as many as by levels.
        blind_colors: Whether these filter each color by itself, at full size between values and light, not luma alone.
    """

    widths: tuple[int, ...] = (32, 64, 128)
    lower_widths: tuple[int, ...] | None = None
    encoder_blocks: int = 2
    decoder_blocks: int = 2
    levels: int = 3
    channels_per_map: int = 2
    kernel_size: int = 5
    filters: Literal["full", "depthwise"] = "full"
    attention: bool = True
    cross_attention: bool = True
    filtering: bool = True
    merge: Literal["attention", "add+attention"] = "attention"
    attention_kernel: int = 1
    generator_kernel: int = 3
    bounded_kernels: bool = True
    unshuffle: int = 1
    residual: bool = True
    skips: bool = False
    filter_basis: int = 0
    blind_filters: int = 0
    blind_colors: bool = False

    def __post_init__(self) -> None:
        for name in ("widths", "lower_widths"):  # JSON knows no tuples
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        if not 1 <= self.levels <= 4:
            raise ValueError(f"levels must be 1 to 4, not {self.levels}")
        if self.lower_widths is not None and len(self.lower_widths) != len(self.widths):
            raise ValueError("lower_widths must name as many scales as widths")
        if min(self.widths + (self.lower_widths or ())) < self.channels_per_map:
            raise ValueError("every width must hold at least one attention map: lower channels_per_map")
        for name in ("kernel_size", "attention_kernel", "generator_kernel"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd, not {getattr(self, name)}")
        if self.filters not in ("full", "depthwise"):
            raise ValueError(f"filters must be 'full' or 'depthwise', not {self.filters!r}")
        if self.merge not in ("attention", "add+attention"):
            raise ValueError(f"merge must be 'attention' or 'add+attention', not {self.merge!r}")
        if self.filter_basis and not (self.residual and self.unshuffle in (1, 2, 4, 8)):
            raise ValueError("filter_basis needs residual=True and unshuffle 1, 2, 4 or 8")
        if 0 < self.blind_filters < self.filter_basis:
            raise ValueError("blind_filters must be 0, or at least filter_basis")
        if self.merge == "add+attention" and self.lower_widths not in (None, self.widths):
            raise ValueError("merge='add+attention' needs equal widths at all levels")

    @property
    def scale(self) -> int:
        """Pixels of the picture to one of the coarsest scale, along each side."""
        return 2 ** (len(self.widths) - 1) * self.unshuffle

    def level_widths(self, level: int) -> tuple[int, ...]:
        """Channels at each scale of one level (1 is the level that sees the whole picture)."""
        return self.widths if level == 1 or self.lower_widths is None else self.lower_widths


class Attention(nn.Module):
    """Global attention of `x` to the features of `source` (section 2.1), which may be `x` itself."""

    def __init__(self, channels: int, source_channels: int, config: SAPHNConfig) -> None:
        super().__init__()
        maps, k = channels // config.channels_per_map, config.attention_kernel
        self.gather = nn.Conv2d(channels, maps, k, padding=k // 2)  # f_q
        self.distribute = nn.Conv2d(channels, maps, k, padding=k // 2)  # f_p
        self.gate = nn.Linear(source_channels, source_channels)  # f_m2
        self.project = nn.Linear(source_channels, channels, bias=False)
        nn.init.zeros_(self.project.weight)

    def forward(self, x: Tensor, source: Tensor, onto: Tensor, overwrite: bool = False) -> Tensor:
        """Attend from `x` (B, C, H, W) to `source` (B, C', H, W); returns (B, C, H, W), added to `onto`."""
        descriptors = gather_descriptors(x, source, self.gather.weight, self.gather.bias)  # Eqs. 1-2
        descriptors = gate_descriptors(descriptors, self.gate.weight, self.gate.bias)  # Eqs. 3-4
        # A learned projection undoes the weakness of Eq. 6's average. It commutes with the distribution, so it
        # is applied to the few descriptors rather than to every pixel.
        descriptors = self.project(descriptors.to(x.dtype)) * descriptors.shape[1]
        maps = self.distribute
        return distribute_descriptors(descriptors, x, maps.weight, maps.bias, onto, overwrite=overwrite)  # Eqs. 5-6


class PixelDependentFilter(nn.Module):
    """A learned filter, modulated at every pixel by a kernel made from the features there (section 2.2)."""

    def __init__(self, channels: int, config: SAPHNConfig) -> None:
        super().__init__()
        k, s, depthwise = config.kernel_size, config.generator_kernel, config.filters == "depthwise"
        self.bounded = config.bounded_kernels
        self.generate = nn.Conv2d(channels, k**2, s, padding=s // 2)
        self.weight = nn.Parameter(torch.empty(channels, 1 if depthwise else channels, k, k))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.zeros_(self.generate.weight)  # K = 1 before training: 2 * sigmoid(0), or the bias
        nn.init.constant_(self.generate.bias, 0.0 if self.bounded else 1.0)  # type: ignore[arg-type]
        nn.init.dirac_(self.weight, groups=channels if depthwise else 1)

    def forward(self, x: Tensor) -> Tensor:
        """Filter `x` (B, C, H, W) by Eq. 7."""
        generator, bias = self.generate.weight, self.generate.bias
        return pixel_dependent_filter(x, generator, bias, self.weight, self.bias, bounded=self.bounded)


class ContentAwareModule(nn.Module):
    """The two branches of section 2.2, fused by Eq. 8; the identity before training."""

    def __init__(self, channels: int, config: SAPHNConfig, decoder: bool) -> None:
        super().__init__()
        cross = decoder and config.cross_attention
        self.attend_self = Attention(channels, channels, config) if config.attention else None
        self.attend_encoder = Attention(channels, channels, config) if cross else None
        self.filter = PixelDependentFilter(channels, config) if config.filtering else None

    def forward(self, x: Tensor, encoded: Tensor | None) -> Tensor:
        """Process `x` (B, C, H, W), in the decoder with the encoder's features of the same shape."""
        y = x if self.filter is None else self.filter(x)  # x_dyn
        if self.attend_self is not None:
            y = self.attend_self(x, x, onto=y, overwrite=y is not x)  # Eq. 8: x_GL = x_att + x_dyn
        if self.attend_encoder is not None and encoded is not None:
            y = self.attend_encoder(x, encoded, onto=y, overwrite=y is not x)
        return y


class ResidualBlock(nn.Module):
    """Convolution, content-aware module, convolution."""

    def __init__(self, channels: int, config: SAPHNConfig, decoder: bool = False) -> None:
        super().__init__()
        self.conv1 = Convolution(channels, channels)
        self.module = ContentAwareModule(channels, config, decoder)
        self.conv2 = Convolution(channels, channels)

    def forward(self, x: Tensor, encoded: Tensor | None = None) -> Tensor:
        """Transform `x` (B, C, H, W)."""
        return self.conv2(self.module(self.conv1(x, relu=True), encoded), onto=x)


class Encoder(nn.Module):
    """One level's encoder: M residual blocks at each of N scales."""

    def __init__(self, widths: tuple[int, ...], config: SAPHNConfig) -> None:
        super().__init__()
        previous = (3 * config.unshuffle**2, *widths[:-1])
        self.down = nn.ModuleList(
            Convolution(p, w, stride=1 if i == 0 else 2) for i, (p, w) in enumerate(zip(previous, widths, strict=True))
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(w, config) for _ in range(config.encoder_blocks))) for w in widths
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Encode `x`; returns the features of every scale, finest first."""
        features = []
        for down, blocks in zip(self.down, self.blocks, strict=True):
            x = down(x)
            for block in blocks:  # type: ignore[union-attr]
                x = block(x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """One level's decoder: P residual blocks at each scale, attending to the encoder; ends in a picture."""

    def __init__(self, widths: tuple[int, ...], config: SAPHNConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList(ResidualBlock(w, config, decoder=True) for _ in range(config.decoder_blocks))
            for w in reversed(widths)
        )
        self.up = nn.ModuleList(TransposedConvolution(w, v) for w, v in zip(widths[:0:-1], widths[-2::-1], strict=True))
        factors = (nn.Parameter(torch.ones(w, 1, 1)) for w in widths[-2::-1])
        self.skips = nn.ParameterList(factors) if config.skips else None
        # The picture's difference, then what to mix the filters with.
        self.last = Convolution(widths[0], 3 * config.unshuffle**2 + config.filter_basis)
        if config.residual:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, features: list[Tensor]) -> Tensor:
        """Decode the features of every scale, finest first; takes them off the list, to free memory as it goes."""
        x = features[-1]
        for i, blocks in enumerate(self.blocks):
            encoded = features.pop()
            if i > 0:
                x = self.up[i - 1](x)
                if self.skips is not None:
                    x = x.addcmul_(encoded, self.skips[i - 1])  # in place, like the sum of a residual block
            for block in blocks:  # type: ignore[union-attr]
                x = block(x, encoded)
        return self.last(x)


class SAPHN(Network):
    """The patch-hierarchical network of Fig. 1.

    Args:
        config: What to build.
        name: What the network is called in weights files and tables.
    """

    def __init__(self, config: SAPHNConfig, name: str = "saphn") -> None:
        super().__init__(config, name)
        self.config: SAPHNConfig = config
        widths = [config.level_widths(level) for level in range(1, config.levels + 1)]
        self.encoders = nn.ModuleList(Encoder(w, config) for w in widths)
        self.decoders = nn.ModuleList(Decoder(w, config) for w in widths)
        self.blind, self.mixture = None, FilterMixture()
        if config.filter_basis:
            shared, fold, colors = config.filter_basis, config.unshuffle, config.blind_colors
            count, coarsest = config.blind_filters or shared, [w[-1] for w in widths]
            self.blind = BlindDeconvolution(count, shared, coarsest, fold, colors=colors)
            self.tile_side = _TILE_SIDE
        self.merges = nn.ModuleList(  # merges[l-1] brings the features of level l+1 into level l
            Attention(upper[-1], lower[-1], config) for upper, lower in pairwise(widths)
        )

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this: halvings, scales, pixel blocks, and where blur is estimated."""
        own = 2 ** (self.config.levels // 2) * self.config.scale
        return own if self.blind is None else math.lcm(own, FAR)

    @property
    def peak_bytes_per_pixel(self) -> float:
        """Working memory of one float32 pass without gradients, in bytes for each pixel of the picture.

        On processors some 800 for `saphn` and 170 to 270 for `saphn-s`, at 1280 x 720 and in tiles of pictures of 6 and
        24 megapixels (benchmarks/README.md, docs/tiling.md); up to 1,080 and 320 when plain PyTorch made all of it and
        kept what every filter of the basis gives. What is told is seven feature maps of the finest scale and a kernel
        map, beside the estimates, of which two or three maps are room for that and for what the allocator keeps.
        """
        features = 4 * (7 * self.config.widths[0] + self.config.kernel_size**2) / self.config.unshuffle**2
        return features + 80

    def forward(self, x: Tensor) -> Tensor:
        """Deblur `x` (B, 3, H, W), values in [0, 1]; returns the same shape, not clamped."""
        [last] = deque(self._estimates(x), maxlen=1)  # what came before is freed on the way
        return self._unfold(last)

    def estimates(self, x: Tensor) -> list[Tensor]:
        """The estimates of all levels (B, 3, H, W), lowest level first, the network's output last.

        With a filter basis, what the blind deconvolution gives comes before them. Training may supervise all of them;
        the difference of each to the one before is that level's residual.
        """
        return [self._unfold(estimate) for estimate in self._estimates(x)]

    # A pixel shuffle and the reverse, which PyTorch's own take three times as long for with channels-last memory.

    def _fold(self, x: Tensor) -> Tensor:
        fold = self.config.unshuffle
        blocks = x.unflatten(3, (-1, fold)).unflatten(2, (-1, fold)).permute(0, 2, 4, 1, 3, 5)
        return blocks.flatten(3).permute(0, 3, 1, 2)

    def _unfold(self, estimate: Tensor) -> Tensor:
        fold = self.config.unshuffle
        batch, _, height, width = estimate.shape
        blocks = (estimate + 0.5).reshape(batch, 3, fold, fold, height, width).permute(0, 1, 4, 2, 5, 3)
        return blocks.reshape(batch, 3, height * fold, width * fold)

    def _estimates(self, x: Tensor) -> Iterator[Tensor]:
        # The base model works on values around zero. Nothing is kept longer than needed, so that little is alive at
        # level 1, which needs most memory.
        change, bank, told = (None, None, []) if self.blind is None else self.blind(x)
        estimate = self._fold(x - 0.5 if change is None else (x + change).sub_(0.5))
        if change is not None:
            del change
            yield estimate
        blurred = None if self.config.residual else estimate
        lower: Tensor | None = None
        large = takes_kernels(x) and not torch.is_grad_enabled() and x.numel() >= _LARGE
        for level in range(self.config.levels, 0, -1):
            if large:
                give_back_freed()
            features = self._encode(level, to_patches(estimate, level))
            if lower is not None:
                sum_so_far = features[-1] + lower if self.config.merge == "add+attention" else features[-1]
                features[-1] = self.merges[level - 1](features[-1], lower, onto=sum_so_far)
                del sum_so_far
            if level > 1:  # the decoder sees the patches of the level above
                features = [stitch(f, level) for f in features]
            if told:
                coarsest = x.shape[2] // self.config.scale, x.shape[3] // self.config.scale
                everywhere = functional.interpolate(told.pop(), size=coarsest, mode="bilinear")
                features[-1] = features[-1] + to_patches(everywhere, max(1, level - 1))
                del everywhere
            lower = features[-1] if level > 1 else None
            residual = self._decode(level, features)
            for above in range(level - 1, 1, -1):
                residual = stitch(residual, above)
            if bank is not None:
                count = self.config.filter_basis
                weights, own = residual.split([count, residual.shape[1] - count], 1)
                residual = self.mixture(bank, weights, own)
                del weights, own  # views of what the decoder gave
            if blurred is None:
                estimate = estimate + residual
            elif level > 1:  # the base model: lower levels correct the blurred picture, level 1 makes the sharp one
                estimate = blurred + residual
            else:
                estimate = residual
            del residual
            yield estimate

    def _encode(self, level: int, x: Tensor) -> list[Tensor]:
        encoder = self.encoders[level - 1]
        if self.checkpoint_activations and torch.is_grad_enabled():
            return cast(list[Tensor], checkpoint(encoder, x, use_reentrant=False))
        return encoder(x)

    def _decode(self, level: int, features: list[Tensor]) -> Tensor:
        decoder = self.decoders[level - 1]
        if self.checkpoint_activations and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(lambda *inputs: decoder(list(inputs)), *features, use_reentrant=False))
        return decoder(features)
