"""MPRNet's released weights (swz30/MPRNet): model_deblurring, and those for other tasks, which are narrower."""

from unsmear.convert.released import Converted, Released, only_file
from unsmear.convert.rules import Rules, convert_by_rules, count

_RULES: Rules = (
    (r"^shallow\.(\d)\.", lambda m: f"shallow_feat{int(m[1]) + 1}."),
    (
        r"^(en|de)coders\.(\d)\.levels\.(\d)\.",
        lambda m: f"stage{int(m[2]) + 1}_{m[1]}coder.{m[1]}coder_level{int(m[3]) + 1}.",
    ),
    (r"^(en|de)coders\.(\d)\.", lambda m: f"stage{int(m[2]) + 1}_{m[1]}coder."),
    (r"\.downs\.(\d)\.", lambda m: f".down{int(m[1]) + 1}{int(m[1]) + 2}.down.1."),
    (r"\.ups\.(\d)\.", lambda m: f".up{int(m[1]) + 2}{int(m[1]) + 1}.up.1."),
    (r"\.skips\.(\d)\.", lambda m: f".skip_attn{int(m[1]) + 1}."),
    (r"^third\.from_(en|de)coder\.(\d)\.", lambda m: f"stage3_orsnet.conv_{m[1]}c{int(m[2]) + 1}."),
    (r"\.from_(en|de)coder\.(\d)\.", lambda m: f".csff_{m[1]}c{int(m[2]) + 1}."),
    (r"^third\.groups\.(\d)\.", lambda m: f"stage3_orsnet.orb{int(m[1]) + 1}.body."),
    (r"^third\.up_(en|de)coded\.1\.0\.", r"stage3_orsnet.up_\1c1.up.1."),
    (r"^third\.up_(en|de)coded\.2\.(\d)\.", r"stage3_orsnet.up_\1c2.\2.up.1."),
    (r"^supervise\.(\d)\.", lambda m: f"sam{int(m[1]) + 1}{int(m[1]) + 2}."),
    (r"^merge\.(\d)\.", lambda m: f"concat{int(m[1]) + 1}{int(m[1]) + 2}."),
    (r"^last\.", "tail."),
    (r"\.conv1\.", ".body.0."),
    (r"\.activation\.", ".body.1."),
    (r"\.conv2\.", ".body.2."),
    (r"\.squeeze\.", ".CA.conv_du.0."),
    (r"\.excite\.", ".CA.conv_du.2."),
    (r"\.features\.", ".conv1."),
    (r"\.picture\.", ".conv2."),
    (r"\.weights\.", ".conv3."),
)


def convert(released: Released) -> Converted | None:
    """Take in an MPRNet of any width; None if these are the weights of another network.

    Raises:
        ModelError: If tensors are missing, or some do not belong.
    """
    needed = ("shallow_feat1.0", "shallow_feat1.1.CA.conv_du.0", "stage1_encoder.down12.down.1", "concat23")
    found = only_file(released, *(f"{name}.weight" for name in needed))
    if found is None:
        return None
    file, tensors = found
    width, squeezed, wider, third = (len(tensors[f"{name}.weight"]) for name in needed)
    settings = {
        "width": width,
        "wider": wider - width,
        "third_wider": third - width,
        "third_blocks": count(tensors, r"stage3_orsnet\.orb1\.body\.(\d+)\.body\."),
        "reduction": width // squeezed,
    }
    return convert_by_rules(tensors, file, "mprnet", settings, _RULES)
