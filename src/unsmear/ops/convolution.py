"""3x3 convolution with the activation and the sum that follow it, and transposed convolution."""

import torch
from torch import Tensor
from torch.nn import functional as F

from unsmear.ops.dispatch import takes_kernels


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    relu: bool = False,
    onto: Tensor | None = None,
) -> Tensor:
    """Convolve with zeros around the picture.

    On processors by Winograd's minimal filtering, which takes a quarter of the multiplications and differs from the
    plain sum by rounding alone: 2e-6 of the root mean square in float32. So are its gradients, which have none.
    With a stride, or channels that do not fill registers, every multiplication is made.

    Args:
        x: Features (B, C, H, W).
        weight: (C', C, 3, 3).
        bias: (C',), or None.
        stride: Pixels from one that gets a value to the next, along each side.
        relu: Whether what is negative becomes zero.
        onto: What to add to that at last (B, C', H', W'), or None.

    Returns:
        (B, C', H', W'), H' the number of rows 0, stride, 2 stride, ... below H, and W' likewise.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    if x.ndim != 4 or weight.shape[1:] != (x.shape[1], 3, 3) or bias.shape != weight.shape[:1]:
        shapes = f"weight {tuple(weight.shape)} and bias {tuple(bias.shape)}"
        raise ValueError(f"{shapes} cannot convolve x {tuple(x.shape)}: give (C', C, 3, 3) and (C',) for (B, C, H, W)")
    shape = (x.shape[0], len(weight), *(-(-side // stride) for side in x.shape[2:]))
    if onto is not None and onto.shape != shape:
        raise ValueError(f"onto must be {shape}, not {tuple(onto.shape)}")
    whole = _WIDEST_REGISTER // x.element_size()
    compiled = _takes_kernels(x, weight)
    # Where channels do not fill registers, to fill them up would cost what Winograd's filtering saves.
    if compiled and stride == 1 and x.shape[1] % whole == 0 and len(weight) >= whole:
        from unsmear.ops import convolution_cpu

        if relu and onto is not None and torch.is_grad_enabled():
            return convolution_cpu.convolve(x, weight, bias, relu, None) + onto
        return convolution_cpu.convolve(x, weight, bias, relu, onto)
    if compiled and not torch.is_grad_enabled() and len(weight) % whole == 0:
        from unsmear.ops import convolution_cpu

        y = convolution_cpu.convolve_directly(x, weight, bias, stride)
    else:
        y = F.conv2d(x, weight, bias, stride=stride, padding=1)
    # In place: no gradient needs what a convolution gave, and memory is what small layers wait for.
    if relu:
        y = F.relu(y, inplace=True)  # whose gradient needs what it gave
        return y if onto is None else y + onto
    return y if onto is None else y.add_(onto)


def convolve_transposed(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Transposed convolution by 4x4 taps, 2 pixels apart: twice as high and wide, with zeros around the picture.

    On processors, without gradients, by Winograd's minimal filtering, like `convolve`.

    Args:
        x: Features (B, C, H, W).
        weight: (C, C', 4, 4).
        bias: (C',), or None.

    Returns:
        (B, C', 2 H, 2 W).

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    bias = weight.new_zeros(weight.shape[1]) if bias is None else bias
    if x.ndim != 4 or weight.shape != (x.shape[1], *bias.shape, 4, 4):
        shapes = f"weight {tuple(weight.shape)} and bias {tuple(bias.shape)}"
        raise ValueError(f"{shapes} do not fit x {tuple(x.shape)}: give (C, C', 4, 4) and (C',) for (B, C, H, W)")
    whole = _WIDEST_REGISTER // x.element_size()
    if _takes_kernels(x, weight) and not torch.is_grad_enabled() and all(n % whole == 0 for n in weight.shape[:2]):
        from unsmear.ops import convolution_cpu

        return convolution_cpu.convolve_transposed(x, weight, bias)
    return F.conv_transpose2d(x, weight, bias, stride=2, padding=1)


def _takes_kernels(x: Tensor, weight: Tensor) -> bool:
    return (
        takes_kernels(x)
        and not torch.is_autocast_enabled("cpu")
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.float64)
        and x.numel() > 0
    )


_WIDEST_REGISTER = 64  # bytes
