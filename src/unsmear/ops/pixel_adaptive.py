"""Pixel-adaptive convolution (Eq. 7). First working version."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def pixel_adaptive_conv2d(x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve with a filter that every pixel modulates by its own window of factors (Eq. 7)."""
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        x, kernel, weight = x.float(), kernel.float(), weight.float()
        bias = None if bias is None else bias.float()
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
        return _PixelAdaptive.apply(x, kernel, weight, bias)
    return _plain(x, kernel, weight, bias, weight.shape[-1])


def _plain(x, kernel, weight, bias, k):
    h, w = x.shape[-2:]
    r = k // 2
    padded = F.pad(x, (r, r, r, r))
    y = None
    groups = x.shape[1] if weight.shape[1] == 1 else 1
    for t in range(k * k):
        dy, dx = divmod(t, k)
        tap = padded[:, :, dy : dy + h, dx : dx + w] * kernel[:, t : t + 1]
        part = F.conv2d(tap, weight[:, :, dy : dy + 1, dx : dx + 1], groups=groups)
        y = part if y is None else y + part
    return y if bias is None else y + bias[:, None, None]


class _PixelAdaptive(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kernel, weight, bias):
        from unsmear.ops import pixel_adaptive_cpu as cpu

        ctx.save_for_backward(x, kernel, weight)
        ctx.depthwise = weight.shape[1] == 1 and weight.shape[0] == x.shape[1]
        return cpu.forward(x, kernel, weight, bias, ctx.depthwise)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        from unsmear.ops import pixel_adaptive_cpu as cpu

        grads = cpu.backward(grad, *ctx.saved_tensors, ctx.needs_input_grad, ctx.depthwise)
        return *grads, grad.sum((0, 2, 3)) if ctx.needs_input_grad[3] else None
