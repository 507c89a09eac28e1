"""What SAPHN sees: its attention maps, its per-pixel kernels, and what each level adds."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from unsmear.models.patches import stitch
from unsmear.models.saphn import SAPHN, Attention, PixelDependentFilter
from unsmear.ops import generate_kernels


@dataclass(frozen=True)
class Explanation:
    """The insides of one pass. Maps are keyed by the name of their module, such as `decoders.0.blocks.2.0.module`.

    Levels that work on patches normalize their attention in each patch; here all maps are stitched to the whole
    picture, at the scale of their module.

    Attributes:
        output: The restored picture, (B, 3, H, W).
        residuals: What each level adds to the picture it is given, lowest level first, (B, 3, H, W) each; with a filter
            basis what the blind deconvolution adds before them all.
        gather: Where each descriptor is gathered from (Q of Eq. 1), (B, N, h, w), every map of a patch sums to 1.
        distribute: Which descriptors each pixel takes (P of Eq. 5), (B, N, h, w), every pixel sums to 1.
        kernels: The factors of each pixel's filter taps (K of Eq. 7), (B, k * k, h, w); 1 is an ordinary convolution.
    """

    output: Tensor
    residuals: list[Tensor]
    gather: dict[str, Tensor]
    distribute: dict[str, Tensor]
    kernels: dict[str, Tensor]


@dataclass(frozen=True)
class Survey:
    """How much the maps of every module tell about one picture, so that a few can be chosen to be drawn.

    Attributes:
        attention: For each descriptor, (N,): how far its gather map is from even (the mean of r log r, in nats, r being
            weights relative to their mean) times how much its share differs between pixels (the standard deviation of
            its distribution map). 0 where either map is flat.
        filters: How much the factors of a filter differ between pixels: the mean over taps of the standard deviation.
    """

    attention: dict[str, Tensor]
    filters: dict[str, float]


def explain(network: SAPHN, x: Tensor, modules: Collection[str] | None = None) -> Explanation:
    """Restore a picture and keep what the network looked at.

    An ordinary pass pays nothing for this: the maps are caught on the way, by hooks that are there only meanwhile. So
    the network must not be used by another thread at the same time.

    Args:
        network: The network.
        x: Blurred pictures (B, 3, H, W), values in [0, 1], sides multiples of `network.size_multiple`.
        modules: Whose maps to keep; None for all, which for large pictures takes more memory than the pass itself.
    """
    gather: dict[str, Tensor] = {}
    distribute: dict[str, Tensor] = {}
    kernels: dict[str, Tensor] = {}

    def keep_maps(name: str, q: Tensor, p: Tensor) -> None:
        gather[name], distribute[name] = q, p

    with torch.no_grad(), _watched(network, modules, keep_maps, kernels.__setitem__):
        estimates = network.estimates(x)
    residuals = [after - before for before, after in zip([x, *estimates], estimates, strict=False)]
    return Explanation(estimates[-1], residuals, gather, distribute, kernels)


def survey(network: SAPHN, x: Tensor) -> Survey:
    """Measure how much the maps of every module tell, in one pass that keeps none of them.

    Args:
        network: The network.
        x: As in `explain`.
    """
    attention: dict[str, Tensor] = {}
    filters: dict[str, float] = {}

    def rate_maps(name: str, q: Tensor, p: Tensor) -> None:
        relative = q / q.mean((2, 3), keepdim=True)
        unevenness = torch.xlogy(relative, relative).mean((0, 2, 3))
        attention[name] = (unevenness * p.std((2, 3)).mean(0)).cpu()

    def rate_kernels(name: str, k: Tensor) -> None:
        filters[name] = float(k.std((2, 3)).mean())

    with torch.no_grad(), _watched(network, None, rate_maps, rate_kernels):
        network(x)
    return Survey(attention, filters)


def filter_shape(network: SAPHN, name: str) -> Tensor:
    """The mean size of a filter's weights over all its channels, (k * k,): what K of Eq. 7 is multiplied by."""
    module = network.get_submodule(name)
    assert isinstance(module, PixelDependentFilter)
    return module.weight.detach().abs().mean((0, 1)).flatten().float()


def turning(network: SAPHN, x: Tensor, name: str, kernels: Tensor) -> float:
    """Whether the filters of a module turn with the picture, as they must if they follow motion or edges.

    The picture is flipped about its diagonal, which makes motion to the right motion downward. Compared is the part of
    the factors that tells directions apart, K minus its transpose, at the same places.

    Args:
        network: The network.
        x: The picture as in `explain`.
        name: The module.
        kernels: What `explain` told of this module for `x`.

    Returns:
        1 if the filters flip with the picture, -1 if they stay as they are; 0 if the two have nothing in common, or the
        factors know no directions.
    """
    side = round(kernels.shape[1] ** 0.5)
    flipped = explain(network, x.mT.contiguous(), [name]).kernels[name].mT
    one, other = (k - k.unflatten(1, (side, side)).transpose(1, 2).flatten(1, 2) for k in (kernels, flipped))
    size = float(one.norm() * other.norm())
    return -float((one * other).sum()) / size if size > 0 else 0.0


@contextmanager
def _watched(
    network: SAPHN,
    modules: Collection[str] | None,
    see_maps: Callable[[str, Tensor, Tensor], None],
    see_kernels: Callable[[str, Tensor], None],
) -> Iterator[None]:
    """Shows the maps of every pass made inside."""

    def maps(name: str, module: Attention, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        q = module.gather(x).float().flatten(2).softmax(2).unflatten(2, x.shape[2:])
        see_maps(name, _whole(q, name), _whole(module.distribute(x).float().softmax(1), name))

    def kernels(name: str, module: PixelDependentFilter, inputs: tuple[Tensor, ...]) -> None:
        made = generate_kernels(inputs[0], module.generate.weight, module.generate.bias, bounded=module.bounded)
        see_kernels(name, _whole(made, name))

    handles = [
        module.register_forward_pre_hook(partial(maps if isinstance(module, Attention) else kernels, name))
        for name, module in network.named_modules()
        if isinstance(module, Attention | PixelDependentFilter) and (modules is None or name in modules)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def level_of(name: str) -> int:
    """The level that a module belongs to, by its name; 1 is the one that gives the output."""
    return int(name.split(".")[1]) + 1


def blocks(network: SAPHN) -> list[str]:
    """The names of all blocks that have maps, in the order in which they are computed within a level."""
    watched = (n for n, m in network.named_modules() if isinstance(m, Attention | PixelDependentFilter))
    return list(dict.fromkeys(block_of(name) for name in watched))


def block_of(name: str) -> str:
    """The residual block that a module is in, by name; cross-level attention stands for itself.

    >>> block_of("decoders.1.blocks.0.0.module.attend_encoder")
    'decoders.1.blocks.0.0'
    """
    return name.partition(".module.")[0]


def describe(name: str) -> str:
    """A block or module in words.

    >>> describe("decoders.1.blocks.0.0.module.attend_encoder")
    'level 2, decoder, attending to the encoder'
    """
    level = level_of(name)
    if name.startswith("merges"):
        return f"level {level}, attending to level {level + 1}"
    kinds = {"attend_self": ", attending to itself", "attend_encoder": ", attending to the encoder"}
    return f"level {level}, {name.split('.')[0].removesuffix('s')}{kinds.get(name.split('.')[-1], '')}"


def _whole(maps: Tensor, name: str) -> Tensor:
    """Stitch maps of patches, by the level that the module's name tells."""
    level = level_of(name)
    # A decoder works on the patches of the level above its own, and level 1 on the whole picture.
    for inner in range(max(1, level - 1) if name.startswith("decoders") else level, 1, -1):
        maps = stitch(maps, inner)
    return maps
