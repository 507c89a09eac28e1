"""3x3 convolution, with the activation and the sum that follow it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from unsmear.ops.dispatch import takes_kernels


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False, onto: Tensor | None = None
) -> Tensor:
    """Convolve with zeros around the picture, one output value for every pixel.

    On processors by Winograd's minimal filtering, which takes a quarter of the multiplications and differs from the
    plain sum by rounding alone: 2e-6 of the root mean square in float32. So are its gradients, which have none.

    Args:
        x: Features (B, C, H, W).
        weight: (C', C, 3, 3).
        bias: (C',), or None.
        relu: Whether what is negative becomes zero.
        onto: What to add to that at last (B, C', H, W), or None.

    Returns:
        (B, C', H, W).

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    if x.ndim != 4 or weight.shape[1:] != (x.shape[1], 3, 3) or bias.shape != weight.shape[:1]:
        shapes = f"weight {tuple(weight.shape)} and bias {tuple(bias.shape)}"
        raise ValueError(f"{shapes} cannot convolve x {tuple(x.shape)}: give (C', C, 3, 3) and (C',) for (B, C, H, W)")
    shape = (x.shape[0], len(weight), *x.shape[2:])
    if onto is not None and onto.shape != shape:
        raise ValueError(f"onto must be {shape}, not {tuple(onto.shape)}")
    if _takes_winograd(x, weight):
        from unsmear.ops import convolution_cpu

        if relu and onto is not None and torch.is_grad_enabled():
            return convolution_cpu.convolve(x, weight, bias, relu, None) + onto
        return convolution_cpu.convolve(x, weight, bias, relu, onto)
    y = F.conv2d(x, weight, bias, padding=1)
    # In place: no gradient needs what a convolution gave, and memory is what small layers wait for.
    if relu:
        y = F.relu(y, inplace=True)  # whose gradient needs what it gave
        return y if onto is None else y + onto
    return y if onto is None else y.add_(onto)


def _takes_winograd(x: Tensor, weight: Tensor) -> bool:
    """Whether the compiled kernel can do it, and in less time: filling up channels would cost what it saves."""
    whole = _WIDEST_REGISTER // x.element_size()
    return (
        takes_kernels(x)
        and not torch.is_autocast_enabled("cpu")
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.float64)
        and x.numel() > 0
        and x.shape[1] % whole == 0
        and len(weight) >= whole
    )


_WIDEST_REGISTER = 64  # bytes
