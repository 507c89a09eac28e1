"""Make the filters that networks with a filter basis begin with: src/unsmear/models/filter_basis.npy.

    python runs/make_filter_basis.py [--out FILE]

600 point spread functions of the preset mild and 300 of medium, two Wiener filters each (for noise of 0.004 and 0.015,
and pictures whose power falls with the square of the frequency), less the identity, cut to 17 x 17 pixels, each flipped
and transposed too: of these the principal components, where a filter is as large as what it makes of blurred pictures.
Each is scaled so that its coefficients have a mean square of 1.

Components are even or odd: turned by half they are the same, or their negative. Only even ones are kept, all that power
spectra can tell to use, since they are the same for a motion and its reverse. Each of these, flipped or transposed, is
itself or its negative (`src/unsmear/models/turns.py` turns weights back by that). Prints how much of the energy they
hold.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch

from unsmear.data.blur import PRESETS, synthesize
from unsmear.models.blind_deconvolution import BASIS_FILE

COUNT = 96  # filters
SIZE, GRID, SIDE = 17, 128, 65  # pixels of a filter, of a spectrum, of a point spread function
NOISES = (0.004, 0.015)
ROW, COLUMN = np.meshgrid(np.fft.fftfreq(GRID), np.fft.fftfreq(GRID), indexing="ij")
POWER = 1 / (ROW**2 + COLUMN**2 + 1e-4)  # of a sharp picture
POWER *= 0.05 / POWER.mean()  # its variance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=BASIS_FILE)
    args = parser.parse_args()
    spreads = np.concatenate([spread_functions("mild", 600, seed=0), spread_functions("medium", 300, seed=1)])
    wieners, passed = [], np.zeros((GRID, GRID))
    for spread in spreads:
        for turned in symmetries(spread):
            h = spectrum(turned)
            wieners += [wiener(h, noise).ravel() for noise in NOISES]
            passed += np.abs(h) ** 2 / (8 * len(spreads))
    wieners = np.array(wieners)
    blurred = np.minimum(POWER * passed, 5) + 1e-4

    # Filters count by the variance of what they make of blurred pictures: f C f', C being their covariance.
    covariance = np.fft.ifft2(blurred).real
    row, column = (m.ravel() for m in np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij"))
    covariance = covariance[row[:, None] - row, column[:, None] - column]
    covariance += 1e-6 * np.trace(covariance) / len(row) * np.eye(len(row))
    mixtures, sizes, _ = np.linalg.svd(wieners @ np.linalg.cholesky(covariance), full_matrices=False)
    components = (mixtures.T @ wieners / np.sqrt(len(wieners))).reshape(-1, SIZE, SIZE)
    for component in components:
        # Symmetries repeat the largest value with either sign: the first of them is positive.
        component *= np.sign(component.flat[(np.abs(component) > 0.999 * np.abs(component).max()).argmax()])
    is_even = (components * components[:, ::-1, ::-1]).sum((1, 2)) > 0
    energy = sizes**2 / (sizes**2).sum()
    np.save(args.out, components[is_even][:COUNT].astype(np.float16))
    for count in (24, COUNT):
        held = energy[is_even][:count].sum()
        print(f"energy held by {count} even filters: {held:.1%} of {energy[is_even].sum():.1%}")


def spread_functions(preset: str, count: int, seed: int) -> np.ndarray:
    """(count, SIDE, SIDE): what the preset's motions make of a point, without all else that it does."""
    plain = {"layers": 0.0, "encoded": 1.0, "saturation": 0.0, "shot_noise": 0.0, "read_noise": 0.0, "jpeg": 0.0}
    points = torch.zeros(count, 3, SIDE, SIDE)
    points[:, :, SIDE // 2, SIDE // 2] = 1
    blurred, _ = synthesize(points, dataclasses.replace(PRESETS[preset], **plain), torch.Generator().manual_seed(seed))
    spreads = blurred[:, 1].numpy().astype(np.float64)
    return spreads / spreads.sum((1, 2), keepdims=True)


def symmetries(picture: np.ndarray) -> list[np.ndarray]:
    """A square picture, flipped and transposed in all 8 ways."""
    return [side[::down, ::right] for side in (picture, picture.T) for down in (1, -1) for right in (1, -1)]


def spectrum(spread: np.ndarray) -> np.ndarray:
    centered = np.zeros((GRID, GRID))
    centered[:SIDE, :SIDE] = spread
    return np.fft.fft2(np.roll(centered, (-(SIDE // 2), -(SIDE // 2)), (0, 1)))


def wiener(h: np.ndarray, noise: float) -> np.ndarray:
    """The Wiener filter of a blur less the identity, (SIZE, SIZE), faded out at its border, with sum 0."""
    fade = np.outer(*[np.hanning(SIZE + 2)[1:-1] ** 0.5] * 2)
    begin = GRID // 2 - SIZE // 2
    inside = slice(begin, begin + SIZE)
    full = np.fft.ifft2(h.conj() * POWER / (np.abs(h) ** 2 * POWER + noise**2) - 1).real
    cut = np.fft.fftshift(full)[inside, inside] * fade
    return cut - fade * (cut.sum() / fade.sum())


if __name__ == "__main__":
    main()
