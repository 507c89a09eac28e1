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


def only_file(released: Released, *names: str) -> tuple[str, dict[str, Tensor]] | None:
    """The file of a network that was released as one file, and its tensors.

    Args:
        released: What was released.
        names: Tensors that such a file holds.

    Returns:
        None if there are several files, or one of the names is missing.
    """
    if len(released) != 1:
        return None
    ((file, tensors),) = released.items()
    return (file, tensors) if all(name in tensors for name in names) else None
