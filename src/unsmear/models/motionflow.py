"""Motion flow: *From Motion Blur to Motion Flow* (Gong et al., CVPR 2017).

- A convolutional network reads the motion of every pixel from the blurred picture, as one of 39 classes for the motion
  to the right (0 to 38 pixels) and one of 73 for the motion down (-36 to 36). A line and its reverse blur alike, so
  half of the directions are enough. A non-blind deconvolution then undoes just that blur.
- Layers are those of the network the authors released: 5 convolutions (7, 5, 3, 3, 3 wide; 96, 256, 512, 512, 1024
  channels), 4 poolings by maxima, and class scores at 1/16, 1/8 and 1/4 of the size, each enlarged bilinearly and added
  to the next. Its 112 scores are split after 39; that these stand for 0 to 38 and -36 to 36 is our reading.
- The authors take the class of the highest score; here the motion is the mean of the classes, weighted by their
  probabilities, and gradients pass through the deconvolution. So pictures train it, like every other network; the
  authors trained it with known motion. In training the deconvolution is a milder one, at three sizes: the error of
  the full one falls only close to the right motion, and on the way there are hills.
- Ours, too: zero padding in every convolution instead of 30 pixels around the picture; values around zero in the first
  layer; no fixed factors before the scores of finer scales (0.01 and 0.0001, made for values up to 255); and class
  scores that start with motion of a pixel or two, from which training can grow it.
- The authors' deconvolution has a learned prior of patches (EPLL); here a sparse prior of gradients.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from unsmear.models.network import Network
from unsmear.ops.deconvolution import deconvolve
from unsmear.ops.linear_blur import LONGEST


@dataclass(frozen=True, kw_only=True)
class MotionFlowConfig:
    """What can be chosen about the network; the defaults are the authors' layers.

    Args:
        widths: Channels of the five convolutions.
        farthest_right: Largest motion to the right, pixels.
        farthest_down: Largest motion up or down, pixels.
        strength: What the deconvolution charges for gradients; more for more noise.
        rounds: Reweightings of the deconvolution.
        steps: Steps of conjugate gradients after each.
        training_strength: The strength in training, where there is one round of 8 steps.
    """

    widths: tuple[int, ...] = (96, 256, 512, 512, 1024)
    farthest_right: int = 38
    farthest_down: int = 36
    strength: float = 2e-4
    rounds: int = 3
    steps: int = 10
    training_strength: float = 5e-3

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))  # JSON knows no tuples
        if len(self.widths) != 5:
            raise ValueError(f"widths must name the channels of 5 convolutions, not {len(self.widths)}")
        if self.rounds < 1 or self.steps < 1:
            raise ValueError("rounds and steps must be at least 1")
        if math.hypot(self.farthest_right, self.farthest_down) > LONGEST:
            raise ValueError(f"the farthest motion must be within {LONGEST:g} pixels")


class MotionFlow(Network):
    """The network, and the deconvolution.

    Args:
        config: What to build.
        name: What the network is called in weights files and tables.
    """

    classes: Tensor
    half_precision = False  # conjugate gradients need the digits

    def __init__(self, config: MotionFlowConfig, name: str = "motionflow") -> None:
        super().__init__(config, name)
        self.config: MotionFlowConfig = config
        widths, kernels = config.widths, (7, 5, 3, 3, 3)
        self.convs = nn.ModuleList(
            nn.Conv2d(v, w, k, padding=k // 2) for v, w, k in zip((3, *widths), widths, kernels, strict=False)
        )
        right = torch.arange(config.farthest_right + 1.0)
        down = torch.arange(-config.farthest_down, config.farthest_down + 1.0)
        self.register_buffer("classes", torch.cat([right, down]), persistent=False)
        # Scores at a sixteenth, an eighth and a quarter of the size.
        self.scores = nn.ModuleList(nn.Conv2d(widths[i], len(self.classes), 1) for i in (4, 2, 1))
        with torch.no_grad():
            self.scores[0].bias.copy_(-self.classes.abs() / 2)  # type: ignore[union-attr]

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this: four poolings."""
        return 16

    @property
    def peak_bytes_per_pixel(self) -> float:
        """Working memory of one float32 pass without gradients, in bytes for each pixel of the picture.

        By the growth of a fresh process at 384 x 320, 1209: three maps of class scores.
        """
        return 12 * max(len(self.classes), self.config.widths[0])

    def flow(self, x: Tensor) -> Tensor:
        """The motion of every pixel while the shutter was open.

        Args:
            x: The blurred picture (B, 3, H, W), values in [0, 1].

        Returns:
            Pixels to the right, at least 0, and down, (B, 2, H, W); float32.
        """
        features, pooled = x - 0.5, []
        for conv in self.convs[:-1]:
            features = functional.max_pool2d(functional.relu(conv(features)), 2)
            pooled.append(features)
        scores = self.scores[0](functional.relu(self.convs[-1](features)))
        for score, finer in zip(self.scores[1:], (pooled[2], pooled[1]), strict=True):
            scores = _enlarge(scores, 2) + score(finer)
        scores = _enlarge(scores, 4).float()
        numbers = self.config.farthest_right + 1, 2 * self.config.farthest_down + 1
        motion = [
            (part.softmax(1) * classes.view(-1, 1, 1)).sum(1)
            for part, classes in zip(scores.split(numbers, 1), self.classes.split(numbers), strict=True)
        ]
        return torch.stack(motion, 1)

    def restore(self, x: Tensor) -> list[Tensor]:
        """Restore `x` (B, 3, H, W); in training at a quarter, half and all of its size."""
        c, x, flow = self.config, x.float().contiguous(), self.flow(x).contiguous()
        if not self.training:
            return [deconvolve(x, flow, strength=c.strength, rounds=c.rounds, steps=c.steps)]
        return [
            deconvolve(_shrink(x, n), _shrink(flow, n) / n, strength=c.training_strength, rounds=1, steps=8)
            for n in (4, 2, 1)
        ]


def _shrink(x: Tensor, factor: int) -> Tensor:
    return functional.avg_pool2d(x, factor) if factor > 1 else x


def _enlarge(x: Tensor, factor: int) -> Tensor:
    return functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
