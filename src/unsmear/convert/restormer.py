"""Restormer's released weights (swz30/Restormer): motion_deblurring, and others for color with biased norms."""

from unsmear.convert.released import Converted, Released, only_file
from unsmear.convert.rules import Rules, convert_by_rules, count

_RULES: Rules = (
    (r"^first\.", "patch_embed.proj."),
    (r"^encoders\.3\.", "latent."),
    (r"^(en|de)coders\.(\d)\.", lambda m: f"{m[1]}coder_level{int(m[2]) + 1}."),
    (r"^downs\.(\d)\.", lambda m: f"down{int(m[1]) + 1}_{int(m[1]) + 2}.body.0."),
    (r"^ups\.(\d)\.", lambda m: f"up{int(m[1]) + 2}_{int(m[1]) + 1}.body.0."),
    (r"^narrow\.(\d)\.", lambda m: f"reduce_chan_level{int(m[1]) + 1}."),
    (r"^last\.", "output."),
    (r"\.norm(\d)\.", r".norm\1.body."),
    (r"\.attend\.depthwise\.", ".attn.qkv_dwconv."),
    (r"\.attend\.project\.", ".attn.project_out."),
    (r"\.attend\.", ".attn."),
    (r"\.feed\.expand\.", ".ffn.project_in."),
    (r"\.feed\.depthwise\.", ".ffn.dwconv."),
    (r"\.feed\.project\.", ".ffn.project_out."),
)
_SCALES = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")


def convert(released: Released) -> Converted | None:
    """Take in a Restormer; None if these are the weights of another network.

    Raises:
        ModelError: If tensors are missing, or some do not belong, as in those for gray pictures and two views.
    """
    found = only_file(released, "patch_embed.proj.weight", *(f"{scale}.0.attn.temperature" for scale in _SCALES))
    if found is None:
        return None
    file, tensors = found
    settings = {
        "width": len(tensors["patch_embed.proj.weight"]),
        "blocks": tuple(count(tensors, rf"{scale}\.(\d+)\.") for scale in _SCALES),
        "refinement_blocks": count(tensors, r"refinement\.(\d+)\."),
        "heads": tuple(len(tensors[f"{scale}.0.attn.temperature"]) for scale in _SCALES),
    }
    return convert_by_rules(tensors, file, "restormer", settings, _RULES)
