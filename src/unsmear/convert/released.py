"""What a converter takes and gives."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Released = dict[str, dict[str, Tensor]]
"""Tensors by name, for each file (by its name without folder and extension)."""


@dataclass(frozen=True)
class Converted:
    """A network that released weights belong to.

    Attributes:
        model: A name of `unsmear.list_models()`.
        tensors: Its state dict, float32.
        overrides: Fields of its configuration that differ from the preset.
        unused: Names in the released files that no module of ours needs, such as counters.
    """

    model: str
    tensors: dict[str, Tensor]
    overrides: dict[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
