"""Released networks built like ours, whose tensors only have other names."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from unsmear.convert.released import Converted
from unsmear.convert.rename import rename
from unsmear.models import create_model

Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Patterns in our names, and what the authors have there, applied one after the other."""


def convert_by_rules(
    tensors: Mapping[str, Tensor], file: str, model: str, settings: Mapping[str, Any], rules: Rules
) -> Converted:
    """Take in tensors that differ from ours by their names.

    Args:
        tensors: What was released.
        file: Where it is from, for messages.
        model: A name of `unsmear.list_models()`.
        settings: Fields of its configuration, as read from the tensors.
        rules: From our names to the authors'.

    Raises:
        ModelError: If tensors are missing, or there are others.
        UsageError: If the settings contradict each other.
    """
    with torch.device("meta"):
        preset = asdict(create_model(model).config)
        overrides = {name: value for name, value in settings.items() if preset[name] != value}
        network = create_model(model, **overrides)
    names = {_released_name(name, rules): name for name in network.state_dict()}
    return Converted(model, rename(tensors, names, file), overrides)


def _released_name(name: str, rules: Rules) -> str:
    for pattern, released in rules:
        name = re.sub(pattern, released, name)
    return name


def count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many modules there are in a row: the numbers that a pattern with one group finds at the start of names."""
    return len({match[1] for name in tensors if (match := re.match(pattern, name))})
