"""DMPHN's released weights: a file for every encoder and decoder, which in stacks have numbers, too.

`encoder_lv1.pkl` to `decoder_lv4.pkl`, or `encoder_s1_lv1.pkl` to `decoder_s4_lv3.pkl`.
"""

import re

from torch import Tensor

from unsmear.convert.released import Converted, Released
from unsmear.convert.rename import rename
from unsmear.errors import ModelError

_FILE = re.compile(r"(encoder|decoder)(?:_s([1-9]))?_lv([1-4])")
_PRESETS = {(3, 1): "dmphn", (4, 1): "dmphn-8", (3, 2): "dmphn-stack2", (3, 3): "dmphn-stack3", (3, 4): "dmphn-stack4"}


def convert(released: Released) -> Converted | None:
    """Rename the tensors of a DMPHN, or of a stack of them; None if no file is called like theirs.

    The folder of three stacks was released with files of a fourth, which nothing uses. So stacks at the end that were
    never trained, that is, whose biases are all zero, are left out.

    Raises:
        ModelError: If files or tensors are missing, or some do not belong.
    """
    found = {name: match for name in released if (match := _FILE.fullmatch(name))}
    if not found:
        return None
    levels = max(int(match[3]) for match in found.values())
    stacks = max(int(match[2] or 1) for match in found.values())
    is_stacked = any(match[2] for match in found.values())
    idle: list[str] = []
    while stacks > 1 and not any(_is_trained(released[name]) for name in found if f"_s{stacks}_" in name):
        idle += [name for name in found if f"_s{stacks}_" in name]
        stacks -= 1
    files = {
        f"{kind}_s{stack}_lv{level}" if is_stacked else f"{kind}_lv{level}": (kind, stack, level)
        for stack in range(1, stacks + 1)
        for level in range(1, levels + 1)
        for kind in ("encoder", "decoder")
    }
    missing = [name for name in files if name not in released]
    if missing:
        raise ModelError(f"these files of a DMPHN are missing: {', '.join(missing)}; give all, or their folder")
    others = [name for name in found if name not in files and name not in idle]
    if others:
        raise ModelError(
            f"{others[0]} does not belong to the same DMPHN as {next(iter(files))}: give one network's files"
        )
    tensors: dict[str, Tensor] = {}
    for file, (kind, stack, level) in files.items():
        tensors |= rename(released[file], _names(kind, f"stacks.{stack - 1}.{kind}s.{level - 1}"), file)
    preset = _PRESETS.get((levels, stacks))
    unused = tuple(f"{file}: {name}" for file in released if file not in files for name in released[file])
    return Converted(preset or "dmphn", tensors, {} if preset else {"levels": levels, "stacks": stacks}, unused)


def _is_trained(tensors: dict[str, Tensor]) -> bool:
    return any(bool(tensor.any()) for name, tensor in tensors.items() if name.endswith(".bias"))


def _names(kind: str, prefix: str) -> dict[str, str]:
    """Our names of an encoder's or a decoder's tensors, by theirs, which count layers through from 1 to 24."""
    layers: dict[str, str] = {}
    for scale in range(3):
        first = 4 * scale + (2 if kind == "encoder" else 13)
        for block in range(2):
            for number in (1, 2):  # of the convolution; between the two is a ReLU
                layers[f"layer{first + block}.{2 * number - 2}"] = f"blocks.{scale}.{block}.conv{number}"
        if kind == "encoder":
            layers[f"layer{first - 1}"] = f"down.{scale}"
        else:
            layers[f"layer{first + 3}"] = f"up.{scale}" if scale < 2 else "last"
    return {f"{theirs}.{t}": f"{prefix}.{ours}.{t}" for theirs, ours in layers.items() for t in ("weight", "bias")}
