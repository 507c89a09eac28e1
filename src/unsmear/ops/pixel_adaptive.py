"""Pixel-adaptive convolution, the local branch of the paper (section 2.2, Eq. 7).

An ordinary convolution, except that every pixel multiplies the taps of the filter by factors of its own:

    y_i = sum over j in window(i) of K[i, j] W[p_j - p_i] x_j + b

On a CPU this runs compiled code (`pixel_adaptive_cpu`), on NVIDIA GPUs Triton kernels (`pixel_adaptive_cuda`),
elsewhere a loop over the taps in PyTorch. None keeps a buffer that grows with the number of taps times channels, in
forward or backward.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from unsmear.ops.convolution import convolve
from unsmear.ops.dispatch import computing_type, is_depthwise, is_recorded, takes_kernels, takes_triton


def pixel_adaptive_conv2d(x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve x with a filter that every pixel modulates by its own k x k factors (Eq. 7).

    With a kernel of ones this is `F.conv2d(x, weight, bias, padding=k // 2)`, with `groups=Cin` in the
    depthwise form. Borders are padded with zeros. Differentiable once in all arguments. On a CPU results do
    not depend on the number of threads.

    Args:
        x: Features, (B, Cin, H, W), any real values. Channels-last memory is fastest.
        kernel: Factors, (B, k * k, H, W), any real values. Tap dy * k + dx multiplies the neighbor at offset
            (dy - k // 2, dx - k // 2), for all channels alike.
        weight: The filter, k odd: (Cout, Cin, k, k) in the full form, (Cin, 1, k, k) in the depthwise form.
        bias: Added to every pixel, (Cout,), or None.

    Returns:
        (B, Cout, H, W) in the dtype that the arguments promote to, channels-last on a CPU. There, 16-bit
        arguments are computed in float32 and rounded at the end; under autocast the result stays float32.

    Raises:
        ValueError: If shapes, dtypes or devices do not fit together.

    Example:
        >>> x, ones = torch.randn(1, 8, 5, 7), torch.ones(1, 9, 5, 7)
        >>> weight = torch.randn(8, 1, 3, 3)
        >>> y = pixel_adaptive_conv2d(x, ones, weight)
        >>> torch.allclose(y, F.conv2d(x, weight, padding=1, groups=8), atol=1e-5)
        True
    """
    _check(x, kernel, weight, bias)
    tensors = [x, kernel, weight] if bias is None else [x, kernel, weight, bias]
    dtype = precise = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    if x.is_cpu:
        precise = torch.promote_types(dtype, torch.float32)
        dtype = precise if torch.is_autocast_enabled("cpu") else dtype
    elif x.is_cuda and torch.is_autocast_enabled("cuda"):
        dtype = precise = computing_type(x)
    x, kernel, weight, *rest = (tensor.to(precise) for tensor in tensors)
    bias = rest[0] if rest else None
    if takes_triton(x, x.shape[1], len(weight)):
        from unsmear.ops import pixel_adaptive_cuda as cuda

        return cuda.pixel_adaptive(x, kernel, weight, bias)
    compute = _forward if is_recorded() else _PixelAdaptive.apply
    return compute(x, kernel, weight, bias).to(dtype)  # pyright: ignore[reportOptionalMemberAccess]


def generate_kernels(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, bounded: bool = True) -> Tensor:
    """The kernel generation function of section 2.2: a convolution that makes the factors K of Eq. 7.

    Args:
        x: Features (B, C, H, W).
        weight: Weight of the convolution (k * k, C, s, s), s odd.
        bias: Its bias (k * k,), or None.
        bounded: Whether the factors are kept between 0 and 2, as twice a sigmoid.

    Returns:
        Factors (B, k * k, H, W) for `pixel_adaptive_conv2d`.
    """
    kernel = _factors(x, weight, bias, bounded)
    return 2 * kernel if bounded else kernel


def _factors(x: Tensor, weight: Tensor, bias: Tensor | None, bounded: bool) -> Tensor:
    """What the convolution gives, or its sigmoid."""
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    if takes_triton(half := x.to(computing_type(x)), x.shape[1], len(weight)):
        from unsmear.ops import pixel_adaptive_cuda as cuda

        return cuda.generate_factors(half, weight.to(half.dtype), bias.to(half.dtype), bounded)
    side = weight.shape[-1]
    kernel = convolve(x, weight, bias) if side == 3 else F.conv2d(x, weight, bias, padding=side // 2)
    if not bounded:
        return kernel
    # In place: no gradient needs what the convolution gave. But autograd lets none change what `convolve` gave.
    return kernel.sigmoid() if side == 3 and kernel.requires_grad else kernel.sigmoid_()


def pixel_dependent_filter(
    x: Tensor,
    generator_weight: Tensor,
    generator_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    bounded: bool = True,
) -> Tensor:
    """Filter x by kernels made from x itself (section 2.2): `pixel_adaptive_conv2d` with `generate_kernels`.

    Without gradients, a depthwise filter with bounded factors that are made pixel by pixel (s = 1) keeps no factors on
    a CPU: they are made and used up row by row.

    Args:
        x: Features (B, C, H, W).
        generator_weight: Weight of the convolution that makes the factors (k * k, C, s, s).
        generator_bias: Its bias (k * k,), or None.
        weight: The filter, (Cout, C, k, k) or (C, 1, k, k).
        bias: Added to every pixel, (Cout,), or None.
        bounded: Whether the factors are kept between 0 and 2.

    Returns:
        (B, Cout, H, W), as `pixel_adaptive_conv2d`.

    Raises:
        ValueError: If shapes, dtypes or devices do not fit together.
    """
    precise = all(t.dtype == torch.float32 for t in (x, generator_weight, weight))
    by_pixel = generator_weight.shape[2:] == (1, 1) and is_depthwise(x, weight)
    if bounded and precise and by_pixel and takes_kernels(x) and not torch.is_grad_enabled():
        _check(x, x.new_empty(1).expand(x.shape[0], len(generator_weight), *x.shape[2:]), weight, bias)
        from unsmear.ops import pixel_adaptive_cpu as cpu

        maker = generator_weight.flatten(1)
        maker_bias = maker.new_zeros(len(maker)) if generator_bias is None else generator_bias
        return cpu.depthwise_generated(x, maker, maker_bias, weight, bias)
    # Where factors are twice a sigmoid the filter is twice as large instead: factors are many.
    factors = _factors(x, generator_weight, generator_bias, bounded)
    return pixel_adaptive_conv2d(x, factors, 2 * weight if bounded else weight, bias)


def _check(x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    def error(text: str) -> ValueError:
        return ValueError(f"pixel_adaptive_conv2d: {text}.")

    tensors = (x, kernel, weight) if bias is None else (x, kernel, weight, bias)
    if any(tensor.ndim != 4 for tensor in tensors[:3]):
        raise error(f"x, kernel and weight need 4 dimensions, not {x.ndim}, {kernel.ndim} and {weight.ndim}")
    (batch, c_in, height, width), (c_out, c_group, k, k_wide) = x.shape, weight.shape
    if k != k_wide or k % 2 == 0:
        raise error(f"the filter must be square and odd, but weight is {tuple(weight.shape)}")
    if c_group != c_in and not (c_group == 1 and c_out == c_in):
        forms = f"(Cout, {c_in}, k, k) or ({c_in}, 1, k, k)"
        raise error(f"for {c_in} channels of x weight must be {forms}, not {tuple(weight.shape)}")
    if kernel.shape != (batch, k * k, height, width):
        raise error(f"kernel must be {(batch, k * k, height, width)}, not {tuple(kernel.shape)}")
    if bias is not None and bias.shape != (c_out,):
        raise error(f"bias must be {(c_out,)}, not {tuple(bias.shape)}")
    if not all(tensor.is_floating_point() for tensor in tensors):
        raise error(f"all arguments must be real floating point, not {[tensor.dtype for tensor in tensors]}")
    if any(tensor.device != x.device for tensor in tensors):
        raise error(f"all arguments must be on one device, not {[str(tensor.device) for tensor in tensors]}")


class _PixelAdaptive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, kernel, weight)
        if not takes_kernels(x):
            return _forward(x, kernel, weight, bias)
        # Imported late: compiled code is slow to load and of no use on other devices.
        from unsmear.ops import pixel_adaptive_cpu as cpu

        return (cpu.depthwise if is_depthwise(x, weight) else cpu.full)(x, kernel, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, kernel, weight = ctx.saved_tensors
        grad = grad.to(x.dtype)  # autocast may have computed the output in 16 bits
        wants_x, wants_kernel, wants_weight, wants_bias = ctx.needs_input_grad
        grad_x = grad_kernel = grad_weight = None
        if not takes_kernels(x):
            grad_x, grad_kernel, grad_weight = _backward(grad, x, kernel, weight)
        else:
            from unsmear.ops import pixel_adaptive_cpu as cpu

            if is_depthwise(x, weight):
                if wants_x:
                    grad_x = cpu.depthwise(grad, kernel, weight, None, transposed=True)
                if wants_kernel or wants_weight:
                    grad_kernel, grad_weight = cpu.depthwise_gradients(grad, x, kernel, weight)
            else:
                if wants_x or wants_kernel:
                    grad_x, grad_kernel = cpu.full_gradients(grad, x, kernel, weight)
                if wants_weight:
                    grad_weight = cpu.full_gradient_weight(grad, x, kernel, weight)
        return grad_x, grad_kernel, grad_weight, grad.sum((0, 2, 3)) if wants_bias else None


def _taps(image: Tensor, k: int) -> list[Tensor]:
    """Views of a zero-padded image (B, C, H + k - 1, W + k - 1), one for each tap."""
    height, width = image.shape[2] - k + 1, image.shape[3] - k + 1
    return [image[:, :, dy : dy + height, dx : dx + width] for dy in range(k) for dx in range(k)]


def _forward(x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Eq. 7 tap by tap, for any device and dtype."""
    k = weight.shape[-1]
    out = None
    for t, tap in enumerate(_taps(F.pad(x, [k // 2] * 4), k)):
        source, point = tap * kernel[:, t : t + 1], weight[:, :, t // k, t % k, None]
        term = source * point if is_depthwise(x, weight) else F.conv2d(source, point[..., None])
        out = term.to(torch.promote_types(term.dtype, torch.float32)) if out is None else out + term
    assert out is not None
    return out if bias is None else out + bias[:, None, None]


def _backward(grad: Tensor, x: Tensor, kernel: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, kernel and weight, tap by tap."""
    k = weight.shape[-1]
    padded = F.pad(x, [k // 2] * 4)
    grad_padded = torch.zeros_like(padded, dtype=torch.promote_types(padded.dtype, torch.float32))
    grad_kernel, grad_weight = map(torch.empty_like, (kernel, weight))
    for t, (tap, grad_tap) in enumerate(zip(_taps(padded, k), _taps(grad_padded, k), strict=True)):
        factor, point = kernel[:, t : t + 1], weight[:, :, t // k, t % k, None]
        if is_depthwise(x, weight):
            product = grad * point
            grad_point = (grad * tap * factor).sum((0, 2, 3))[:, None]
        else:
            product = F.conv2d(grad, point.transpose(0, 1)[..., None])
            grad_point = torch.einsum("bohw,bchw->oc", grad, tap * factor)
        grad_tap += product * factor
        grad_kernel[:, t] = (product * tap).sum(1)
        grad_weight[:, :, t // k, t % k] = grad_point
    r = k // 2
    grad_x = grad_padded[:, :, r : r + x.shape[2], r : r + x.shape[3]].to(x.dtype)
    return grad_x, grad_kernel, grad_weight
