"""A SAPHN that begins where its base model ended."""

import torch

from unsmear.errors import UsageError
from unsmear.models import create_model
from unsmear.models.dmphn import DMPHN
from unsmear.models.network import Network


def warm_start(network: Network) -> Network:
    """Build a `saphn` with the weights of a DMPHN, whose output it gives, bit for bit.

    Encoders and decoders are laid out alike. Content-aware modules and cross-level attention start as the identity,
    which `merge="add+attention"` and `residual=False` make that of the base model.

    Raises:
        UsageError: If the network is no DMPHN, or a stack of several.
    """
    if not isinstance(network, DMPHN) or network.config.stacks > 1:
        raise UsageError(f"a SAPHN can start from a DMPHN that is not stacked, not from {network.name!r}")
    with torch.random.fork_rng(devices=[]):  # equal weights give equal files
        torch.manual_seed(0)
        start = create_model("saphn", levels=network.config.levels, merge="add+attention", residual=False)
    weights = {name.removeprefix("stacks.0."): tensor for name, tensor in network.state_dict().items()}
    start.load_state_dict(start.state_dict() | weights)
    return start.eval()
