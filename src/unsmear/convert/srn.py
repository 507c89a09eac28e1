"""SRN's released weights (jiangsutx/SRN-Deblur, MIT): `lstm`, `gray` and `color`, each a TensorFlow checkpoint."""

from unsmear.convert.released import Converted, Released, only_file
from unsmear.convert.tensorflow import collect, left_over
from unsmear.models.srn import SRNConfig

_FIRST, _MEMORY = "g_net/enc1_1/weights", "g_net/convLSTM/LSTM_conv"


def convert(released: Released) -> Converted | None:
    """Take in any of the three.

    Args:
        released: Tensors of one checkpoint, with or without the optimizer's.

    Returns:
        The network; None if these are the weights of another one. The gates of the ConvLSTM keep their order.
    """
    found = only_file(released)
    if found is None:
        return None
    _, tensors = found
    first = tensors.get(_FIRST)
    if first is None or first.dim() != 4 or first.shape[2] not in (2, 6):
        return None
    color, lstm = first.shape[2] == 6, f"{_MEMORY}/weights" in tensors
    layers = _layers() | ({"lstm.gates": _MEMORY} if lstm else {})
    made = collect(tensors, layers)
    if made is None:
        return None
    preset = SRNConfig(lstm=False, color=True) if color else SRNConfig()
    overrides = {} if lstm == preset.lstm else {"lstm": lstm}
    return Converted("srn-color" if color else "srn", made, overrides, left_over(tensors, layers))


def _layers() -> dict[str, str]:
    """Our names of layers, and their scopes."""
    layers = {}
    for i in range(3):
        layers[f"encoder.{i}.0"] = f"g_net/enc{i + 1}_1"
        layers[f"decoder.{i}.3"] = f"g_net/dec{2 - i}_4" if i < 2 else "g_net/dec1_0"
        for j in range(3):
            for conv in ("conv1", "conv2"):
                layers[f"encoder.{i}.{j + 2}.{conv}"] = f"g_net/enc{i + 1}_{j + 2}/{conv}"
                layers[f"decoder.{i}.{j}.{conv}"] = f"g_net/dec{3 - i}_{3 - j}/{conv}"
    return layers
