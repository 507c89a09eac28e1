"""Non-blind deconvolution: the sharp picture that explains a blurred one, when the blur is known.

The picture sought makes

    1/2 |blur(x) - blurred|^2 + strength * sum over pixels of (|gradient of x|^2 + floor^2) ** (exponent / 2)

small. Natural pictures have few large gradients, so exponents below 1 fit them (Krishnan and Fergus 2009 use 1/2 to
2/3). It is solved by reweighting (Levin et al. 2007): the second term is replaced by a quadratic that touches it at the
present estimate, conjugate gradients go a fixed number of steps towards its minimum, and so on. All of it is made of
smooth functions, so that gradients pass through it to the flow.
"""

import torch
from torch import Tensor

from unsmear.ops.linear_blur import linear_blur, linear_blur_adjoint


def deconvolve(
    blurred: Tensor,
    flow: Tensor,
    *,
    strength: float = 2e-4,
    exponent: float = 0.8,
    floor: float = 0.02,
    rounds: int = 3,
    steps: int = 10,
) -> Tensor:
    """Undo the blur of motion along straight lines.

    Args:
        blurred: (B, C, H, W), values in [0, 1], float32 or float64.
        flow: Motion during the exposure in pixels, right and down, (B, 2, H, W).
        strength: Weight of the gradients against the differences, >= 0; more for more noise.
        exponent: What gradients cost, in (0, 2]; 2 favors smooth pictures, less favors sparse edges.
        floor: Gradients below this cost alike, > 0.
        rounds: Reweightings, >= 1.
        steps: Steps of conjugate gradients after each, >= 1.

    Returns:
        (B, C, H, W), not clamped; differentiable in both.
    """
    x, target = blurred, linear_blur_adjoint(blurred, flow)
    for _ in range(rounds):
        gradients = [g.square().sum(1, keepdim=True) for g in _differences(x)]
        weights = [strength * (g + floor**2) ** (exponent / 2 - 1) for g in gradients]
        x = _conjugate_gradients(x, target, flow, weights, steps)
    return x


def _conjugate_gradients(x: Tensor, target: Tensor, flow: Tensor, weights: list[Tensor], steps: int) -> Tensor:
    """Steps from `x` towards the solution of (blur' blur + gradient' weights gradient) x = target."""

    def system(x: Tensor) -> Tensor:
        parts = [w * g for w, g in zip(weights, _differences(x), strict=True)]
        return linear_blur_adjoint(linear_blur(x, flow), flow) + _differences_adjoint(*parts)

    residual = target - system(x)
    heading, size = residual, _dot(residual, residual)
    for step in range(steps):
        image = system(heading)
        share = size / (_dot(heading, image) + _TINY)
        x = x + share * heading
        if step < steps - 1:
            residual = residual - share * image
            before, size = size, _dot(residual, residual)
            heading = residual + size / (before + _TINY) * heading
    return x


_TINY = 1e-12
"""Keeps quotients finite where nothing is left to do."""


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum((1, 2, 3), keepdim=True)


def _differences(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences to the next pixel, right (B, C, H, W - 1) and down (B, C, H - 1, W)."""
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def _differences_adjoint(right: Tensor, down: Tensor) -> Tensor:
    pad = torch.nn.functional.pad
    return pad(right, (1, 0)) - pad(right, (0, 1)) + pad(down, (0, 0, 1, 0)) - pad(down, (0, 0, 0, 1))
