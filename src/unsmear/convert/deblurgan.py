"""DeblurGAN's released weights (KupynOrest/DeblurGAN), in all forms that its code has had."""

import re

from unsmear.convert.released import Converted, Released
from unsmear.models.deblurgan import DeblurGANConfig

_FIRST, _FIRST_BLOCK = "model.1.weight", "model.10.conv_block.1.weight"


def convert(released: Released) -> Converted | None:
    """Recognize and rename the tensors of DeblurGAN's generator.

    The authors' network is one list of layers, so the number of blocks decides the numbers of what follows. Blocks hold
    one convolution or two, the second at place 6 with dropout before it and at place 5 without.

    Args:
        released: The files given; those of the critic are passed over.

    Returns:
        The network, or None if no file holds it.
    """
    tensors = next((t for t in released.values() if _FIRST in t and _FIRST_BLOCK in t), None)
    if tensors is None:
        return None
    numbers = {int(found[1]) for name in tensors if (found := re.match(r"model\.(\d+)\.conv_block\.", name))}
    after = 10 + len(numbers)
    second = 6 if "model.10.conv_block.6.weight" in tensors else 5
    names = {
        _FIRST: "first.0.weight",
        "model.4.weight": "down1.0.weight",
        "model.7.weight": "down2.0.weight",
        f"model.{after}.weight": "up1.0.weight",
        f"model.{after + 3}.weight": "up2.0.weight",
        f"model.{after + 7}.weight": "last.weight",
        f"model.{after + 7}.bias": "last.bias",
    }
    for number in numbers:
        names[f"model.{number}.conv_block.1.weight"] = f"blocks.{number - 10}.conv1.weight"
        names[f"model.{number}.conv_block.{second}.weight"] = f"blocks.{number - 10}.conv2.weight"
    convolutions = 2 if f"model.10.conv_block.{second}.weight" in tensors else 1
    config = DeblurGANConfig()
    values = {
        "width": len(tensors[_FIRST]),
        "blocks": len(numbers),
        "convolutions": convolutions,
        "dropout": 0.0 if convolutions == 2 and second == 5 else config.dropout,
    }
    return Converted(
        "deblurgan",
        {ours: tensors[theirs].float() for theirs, ours in names.items() if theirs in tensors},
        {name: value for name, value in values.items() if value != getattr(config, name)},
        tuple(name for name in tensors if name not in names),
    )
