"""How far a picture done in tiles is from the same picture done whole, for the shipped network.

    python benchmarks/tiles.py PICTURE... [--memory 0.15]

Prints the PSNR between the two, and the gradient across the middle of each overlap against that elsewhere (1 is none to
see).
"""

import argparse
from pathlib import Path

import numpy as np

from unsmear import Deblurrer
from unsmear.data.store import read_picture
from unsmear.train.validation import psnr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--memory", type=float, default=0.15, help="GiB for the tiles")
    parser.add_argument("--model", default="saphn-s")
    args = parser.parse_args()
    whole, tiled = Deblurrer(args.model, memory_gib=8), Deblurrer(args.model, memory_gib=args.memory)
    for name in args.pictures:
        picture = read_picture(Path(name))
        plan = tiled.plan(*picture.shape[:2])
        first, second = whole.restore(picture), tiled.restore(picture)
        steps = np.abs(np.diff(second.astype(np.float32) - first, axis=1)).mean((0, 2))
        seams = [left + plan.overlap // 2 for left in plan.lefts[1:]]
        at_seams = np.mean([steps[s - 8 : s + 8].mean() for s in seams]) if seams else np.nan
        print(
            f"{name}: {plan}: {psnr(first, second):.1f} dB,"
            f" horizontal steps of the difference at seams {at_seams:.4f}, elsewhere {steps.mean():.4f} gray levels"
        )


if __name__ == "__main__":
    main()
