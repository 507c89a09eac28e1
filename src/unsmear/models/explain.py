"""What SAPHN sees: its attention maps, its per-pixel kernels, and what each level adds."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from unsmear.models.saphn import SAPHN, Attention, PixelDependentFilter, stitch
from unsmear.ops import generate_kernels


@dataclass(frozen=True)
class Explanation:
    """The insides of one pass. Maps are keyed by the name of their module, such as `decoders.0.blocks.2.0.module`.

    Levels that work on patches normalize their attention in each patch; here all maps are stitched to the whole
    picture, at the scale of their module.

    Attributes:
        output: The restored picture, (B, 3, H, W).
        residuals: What each level adds to the picture it is given, lowest level first, (B, 3, H, W) each.
        gather: Where each descriptor is gathered from (Q of Eq. 1), (B, N, h, w), every map of a patch sums to 1.
        distribute: Which descriptors each pixel takes (P of Eq. 5), (B, N, h, w), every pixel sums to 1.
        kernels: The factors of each pixel's filter taps (K of Eq. 7), (B, k * k, h, w); 1 is an ordinary convolution.
    """

    output: Tensor
    residuals: list[Tensor]
    gather: dict[str, Tensor]
    distribute: dict[str, Tensor]
    kernels: dict[str, Tensor]


@torch.no_grad()
def explain(network: SAPHN, x: Tensor) -> Explanation:
    """Restore a picture and keep what the network looked at.

    An ordinary pass pays nothing for this: the maps are caught on the way, by hooks that are there only meanwhile. So
    the network must not be used by another thread at the same time.

    Args:
        network: The network.
        x: Blurred pictures (B, 3, H, W), values in [0, 1], sides multiples of `network.size_multiple`.
    """
    gather: dict[str, Tensor] = {}
    distribute: dict[str, Tensor] = {}
    kernels: dict[str, Tensor] = {}

    def keep_maps(name: str, module: Attention, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        q = module.gather(x).float().flatten(2).softmax(2).unflatten(2, x.shape[2:])
        gather[name] = _whole(q, name)
        distribute[name] = _whole(module.distribute(x).float().softmax(1), name)

    def keep_kernels(name: str, module: PixelDependentFilter, inputs: tuple[Tensor, ...]) -> None:
        made = generate_kernels(inputs[0], module.generate.weight, module.generate.bias, bounded=module.bounded)
        kernels[name] = _whole(made, name)

    handles = []
    for name, module in network.named_modules():
        if isinstance(module, Attention):
            handles.append(module.register_forward_pre_hook(partial(keep_maps, name)))
        elif isinstance(module, PixelDependentFilter):
            handles.append(module.register_forward_pre_hook(partial(keep_kernels, name)))
    try:
        estimates = network.estimates(x)
    finally:
        for handle in handles:
            handle.remove()
    residuals = [after - before for before, after in zip([x, *estimates], estimates, strict=False)]
    return Explanation(estimates[-1], residuals, gather, distribute, kernels)


def _whole(maps: Tensor, name: str) -> Tensor:
    """Stitch maps of patches, by the level that the module's name tells."""
    part, number = name.split(".")[:2]
    level = int(number) + 1
    # A decoder works on the patches of the level above its own, and level 1 on the whole picture.
    for inner in range(max(1, level - 1) if part == "decoders" else level, 1, -1):
        maps = stitch(maps, inner)
    return maps
