"""The moving average of the weights: on every process in the pieces the network is in, whole where it leaves it."""

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from unsmear.models.network import Network
from unsmear.train.sharding import cut_like, is_cut, whole


class MovingAverage(AveragedModel):
    """The moving average of a network's weights, which forgets its first steps quickly.

    Args:
        network: The network, before Accelerate prepares it.
        decay: The share of the average that a step keeps, once there were many.
    """

    def __init__(self, network: Network, decay: float) -> None:
        super().__init__(network, multi_avg_fn=_warm_average(decay))
        self.requires_grad_(False)

    def cut_like(self, network: Network) -> None:
        """Hold the weights as `network` holds its own from now on, and start from them."""
        self.module.load_state_dict({k: v.detach().clone() for k, v in network.state_dict().items()}, assign=True)
        self.requires_grad_(False)

    def whole(self) -> Network:
        """The averaged network in one piece. All processes must take part if it is cut.

        Without sharding it is the average itself and not a copy.
        """
        if not any(is_cut(weight) for weight in self.module.parameters()):
            return cast(Network, self.module)
        network = copy.deepcopy(self.module)
        network.load_state_dict({k: whole(v) for k, v in self.module.state_dict().items()}, assign=True)
        return cast(Network, network)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What a checkpoint holds: the weights in one piece, as one process writes them."""
        return {k: whole(v) for k, v in super().state_dict(*args, **kwargs).items()}

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """Continue from a checkpoint, on any number of processes."""
        own = super().state_dict()
        return super().load_state_dict({k: cut_like(v, own[k]) for k, v in state_dict.items()}, *args, **kwargs)


def _warm_average(decay: float) -> Callable[..., None]:
    @torch.no_grad()
    def update(average: list[Tensor], current: list[Tensor], num_averaged: Tensor | int) -> None:
        count = float(num_averaged)
        for mean, value in zip(average, current, strict=True):
            mean.lerp_(value, 1 - min(decay, (1 + count) / (10 + count)))

    return update
