"""What a network makes of noise: whether it leaves it as it is, and what it still gains in it.

    python runs/noise.py PICTURES_DIR [--model NAME|FILE ...] [--count 12]

Every picture (its middle 384 x 384) gets Gaussian noise of some gray levels, gray or colored, after it was blurred by
seed with the mild preset, or not at all. Noise is no blur: the truth is the sharp picture with the same noise. Printed
are, as means over the pictures, the gain on blurred ones and the PSNR with which unblurred ones come back, both in dB;
the latter in parentheses after the guard of `unsmear deblur`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio as psnr

from unsmear import Deblurrer
from unsmear.data.blur import MILD, synthesize
from unsmear.data.store import list_pictures, read_picture
from unsmear.guard import guard

SIDE = 384
NOISES = (0, 5, 10, 20, 40)  # standard deviations, gray levels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--model", nargs="+", default=["saphn-s"])
    parser.add_argument("--count", type=int, default=12)
    args = parser.parse_args()
    files = list_pictures(args.pictures)
    files = files[:: max(1, len(files) // args.count)][: args.count]
    pairs = [blurred_and_sharp(read_picture(file), seed) for seed, file in enumerate(files)]
    deblurrers = [Deblurrer(model) for model in args.model]
    columns = "".join(f" {model}: gain | kept (guarded) |" for model in args.model)
    print(f"{len(pairs)} pictures\n| noise, levels | | blurred, dB |{columns}\n|{' --- |' * (3 + 2 * len(deblurrers))}")
    for size in NOISES:
        for channels, name in ((1, "gray"), (3, "colored"))[: 1 if size == 0 else 2]:
            noisy = [
                tuple(with_noise(picture, size, channels, seed) for picture in pair) for seed, pair in enumerate(pairs)
            ]
            cells = [f"{size}", name if size else "", f"{np.mean([psnr(s, b) for b, s in noisy]):.2f}"]
            for deblurrer in deblurrers:
                gain = np.mean([psnr(s, deblurrer.restore(b)) - psnr(s, b) for b, s in noisy])
                restored = [(s, deblurrer.restore(s)) for _, s in noisy]
                kept = np.mean([exactness(s, r) for s, r in restored])
                guarded = np.mean([exactness(s, guard(s, r)[0]) for s, r in restored])
                cells += [f"{gain:+.2f}", f"{kept:.1f} ({guarded:.1f})"]
            print(f"| {' | '.join(cells)} |", flush=True)


def blurred_and_sharp(picture: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    top, left = (max(0, (side - SIDE) // 2) for side in picture.shape[:2])
    sharp = torch.from_numpy(picture[top : top + SIDE, left : left + SIDE].copy()).permute(2, 0, 1)[None] / 255
    both = synthesize(sharp, MILD, torch.Generator().manual_seed(seed))
    blurred, sharp = (values[0].permute(1, 2, 0).numpy() * 255 for values in both)
    return blurred, sharp


def with_noise(picture: np.ndarray, size: float, channels: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((*picture.shape[:2], channels))
    return np.clip(np.rint(picture + size * noise), 0, 255).astype(np.uint8)


def exactness(before: np.ndarray, after: np.ndarray) -> float:
    """PSNR, of at most 1/100 of a gray level a pixel: pictures that stay bit by bit must not make means infinite."""
    error = np.square(before.astype(float) - after).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-4)))


if __name__ == "__main__":
    main()
