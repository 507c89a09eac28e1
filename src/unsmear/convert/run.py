"""From the files that others released to a weights file of ours."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from unsmear import __version__
from unsmear.checkpoint import NoLargerThan
from unsmear.convert import (
    deblurgan,
    deblurgan_v2,
    deepdeblur,
    dmphn,
    mimo_unet,
    mprnet,
    nafnet,
    pss_nsc,
    restormer,
    srn,
    svrnn,
)
from unsmear.convert.read import digests, find_checkpoints, is_ours, read_all
from unsmear.convert.released import Converted, Released
from unsmear.convert.warm_start import warm_start
from unsmear.errors import ModelError, UsageError
from unsmear.models import create_model, fill_network, load_model, save_model
from unsmear.models.network import Network
from unsmear.paths import exists

CONVERTERS: tuple[Callable[[Released], Converted | None], ...] = (
    dmphn.convert,
    deepdeblur.convert,
    srn.convert,
    svrnn.convert,
    pss_nsc.convert,
    deblurgan.convert,
    deblurgan_v2.convert,
    nafnet.convert,
    mimo_unet.convert,
    mprnet.convert,
    restormer.convert,
)
"""Asked one after the other: each gives None for weights that are not those of its network."""


def convert_files(given: Sequence[Path], out: Path, *, start_saphn: bool = False, overwrite: bool = False) -> Network:
    """Convert released weights to a file that `load_model` reads, whole or not at all.

    The weights stay as they were released, in float32. The file's notes name the released files by their SHA-256.

    Args:
        given: Checkpoints of PyTorch, TensorFlow 1 or Caffe, or folders of them: all files of one network. For
            `start_saphn` it may be a weights file of ours, too.
        out: File to write, usually `*.safetensors`.
        start_saphn: Whether to write a SAPHN that starts from the converted DMPHN.
        overwrite: Whether to replace `out` if it exists.

    Returns:
        The network that was written, as `load_model` reads it.

    Raises:
        UsageError: If files are missing, or `out` exists or is one of them.
        ModelError: If a file is damaged, or the weights are not those of a network known here.
        ImageError: If `out` cannot be written.
    """
    checkpoints = find_checkpoints(given)
    files = [file for checkpoint in checkpoints for file in checkpoint.files]
    if exists(out, "--output") and any(out.samefile(file) for file in files):
        raise UsageError(f"{out}: is to be read: choose another --output")
    if exists(out) and not overwrite:
        raise UsageError(f"{out}: exists already; choose another --output, or pass --overwrite")
    notes: dict[str, Any] = {"sources": digests(checkpoints), "converter": f"unsmear {__version__}"}
    if len(files) == 1 and is_ours(files[0]):
        if not start_saphn:
            raise UsageError(f"{files[0]}: is a weights file of unsmear already")
        network = load_model(files[0])
    else:
        network = _build(read_all(checkpoints), files)
    if start_saphn:
        notes["started_from"] = network.name
        network = warm_start(network)
    save_model(network, out, notes=notes, dtype=torch.float32)
    return load_model(out)


def _build(released: Released, files: Sequence[Path]) -> Network:
    where = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    try:
        converted = next((found for convert in CONVERTERS if (found := convert(released)) is not None), None)
        if converted is None:
            first = [name for tensors in released.values() for name in tensors][:3]
            raise ModelError(f"{where}: weights of no network known here; they begin with {', '.join(first)}")
        # Sizes come from the files: nothing is allocated before they have been compared.
        with torch.device("meta"), NoLargerThan(converted.tensors):
            network = create_model(converted.model, **converted.overrides)
    except (UsageError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"{where}: no network can be made of these weights: {error}") from None
    return fill_network(network, converted.tensors, where)
