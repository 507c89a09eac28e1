"""What VGG19 sees in pictures (Simonyan and Zisserman 2015), as a measure of how different they look."""

from pathlib import Path

import torch
from torch import Tensor, nn

from unsmear.convert.read import find_checkpoints
from unsmear.errors import ModelError

WHERE = (
    "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth (548 MiB, published with torchvision under BSD-3-Clause,"
    " trained on ImageNet)"
)
"""Where its weights are."""


class Features(nn.Module):
    """VGG19 up to its convolution conv3_3, with weights that never change.

    The file's tensors are `features.0.weight` and so on, as torchvision names them; those of later layers are passed
    over.

    Args:
        file: The weights.

    Raises:
        UsageError: If there is no such file.
        ModelError: If it cannot be read, or holds other weights.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, file: str | Path) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, count in ((64, 2), (128, 2), (256, 3)):
            if layers:
                layers.append(nn.MaxPool2d(2))
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
        self.features = nn.Sequential(*layers[:-1])  # both papers take conv3_3 before its ReLU
        self._load(Path(file))
        self.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor((0.485, 0.456, 0.406)).reshape(3, 1, 1))
        self.register_buffer("deviation", torch.tensor((0.229, 0.224, 0.225)).reshape(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, 256, h, w) at a quarter of the size of `x` (B, 3, H, W), values in [0, 1]."""
        return self.features((x - self.mean) / self.deviation)

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean squared difference of the features of two pictures (B, 3, H, W); no gradient goes to `y`."""
        with torch.no_grad():
            target = self(y)
        return (self(x) - target).square().mean()

    def _load(self, file: Path) -> None:
        given = find_checkpoints([file])[0].read()
        expected = self.state_dict()
        wrong = [name for name in expected if name not in given or given[name].shape != expected[name].shape]
        if wrong:
            raise ModelError(f"{file}: holds no VGG19, as {wrong[0]} is missing or of another shape; take {WHERE}")
        self.load_state_dict({name: given[name] for name in expected})
