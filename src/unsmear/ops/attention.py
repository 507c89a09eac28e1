"""Global attention in time linear in the number of pixels (paper section 2.1, Eqs. 1-6).

A handful of attention maps gathers the picture into as many descriptors, and every pixel then takes its own
mixture of them. No pixel is ever compared with another, so there is no HW x HW matrix and no down-sampling.

Dimensions: B batch, C channels, N attention maps (the paper's C2), L = H * W pixels.
Both softmaxes and the products around them run in float32 whatever the autocast type: at 1280 x 720 the mean
gather weight is 1.1e-6, which float16 cannot hold.

What is written here runs anywhere. On processors and NVIDIA GPUs compiled kernels that keep no maps take its place;
on GPUs the factors of the products have the type of the features, sums and softmaxes float32.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from unsmear.ops.dispatch import no_autocast, takes_kernels, takes_triton


def gather_descriptors(x: Tensor, source: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Gather the pixels of `source` into N descriptors (Eqs. 1-2).

    Args:
        x: Features that the attention maps are made from (B, C, H, W).
        source: Features to gather (B, C', H, W), the paper's x_m1; may be `x`.
        weight: The convolution f_q that makes the N maps (N, C, k, k), k odd. Softmax over the pixels follows.
        bias: Its bias (N,), or None.

    Returns:
        Descriptors (B, N, C'), float32 or wider.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    bias = _check(x, weight, bias)
    if source.ndim != 4 or source.shape[0] != x.shape[0] or source.shape[2:] != x.shape[2:]:
        raise ValueError(f"x {tuple(x.shape)} and source {tuple(source.shape)} must share batch, height and width")
    with no_autocast(x.device):
        if takes_kernels(x) and weight.shape[2:] == (1, 1):
            from unsmear.ops import attention_cpu

            x_wide = _wide(x)
            wide = x_wide if source is x else _wide(source)
            return attention_cpu.gather(x_wide, wide, _wide(weight).flatten(1), _wide(bias))
        if weight.shape[2:] == (1, 1) and takes_triton(x, x.shape[1], source.shape[1], len(weight)):
            from unsmear.ops import attention_cuda

            return attention_cuda.gather(x, None if source is x else source, weight.flatten(1), bias)[0]
        q_BLN = _maps(x, weight, bias).softmax(dim=1)
        return q_BLN.mT @ _pixels(source)  # Eqs. 1-2: weight every pixel, sum over all of them


def gate_descriptors(descriptors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Scale the channels of the descriptors by a gate that sees their mean (Eqs. 3-4).

    Args:
        descriptors: Descriptors (B, N, C).
        weight: Weights of the channel gate f_m2 (C, C).
        bias: Its bias (C,).

    Returns:
        Descriptors (B, N, C), in their own type.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    channels = descriptors.shape[2]
    if weight.shape != (channels, channels) or bias.shape != (channels,):
        raise ValueError(f"the gate must map the {channels} channels of the descriptors onto themselves")
    with no_autocast(descriptors.device):
        mean_BC = descriptors.mean(dim=1)
        gate_BC = torch.sigmoid(F.linear(mean_BC, weight.to(mean_BC.dtype), bias.to(mean_BC.dtype)))  # Eq. 4
        return gate_BC[:, None] * descriptors  # Eq. 3


def distribute_descriptors(
    descriptors: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    onto: Tensor | None = None,
    *,
    overwrite: bool = False,
) -> Tensor:
    """Give every pixel its own average of the descriptors (Eqs. 5-6).

    Args:
        descriptors: Descriptors (B, N, C').
        x: Features that the attention maps are made from (B, C, H, W), of any height and width.
        weight: The convolution f_p that makes the N maps (N, C, k, k), k odd. Softmax over the maps follows.
        bias: Its bias (N,), or None.
        onto: What to add the result to (B, C', H, W), the other branch of Eq. 8; None for nothing.
        overwrite: Whether the memory of `onto` may be used for the result, where no gradient is asked for.

    Returns:
        The accumulated global feature of every pixel (B, C', H, W), in the type of `x`, channels-last in memory.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    bias = _check(x, weight, bias)
    batch, maps, channels = descriptors.shape
    if (batch, maps) != (x.shape[0], len(weight)):
        raise ValueError(
            f"descriptors {tuple(descriptors.shape)} must be of {x.shape[0]} images and {len(weight)} maps"
        )
    shape = (batch, channels, *x.shape[2:])
    if onto is not None and onto.shape != shape:
        raise ValueError(f"onto must be {shape}, not {tuple(onto.shape)}")
    with no_autocast(x.device):
        # Eq. 6 averages over the N maps although Eq. 5 already makes their weights sum to one.
        descriptors = _wide(descriptors) / maps
        if takes_kernels(x) and weight.shape[2:] == (1, 1):
            from unsmear.ops import attention_cpu

            start = x.new_zeros(shape, dtype=descriptors.dtype) if onto is None else _wide(onto)
            maps_of = (_wide(x), _wide(weight).flatten(1), _wide(bias))
            overwrite = overwrite and not torch.is_grad_enabled()
            return attention_cpu.distribute(descriptors, *maps_of, start, overwrite).to(x.dtype)
        if weight.shape[2:] == (1, 1) and takes_triton(x, x.shape[1], channels, maps):
            from unsmear.ops import attention_cuda

            return attention_cuda.distribute(descriptors, x, weight.flatten(1), bias, onto)
        y_BLC = _maps(x, weight, bias).softmax(dim=2) @ descriptors
        y = y_BLC.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return (y if onto is None else onto + y).to(x.dtype)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The bias of the maps, if they can be made."""
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    if x.ndim != 4 or weight.ndim != 4 or weight.shape[1] != x.shape[1] or bias.shape != weight.shape[:1]:
        shapes = f"weight {tuple(weight.shape)} and bias {tuple(bias.shape)}"
        raise ValueError(
            f"{shapes} cannot make maps of x {tuple(x.shape)}: give (N, C, k, k) and (N,) for (B, C, H, W)"
        )
    return bias


def _maps(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Logits of the attention maps (B, L, N)."""
    return _pixels(F.conv2d(_wide(x), _wide(weight), _wide(bias), padding=weight.shape[-1] // 2))


def _pixels(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, L, C), without a copy where memory is channels-last."""
    return _wide(x).permute(0, 2, 3, 1).flatten(1, 2)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
