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
    m = network.size_multiple
    return torch.rand(batch, 3, m * rows, m * columns, generator=torch.Generator().manual_seed(seed))
