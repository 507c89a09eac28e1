"""What the tests of networks share: weights that do something, and pictures that fit."""

import torch


def awake(network, seed=0):
    """Random weights everywhere: fresh networks are the identity, which hides mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * (0.3 / max(1, p[0].numel()) ** 0.5))
    return network.eval()


def picture(network, batch=1, rows=2, columns=3, seed=0):
    """Noise of a few of the network's multiples; with rows=None as small as gives every parameter a gradient."""
    m = network.size_multiple
    if rows is None:
        blind = getattr(network, "blind", None)  # which looks for long motion in large pictures only
        rows, columns = (384 // m, 384 // m) if blind is not None else (1, 2)
    return torch.rand(batch, 3, m * rows, m * columns, generator=torch.Generator().manual_seed(seed))


def without_gradient(network, loss):
    """Names of parameters that a loss does not move one way or the other; shares at their bounds move but one way."""
    without = dict(network.named_parameters())
    for one_way in loss, -loss:
        one_way.backward(retain_graph=True)
        without = {n: p for n, p in without.items() if p.grad is None or not (p.grad.isfinite().all() and p.grad.any())}
        network.zero_grad()
    return list(without)
