"""PSS-NSC: *Dynamic Scene Deblurring With Parameter Selective Sharing and Nested Skip Connections* (Gao et al. 2019).

- SRN's cascade over a quarter, half and full size, with one half of the weights shared: those of the convolutions
  that transform features are the same at all scales and are used twice in a row, those that change size or channels
  are each scale's own.
- Its nested skip connections hand every residual unit the sum of all that came before it in its stage. Written out,
  that is what units of the ordinary kind do when chained: x + f(x), then g of that, and so on.
- It predicts the difference to the blurred picture, of every channel as a gray picture of its own.
- The paper quotes 2.84 M parameters; the graph that the authors released, which this is, has 3.87 M.

Height and width must be multiples of `size_multiple`. Values are sRGB-encoded, [0, 1].
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unsmear.models.network import Network
from unsmear.models.sampling import SameConv2d, double, halve, initialize
from unsmear.models.srn import ResidualBlock


@dataclass(frozen=True, kw_only=True)
class PSSNSCConfig:
    """What can be chosen about the network; the defaults are those of the released one.

    Args:
        widths: Channels at each of the encoder's scales, finest first.
        units: Residual units of a stage.
        repeats: How often in a row each stage is used.
    """

    widths: tuple[int, ...] = (32, 64, 128)
    units: int = 4
    repeats: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))  # JSON knows no tuples
        if not self.widths or min(self.units, self.repeats) < 1:
            raise ValueError("widths must name at least one scale, and units and repeats be at least 1")


class Changes(nn.Module):
    """The convolutions that a scale of the picture has for itself: those that change size or channels."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            nn.Sequential(SameConv2d(v, w, 3, stride), nn.ReLU(inplace=True))
            for v, w, stride in zip((2, *widths), widths, (1, *[2] * len(widths)), strict=False)
        )
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(w, v, 4, stride=2, padding=1), nn.ReLU(inplace=True))
            for w, v in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.last = SameConv2d(widths[0], 1, 3)


class PSSNSC(Network):
    """The network of Fig. 4.

    Args:
        config: What to build.
        name: What the network is called in weights files and tables.
    """

    channels = "single"
    scales = 3

    def __init__(self, config: PSSNSCConfig, name: str = "pss-nsc") -> None:
        super().__init__(config, name)
        self.config: PSSNSCConfig = config
        widths = config.widths
        self.own = nn.ModuleList(Changes(widths) for _ in range(self.scales))  # coarsest scale of the picture first
        self.encoder = nn.ModuleList(self._stage(w) for w in widths)
        self.decoder = nn.ModuleList(self._stage(w) for w in reversed(widths))
        initialize(self)
        # How the authors trained is not published. 16 units a width in a row, drawn like all else, would take pictures
        # to values of 1e5: they start as the identity.
        for unit in self.modules():
            if isinstance(unit, ResidualBlock):
                nn.init.zeros_(unit.conv2.weight)

    def _stage(self, width: int) -> nn.Sequential:
        return nn.Sequential(*(ResidualBlock(width, 3) for _ in range(self.config.units)))

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this: scales of the picture, and of the encoder."""
        return 2 ** (self.scales - 1) * 2 ** (len(self.config.widths) - 1)

    @property
    def peak_bytes_per_pixel(self) -> float:
        """Working memory of one float32 pass without gradients, in bytes for each pixel of the picture.

        By `unsmear bench`, in a fresh process with one thread, 1850 at 1280 x 720; small pictures take 100 MB to begin
        with. What is told is five and a half feature maps of the finest scale, for each of three channels.
        """
        return 4 * 5.5 * self.config.widths[0] * 3

    def restore(self, x: Tensor) -> list[Tensor]:
        """Restore `x` (3 * B, 1, H, W) at every scale, coarsest first."""
        estimates: list[Tensor] = []
        for times, own in zip(reversed(range(self.scales)), self.own, strict=True):
            blurred = halve(x, times)
            below = double(estimates[-1].detach()) if estimates else blurred
            estimates.append(self._change(own, torch.cat([blurred, below], 1)) + blurred)
        return estimates

    def _change(self, own: nn.Module, x: Tensor) -> Tensor:
        """One scale: the picture and the estimate below it in, the difference that it makes out."""
        assert isinstance(own, Changes)
        features = []
        for down, stage in zip(own.down, self.encoder, strict=True):
            x = down(x)
            for _ in range(self.config.repeats):
                x = stage(x)
            features.append(x)
        features.pop()
        for up, stage in zip((None, *own.up), self.decoder, strict=True):
            if up is not None:
                x = up(x) + features.pop()
            for _ in range(self.config.repeats):
                x = stage(x)
        return own.last(x)
