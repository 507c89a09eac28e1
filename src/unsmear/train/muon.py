"""Muon: momentum whose matrices are orthogonalized before they are applied (Jordan et al. 2024).

`torch.optim.Muon` takes matrices only and works through them one by one. Here a convolution's weight counts as the
matrix (Cout, Cin * k * k), and matrices of one shape are orthogonalized together. Of weights cut into pieces, the
momentum stays cut, and every process gathers the matrices for a moment.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from unsmear.train.sharding import cut_like, whole


class Muon(torch.optim.Optimizer):
    """Orthogonalized momentum with decoupled weight decay, for weights of two or more dimensions.

    Args:
        params: Weights (R, ...), seen as matrices of R rows.
        lr: Learning rate. Updates are scaled to the size of AdamW's, so its rates carry over.
        momentum: Decay of the Nesterov momentum.
        weight_decay: Share of the weight, times the rate, taken off a step.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply one step. A closure is not supported."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    rows, columns = len(weight), weight[0].numel()
                    by_shape.setdefault((min(rows, columns), max(rows, columns)), []).append(weight)
            for shape, weights in by_shape.items():
                updates = orthogonalize(torch.stack([self._momentum(w, group["momentum"]) for w in weights]))
                # The root mean square of an orthogonal matrix's entries is 1 / sqrt(its longer side); AdamW's
                # updates have about 0.2.
                rate = group["lr"] * 0.2 * shape[1] ** 0.5
                for weight, update in zip(weights, updates, strict=True):
                    update = update if len(weight) == shape[0] else update.mT
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.sub_(cut_like(update.reshape(weight.shape), weight), alpha=rate)

    def _momentum(self, weight: Tensor, decay: float) -> Tensor:
        """The Nesterov momentum as a matrix that is at least as wide as high."""
        state: dict[str, Any] = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        gradient = weight.grad
        assert gradient is not None
        state["momentum"].lerp_(gradient, 1 - decay)
        matrix = whole(gradient.lerp(state["momentum"], decay)).reshape(len(weight), -1)
        return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT


def orthogonalize(matrices: Tensor) -> Tensor:
    """Move all singular values of matrices (N, rows <= columns) near 1, by five quintic Newton-Schulz steps.

    The coefficients trade exactness (values end between about 0.7 and 1.2) for speed at small singular values. Half the
    bits are enough where a device multiplies them faster; few processors do, and others take many times as long.
    """
    precision = torch.bfloat16 if matrices.is_cuda else torch.float32
    x = (matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(precision)
    for _ in range(5):
        gram = x @ x.mT
        factor = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, factor, x, beta=3.4445)  # 3.4445 x - 4.7750 (x x') x + 2.0315 (x x')^2 x
    return x.to(matrices.dtype)


def split_parameters(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Weights to train by Muon, and by AdamW: biases, small filters, and the layers that touch the picture."""
    matrices, others = [], []
    for name, weight in network.named_parameters():
        if not weight.requires_grad:
            continue
        at_the_ends = name.endswith((".down.0.weight", ".last.weight"))
        is_matrix = weight.ndim >= 2 and weight[0].numel() > 25 and not at_the_ends
        (matrices if is_matrix else others).append(weight)
    return matrices, others
