"""DeepDeblur's released weights, of its PyTorch version: one file, `model-1000.pt` or called otherwise."""

import re

from unsmear.convert.released import Converted, Released
from unsmear.convert.rename import rename
from unsmear.errors import ModelError
from unsmear.models.deepdeblur import DeepDeblurConfig

_BODY = re.compile(r"body_models\.(\d+)\.body\.(\d+)\.")


def convert(released: Released) -> Converted | None:
    """Rename the tensors of a DeepDeblur; None if no file holds names like theirs.

    Raises:
        ModelError: If tensors are missing or do not belong, or two files hold such names.
    """
    found = [file for file, tensors in released.items() if any(map(_BODY.match, tensors))]
    if not found:
        return None
    if len(found) > 1:
        raise ModelError(f"{found[0]} and {found[1]} are DeepDeblurs both: give one")
    tensors = released[found[0]]
    layers = {(match[1], match[2]) for name in tensors if (match := _BODY.match(name))}
    config = DeepDeblurConfig(
        scales=max(1, len({scale for scale, _ in layers})),
        blocks=max(1, len({layer for scale, layer in layers if scale == "0"}) - 2),
        width=len(tensors.get("body_models.0.body.0.bias", [0])),
    )
    renamed = rename(tensors, _names(config), found[0])
    default = DeepDeblurConfig()
    overrides = {k: v for k, v in vars(config).items() if v != getattr(default, k)}
    unused = tuple(f"{file}: {name}" for file in released if file != found[0] for name in released[file])
    return Converted("deepdeblur", renamed, overrides, unused)


def _names(config: DeepDeblurConfig) -> dict[str, str]:
    """Our names by theirs, which count scales from the finest; ours count from the coarsest."""
    layers: dict[str, str] = {}
    for theirs in range(config.scales):
        body, ours = f"body_models.{theirs}.body", f"scales.{config.scales - 1 - theirs}"
        layers[f"{body}.0"] = f"{ours}.first"
        for block in range(config.blocks):
            for number in (1, 2):  # of the convolution; between the two is a ReLU
                layers[f"{body}.{block + 1}.body.{2 * number - 2}"] = f"{ours}.blocks.{block}.conv{number}"
        layers[f"{body}.{config.blocks + 1}"] = f"{ours}.last"
        if theirs > 0:
            layers[f"conv_end_models.{theirs}.uppath.0"] = f"{ours}.enlarge"
    return {f"{theirs}.{t}": f"{ours}.{t}" for theirs, ours in layers.items() for t in ("weight", "bias")}
