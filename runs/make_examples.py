"""Blur the example photographs of `examples/`, by seed.

    python runs/make_examples.py KODAK_DIR examples

The sharp originals are from the Kodak Lossless True Color Image Suite and were never trained on.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from unsmear.data.blur import MEDIUM, synthesize
from unsmear.data.store import read_picture

EXAMPLES = {  # file: (original, motion in pixels, seed)
    "airplane": ("kodak-12.png", 4.0, 1),
    "houses": ("kodak-22.png", 3.0, 3),
    "lighthouse": ("kodak-13.png", 5.0, 4),
    "motocross": ("kodak-19.png", 4.0, 0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("originals", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    for name, (original, extent, seed) in EXAMPLES.items():
        sharp = torch.from_numpy(read_picture(args.originals / original).copy())
        # One camera motion of a known size, no objects: what shaking hands do.
        config = replace(MEDIUM, extent=extent, skew=0.1, still=0.0, layers=0.0, saturation=0.0)
        batch = sharp.permute(2, 0, 1)[None].float() / 255
        blurred, _ = synthesize(batch, config, torch.Generator().manual_seed(seed))
        pixels = (blurred[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(args.out / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
