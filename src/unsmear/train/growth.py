"""A trained network with parts that it did not have: its output stays as it was until they are trained."""

from dataclasses import asdict
from typing import Any

import torch

from unsmear.errors import UsageError
from unsmear.models import create_model
from unsmear.models.network import Network


def grow(network: Network, changes: dict[str, Any]) -> Network:
    """Build a SAPHN that has more than another, and gives the same output.

    Args:
        network: What to start from.
        changes: Fields of its configuration: `skips`, `filter_basis`, `blind_filters`, `blind_colors` (then alone its
            output changes: colors are filtered), `encoder_blocks`, `decoder_blocks`.

    Raises:
        UsageError: If it cannot become that by growing.
    """
    config = asdict(network.config)
    changes = {k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}  # JSON knows no tuples
    changes = {k: v for k, v in changes.items() if k not in config or config[k] != v}
    if not changes:
        return network
    cannot = UsageError(
        f"{network.name!r} of init cannot become one with {changes}: only skips=true, more blocks, a filter basis where"
        " there is none, more blind_filters and blind_colors=true can be added to a trained saphn"
    )
    if any(type(config.get(field)) is not type(value) for field, value in changes.items()):
        raise cannot
    can = {"skips", "filter_basis", "blind_filters", "blind_colors", "encoder_blocks", "decoder_blocks"}
    if not changes.keys() <= can & config.keys() or any(config[field] > value for field, value in changes.items()):
        raise cannot
    grown = create_model(network.name, **config | changes)
    weights, old = grown.state_dict(), network.state_dict()
    for name, weight in weights.items():
        if name not in old:
            if ".skips." in name or ".conv2." in name:  # all else that is new begins at zero, or before one that does
                weight.zero_()
        elif weight.shape == old[name].shape:
            weight.copy_(old[name])
        elif ".last." in name and not config["filter_basis"]:
            weight.copy_(torch.cat([torch.zeros_like(weight[: len(weight) - len(old[name])]), old[name]]))
        elif ".mix." in name or ".tell." in name:  # what is mixed of new filters, and what is told of that
            weight.zero_()[tuple(map(slice, old[name].shape))] = old[name]
        elif name.endswith(".filters") and torch.equal(weight[: len(old[name])], old[name]):
            pass  # the basis begins with those that there were
        else:
            raise cannot
    return grown
