"""PSS-NSC's released weights (firenxygao/deblur, no licence): `default` and `alldata`, TensorFlow checkpoints."""

from unsmear.convert.released import Converted, Released, only_file
from unsmear.convert.tensorflow import collect, left_over


def convert(released: Released) -> Converted | None:
    """Take in either.

    Args:
        released: Tensors of one checkpoint, with or without the optimizer's.

    Returns:
        The network; None if these are the weights of another one.
    """
    found = only_file(released)
    if found is None:
        return None
    _, tensors = found
    layers = _layers()
    made = collect(tensors, layers)
    return None if made is None else Converted("pss-nsc", made, unused=left_over(tensors, layers))


def _layers() -> dict[str, str]:
    """Our names of layers, and their scopes."""
    layers = {}
    for i in range(3):
        for unit in range(4):
            for conv in ("conv1", "conv2"):
                layers[f"encoder.{i}.{unit}.{conv}"] = f"g_net/enc{i + 1}_2/d{unit + 1}/{conv}"
                layers[f"decoder.{i}.{unit}.{conv}"] = f"g_net/dec{3 - i}_2/d{unit + 1}/{conv}"
        for scale in range(3):
            layers[f"own.{scale}.down.{i}.0"] = f"g_net/enc{i + 1}_1_{scale}"
            ours = f"own.{scale}.up.{i}.0" if i < 2 else f"own.{scale}.last"
            layers[ours] = f"g_net/dec{2 - i}_3_{scale}" if i < 2 else f"g_net/dec1_0_{scale}"
    return layers
