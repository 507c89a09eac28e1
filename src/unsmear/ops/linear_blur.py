"""Blur along a straight line at every pixel, and its exact adjoint: what non-blind deconvolution is made of.

A pixel that moves by `flow` while the shutter is open sees the mean of the picture along a line through it:

    blurred(p) = integral over t in [-1/2, 1/2] of picture(p + t * flow(p))

The line is followed in steps of one pixel, the picture interpolated linearly between them, and the integral of that is
exact: step k of a line of length L has the weight of a triangle around k within [-L/2, L/2]. So weights are smooth in
the flow, their sum is 1, and steps beyond the longest line have none. Beyond its border a picture goes on as it ends.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LONGEST = 54.0
"""Pixels after which lines are cut."""


def linear_blur(x: Tensor, flow: Tensor) -> Tensor:
    """Blur a picture by motion along straight lines.

    Args:
        x: (B, C, H, W), float32 or float64.
        flow: Motion during the exposure in pixels, right and down, (B, 2, H, W); its sign does not matter. Lines
            are cut after 54 pixels.

    Returns:
        (B, C, H, W); differentiable in both.
    """
    return _Blur.apply(x, *_lines(flow))


def linear_blur_adjoint(y: Tensor, flow: Tensor) -> Tensor:
    """The adjoint of `linear_blur` in its first argument: every pixel is spread along its line.

    Args:
        y: (B, C, H, W), float32 or float64.
        flow: As for `linear_blur`.

    Returns:
        (B, C, H, W); differentiable in both.
    """
    return _Spread.apply(y, *_lines(flow))


def _lines(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Unit directions (B, 2, H, W), and the weights of steps 0, 1, ... to either side (B, K + 1, H, W)."""
    device, motion = flow.device, (flow.square().sum(1, keepdim=True) + 1e-12).sqrt()
    length = motion.clamp(max=LONGEST)
    # Reading how far to go waits for the device, and cannot be recorded in a CUDA graph: on a GPU it is always as far
    # as can be. Tensors without values have no lengths to follow.
    farthest = float(length.detach().amax()) if device.type == "cpu" else 0.0 if device.type == "meta" else LONGEST
    steps = torch.arange(1, math.ceil(farthest / 2) + 1, device=device, dtype=flow.dtype)
    inside = length / 2 - steps.view(-1, 1, 1)
    rising, falling = (inside + 1).clamp(0, 1), inside.clamp(0, 1)
    sides = (rising.square() / 2 + falling - falling.square() / 2) / length
    return flow / motion, torch.cat([1 - 2 * sides.sum(1, keepdim=True), sides], 1)


def _grids(direction: Tensor) -> tuple[Tensor, Tensor]:
    """Places of the pixels, and steps of one pixel, as `grid_sample` counts them, (B, H, W, 2)."""
    height, width = direction.shape[2:]
    y = torch.arange(height, device=direction.device, dtype=direction.dtype)
    x = torch.arange(width, device=direction.device, dtype=direction.dtype)
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    unit = _unit(direction)
    return places * unit - 1, direction.permute(0, 2, 3, 1) * unit


def _unit(direction: Tensor) -> Tensor:
    """A pixel across and down, as `grid_sample` counts."""
    height, width = direction.shape[2:]
    return direction.new_tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)])


def _sample(x: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=True)


def _sample_backward(grad: Tensor, x: Tensor, grid: Tensor, mask: list[bool]) -> tuple[Tensor, Tensor]:
    return torch.ops.aten.grid_sampler_2d_backward(grad.contiguous(), x, grid, 0, 1, True, mask)


def _blur(x: Tensor, direction: Tensor, weights: Tensor) -> Tensor:
    places, step = _grids(direction)
    out = weights[:, :1] * x
    for k in range(1, weights.shape[1]):
        out.addcmul_(weights[:, k : k + 1], _sample(x, places + k * step) + _sample(x, places - k * step))
    return out


def _spread(y: Tensor, direction: Tensor, weights: Tensor) -> Tensor:
    places, step = _grids(direction)
    out = weights[:, :1] * y
    for k in range(1, weights.shape[1]):
        part = weights[:, k : k + 1] * y
        for grid in (places + k * step, places - k * step):
            out += _sample_backward(part, y, grid, [True, False])[0]
    return out


def _line_gradients(y: Tensor, x: Tensor, direction: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the sum of y * blur(x) in directions and weights."""
    places, step = _grids(direction)
    grad_step, grad_weights = torch.zeros_like(step), [(y * x).sum(1)]
    for k in range(1, weights.shape[1]):
        part = weights[:, k : k + 1] * y
        sampled = torch.zeros_like(x)
        for signed in (k, -k):
            grid = places + signed * step
            sampled += _sample(x, grid)
            grad_step += signed * _sample_backward(part, x, grid, [False, True])[1]
        grad_weights.append((y * sampled).sum(1))
    return (grad_step * _unit(direction)).permute(0, 3, 1, 2), torch.stack(grad_weights, 1)


class _Blur(torch.autograd.Function):
    """`grid_sample` would keep every step for the backward pass, which is a hundred maps for each call."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, direction: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, direction, weights)
        return _blur(x, direction, weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *line = ctx.saved_tensors
        grad_x = _spread(grads[0], *line) if ctx.needs_input_grad[0] else None
        return grad_x, *(_line_gradients(grads[0], x, *line) if any(ctx.needs_input_grad[1:]) else (None, None))


class _Spread(torch.autograd.Function):
    """The adjoint of `_Blur`; each is the other's gradient."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, direction: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(y, direction, weights)
        return _spread(y, direction, weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, *line = ctx.saved_tensors
        grad_y = _blur(grads[0], *line) if ctx.needs_input_grad[0] else None
        return grad_y, *(_line_gradients(y, grads[0], *line) if any(ctx.needs_input_grad[1:]) else (None, None))
