"""Weights files: safetensors whose metadata holds the configuration, so that a file describes itself."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.overrides import TorchFunctionMode

from unsmear.atomic import write_whole
from unsmear.errors import ModelError

FORMAT = "unsmear-1"
_MAX_NAME = 100  # characters


def write_weights(
    path: str | Path,
    name: str,
    config: dict[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    notes: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a weights file, whole or not at all.

    Args:
        path: Where to, usually `*.safetensors`.
        name: The model's name.
        config: The model's configuration (JSON values).
        tensors: Its weights by name.
        notes: What a reader should know of the training (JSON values).
        dtype: Type to store the weights in.

    Raises:
        ModelError: If a weight is not finite in that type.
        ImageError: If the file cannot be written.
    """
    stored = {k: v.detach().to("cpu", dtype).contiguous() for k, v in tensors.items()}
    bad = [k for k, v in stored.items() if not v.isfinite().all()]
    if bad:
        raise ModelError(f"{path}: not written, weights are not finite in {dtype}: {', '.join(bad[:3])}")
    metadata = {
        "format": FORMAT,
        "model": name,
        "config": json.dumps(config),
        "notes": json.dumps(notes or {}),
    }
    write_whole(Path(path), save(stored, metadata))


def read_weights(path: str | Path) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Read a weights file: the model's name, its configuration, and its tensors as float32.

    Raises:
        ModelError: If the file is missing, damaged, or not one of ours. No code in the file is ever run.
    """
    try:
        with Path(path).open("rb"):  # safetensors says of a file that is closed to us that there is none
            pass
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not a readable weights file ({error})") from None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: not a readable weights file ({error})") from None
    if metadata.get("format") != FORMAT:
        raise ModelError(f"{path}: not an unsmear weights file (its metadata names no {FORMAT!r} format)")
    try:
        name, config = metadata["model"], json.loads(metadata["config"])
    except (KeyError, ValueError, RecursionError):
        name, config = "", None
    if not 0 < len(name) <= _MAX_NAME or not isinstance(config, dict) or "name" in config:
        raise ModelError(f"{path}: damaged metadata, model or configuration cannot be read")
    if any(v.is_complex() or not k.isprintable() for k, v in tensors.items()):
        raise ModelError(f"{path}: holds complex numbers, or names that cannot be printed")
    return name, config, {k: v.float() for k, v in tensors.items()}


class NoLargerThan(TorchFunctionMode):
    """Where a network is built that a file describes: it may not be much larger than the weights in the file.

    Else a few bytes of configuration could take all memory, or all time. Raises a ValueError then.

    Args:
        tensors: The weights.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._tensors = 2 * len(tensors) + 100  # some are made and not kept
        self._values = 2 * sum(t.numel() for t in tensors.values()) + 2**20

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.empty:  # which all layers begin with
            self._tensors -= 1
            self._values -= math.prod(args[0] if args and not isinstance(args[0], int) else args)
            if self._tensors < 0 or self._values < 0:
                raise ValueError("its configuration asks for more weights than the file holds")
        return func(*args, **(kwargs or {}))
