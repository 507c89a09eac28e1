"""What a run lowers: the distance to the sharp picture, and where wanted VGG19's and that of critics."""

import torch
from accelerate import Accelerator
from torch import Tensor

from unsmear.errors import UsageError
from unsmear.train.adversarial import Adversary
from unsmear.train.config import TrainConfig
from unsmear.train.loss import restoration_loss
from unsmear.train.perceptual import WHERE, Features


class Objective:
    """The weighted sum of a run's losses.

    Args:
        config: The run.
        accelerator: Where it trains.

    Attributes:
        adversary: The critics, if there are any: part of every checkpoint.
        terms: The parts of the last sum by name, without their weights; none if there is one only.

    Raises:
        UsageError: If VGG19 is wanted, but not given.
        ModelError: If its file holds something else.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator) -> None:
        self._config = config
        self._features = None
        if config.perceptual_weight:
            self._features = Features(vgg19_file(config)).to(accelerator.device)
        self.adversary = None
        if config.adversarial != "none":
            self.adversary = Adversary(
                config.adversarial, steps=config.critic_steps, momentum=config.momentum, accelerator=accelerator
            )
        self.terms: dict[str, Tensor] = {}

    def __call__(self, estimates: list[Tensor], blurred: Tensor, sharp: Tensor, rate: float) -> Tensor:
        """The loss of a batch; critics are trained on it first.

        Args:
            estimates: One (B, 3, h, w) a level, the network's output last, values around [0, 1].
            blurred: What the network was given (B, 3, H, W), values in [0, 1].
            sharp: The sharp pictures (B, 3, H, W), values in [0, 1].
            rate: The learning rate, for the critics.

        Returns:
            A float32 scalar.
        """
        config, output = self._config, estimates[-1]
        terms: dict[str, tuple[float, Tensor]] = {}
        if config.pixel_weight:
            distance = restoration_loss(
                estimates,
                sharp,
                name=config.loss,
                lower_weight=config.lower_weight,
                frequency_weight=config.frequency_weight,
                blurred=blurred,
                harm_weight=config.harm_weight,
            )
            terms["pixels"] = config.pixel_weight, distance
        if self._features is not None:
            terms["perceptual"] = config.perceptual_weight, self._features.distance(output.float(), sharp.float())
        critics = {}
        if self.adversary is not None:
            critics["critics"] = self.adversary.train(output, sharp, rate)
            terms["adversarial"] = config.adversarial_weight, self.adversary.loss(output, sharp)
        loss = torch.stack([weight * term for weight, term in terms.values()]).sum()
        if len(terms) > 1:
            self.terms = {name: term.detach() for name, (_, term) in terms.items()} | critics
        return loss


def vgg19_file(config: TrainConfig) -> str:
    """The weights of VGG19 that a run with a perceptual term needs.

    Raises:
        UsageError: If none are given.
    """
    if config.vgg19 is None:
        instead = "" if config.pixel_weight else " --set pixel_weight=100"
        raise UsageError(
            f"the perceptual term needs VGG19: download {WHERE} and pass --set vgg19=FILE, or train without it by"
            f" --set perceptual_weight=0{instead}"
        )
    return config.vgg19
