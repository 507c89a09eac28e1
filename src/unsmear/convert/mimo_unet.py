"""MIMO-UNet's released weights (chosj95/MIMO-UNet): MIMO-UNet and MIMO-UNetPlus."""

from unsmear.convert.released import Converted, Released, only_file
from unsmear.convert.rules import Rules, convert_by_rules, count

# The authors count the scales of decoders, and of what is at the smaller ones, from the coarsest.
_RULES: Rules = (
    (r"^first\.", "feat_extract.0."),
    (r"^downs\.0\.", "feat_extract.1."),
    (r"^downs\.1\.", "feat_extract.2."),
    (r"^ups\.1\.", "feat_extract.3."),
    (r"^ups\.0\.", "feat_extract.4."),
    (r"^last\.0\.", "feat_extract.5."),
    (r"^last\.2\.", "ConvsOut.0."),
    (r"^last\.1\.", "ConvsOut.1."),
    (r"^narrow\.(\d)\.", lambda m: f"Convs.{1 - int(m[1])}."),
    (r"^fuse\.(\d)\.conv(\d)\.", lambda m: f"AFFs.{m[1]}.conv.{int(m[2]) - 1}."),
    (r"^attend\.(\d)\.", lambda m: f"FAM{2 - int(m[1])}.merge."),
    (r"^shallow\.(\d)\.convs\.", lambda m: f"SCM{2 - int(m[1])}.main."),
    (r"^shallow\.(\d)\.mix\.", lambda m: f"SCM{2 - int(m[1])}.conv."),
    (r"^encoders\.(\d)\.(\d+)\.conv(\d)\.", lambda m: f"Encoder.{m[1]}.layers.{m[2]}.main.{int(m[3]) - 1}."),
    (r"^decoders\.(\d)\.(\d+)\.conv(\d)\.", lambda m: f"Decoder.{2 - int(m[1])}.layers.{m[2]}.main.{int(m[3]) - 1}."),
    (r"(weight|bias)$", r"main.0.\1"),
)


def convert(released: Released) -> Converted | None:
    """Take in either of the two; None if these are the weights of another network.

    Raises:
        ModelError: If tensors are missing, or some do not belong.
    """
    found = only_file(released, "FAM1.merge.main.0.weight", "feat_extract.0.main.0.weight")
    if found is None:
        return None
    file, tensors = found
    blocks = count(tensors, r"Encoder\.0\.layers\.(\d+)\.")
    settings = {"width": len(tensors["feat_extract.0.main.0.weight"]), "blocks": blocks}
    return convert_by_rules(tensors, file, "mimo-unet-plus" if blocks == 20 else "mimo-unet", settings, _RULES)
