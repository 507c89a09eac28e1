"""What every network of the package is to the tools: pictures in, pictures out, and what it declares it needs."""

from typing import Any, Literal

from torch import Tensor, nn

from unsmear.tiling import OVERLAP


class Network(nn.Module):
    """A deblurring network.

    A subclass declares, once, the values and channels it was designed for, and writes `restore` in these; `forward`
    and `estimates` take and return sRGB-encoded pictures (B, 3, H, W) with values in [0, 1] whatever it declares. So
    no tool knows more of a network than what stands here.

    Args:
        config: What was built, a frozen dataclass whose fields JSON can hold.
        name: What the network is called in weights files and tables.

    Attributes:
        value_range: Black and white as `restore` sees them.
        channels: "color", or "single" for networks that restore every channel as a gray picture of its own.
        half_precision: Whether 16 bits are enough; if not, it computes in float32 everywhere.
        tile_overlap: Pixels that neighboring tiles of a large picture should share.
        tile_side: Pixels that tiles should be high and wide where memory allows it, as smaller ones come out worse.
        checkpoint_activations: Whether training recomputes features in the backward pass instead of keeping them; a
            network that cannot do so ignores it.
    """

    value_range: tuple[float, float] = (0.0, 1.0)
    channels: Literal["color", "single"] = "color"
    half_precision: bool = True
    tile_overlap: int = OVERLAP
    tile_side: int = 0
    checkpoint_activations: bool = False

    def __init__(self, config: Any, name: str) -> None:
        super().__init__()
        self.config = config
        self.name = name

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this."""
        raise NotImplementedError

    @property
    def peak_bytes_per_pixel(self) -> float:
        """Working memory of one float32 pass without gradients, in bytes for each pixel of the picture."""
        raise NotImplementedError

    def restore(self, x: Tensor) -> list[Tensor]:
        """Restore `x` in the values and channels declared.

        Args:
            x: (B, 3, H, W), or (3 * B, 1, H, W) for single channels, in `value_range`.

        Returns:
            Its estimates, the output last. Earlier ones may be smaller by whole factors, and training compares them
            with the sharp picture made as small.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Deblur `x` (B, 3, H, W), values in [0, 1]; returns the same shape, not clamped."""
        return self._from_own(self.restore(self._to_own(x))[-1])

    def estimates(self, x: Tensor) -> list[Tensor]:
        """All estimates (B, 3, h, w) that training may supervise, the output last."""
        return [self._from_own(estimate) for estimate in self.restore(self._to_own(x))]

    def _to_own(self, x: Tensor) -> Tensor:
        black, white = self.value_range
        if (black, white) != (0.0, 1.0):
            x = x * (white - black) + black
        return x.reshape(-1, 1, *x.shape[2:]) if self.channels == "single" else x

    def _from_own(self, x: Tensor) -> Tensor:
        black, white = self.value_range
        if self.channels == "single":
            x = x.reshape(-1, 3, *x.shape[2:])
        return (x - black) / (white - black) if (black, white) != (0.0, 1.0) else x
