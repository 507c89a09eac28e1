"""Critics: small networks that learn to tell sharp pictures from restored ones, patch by patch.

They are those of pix2pix (Isola et al. 2017) as DeblurGAN and DeblurGAN-v2 use them: convolutions of 4 x 4 that halve,
then two that do not; instance normalization; a map of verdicts without a bound.
"""

from torch import Tensor, nn

_WIDTH, _WIDEST = 64, 512


class PatchCritic(nn.Module):
    """One verdict for each of many overlapping patches.

    Args:
        halvings: How often it halves the picture. Three see patches of 70 pixels; five, patches of 286, which is all
            of a usual crop.
    """

    def __init__(self, halvings: int = 3) -> None:
        super().__init__()
        widths = [min(_WIDTH * 2**i, _WIDEST) for i in range(halvings + 1)]
        layers: list[nn.Module] = [nn.Conv2d(3, _WIDTH, 4, stride=2, padding=2), nn.LeakyReLU(0.2, inplace=True)]
        for i in range(1, halvings + 1):
            stride = 2 if i < halvings else 1
            layers += [
                nn.Conv2d(widths[i - 1], widths[i], 4, stride=stride, padding=2, bias=False),
                nn.InstanceNorm2d(widths[i]),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        layers.append(nn.Conv2d(widths[-1], 1, 4, padding=2))
        self.layers = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Judge `x` (B, 3, H, W), values in [-1, 1]; returns verdicts (B, 1, h, w)."""
        return self.layers(x)
