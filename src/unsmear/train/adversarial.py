"""Training against critics, which learn while the network does.

- "wgan-gp", DeblurGAN: one critic, the Wasserstein distance with a gradient penalty of weight 10. As in the authors'
  code, the penalty asks for a norm of one of the gradient at every pixel, over its three channels.
- "ragan-ls", DeblurGAN-v2: two critics, one of patches and one of the whole crop, whose losses are averaged. Both judge
  how much sharper than the other kind's mean a picture looks, by least squares (section 3.2). The means are of the
  batch, as in the paper; the authors' code averages over the last 50 batches.
"""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unsmear.train.config import Adversarial
from unsmear.train.critics import PatchCritic

_PENALTY = 10.0
_HALVINGS = {"wgan-gp": (3,), "ragan-ls": (3, 5)}


class Adversary:
    """Critics, and the optimizer that trains them.

    Every process keeps them whole; their gradients are averaged over all processes, so they stay alike.

    Args:
        kind: "wgan-gp" or "ragan-ls".
        steps: Steps that critics take before each one of the network.
        momentum: Of their Adam, the decay of the mean gradient.
        accelerator: Where to train.
    """

    def __init__(self, kind: Adversarial, *, steps: int, momentum: float, accelerator: Accelerator) -> None:
        self._kind, self._steps, self._accelerator = kind, steps, accelerator
        critics = nn.ModuleList(PatchCritic(halvings) for halvings in _HALVINGS[kind])
        self.critics = critics.to(accelerator.device)
        self._optimizer = torch.optim.Adam(self.critics.parameters(), betas=(momentum, 0.999))

    def train(self, estimate: Tensor, sharp: Tensor, rate: float) -> Tensor:
        """Take the critics' steps.

        Steps whose gradient is not finite are left out.

        Args:
            estimate: What the network made (B, 3, H, W), values in [0, 1].
            sharp: The sharp pictures, likewise.
            rate: The learning rate.

        Returns:
            The critics' loss in the last step, a float32 scalar.
        """
        real, fake = 2 * sharp.float() - 1, 2 * estimate.detach().float() - 1
        parameters = list(self.critics.parameters())
        self._optimizer.param_groups[0]["lr"] = rate
        loss = torch.zeros(())
        for _ in range(self._steps):
            self._optimizer.zero_grad()
            loss = torch.stack([self._critic_loss(critic, real, fake) for critic in self.critics]).mean()
            loss.backward()
            if self._accelerator.num_processes > 1:
                for p in parameters:
                    p.grad = self._accelerator.reduce(p.grad, "mean")  # type: ignore[assignment]
            if torch.isfinite(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])):
                self._optimizer.step()
        return loss.detach()

    def loss(self, estimate: Tensor, sharp: Tensor) -> Tensor:
        """How little the critics take the network's estimates for sharp pictures, for the network to lower.

        Args:
            estimate: What the network made (B, 3, H, W), values in [0, 1], with its gradient.
            sharp: The sharp pictures, likewise.

        Returns:
            A float32 scalar.
        """
        real, fake = 2 * sharp.float() - 1, 2 * estimate.float() - 1
        self.critics.requires_grad_(False)
        loss = torch.stack([self._network_loss(critic, real, fake) for critic in self.critics]).mean()
        self.critics.requires_grad_(True)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"critics": self.critics.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.critics.load_state_dict(state["critics"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _critic_loss(self, critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        if self._kind == "ragan-ls":
            return relativistic_squares(critic(real), critic(fake))
        return critic(fake).mean() - critic(real).mean() + _PENALTY * gradient_penalty(critic, real, fake)

    def _network_loss(self, critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        if self._kind == "ragan-ls":
            return relativistic_squares(critic(fake), critic(real))
        return -critic(fake).mean()


def relativistic_squares(higher: Tensor, lower: Tensor) -> Tensor:
    """How far verdicts are from one above, and one below, the mean of the other kind's.

    Args:
        higher: Verdicts (B, 1, h, w) that should be one above the mean of the others.
        lower: Verdicts that should be one below.

    Returns:
        Half the sum of the two mean squares.
    """
    return ((higher - lower.mean() - 1).square().mean() + (lower - higher.mean() + 1).square().mean()) / 2


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """How far the critic's gradient is from a norm of one, at the pixels of pictures between two kinds.

    Args:
        critic: The critic.
        real: Sharp pictures (B, 3, H, W).
        fake: Restored pictures, likewise.

    Returns:
        The mean squared distance, with a gradient for the critic.
    """
    share = torch.rand(len(real), 1, 1, 1, device=real.device)
    between = (share * real + (1 - share) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.norm(dim=1) - 1).square().mean()
