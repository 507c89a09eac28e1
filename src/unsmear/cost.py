"""How much work a network is: multiply-accumulates, counted layer by layer, the paper's operators included."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from unsmear.models.saphn import SAPHN, Attention, PixelDependentFilter


def count_macs(network: SAPHN, height: int, width: int) -> int:
    """Multiply-accumulates of one pass over a picture.

    Convolutions, linear layers, the products of attention (Eqs. 2 and 5) and pixel-dependent filtering (Eq. 7, one
    for the filter tap and, counted once a tap and channel, one for the kernel) count; element-wise work does not.

    Args:
        network: The network; it is run once without computing anything.
        height: Height of the picture, a multiple of `network.size_multiple`.
        width: Width of the picture, likewise.
    """
    total = 0

    def counter(macs: Callable[..., int]) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            nonlocal total
            total += macs(module, inputs, output)

        return hook

    twin = type(network)(network.config, network.name).to("meta")
    for module in twin.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(counter(_convolution))
        elif isinstance(module, nn.ConvTranspose2d):
            module.register_forward_hook(counter(_transposed_convolution))
        elif isinstance(module, nn.Linear):
            module.register_forward_hook(counter(_linear))
        elif isinstance(module, Attention):
            module.register_forward_hook(counter(_attention))
        elif isinstance(module, PixelDependentFilter):
            module.register_forward_hook(counter(_filter))
    with torch.no_grad():
        twin(torch.empty(1, 3, height, width, device="meta"))
    return total


def _convolution(module: nn.Conv2d, inputs: tuple[Any, ...], output: torch.Tensor) -> int:
    return output.numel() * module.weight[0].numel()


def _transposed_convolution(module: nn.ConvTranspose2d, inputs: tuple[Any, ...], output: torch.Tensor) -> int:
    return inputs[0].numel() * module.weight[0].numel()


def _linear(module: nn.Linear, inputs: tuple[Any, ...], output: torch.Tensor) -> int:
    return output.numel() * module.in_features


def _attention(module: Attention, inputs: tuple[Any, ...], output: torch.Tensor) -> int:
    maps = module.gather.out_channels
    return maps * (inputs[1].numel() + output.numel())


def _filter(module: PixelDependentFilter, inputs: tuple[Any, ...], output: torch.Tensor) -> int:
    taps = module.weight[0, 0].numel()
    return output.numel() * module.weight[0].numel() + inputs[0].numel() * taps
