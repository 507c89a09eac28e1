"""Convolutions as layers: their weights, and how those begin, are those of PyTorch's."""

from torch import Tensor, nn

from unsmear.ops import convolve, convolve_transposed


class Convolution(nn.Conv2d):
    """A 3x3 convolution, with the activation and the sum that follow it; of every `stride`th pixel."""

    def __init__(self, channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(channels, out_channels, 3, stride=stride, padding=1)

    def forward(self, input: Tensor, relu: bool = False, onto: Tensor | None = None) -> Tensor:
        """Convolve (B, C, H, W), with zeros around it; then `relu`, and the sum with `onto`."""
        return convolve(input, self.weight, self.bias, stride=self.stride[0], relu=relu, onto=onto)


class TransposedConvolution(nn.ConvTranspose2d):
    """A transposed convolution by 4x4 taps that doubles height and width."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 4, stride=2, padding=1)

    def forward(self, input: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Enlarge (B, C, H, W) to (B, C', 2 H, 2 W)."""
        return convolve_transposed(input, self.weight, self.bias)
