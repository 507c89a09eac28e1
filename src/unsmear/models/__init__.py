"""The networks by name, and their weights."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unsmear.checkpoint import read_weights, write_weights
from unsmear.errors import ModelError, UsageError
from unsmear.models.network import Network
from unsmear.models.saphn import SAPHN, SAPHNConfig

DEFAULT_MODEL = "saphn-s"

MODELS: dict[str, tuple[type[Network], Any]] = {
    "saphn": (SAPHN, SAPHNConfig()),
    "saphn-s": (
        SAPHN,
        SAPHNConfig(
            lower_widths=(16, 32, 64),
            encoder_blocks=1,
            decoder_blocks=1,
            filters="depthwise",
            generator_kernel=1,
            unshuffle=2,
        ),
    ),
}

DESCRIPTIONS = {
    "saphn": "the paper's network: full 5x5 filters, two blocks a scale",
    "saphn-s": "the same network made for two processor cores (the default)",
}

WEIGHTS = Path(__file__).parent.parent / "weights"


def list_models() -> list[str]:
    """Names that `create_model` knows.

    >>> list_models()
    ['saphn', 'saphn-s']
    """
    return list(MODELS)


def create_model(name: str = DEFAULT_MODEL, **overrides: Any) -> Network:
    """Build a network with fresh weights.

    Args:
        name: One of `list_models()`.
        overrides: Fields of the network's configuration to change, for instance `levels=1`.

    Raises:
        UsageError: If the name or an override is unknown, or the configuration contradicts itself.
    """
    if name not in MODELS:
        raise UsageError(f"unknown model {name!r}: choose one of {', '.join(MODELS)}, or give a weights file")
    build, config = MODELS[name]
    try:
        return build(replace(config, **overrides), name)
    except (TypeError, ValueError) as error:
        raise UsageError(f"model {name!r} cannot be built: {error}") from None


def shipped_weights(name: str) -> Path | None:
    """The weights file that comes with the package for this model, or None."""
    path = WEIGHTS / f"{name}.safetensors"
    return path if path.is_file() else None


def load_model(name_or_path: str | Path = DEFAULT_MODEL, *, device: str | torch.device = "cpu") -> Network:
    """Load a trained network, ready to use (evaluation mode, float32, channels-last).

    Args:
        name_or_path: One of `list_models()` that ships with weights, or a weights file of `save_model`.
        device: Where to put it.

    Raises:
        UsageError: If the name is unknown and no such file exists.
        ModelError: If there are no weights for the name, or the file is damaged or not one of ours.
    """
    path = Path(name_or_path)
    if str(name_or_path) in MODELS:
        shipped = shipped_weights(str(name_or_path))
        if shipped is None:
            raise ModelError(
                f"model {str(name_or_path)!r} ships without weights: train it, and give the weights file instead"
            )
        path = shipped
    elif not path.is_file():
        what = "no such file" if path.suffix == ".safetensors" or len(path.parts) > 1 else "unknown model"
        raise UsageError(f"{what} {str(name_or_path)!r}: choose one of {', '.join(MODELS)}, or give a weights file")
    name, config, tensors = read_weights(path)
    try:
        network = create_model(name, **config)
    except UsageError as error:
        raise ModelError(f"{path}: {error}") from None
    expected = network.state_dict()
    wrong = [k for k in expected if k not in tensors or tensors[k].shape != expected[k].shape]
    wrong += [k for k in tensors if k not in expected]
    if wrong:
        raise ModelError(f"{path}: weights do not fit {name!r}; first wrong names: {', '.join(wrong[:3])}")
    network.load_state_dict(tensors)
    return network.eval().to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def save_model(
    network: Network,
    path: str | Path,
    *,
    notes: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a network's weights and configuration to a file that `load_model` reads, whole or not at all.

    Args:
        network: The network.
        path: Where to, usually `*.safetensors`.
        notes: What a reader should know of the training (JSON values).
        dtype: Type to store the weights in.

    Raises:
        ModelError: If a weight is not finite in that type.
    """
    write_weights(path, network.name, asdict(network.config), network.state_dict(), notes=notes, dtype=dtype)


def count_parameters(network: nn.Module) -> int:
    """Number of trained values in a network."""
    return sum(p.numel() for p in network.parameters())
