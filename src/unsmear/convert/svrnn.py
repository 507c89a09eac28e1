"""SVRNN's released weights (zhjwustc/cvpr18_rnn_deblur_matcaffe, MIT): a Caffe model, used from MATLAB.

MATLAB stores arrays column by column, so Caffe saw every picture with rows and columns exchanged. Here kernels are
turned back, and what was a run along rows there is one along columns.
"""

from unsmear.convert.released import Converted, Released, only_file

_LAYERS = {
    "first": "conve1_1",
    "down": "conve1_2",
    **{f"guidance.scale1.{i}": f"convg1_{i + 1}" for i in range(2)},
    **{f"guidance.scale2.{i}": f"convg2_{i + 1}" for i in range(2)},
    **{f"guidance.scale4.{i}": f"convg3_{i + 1}" for i in range(3)},
    **{f"guidance.scale8.{i}": f"convg4_{i + 1}" for i in range(3)},
    "guidance.to_scale2.0": "convgd1",
    "guidance.to_scale2.1": "convgd1_2",
    "guidance.to_factors.0": "convgd2",
    "guidance.to_factors.1": "convgd2_2",
    **{f"layers.{i}.mix": f"conv_rnn{i + 1}" for i in range(4)},
    "up": "convd1_1",
    "last": "convd1_2",
}
# Ours go right, left, down, up: in the picture as Caffe saw it down, up, right, left. It has the factors of a layer for
# right, down, left, up, and joins the runs in the order right, left, down, up.
_FACTORS, _RUNS = [1, 3, 0, 2], [2, 3, 0, 1]


def convert(released: Released) -> Converted | None:
    """Take in the weights of a Caffe model.

    Args:
        released: Tensors of one file.

    Returns:
        The network; None if these are the weights of another one.
    """
    found = only_file(released)
    if found is None:
        return None
    _, tensors = found
    made = {}
    for ours, theirs in _LAYERS.items():
        weight, bias = tensors.get(f"{theirs}.0"), tensors.get(f"{theirs}.1")
        if weight is None or bias is None or weight.dim() != 4:
            return None
        made[f"{ours}.weight"] = weight.transpose(2, 3).float()
        made[f"{ours}.bias"] = bias.flatten().float()
    for kind in ("weight", "bias"):
        factors = made[f"guidance.to_factors.1.{kind}"]
        groups = factors.unflatten(0, (4, 4, -1))  # layers, directions, channels
        made[f"guidance.to_factors.1.{kind}"] = groups[:, _FACTORS].flatten(0, 2)
    for i in range(4):
        runs = made[f"layers.{i}.mix.weight"].unflatten(1, (4, -1))
        made[f"layers.{i}.mix.weight"] = runs[:, _RUNS].flatten(1, 2)
    taken = {f"{theirs}.{index}" for theirs in _LAYERS.values() for index in (0, 1)}
    unused = tuple(sorted(set(tensors) - taken))
    return Converted("svrnn", {k: v.contiguous() for k, v in made.items()}, unused=unused)
