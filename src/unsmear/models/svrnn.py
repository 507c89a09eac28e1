"""SVRNN: *Dynamic Scene Deblurring Using Spatially Variant Recurrent Neural Networks* (Zhang et al., CVPR 2018).

- Four recurrent layers in a row, at half size, each run over the picture to the right, left, down and up. Each pixel
  of each channel has a factor of its own that says how much of the past it keeps:
  h_t = p_t h_(t-1) + (1 - p_t) x_t. The reach of such a filter is the picture's, for a few products a pixel.
- A guidance network in the form of VGG makes all factors from the picture, by a tanh: 16 maps of 32 channels.
- The paper leaves open the widths, the slope of the leaky ReLUs (0.1) and the resizing, on grids that share their
  first pixel with zeros beyond the last; all from the authors' network description. The input is not added to the
  output.
- Where factors are close to 1 or -1, hundreds of steps of 16 bits would lose what they carry: it computes in float32.

Height and width must be multiples of `size_multiple`. Values are sRGB-encoded, [0, 1].
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from unsmear.models.network import Network
from unsmear.models.sampling import double, initialize

DIRECTIONS = (
    (3, False),
    (3, True),
    (2, False),
    (2, True),
)  # right, left, down, up: the axis, and whether it is reversed


@dataclass(frozen=True, kw_only=True)
class SVRNNConfig:
    """What can be chosen about the network; the defaults are the paper's.

    Args:
        width: Channels of the recurrent layers.
        layers: Number of recurrent layers.
        guidance: Channels of the guidance network at its four scales, finest first.
    """

    width: int = 32
    layers: int = 4
    guidance: tuple[int, int, int, int] = (64, 128, 256, 512)

    def __post_init__(self) -> None:
        object.__setattr__(self, "guidance", tuple(self.guidance))  # JSON knows no tuples
        if len(self.guidance) != 4 or min(self.guidance) < 1:
            raise ValueError(f"guidance must be four widths, not {self.guidance}")
        if self.width < 2 or self.layers < 1:
            raise ValueError("width must be at least 2, and layers at least 1")


def scan(x: Tensor, factors: Tensor, dim: int, reverse: bool = False) -> Tensor:
    """Run the recurrence h_t = p_t h_(t-1) + (1 - p_t) x_t along one axis, from h = 0 before the first step.

    Differentiable once. A step is one operation over all the other axes.

    Args:
        x: Features (B, C, H, W); 16-bit ones are computed in float32.
        factors: p for each of them, the same shape, between -1 and 1.
        dim: The axis.
        reverse: Whether to begin at its end.

    Returns:
        All h (B, C, H, W).
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, factors.dtype), torch.float32)
    return _Scan.apply(x.to(dtype), factors.to(dtype), dim, reverse)  # pyright: ignore[reportReturnType]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factors: Tensor, dim: int, reverse: bool) -> Tensor:
        h = torch.addcmul(x, factors, x, value=-1)
        order = slice(None, None, -1 if reverse else 1)
        steps, keep = h.unbind(dim)[order], factors.unbind(dim)[order]
        if h.is_meta:  # where nothing is computed, hundreds of steps only take time
            steps = ()
        for before, now, p in zip(steps, steps[1:], keep[1:], strict=False):
            now.addcmul_(p, before)
        ctx.save_for_backward(x, factors, h)
        ctx.dim, ctx.order = dim, order
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, factors, h = ctx.saved_tensors
        # The same recurrence from the other end: what a step passes on came through the factor of the next.
        total = grad.clone()
        steps, keep = total.unbind(ctx.dim)[ctx.order][::-1], factors.unbind(ctx.dim)[ctx.order][::-1]
        for after, now, p in zip(steps, steps[1:], keep, strict=False):
            now.addcmul_(p, after)
        past, length = -x, x.shape[ctx.dim] - 1  # h_(t-1) - x_t
        first = ctx.order.step > 0
        past.narrow(ctx.dim, int(first), length).add_(h.narrow(ctx.dim, int(not first), length))
        return torch.addcmul(total, factors, total, value=-1), past.mul_(total), None, None


class Recurrent(nn.Module):
    """A recurrent layer: four directions, and a convolution that mixes them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(len(DIRECTIONS) * width, width, 3, padding=1)

    def forward(self, x: Tensor, factors: Tensor) -> Tensor:
        """Run over `x` (B, C, H, W) with `factors` (B, 4 * C, H, W), one group for each direction."""
        groups = factors.chunk(len(DIRECTIONS), 1)
        runs = [scan(x, p, dim, reverse) for p, (dim, reverse) in zip(groups, DIRECTIONS, strict=True)]
        return _leaky(self.mix(torch.cat(runs, 1)))


class Guidance(nn.Module):
    """The network that makes the factors: VGG to an eighth of the size, and back to a half."""

    def __init__(self, widths: tuple[int, int, int, int], factors: int) -> None:
        super().__init__()
        a, b, c, d = widths

        def convs(*channels: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(v, w, 3, padding=1) for v, w in pairwise(channels))

        self.scale1 = convs(3, a, a)
        self.scale2 = convs(a, b, b)
        self.scale4 = convs(b, c, c, c)
        self.scale8 = convs(c, d, d, c)
        self.to_scale2 = convs(2 * c, b, b)
        self.to_factors = convs(2 * b, c, factors)

    def forward(self, x: Tensor) -> Tensor:
        """Make the factors, between -1 and 1, for a picture (B, 3, H, W); returns (B, factors, H / 2, W / 2)."""
        half = _chain(self.scale2, functional.max_pool2d(_chain(self.scale1, x), 2))
        quarter = _chain(self.scale4[:2], functional.max_pool2d(half, 2))  # the layer after it is for the eighth only
        x = functional.max_pool2d(_chain(self.scale4[2:], quarter), 2)
        x = torch.cat([quarter, double(_chain(self.scale8, x), "zero")], 1)
        x = torch.cat([half, double(_chain(self.to_scale2, x), "zero")], 1)
        return self.to_factors[1](_chain(self.to_factors[:1], x)).tanh_()


class SVRNN(Network):
    """The network of Fig. 2.

    Args:
        config: What to build.
        name: What the network is called in weights files and tables.
    """

    half_precision = False

    def __init__(self, config: SVRNNConfig, name: str = "svrnn") -> None:
        super().__init__(config, name)
        self.config: SVRNNConfig = config
        width = config.width
        self.first = nn.Conv2d(3, width // 2, 11, padding=5)
        self.down = nn.Conv2d(width // 2, width, 7, stride=2, padding=3)
        self.guidance = Guidance(config.guidance, config.layers * len(DIRECTIONS) * width)
        self.layers = nn.ModuleList(Recurrent(width) for _ in range(config.layers))
        self.up = nn.Conv2d(2 * width, width // 2, 9, padding=4)
        self.last = nn.Conv2d(width // 2 * 2, 3, 5, padding=2)
        initialize(self)

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this: three halvings of the guidance network."""
        return 8

    @property
    def peak_bytes_per_pixel(self) -> float:
        """Working memory of one float32 pass without gradients, in bytes for each pixel of the picture.

        By `unsmear bench`, in a fresh process with one thread, 1360 at 1280 x 720. What is told is all factors, at half
        size, and four maps of the guidance network at full size.
        """
        factors = self.config.layers * len(DIRECTIONS) * self.config.width
        return 4 * (factors / 4 + 4 * self.config.guidance[0])

    def restore(self, x: Tensor) -> list[Tensor]:
        """Restore `x` (B, 3, H, W); returns the output alone."""
        factors = self.guidance(x).chunk(self.config.layers, 1)
        full = _leaky(self.first(x))
        x = half = self.down(full)
        for layer, part in zip(self.layers, factors, strict=True):
            x = layer(x, part)
        x = _leaky(self.up(torch.cat([half, x], 1)))
        return [self.last(torch.cat([full, double(x, "zero")], 1))]


def _leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu_(x, 0.1)


def _chain(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """Convolutions, each with its ReLU."""
    for layer in layers:
        x = layer(x).relu_()
    return x
