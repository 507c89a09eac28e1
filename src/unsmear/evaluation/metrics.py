"""PSNR and SSIM under named protocols. A number without the name of its protocol cannot be compared with another.

All protocols take 8-bit pictures: what a network gives is clamped and rounded first, as a saved PNG would be. PSNR is
10 log10(255^2 / MSE), infinite for equal pictures. SSIM (Wang et al. 2004) is

    (2 mx my + C1) (2 sxy + C2) / ((mx^2 + my^2 + C1) (sx^2 + sy^2 + C2)),  C1 = (0.01 * 255)^2, C2 = (0.03 * 255)^2

with means m, variances s^2 and the covariance sxy under a Gaussian window of sigma 1.5, cut off at 11 samples, which
sums to one. What the window covers, what happens at the borders, and what is averaged is what people disagree about:
each protocol below says it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from skimage.filters import gaussian
from skimage.metrics import mean_squared_error, structural_similarity

from unsmear.errors import UsageError
from unsmear.evaluation.align import align

WINDOW = 11
"""Samples a side of the window of SSIM, sigma 1.5."""

_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@dataclass(frozen=True)
class Score:
    """How near a picture is to the sharp one.

    Attributes:
        psnr: Peak signal-to-noise ratio in dB, infinite for equal pictures.
        ssim: Structural similarity, at most 1; None where the picture is smaller than the window.
    """

    psnr: float
    ssim: float | None


@dataclass(frozen=True)
class Protocol:
    """A way to measure that has a name.

    Attributes:
        name: What is printed with every number.
        definition: One line for people.
        measure: Scores a picture against the sharp one, both uint8 (H, W, 3) of one size.
    """

    name: str
    definition: str
    measure: Callable[[np.ndarray, np.ndarray], Score]


def skimage(output: np.ndarray, sharp: np.ndarray) -> Score:
    """Score as the authors of the GoPro data set do today.

    PSNR over all pixels and channels. SSIM by scikit-image with `gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=255`: an 11x11 window in each channel, the mean over the positions where it
    lies inside the picture, then over the channels. None where a side is below 11 pixels.

    Args:
        output: What is scored, uint8 (H, W, 3).
        sharp: The truth, likewise.
    """
    return Score(_psnr(output, sharp), _ssim(output, sharp, channel_axis=2))


def matlab_rgb(output: np.ndarray, sharp: np.ndarray) -> Score:
    """Score as MATLAB's psnr() and ssim() do when they are given color pictures, as in most papers on deblurring.

    PSNR over all pixels and channels. SSIM takes the picture for a volume: the window is 11x11x11 and runs over red,
    green and blue, too, with the values at all borders repeated outward, those of red and blue included; the mean is
    over all H x W x 3 positions. The channels resemble each other, so the values are higher. Defined at any size.

    Args:
        output: What is scored, uint8 (H, W, 3).
        sharp: The truth, likewise.
    """
    x, y = output.astype(np.float64), sharp.astype(np.float64)

    def mean(values: np.ndarray) -> np.ndarray:  # cut off at 3.5 sigma, which is 5 samples to either side
        return gaussian(values, sigma=1.5, truncate=3.5, mode="nearest", preserve_range=True)

    mx, my = mean(x), mean(y)
    sxx, syy, sxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    similarity = (2 * mx * my + _C1) * (2 * sxy + _C2) / ((mx * mx + my * my + _C1) * (sxx + syy + _C2))
    return Score(_psnr(output, sharp), float(similarity.mean()))


def y(output: np.ndarray, sharp: np.ndarray) -> Score:
    """Score luma alone, as papers on super-resolution and deraining do.

    Luma is that of MATLAB's rgb2ycbcr() of 8-bit pictures, BT.601 with 16 for black and 235 for white, rounded to whole
    levels: round(16 + (65.481 R + 128.553 G + 24.966 B) / 255). PSNR with 255 as the peak all the same, which alone
    adds 1.3 dB. SSIM with an 11x11 window, the mean over the positions where it lies inside the picture, as in the code
    of Wang et al. None where a side is below 11 pixels.

    Args:
        output: What is scored, uint8 (H, W, 3).
        sharp: The truth, likewise.
    """
    output, sharp = luma(output), luma(sharp)
    return Score(_psnr(output, sharp), _ssim(output, sharp, channel_axis=None))


def aligned(output: np.ndarray, sharp: np.ndarray) -> Score:
    """Score after alignment to the sharp picture, as the authors of RealBlur do.

    The output is scaled to the brightness of the sharp picture and warped onto it by the homography that maximizes the
    enhanced correlation coefficient (`unsmear.evaluation.align`). Neither is rounded again. PSNR over the pixels that
    the warped picture covers. SSIM as under `skimage`, with zeros outside of what is covered, and the mean over covered
    pixels only.

    Args:
        output: What is scored, uint8 (H, W, 3).
        sharp: The truth, likewise.
    """
    warped, covered = align(output, sharp)
    mask = covered[:, :, None].astype(np.float64)
    truth, warped = sharp * mask, warped * mask
    error = np.square(truth - warped).sum() / (3 * mask.sum())
    psnr = _decibels(error)
    if min(covered.shape) < WINDOW:
        return Score(psnr, None)
    _, similarity = _wang(truth, warped, channel_axis=2, full=True)
    inside = np.s_[WINDOW // 2 : -(WINDOW // 2), WINDOW // 2 : -(WINDOW // 2)]
    weight = 3 * mask[inside].sum()
    return Score(psnr, float((similarity * mask)[inside].sum() / weight) if weight else None)


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "skimage",
            "8-bit RGB; PSNR over all pixels and channels; SSIM per channel, Gaussian 11x11 window, sigma 1.5, inside",
            skimage,
        ),
        Protocol(
            "matlab-rgb",
            "8-bit RGB; PSNR over all pixels and channels; SSIM of MATLAB's ssim() on RGB: one volume, 11x11x11 window,"
            " sigma 1.5, borders repeated",
            matlab_rgb,
        ),
        Protocol(
            "y",
            "luma of MATLAB's rgb2ycbcr(), rounded; PSNR with peak 255; SSIM with Gaussian 11x11 window, sigma 1.5,"
            " inside",
            y,
        ),
        Protocol(
            "aligned",
            "8-bit RGB, scaled and warped onto the sharp picture by an ECC homography as for RealBlur; PSNR and SSIM"
            " as skimage, over covered pixels",
            aligned,
        ),
    )
}
"""The protocols by name."""

DEFAULT_PROTOCOLS = ("skimage", "matlab-rgb")


def choose_protocols(names: Sequence[str]) -> tuple[Protocol, ...]:
    """Protocols by name, each once; "all" stands for all of them.

    Raises:
        UsageError: If a name is unknown.
    """
    for name in names:
        if name not in PROTOCOLS and name != "all":
            raise UsageError(f"unknown protocol {name!r}: choose of {', '.join(PROTOCOLS)}, or all")
    chosen = PROTOCOLS if "all" in names else dict.fromkeys(names)
    return tuple(PROTOCOLS[name] for name in chosen)


def luma(picture: np.ndarray) -> np.ndarray:
    """Luma of an 8-bit picture, uint8 (H, W) from 16 to 235, as `rgb2ycbcr` of MATLAB gives it."""
    return np.floor(16.5 + picture @ np.array([65.481, 128.553, 24.966]) / 255).astype(np.uint8)


def _psnr(output: np.ndarray, sharp: np.ndarray) -> float:
    return _decibels(float(mean_squared_error(output, sharp)))


def _decibels(error: float) -> float:
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def _ssim(output: np.ndarray, sharp: np.ndarray, channel_axis: int | None) -> float | None:
    if min(output.shape[:2]) < WINDOW:
        return None
    return float(_wang(output, sharp, channel_axis=channel_axis))


# Returns the mean, and with `full` the map as well.
_wang: Callable[..., Any] = partial(
    structural_similarity, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
)
