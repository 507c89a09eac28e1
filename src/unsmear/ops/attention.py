"""Global attention in time linear in the number of pixels (paper section 2.1, Eqs. 1-6).

A handful of attention maps gathers the picture into as many descriptors, and every pixel then takes its own
mixture of them. No pixel is ever compared with another, so there is no HW x HW matrix and no down-sampling.

Dimensions: B batch, C channels, N attention maps (the paper's C2), L = H * W pixels.
Both softmaxes and the products around them run in float32 whatever the autocast type: at 1280 x 720 the mean
gather weight is 1.1e-6, which float16 cannot hold.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def global_attention(x: Tensor, gather: Tensor, distribute: Tensor, gate_weight: Tensor, gate_bias: Tensor) -> Tensor:
    """Attend to all pixels of `x` through a cluster of attention maps (Eqs. 1-6).

    Args:
        x: Features to attend to (B, C, H, W), the paper's x_m1.
        gather: Logits of Q (B, N, H, W); softmax over the pixels makes them the N gather maps of Eq. 1.
        distribute: Logits of P (B, N, H, W); softmax over the N maps makes them the weights of Eq. 5. May have
            another height and width than `x` and `gather`.
        gate_weight: Weights of the channel gate f_m2 (C, C), Eq. 4.
        gate_bias: Bias of the channel gate (C,).

    Returns:
        The accumulated global feature of every pixel (B, C, H, W), in the type of `x`.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    return distribute_descriptors(gather_descriptors(x, gather, gate_weight, gate_bias), distribute).to(x.dtype)


def gather_descriptors(x: Tensor, gather: Tensor, gate_weight: Tensor, gate_bias: Tensor) -> Tensor:
    """Gather the pixels of `x` into N gated descriptors (Eqs. 1-4).

    Args:
        x: Features (B, C, H, W).
        gather: Logits of Q (B, N, H, W).
        gate_weight: Weights of the channel gate f_m2 (C, C).
        gate_bias: Bias of the channel gate (C,).

    Returns:
        Descriptors (B, N, C), float32 or wider.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    if x.ndim != 4 or gather.ndim != 4 or x.shape[0] != gather.shape[0] or x.shape[2:] != gather.shape[2:]:
        raise ValueError(f"x {tuple(x.shape)} and gather {tuple(gather.shape)} must share batch, height and width")
    if gate_weight.shape != (x.shape[1], x.shape[1]) or gate_bias.shape != (x.shape[1],):
        raise ValueError(f"the gate must map the {x.shape[1]} channels of x onto themselves")
    with _no_autocast(x.device):
        x_BLC, q_BLN = _pixels(x), _pixels(gather).softmax(dim=1)
        descriptors_BNC = q_BLN.mT @ x_BLC  # Eqs. 1-2: weight every pixel, sum over all of them
        gate_BC = torch.sigmoid(  # Eq. 4: M2 = f_m2 of the descriptors
            torch.nn.functional.linear(
                descriptors_BNC.mean(dim=1), gate_weight.to(x_BLC.dtype), gate_bias.to(x_BLC.dtype)
            )
        )
        return gate_BC[:, None] * descriptors_BNC  # Eq. 3


def distribute_descriptors(descriptors: Tensor, distribute: Tensor) -> Tensor:
    """Give every pixel its own average of the descriptors (Eqs. 5-6).

    Args:
        descriptors: Descriptors (B, N, C).
        distribute: Logits of P (B, N, H, W).

    Returns:
        Features (B, C, H, W), float32 or wider, channels-last in memory.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    if distribute.ndim != 4 or descriptors.ndim != 3 or descriptors.shape[:2] != distribute.shape[:2]:
        raise ValueError(
            f"descriptors {tuple(descriptors.shape)} and distribute {tuple(distribute.shape)} must share "
            "batch and number of maps"
        )
    height, width = distribute.shape[2:]
    with _no_autocast(distribute.device):
        p_BLN = _pixels(distribute).softmax(dim=2)
        # Eq. 6 averages over the N maps although Eq. 5 already makes their weights sum to one.
        y_BLC = p_BLN @ (descriptors.to(p_BLN.dtype) / descriptors.shape[1])
        return y_BLC.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def _pixels(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, L, C), without a copy where memory is channels-last, in float32 or wider."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).to(torch.promote_types(x.dtype, torch.float32))


def _no_autocast(device: torch.device) -> AbstractContextManager[object]:
    # Devices that only count, such as "meta", have no autocast to switch off.
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()
