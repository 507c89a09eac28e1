"""What a pass has to do, by kind of work: multiply-accumulates, and bytes to move at least."""

import copy
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unsmear.cost import module_macs
from unsmear.models.blind_deconvolution import BlindDeconvolution, FilterMixture, FirstLook
from unsmear.models.network import Network
from unsmear.models.saphn import Attention, PixelDependentFilter

_KINDS: dict[type[nn.Module], str] = {
    nn.Conv2d: "convolution",
    nn.ConvTranspose2d: "transposed convolution",
    nn.Linear: "linear",
    PixelDependentFilter: "filter",
    Attention: "attention",
    BlindDeconvolution: "blind deconvolution",
    FilterMixture: "blind deconvolution",
}


def parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules that are of a kind; what is inside a filter or an attention is a part of it."""
    for of_kind, kind in _KINDS.items():
        if isinstance(module, of_kind):
            yield kind, module
            return
    for child in module.children():
        yield from parts(child)


def count_work(
    network: Network, height: int, width: int, dtype: torch.dtype = torch.float32
) -> tuple[Counter[str], Counter[str]]:
    """Count the work of one pass over a picture, by kind; nothing is computed.

    The bytes are those that the parts move if each reads its inputs and parameters once, writes its output once, and
    finds nothing in a cache. Element-wise work in between is left out.

    Args:
        network: The network.
        height: Height of the picture, a multiple of `network.size_multiple`.
        width: Width of the picture, likewise.
        dtype: Type of weights and features.

    Returns:
        Multiply-accumulates as `unsmear.cost` counts them, and bytes.
    """
    macs, traffic = Counter[str](), Counter[str]()

    def count(kind: str, module: nn.Module, inputs: tuple[Any, ...], made: Tensor) -> None:
        macs[kind] += module_macs(module, inputs, made)

    def move(kind: str, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], made: Any) -> None:
        outputs = (made.correction, *made.features) if isinstance(made, FirstLook) else (made,)
        tensors = (t for t in (*inputs, *named.values(), *module.parameters(), *outputs) if isinstance(t, Tensor))
        traffic[kind] += sum(tensor.nbytes for tensor in {id(t): t for t in tensors}.values())

    twin = copy.deepcopy(network).eval().to("meta", dtype)
    for kind, part in parts(twin):
        part.register_forward_hook(partial(move, kind), with_kwargs=True)
        for module in part.modules():
            module.register_forward_hook(partial(count, kind))
    with torch.no_grad():
        twin(torch.empty(1, 3, height, width, dtype=dtype, device="meta"))
    return macs, traffic
