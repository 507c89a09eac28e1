"""The networks by name, and their weights."""

from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unsmear.checkpoint import NoLargerThan, read_weights, write_weights
from unsmear.errors import ModelError, UsageError
from unsmear.models.deblurgan import DeblurGAN, DeblurGANConfig
from unsmear.models.deblurgan_v2 import DeblurGANv2, DeblurGANv2Config
from unsmear.models.deepdeblur import DeepDeblur, DeepDeblurConfig
from unsmear.models.dmphn import DMPHN, DMPHNConfig
from unsmear.models.mimo_unet import MIMOUNet, MIMOUNetConfig
from unsmear.models.motionflow import MotionFlow, MotionFlowConfig
from unsmear.models.mprnet import MPRNet, MPRNetConfig
from unsmear.models.nafnet import NAFNet, NAFNetConfig
from unsmear.models.network import Network
from unsmear.models.pss_nsc import PSSNSC, PSSNSCConfig
from unsmear.models.restormer import Restormer, RestormerConfig
from unsmear.models.saphn import SAPHN, SAPHNConfig
from unsmear.models.srn import SRN, SRNConfig
from unsmear.models.svrnn import SVRNN, SVRNNConfig
from unsmear.paths import exists

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
            skips=True,
            filter_basis=24,
            blind_filters=96,
            blind_colors=True,
        ),
    ),
    "dmphn": (DMPHN, DMPHNConfig()),
    "dmphn-8": (DMPHN, DMPHNConfig(levels=4)),
    "dmphn-stack2": (DMPHN, DMPHNConfig(stacks=2)),
    "dmphn-stack3": (DMPHN, DMPHNConfig(stacks=3)),
    "dmphn-stack4": (DMPHN, DMPHNConfig(stacks=4)),
    "deepdeblur": (DeepDeblur, DeepDeblurConfig()),
    "srn": (SRN, SRNConfig()),
    "srn-color": (SRN, SRNConfig(lstm=False, color=True)),
    "svrnn": (SVRNN, SVRNNConfig()),
    "pss-nsc": (PSSNSC, PSSNSCConfig()),
    "deblurgan": (DeblurGAN, DeblurGANConfig()),
    "deblurgan-v2": (DeblurGANv2, DeblurGANv2Config()),
    "deblurgan-v2-mobile": (DeblurGANv2, DeblurGANv2Config(backbone="mobilenet-v2", width=64)),
    "motionflow": (MotionFlow, MotionFlowConfig()),
    "mimo-unet": (MIMOUNet, MIMOUNetConfig()),
    "mimo-unet-plus": (MIMOUNet, MIMOUNetConfig(blocks=20, dropout=0.1)),
    "mprnet": (MPRNet, MPRNetConfig()),
    "restormer": (Restormer, RestormerConfig()),
    "nafnet": (NAFNet, NAFNetConfig()),
    "nafnet-32": (NAFNet, NAFNetConfig(width=32)),
}

DESCRIPTIONS = {
    "saphn": "the paper's network: full 5x5 filters, two blocks a scale",
    "saphn-s": "the same network made for two processor cores (the default)",
    "dmphn": "the paper's base model, patches 1-2-4 (Zhang et al. 2019)",
    "dmphn-8": "the same with a fourth level, patches 1-2-4-8",
    "dmphn-stack2": "two of the base model, one after the other",
    "dmphn-stack3": "three of the base model",
    "dmphn-stack4": "four of the base model, the best of its paper",
    "deepdeblur": "the first multi-scale network (Nah et al. 2017)",
    "srn": "one network for three scales, channel by channel (Tao et al. 2018)",
    "srn-color": "the same for all channels at once, without its memory",
    "svrnn": "spatially variant recurrent network (Zhang et al. 2018)",
    "pss-nsc": "SRN with selective sharing of weights (Gao et al. 2019)",
    "deblurgan": "the first trained by a critic (Kupyn et al. 2018)",
    "deblurgan-v2": "a feature pyramid on Inception-ResNet-v2, trained by two critics (Kupyn et al. 2019)",
    "deblurgan-v2-mobile": "the same on MobileNetV2, made for speed",
    "motionflow": "reads the motion of every pixel, then deconvolves (Gong et al. 2017)",
    "mimo-unet": "three scales in and out of one U-Net (Cho et al. 2021)",
    "mimo-unet-plus": "the same, more than twice as deep",
    "mprnet": "three stages: quadrants, halves, all of the picture (Zamir et al. 2021)",
    "restormer": "a U-Net of transformer blocks that attend between channels (Zamir et al. 2022)",
    "nafnet": "a U-Net without activation functions (Chen et al. 2022)",
    "nafnet-32": "the same with half the channels",
}

WEIGHTS = Path(__file__).parent.parent / "weights"


def list_models() -> list[str]:
    """Names that `create_model` knows.

    >>> list_models()[:2]
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
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"model {name!r} cannot be built: {' '.join(str(error).split())}") from None


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
        UsageError: If the name is unknown and no such file exists, or it is no name.
        ModelError: If there are no weights for the name, or the file is damaged or not one of ours.
    """
    if not isinstance(name_or_path, str | PathLike):
        raise UsageError(f"a model must be a name or a weights file, not {type(name_or_path).__name__}")
    path = Path(name_or_path)
    if str(name_or_path) in MODELS:
        shipped = shipped_weights(str(name_or_path))
        if shipped is None:
            raise ModelError(
                f"model {str(name_or_path)!r} ships without weights: train it, or convert what its authors released"
                " (unsmear convert), and give that file"
            )
        path = shipped
    elif not (exists(path) and path.is_file()):
        what = "no such file" if path.suffix == ".safetensors" or len(path.parts) > 1 else "unknown model"
        raise UsageError(f"{what} {str(name_or_path)!r}: choose one of {', '.join(MODELS)}, or give a weights file")
    name, config, tensors = read_weights(path)
    try:
        with NoLargerThan(tensors):
            network = create_model(name, **_plain(name) | config)
    except UsageError as error:
        raise ModelError(f"{path}: {error}") from None
    return fill_network(network, tensors, path).eval().to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _plain(name: str) -> dict[str, Any]:
    """A configuration without anything that a later version may have given the preset of this name."""
    return asdict(type(MODELS[name][1])()) if name in MODELS else {}


def fill_network(network: Network, tensors: dict[str, Tensor], source: str | Path) -> Network:
    """Give a network the weights that belong to it, and return it.

    Args:
        network: The network; on the meta device it takes the tensors themselves.
        tensors: Its weights by name.
        source: Where they are from, for messages.

    Raises:
        ModelError: If one is missing, has another shape, or is not of this network.
    """
    expected = network.state_dict()
    wrong = [k for k in expected if k not in tensors or tensors[k].shape != expected[k].shape]
    wrong += [k for k in tensors if k not in expected]
    if wrong:
        raise ModelError(f"{source}: weights do not fit {network.name!r}; first wrong names: {', '.join(wrong[:3])}")
    network.load_state_dict(tensors, assign=any(p.is_meta for p in network.parameters()))
    return network


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
        ImageError: If the file cannot be written.
    """
    write_weights(path, network.name, asdict(network.config), network.state_dict(), notes=notes, dtype=dtype)


def count_parameters(network: nn.Module) -> int:
    """Number of trained values in a network."""
    return sum(p.numel() for p in network.parameters())
