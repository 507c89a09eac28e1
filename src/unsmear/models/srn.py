"""SRN: *Scale-recurrent Network for Deep Image Deblurring* (Tao, Gao, Shen, Wang, Jia, CVPR 2018, arXiv 1802.01770).

- One encoder-decoder restores a picture at a quarter, half and full size with the same weights. Each scale sees the
  blurred picture beside the estimate of the scale below; a ConvLSTM at the bottleneck carries features upwards.
- The published network restores every channel as a gray picture; `color=True` takes the three at once, which avoids
  colored ringing. The authors' color network has no ConvLSTM, nor has their third, gray one (`lstm=False`).
- The paper leaves open how pictures are resized, and where gradients stop. The authors' program answers: bilinearly
  without a blur, on grids that share their first pixel; and between the scales of the picture, not of the state.
- It makes the picture itself, not a change to it. Close to white bfloat16 has one value for each gray level, so it
  computes in float32.

Height and width must be multiples of `size_multiple`. Values are sRGB-encoded, [0, 1].
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from unsmear.models.network import Network
from unsmear.models.sampling import SameConv2d, double, halve, initialize


@dataclass(frozen=True, kw_only=True)
class SRNConfig:
    """What can be chosen about the network; the defaults are the paper's.

    Args:
        widths: Channels at each of the encoder's scales, finest first.
        blocks: Residual blocks at each scale, in the encoder and in the decoder.
        kernel: Side of the convolutions, odd.
        lstm: Whether features go from one scale of the picture to the next by a ConvLSTM.
        color: Whether the three channels are restored together.
    """

    widths: tuple[int, ...] = (32, 64, 128)
    blocks: int = 3
    kernel: int = 5
    lstm: bool = True
    color: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))  # JSON knows no tuples
        if not self.widths or self.blocks < 1:
            raise ValueError("widths must name at least one scale, and blocks be at least 1")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, not {self.kernel}")


class ResidualBlock(nn.Module):
    """Two convolutions with a ReLU between them, added to what came in."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = SameConv2d(channels, channels, kernel)
        self.conv2 = SameConv2d(channels, channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `x` (B, C, H, W)."""
        return self.conv2(self.conv1(x).relu_()).add_(x)


class ConvLSTM(nn.Module):
    """A long short-term memory whose products are 3 x 3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = SameConv2d(2 * channels, 4 * channels, 3)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Take in `x` (B, C, H, W).

        Args:
            x: Features of this scale.
            state: Memory and output of the scale below at the size of `x`; None at the lowest.

        Returns:
            Memory and output, both as `x`.
        """
        memory, output = (torch.zeros_like(x),) * 2 if state is None else state
        admit, new, keep, show = self.gates(torch.cat([x, output], 1)).chunk(4, 1)
        memory = memory * (keep + 1).sigmoid() + admit.sigmoid() * new.tanh()  # 1: at first it forgets little
        return memory, memory.tanh() * show.sigmoid()


class SRN(Network):
    """The scale-recurrent network of Fig. 3.

    Args:
        config: What to build.
        name: What the network is called in weights files and tables.
    """

    half_precision = False
    scales = 3

    def __init__(self, config: SRNConfig, name: str = "srn") -> None:
        super().__init__(config, name)
        self.config: SRNConfig = config
        self.channels = "color" if config.color else "single"
        widths, k = config.widths, config.kernel
        pictures = 3 if config.color else 1

        def blocks(width: int) -> list[nn.Module]:
            return [ResidualBlock(width, k) for _ in range(config.blocks)]

        self.encoder = nn.ModuleList(
            nn.Sequential(SameConv2d(v, w, k, stride), nn.ReLU(inplace=True), *blocks(w))
            for v, w, stride in zip((2 * pictures, *widths), widths, (1, *[2] * len(widths)), strict=False)
        )
        self.lstm = ConvLSTM(widths[-1]) if config.lstm else None
        self.decoder = nn.ModuleList(  # coarsest first; each but the last doubles
            nn.Sequential(*blocks(w), nn.ConvTranspose2d(w, v, 4, stride=2, padding=1), nn.ReLU(inplace=True))
            for w, v in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.decoder.append(nn.Sequential(*blocks(widths[0]), SameConv2d(widths[0], pictures, k)))
        initialize(self)
        if self.lstm is not None:
            nn.init.trunc_normal_(self.lstm.gates.weight, std=1e-3, a=-2e-3, b=2e-3)

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this: scales of the picture, and of the encoder."""
        return 2 ** (self.scales - 1) * 2 ** (len(self.config.widths) - 1)

    @property
    def peak_bytes_per_pixel(self) -> float:
        """Working memory of one float32 pass without gradients, in bytes for each pixel of the picture.

        By `unsmear bench`, in a fresh process with one thread, 2310 for `srn` and 760 for `srn-color` at 1280 x 720;
        small pictures take 100 to 200 MB to begin with. What is told is six and a half feature maps of the finest
        scale, for each of three channels where they are restored apart.
        """
        return 4 * 6.5 * self.config.widths[0] * (1 if self.config.color else 3)

    def restore(self, x: Tensor) -> list[Tensor]:
        """Restore `x` (B, C, H, W) at every scale, coarsest first."""
        estimates: list[Tensor] = []
        state: tuple[Tensor, Tensor] | None = None
        for times in reversed(range(self.scales)):
            blurred = halve(x, times)
            below = double(estimates[-1].detach()) if estimates else blurred
            if state is not None:
                state = double(state[0]), double(state[1])
            estimate, state = self._pass(torch.cat([blurred, below], 1), state)
            estimates.append(estimate)
        return estimates

    def _pass(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """One scale: the picture and the estimate below it in, its estimate out."""
        features = []
        for stage in self.encoder:
            x = stage(x)
            features.append(x)
        x = features.pop()
        if self.lstm is not None:
            state = cast(tuple[Tensor, Tensor], self.lstm(x, state))
            x = state[1]
        for stage in self.decoder:
            x = stage(x)
            if features:
                x = x + features.pop()
        return x, state
