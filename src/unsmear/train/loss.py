"""Losses between an estimate and the sharp picture."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

LossName = Literal["mse", "charbonnier", "psnr"]


def restoration_loss(
    estimates: list[Tensor],
    sharp: Tensor,
    *,
    name: LossName = "charbonnier",
    lower_weight: float = 0.0,
    frequency_weight: float = 0.0,
    blurred: Tensor | None = None,
    harm_weight: float = 0.0,
) -> Tensor:
    """How far the estimates of all levels are from the sharp picture.

    Args:
        estimates: One (B, 3, h, w) estimate a level, the network's output last; smaller ones are compared with the
            sharp picture averaged to their size.
        sharp: The sharp picture (B, 3, H, W), values in [0, 1].
        name: "mse", the mean squared error of the paper's base model; "charbonnier", the mean of
            sqrt(difference**2 + 1e-6), which large errors of misplaced edges dominate less; or "psnr", minus the
            pictures' mean PSNR in dB, where each counts by the ratio that its error falls, sharp ones as well.
        lower_weight: Weight of each level but the last.
        frequency_weight: Weight of the mean absolute difference of the pictures' Fourier coefficients, added
            for the last level.
        blurred: The network's input (B, 3, H, W), for `harm_weight`.
        harm_weight: Weight of the distance by which the output is further from the sharp picture than the blurred one
            was: what a picture loses counts 1 + `harm_weight` times as much as what another gains.

    Returns:
        A float32 scalar.
    """
    sharp = sharp.float()
    distance = _DISTANCES[name]
    of_pictures = distance(estimates[-1].float(), sharp)
    loss = of_pictures.mean()
    if harm_weight:
        assert blurred is not None
        loss = loss + harm_weight * (of_pictures - distance(blurred.float(), sharp)).relu().mean()
    for estimate in estimates[:-1] if lower_weight else []:
        target = sharp if estimate.shape == sharp.shape else interpolate(sharp, estimate.shape[2:], mode="area")
        loss = loss + lower_weight * distance(estimate.float(), target).mean()
    if frequency_weight:
        loss = loss + frequency_weight * frequency_distance(estimates[-1].float(), sharp)
    return loss


def mean_squared_error(x: Tensor, y: Tensor) -> Tensor:
    """Mean of the squared differences of each picture, (B,)."""
    return (x - y).square().mean((1, 2, 3))


def charbonnier(x: Tensor, y: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean of sqrt(difference**2 + epsilon**2), a smooth absolute difference (Charbonnier et al. 1994), (B,)."""
    return ((x - y).square() + epsilon**2).sqrt().mean((1, 2, 3))


def negative_psnr(x: Tensor, y: Tensor, epsilon: float = 1e-5) -> Tensor:
    """10 log10(mean squared error + epsilon) of each picture, (B,), dB (as in HINet, Chen et al. 2021).

    From 50 dB on, a smaller error counts less and less.
    """
    return 10 * (mean_squared_error(x, y) + epsilon).log10()


def frequency_distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference of the two-dimensional Fourier coefficients, orthonormal scale."""
    difference = torch.fft.rfft2(x - y, norm="ortho")
    return torch.view_as_real(difference).abs().mean()


_DISTANCES = {"mse": mean_squared_error, "charbonnier": charbonnier, "psnr": negative_psnr}
