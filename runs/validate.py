"""Score weights on pictures they were never trained on: the figures of the README and the model card.

    python runs/validate.py KODAK_DIR|scikit-image [--pairs DIR] [--seed N] [--patterns] [--soften SIGMA]
                            [--quality normal|best] [--model NAME|FILE ...]

Every picture of the folder, or every photograph that comes with scikit-image, is blurred at three strengths, with its
number beyond --seed as the seed, and stored in 8 bits; pairs of real motion are files of one name in the folders `blur`
and `sharp`; and the sharp pictures themselves should come back as they are. With --patterns regular patterns are made
of them first, bricks and the like, and with --soften they are softened. The protocol of the PSNR is that of
`unsmear.train.validation`.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from unsmear.process import tune_process

tune_process()  # before PyTorch is loaded

import numpy as np
import skimage.data
import torch
from skimage.color import gray2rgb

from unsmear import Deblurrer
from unsmear.data.patterns import random_pattern
from unsmear.data.softness import soften
from unsmear.data.store import list_pictures, read_picture
from unsmear.train.validation import Validation, summarize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sharp", help='a folder of pictures, or "scikit-image"')
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--model", nargs="+", default=["saphn-s"])
    parser.add_argument("--seed", type=int, default=0, help="of the first picture's blur")
    parser.add_argument("--patterns", action="store_true", help="make regular patterns of the pictures")
    parser.add_argument("--soften", type=float, default=0.0, help="standard deviation of a Gaussian, pixels")
    parser.add_argument("--quality", choices=["normal", "best"], default="normal", help="as for unsmear deblur")
    parser.add_argument("--limit", type=int, help="only the first N sharp pictures")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    files = sorted(args.pairs.rglob("blur/*.png")) if args.pairs else []
    pairs = [(read_picture(p), read_picture(p.parent.parent / "sharp" / p.name)) for p in files]
    sharp = sample_photos() if args.sharp == "scikit-image" else map(read_picture, list_pictures(args.sharp))
    chosen = [prepared(p, number, args) for number, p in enumerate(islice(sharp, args.limit))]
    validation = Validation(chosen, pairs, args.seed)
    results = {}
    for model in args.model:
        scores = validation.score(Deblurrer(model), args.quality)
        results[model] = summarize(scores)
        print(f"{model}\n{'set':8} {'n':>3} {'input':>7} {'output':>7} {'gain':>7} {'worst':>7}   (dB)")
        for name, row in results[model].items():
            before, gain = (f"{row[k]:7.2f}" if k in row else " " * 7 for k in ("before", "gain"))
            print(f"{name:8} {row['n']:3} {before} {row['after']:7.2f} {gain} {row['worst']:7.2f}")
        for path, score in zip(files, scores.get("real", []), strict=True):
            print(f"  {path.stem}: {score.before:.2f} -> {score.after:.2f}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


def prepared(picture: np.ndarray, number: int, args: argparse.Namespace) -> np.ndarray:
    """A sharp picture, made a pattern and softened as it is asked for."""
    values = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    if args.patterns:
        values = random_pattern(values, 1.0, torch.Generator().manual_seed(number))
    if args.soften:
        values = soften(values, args.soften)
    return (255 * values[0]).round().byte().permute(1, 2, 0).numpy()


def sample_photos() -> Iterator[np.ndarray]:
    """The photographs among the pictures that scikit-image brings along, (H, W, 3) uint8."""
    for name in ("astronaut", "brick", "camera", "cat", "coffee", "coins", "grass", "gravel", "page", "rocket"):
        picture = getattr(skimage.data, name)()
        yield gray2rgb(picture) if picture.ndim == 2 else picture


if __name__ == "__main__":
    main()
