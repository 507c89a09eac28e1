"""Softness of photographs that no motion made: of lenses, film, scanners, resampling and sharpening.

Photographs that are good to train on are sharp in every pixel, those that people have are seldom. A network that has
met none but sharp ones takes soft ones for blurred, and harms them; and one that has met none but Gaussian softness
takes any other kind, above all one that is not alike along rows and columns, for slight motion.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from unsmear.samples import REC601

_MARGIN = 16  # pixels around a picture that softness may reach, or what there is to reflect


def random_softness(crop: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Soften a share of all crops (1, C, H, W), of values in [0, 1]: half of these by a Gaussian of 0.25 to 2 pixels.

    The other half is softened, or sharpened, by what `draw_transfer` draws.
    """
    happens, softness = torch.rand(2, generator=rng).tolist()
    if happens >= share:
        return crop
    if happens < share / 2:
        return soften(crop, 0.25 + 1.75 * softness)
    margin = min(_MARGIN, *(side - 1 for side in crop.shape[2:]))
    around = functional.pad(crop, [margin] * 4, mode="reflect")
    height, width = around.shape[2:]
    transfer = draw_transfer(torch.fft.fftfreq(height), torch.fft.rfftfreq(width), rng)
    softened = torch.fft.irfft2(torch.fft.rfft2(around) * transfer, s=(height, width))
    return softened[..., margin : height - margin, margin : width - margin].clamp(0, 1)


def random_color_softness(crop: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Soften the colors, not the luma, of a share of all crops (1, 3, H, W), by a Gaussian of 0.4 to 2.5 pixels.

    Sensors see each color at every second pixel at best, JPEG and film scans store colors at half the size.
    """
    happens, softness = torch.rand(2, generator=rng).tolist()
    if happens >= share:
        return crop
    luma = (crop * torch.tensor(REC601, device=crop.device)[:, None, None]).sum(1, keepdim=True)
    return (luma + soften(crop - luma, 0.4 + 2.1 * softness**2)).clamp(0, 1)


def draw_transfer(row: Tensor, column: Tensor, rng: torch.Generator) -> Tensor:
    """Draw what makes photos softer, or fine detail stronger: factors of frequencies.

    Fine detail fades slowly or at once, in circles or along rows and columns apart, and not along both alike: film
    scans and enlargements are softer across than down, or the other way round. Two fifths are sharpened afterwards.

    Args:
        row: Vertical frequencies (R,), cycles per pixel.
        column: Horizontal ones (C,).
        rng: What random numbers are drawn from, on the CPU.

    Returns:
        (R, C), 0 or more, 1 at frequency 0.
    """
    size, fading, circles, sharpened, width, apart = torch.rand(6, generator=rng)
    sigma = 0.2 + 1.4 * size**1.5  # pixels, of a Gaussian
    apart = ((apart - 0.5) / 2).exp()  # up to 1.65 between rows and columns
    down, across = (2 * math.pi * s * f for s, f in ((sigma * apart, row[:, None]), (sigma / apart, column)))
    exponent = 1 + 3 * fading**2
    round_ = (down.square() + across.square()) ** (exponent / 2)
    square = down.abs() ** exponent + across.abs() ** exponent
    transfer = (-(round_ if circles < 0.5 else square) / 2).exp()
    finer = 1 - (-2 * (math.pi * (0.5 + width)) ** 2 * (row[:, None] ** 2 + column**2)).exp()
    return transfer * (1 + 6 * (sharpened - 0.6).clamp_min(0) * finer)


def soften(values: Tensor, sigma: float) -> Tensor:
    """Softens pictures by a Gaussian, alike in all directions.

    Args:
        values: (B, C, H, W), sides above `ceil(3.5 * sigma)`; they are continued by reflection.
        sigma: standard deviation, pixels, > 0.

    Returns:
        As many, of the same range.
    """
    reach = math.ceil(3.5 * sigma)
    places = torch.arange(-reach, reach + 1, device=values.device, dtype=values.dtype)
    weights = (-((places / sigma) ** 2) / 2).exp()
    row = (weights / weights.sum()).expand(values.shape[1], 1, 1, -1)
    for kernel in (row, row.mT):
        down, right = (side // 2 for side in kernel.shape[2:])
        around = functional.pad(values, (right, right, down, down), mode="reflect")
        values = functional.conv2d(around, kernel, groups=len(kernel))
    return values
