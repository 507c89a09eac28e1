"""What filters could gain if they knew the blur: the best there are, and what spectra and a fixed basis leave of them.

    python runs/filter_limits.py near mid far --photos DIR

On blur that is only imagined (`imagined_blur.py`), as each part of the blind deconvolution of `saphn-s` is trained on:
mean gains in dB of the Wiener filter; of the best even filter, all that a power spectrum can tell to use, since it is
the same for a motion and its reverse; and of the best mixtures of the first 24 and of all fixed filters.
"""

import argparse
from pathlib import Path

from unsmear.process import tune_process

tune_process()  # before PyTorch is loaded

import torch
from train_blind_deconvolution import PARTS, Part, best_gain, decibels, imagine, reduced, square

from unsmear.models.blind_deconvolution import filter_basis

COUNTS = 24, 48, 96  # filters
SAMPLES, MOTIONS = 2000, 2400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--photos", type=Path, required=True)
    args = parser.parse_args()
    print("| part | Wiener filter | best even filter |", *(f"best of {count} filters |" for count in COUNTS))
    print("| --- " * (3 + len(COUNTS)) + "|")
    for name in args.parts:
        print(f"| {name} |", *(f"{found:+.2f} |" for found in limits(PARTS[name], args.photos)), flush=True)


def limits(part: Part, folder: Path) -> list[float]:
    """Mean gains of all these filters, dB."""
    photos = [list(reduced(folder, size)) for size in part.sizes]
    imagined = imagine(part, filter_basis(max(COUNTS)), photos, MOTIONS, seed=0)
    torch.manual_seed(0)
    _, scene, transfer, noise = imagined.scenes(SAMPLES)
    seen = scene * transfer.abs() ** 2 + noise
    error = (scene * (1 - transfer).abs() ** 2 + noise).sum(1)
    even = scene * transfer.real / seen
    left = (scene * noise / seen, scene * (1 - even * transfer).abs() ** 2 + noise * even**2)
    found = [decibels(error, over_frequencies.sum(1), part.floor).mean().item() for over_frequencies in left]

    torch.manual_seed(0)
    _, among, missing, error = imagined.draw(SAMPLES)
    among = square(among)
    return found + [best_gain(count, part.floor, among, missing, error).mean().item() for count in COUNTS]


if __name__ == "__main__":
    main()
