"""DeblurGAN: the generator of *DeblurGAN* (Kupyn et al., CVPR 2018, arXiv 1711.07064).

- A residual network at a quarter of the size: nine blocks between two strided convolutions and two transposed ones;
  what it makes is added to the blurred picture and clamped.
- The paper's blocks have two convolutions with dropout between them, and so have the published weights. Later code of
  the authors builds blocks of one convolution by mistake; `convolutions=1` is that network.
- Instance normalization takes its statistics from the picture at inference, too, as in the authors' code. So every
  pixel depends a little on the whole picture, and tiles of a large one do not agree exactly.
- Our choices: dropout is off at inference (the authors leave it on, which adds noise); convolutions before a
  normalization have no bias, as it would take the bias out again.

Spatial sizes must be multiples of 8. Values in `restore` are sRGB-encoded, [-1, 1].
"""

from dataclasses import dataclass

from torch import Tensor, nn

from unsmear.models.network import Network


@dataclass(frozen=True, kw_only=True)
class DeblurGANConfig:
    """What can be chosen about the network; the defaults are the paper's.

    Args:
        width: Channels at full size; twice as many at half of it, four times at a quarter.
        blocks: Residual blocks.
        convolutions: Convolutions in each of them, 1 or 2.
        dropout: Share of the features that training drops within them.
    """

    width: int = 64
    blocks: int = 9
    convolutions: int = 2
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.convolutions not in (1, 2):
            raise ValueError(f"convolutions must be 1 or 2, not {self.convolutions}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be 0 or more and less than 1, not {self.dropout}")
        if min(self.width, self.blocks) < 1:
            raise ValueError("width and blocks must be at least 1")


class ResidualBlock(nn.Module):
    """One or two convolutions over the reflected edge, added to what came in."""

    def __init__(self, channels: int, config: DeblurGANConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False)
        self.norm = nn.InstanceNorm2d(channels)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = None
        if config.convolutions == 2:
            self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `x` (B, C, H, W)."""
        y = self.dropout(self.norm(self.conv1(x)).relu_())
        return x + (y if self.conv2 is None else self.norm(self.conv2(y)))


class DeblurGAN(Network):
    """The generator of DeblurGAN.

    Args:
        config: What to build.
        name: What the network is called in weights files and tables.
    """

    value_range = (-1.0, 1.0)

    def __init__(self, config: DeblurGANConfig, name: str = "deblurgan") -> None:
        super().__init__(config, name)
        self.config: DeblurGANConfig = config
        w = config.width
        self.first = nn.Sequential(nn.Conv2d(3, w, 7, padding=3, padding_mode="reflect", bias=False), *_after(w))
        self.down1 = nn.Sequential(nn.Conv2d(w, 2 * w, 3, stride=2, padding=1, bias=False), *_after(2 * w))
        self.down2 = nn.Sequential(nn.Conv2d(2 * w, 4 * w, 3, stride=2, padding=1, bias=False), *_after(4 * w))
        self.blocks = nn.Sequential(*(ResidualBlock(4 * w, config) for _ in range(config.blocks)))
        self.up1 = nn.Sequential(_doubling(4 * w, 2 * w), *_after(2 * w))
        self.up2 = nn.Sequential(_doubling(2 * w, w), *_after(w))
        self.last = nn.Conv2d(w, 3, 7, padding=3, padding_mode="reflect")
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def size_multiple(self) -> int:
        """Two halvings, and a pixel to spare: the reflected edge of one pixel needs two."""
        return 8

    @property
    def peak_bytes_per_pixel(self) -> float:
        """Working memory of one float32 pass without gradients, in bytes for each pixel of the picture.

        By the growth of a fresh process's peak memory in a pass over 1280 x 736, 964: some four feature maps of full
        size.
        """
        return 16.0 * self.config.width

    def restore(self, x: Tensor) -> list[Tensor]:
        """Restore `x` (B, 3, H, W), values in [-1, 1]; one estimate of the same shape and range."""
        y = self.blocks(self.down2(self.down1(self.first(x))))
        return [(x + self.last(self.up2(self.up1(y))).tanh_()).clamp(-1, 1)]


def _after(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.InstanceNorm2d(channels), nn.ReLU(inplace=True)


def _doubling(channels: int, out: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, out, 3, stride=2, padding=1, output_padding=1, bias=False)
