"""NAFNet's released weights (megvii-research/NAFNet, MIT), all widths: NAFNet-GoPro-width32, -width64 and others."""

from unsmear.convert.released import Converted, Released, only_file
from unsmear.convert.rules import Rules, convert_by_rules, count

_RULES: Rules = (
    (r"^first\.", "intro."),
    (r"^last\.", "ending."),
    (r"^middle\.", "middle_blks."),
    (r"^(ups\.\d+)", r"\1.0"),
    (r"\.expand1\.", ".conv1."),
    (r"\.depthwise\.", ".conv2."),
    (r"\.reduce1\.", ".conv3."),
    (r"\.attend\.", ".sca.1."),
    (r"\.expand2\.", ".conv4."),
    (r"\.reduce2\.", ".conv5."),
    (r"\.scale1$", ".beta"),
    (r"\.scale2$", ".gamma"),
)


def convert(released: Released) -> Converted | None:
    """Take in a NAFNet of any width and depth; None if these are the weights of another network.

    Raises:
        ModelError: If tensors are missing, or some do not belong.
    """
    found = only_file(released, "intro.weight", "middle_blks.0.beta")
    if found is None:
        return None
    file, tensors = found
    scales = count(tensors, r"downs\.(\d+)\.")
    settings = {
        "width": len(tensors["intro.weight"]),
        "encoder_blocks": tuple(count(tensors, rf"encoders\.{i}\.(\d+)\.") for i in range(scales)),
        "middle_blocks": count(tensors, r"middle_blks\.(\d+)\."),
        "decoder_blocks": tuple(count(tensors, rf"decoders\.{i}\.(\d+)\.") for i in range(scales)),
    }
    return convert_by_rules(tensors, file, "nafnet-32" if settings["width"] == 32 else "nafnet", settings, _RULES)
