"""DeblurGAN-v2's released weights (VITA-Group/DeblurGANv2): `fpn_inception.h5` and `fpn_mobilenet.h5`."""

import re

from unsmear.convert.released import Converted, Released

_MARKS = {"fpn.enc0.conv.weight": "deblurgan-v2", "fpn.enc0.0.0.weight": "deblurgan-v2-mobile"}

# The backbone is there twice, whole and cut into stages; the stages are taken.
_RENAMED = (
    (r"^fpn\.enc(\d)\.", r"backbone.stages.\1."),
    (r"\.branch(\d)\.(conv|bn)\.", r".branches.\1.0.\2."),
    (r"\.branch(\d)\.", r".branches.\1."),
    (r"\.bn\.", ".norm."),
    (r"\.conv2d\.", ".project."),
    (r"^(backbone\..*)\.conv\.(\d)", r"\1.layers.\2"),
    (r"^fpn\.lateral0\.", "lateral_half."),
    (r"^fpn\.lateral([1-4])\.", lambda found: f"laterals.{int(found[1]) - 1}."),
    (r"^fpn\.td([1-3])\.", lambda found: f"merges.{3 - int(found[1])}."),
    (r"^head([1-4])\.block0\.", lambda found: f"heads.{int(found[1]) - 1}.conv1."),
    (r"^head([1-4])\.block1\.", lambda found: f"heads.{int(found[1]) - 1}.conv2."),
    (r"^smooth\.", "smooth_quarter."),
    (r"^smooth2\.", "smooth_half."),
    (r"^final\.", "last."),
)

# Whole backbones with their classifiers; what normalization remembers of training, as it uses the picture's own; and
# biases that normalization takes out again.
_UNUSED = re.compile(
    r"^fpn\.(inception|features)\.|\.(running_mean|running_var|num_batches_tracked)$"
    r"|^(fpn\.td[1-3]|smooth2?)\.0\.bias$"
)


def convert(released: Released) -> Converted | None:
    """Recognize and rename the tensors of either generator.

    Args:
        released: The files given.

    Returns:
        The network, or None if no file holds one.
    """
    for tensors in released.values():
        for mark, model in _MARKS.items():
            if mark in tensors:
                unused = tuple(name for name in tensors if _UNUSED.search(name))
                kept = {_rename(name): tensors[name].float() for name in tensors if name not in unused}
                return Converted(model, kept, unused=unused)
    return None


def _rename(name: str) -> str:
    for pattern, ours in _RENAMED:
        name = re.sub(pattern, ours, name)
    return name
