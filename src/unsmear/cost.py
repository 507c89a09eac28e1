"""How much work a network is: multiply-accumulates, counted layer by layer, the paper's operators included."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from unsmear.models.blind_deconvolution import FAR, MID, BlindDeconvolution
from unsmear.models.network import Network
from unsmear.models.saphn import Attention, PixelDependentFilter
from unsmear.models.spectra import PLACE, WINDOW


def count_macs(network: Network, height: int, width: int) -> int:
    """Multiply-accumulates of one pass over a picture.

    Convolutions, linear layers, the products of attention (Eqs. 2 and 5) and pixel-dependent filtering (Eq. 7, one
    for the filter tap and, counted once a tap and channel, one for the kernel) count; element-wise work does not.

    Args:
        network: The network; it is run once without computing anything.
        height: Height of the picture, a multiple of `network.size_multiple`.
        width: Width of the picture, likewise.
    """
    total = 0

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal total
        total += module_macs(module, inputs, output)

    twin = type(network)(network.config, network.name).eval().to("meta")
    for module in twin.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        twin(torch.empty(1, 3, height, width, device="meta"))
    return total


def module_macs(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> int:
    """Multiply-accumulates of one call of a module itself, without those of the modules that it calls.

    Args:
        module: Any module; those that multiply nothing, or only by calling others, have 0.
        inputs: Its positional arguments.
        output: What it returned.
    """
    if isinstance(module, nn.Conv2d):
        return output.numel() * module.weight[0].numel()
    if isinstance(module, nn.ConvTranspose2d):
        return inputs[0].numel() * module.weight[0].numel()
    if isinstance(module, nn.Linear):
        return output.numel() * module.in_features
    if isinstance(module, Attention):
        x, source = inputs
        making = x[:, 0].numel() * (module.gather.weight.numel() + module.distribute.weight.numel())  # of the maps
        return making + module.gather.out_channels * (source.numel() + output.numel())
    if isinstance(module, PixelDependentFilter):
        making = output[:, 0].numel() * module.generate.weight.numel()  # of the kernels
        taps = module.weight[0, 0].numel()
        return making + output.numel() * module.weight[0].numel() + inputs[0].numel() * taps
    if isinstance(module, BlindDeconvolution):  # spectra and mixtures at every size, and responses for the levels
        pixels = inputs[0][:, 0].numel()
        smaller = [pixels // factor**2 for factor in (FAR, MID) if module.is_enough(inputs[0], factor)]
        filters = module.near.filters
        each = _transform_macs(WINDOW) + _flow_macs(filters, 1 if module.color_gates is None else 3)
        return (pixels + sum(smaller)) * each + pixels * module.shared * (filters[0].numel() + len(module.tell))
    return 0


def _transform_macs(side: int) -> int:
    """For each pixel of a picture, to transform a square around every place: n log n for each that holds the pixel."""
    return (side // PLACE) ** 2 * int(math.log2(side**2))


def _flow_macs(filters: Tensor, colors: int) -> int:
    """For each pixel, to mix filters at places, and to filter every color by the two that it lies between in its row.

    Even filters multiply two pixels by each of half of their values.
    """
    return filters.numel() // (2 * PLACE) ** 2 + colors * filters[0].numel()
