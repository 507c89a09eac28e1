"""What a camera does to light: response curve, clipping, noise and JPEG."""

import math
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Camera:
    """How light becomes the values of a picture: a power law, then an S-curve.

    Attributes:
        gamma: exponent of the power law; None stands for values that are averaged as they are, as if
            they were light, and makes the other attributes void.
        contrast: steepness of the S-curve, >= 0; 0 is none.
        highlight_gain: light of the brightest highlights, >= 1; white is 1.
    """

    gamma: float | None
    contrast: float = 0.0
    highlight_gain: float = 1.0

    def to_light(self, values: Tensor) -> Tensor:
        """Values in [0, 1], (3, H, W), to the light that caused them, in [0, highlight_gain]."""
        if self.gamma is None:
            return values
        if self.contrast:
            values = torch.logit((values - 0.5) * self._swing + 0.5) / self.contrast + 0.5
        light = values.clamp(0, 1) ** self.gamma
        if self.highlight_gain > 1:
            glow = ((light.mean(0) - 0.8) / 0.2).clamp(0, 1)
            light = light * (1 + (self.highlight_gain - 1) * glow**2)
        return light

    def to_values(self, light: Tensor) -> Tensor:
        """Light, clipped as a sensor does, to values in [0, 1]."""
        values = light.clamp(0, 1)
        if self.gamma is None:
            return values
        values = values ** (1 / self.gamma)
        if self.contrast:
            values = (torch.sigmoid(self.contrast * (values - 0.5)) - 0.5) / self._swing + 0.5
        return values.clamp(0, 1)

    @property
    def _swing(self) -> float:
        return math.tanh(self.contrast / 4)


def add_noise(light: Tensor, shot: float, read: float, generator: torch.Generator) -> Tensor:
    """Adds Gaussian noise of variance `shot * light + read ** 2`.

    Args:
        light: any shape, on any device; white is 1.
        shot: variance per unit of light, >= 0.
        read: standard deviation in the dark, >= 0.
        generator: on the CPU; it seeds one on the device of `light`.

    Returns:
        Noisy light, not clipped; `light` itself if there is no noise.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    if shot == read == 0:
        return light
    on_device = torch.Generator(light.device).manual_seed(seed)
    noise = torch.randn(light.shape, generator=on_device, device=light.device)
    return light + (light.clamp(0, 1) * shot + read**2).sqrt() * noise


def compress_jpeg(values: Tensor, quality: int) -> Tensor:
    """Writes (3, H, W) values in [0, 1] as a JPEG of that quality (1 to 100) and reads them back."""
    stream = BytesIO()
    pixels = values.mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    Image.fromarray(pixels).save(stream, "jpeg", quality=quality)
    decoded = torch.from_numpy(np.array(Image.open(stream)))
    return decoded.permute(2, 0, 1).to(values.device).float() / 255
