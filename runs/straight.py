"""What a network makes of the plainest blur there is, and what could be made of it.

    python runs/straight.py PICTURES_DIR [--model NAME|FILE ...] [--count 6]

Every picture (its upper left 384 x 384) is smeared along its rows by a box of a given length, in encoded values and
around its borders, and gets noise and 8 bits. Beside the networks, which know nothing of it, stands the Wiener filter
that is told the blur, the noise, and how photographs fall off with frequency. Gains are in dB, means over the pictures.
"""

import argparse
import math
from pathlib import Path

import numpy as np

from unsmear import Deblurrer
from unsmear.data.store import list_pictures, read_picture

SIDE = 384
LENGTHS = (2, 3, 5, 9)  # pixels
NOISES = (0.0, 0.003, 0.01)  # standard deviations, white is 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--model", nargs="+", default=["saphn-s"])
    parser.add_argument("--count", type=int, default=6)
    args = parser.parse_args()
    files = list_pictures(args.pictures)
    files = files[:: max(1, len(files) // args.count)][: args.count]
    pictures = [read_picture(file)[:SIDE, :SIDE] / np.float32(255) for file in files]
    deblurrers = [Deblurrer(model) for model in args.model]
    print(
        f"{len(pictures)} pictures\n| length, px | noise | blurred, dB | Wiener, told all | {' | '.join(args.model)} |"
    )
    print(f"|{' --- |' * (4 + len(deblurrers))}")
    for length in LENGTHS:
        for noise in NOISES:
            rows = []
            for sharp in pictures:
                blurred = smear(sharp, length, noise)
                before = psnr(blurred, sharp)
                outputs = [wiener(blurred, length, noise), *(d.restore(blurred) for d in deblurrers)]
                rows.append([before, *(psnr(output, sharp) - before for output in outputs)])
            before, *gains = np.mean(rows, axis=0)
            print(
                f"| {length} | {noise:g} | {before:.2f} | {' | '.join(f'{gain:+.2f}' for gain in gains)} |", flush=True
            )


def smear(sharp: np.ndarray, length: float, noise: float) -> np.ndarray:
    spectrum = np.fft.fft2(sharp, axes=(0, 1)) * transfer(sharp, length)[..., None]
    blurred = np.fft.ifft2(spectrum, axes=(0, 1)).real
    blurred += noise * np.random.default_rng(0).standard_normal(blurred.shape)
    return (np.clip(np.rint(blurred * 255), 0, 255) / 255).astype(np.float32)


def wiener(blurred: np.ndarray, length: float, noise: float) -> np.ndarray:
    rows, columns = (np.fft.fftfreq(n) for n in blurred.shape[:2])
    power = 1 / (rows[:, None] ** 2 + columns[None] ** 2 + 1e-6)
    power *= blurred.var() / power.mean()
    h = transfer(blurred, length)
    gain = h * power / (h * h * power + max(noise**2, 1 / 255**2 / 12))  # rounding to 8 bits is noise, too
    return np.clip(np.fft.ifft2(np.fft.fft2(blurred, axes=(0, 1)) * gain[..., None], axes=(0, 1)).real, 0, 1)


def transfer(picture: np.ndarray, length: float) -> np.ndarray:
    return np.tile(np.sinc(np.fft.fftfreq(picture.shape[1]) * length), (len(picture), 1))


def psnr(x: np.ndarray, y: np.ndarray) -> float:
    return -10 * math.log10(float(np.square(x - y, dtype=np.float64).mean()))


if __name__ == "__main__":
    main()
