"""How much more a network with a filter basis gains on photos that it was trained on than on others.

    python runs/seen.py SEEN UNSEEN [--model NAME|FILE ...] [--crops 30]

Of each folder so many photos, evenly spread, each a crop of at most 480 pixels blurred by its number as the seed: what
the first estimate gains, which is the blind deconvolution's, what the levels add to it, and the least gain of all.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from unsmear.process import tune_process

tune_process()  # before PyTorch is loaded

import torch
from torch import Tensor

from unsmear.data.batches import random_crop
from unsmear.data.blur import PRESETS, synthesize
from unsmear.data.store import list_pictures, read_picture
from unsmear.models import load_model
from unsmear.models.saphn import SAPHN

STRENGTHS = ("mild", "medium")
SIDE, MARGIN, MULTIPLE = 480, 16, 16  # pixels; of the last the sides are multiples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs=2, type=Path, metavar=("SEEN", "UNSEEN"))
    parser.add_argument("--model", nargs="+", default=["saphn-s"])
    parser.add_argument("--crops", type=int, default=30)
    args = parser.parse_args()
    print("| weights | blur | photos | first estimate, dB | levels, dB | all, dB | worst, dB |\n" + "| --- " * 7 + "|")
    for name in args.model:
        network = load_model(name)
        if not isinstance(network, SAPHN) or network.blind is None:
            parser.error(f"{name} has no first estimate")
        for strength in STRENGTHS:
            for folder, what in zip(args.folders, ("seen", "unseen"), strict=True):
                first, last = torch.tensor(list(gains(network, folder, strength, args.crops))).T
                figures = [first.mean(), (last - first).mean(), last.mean(), last.min()]
                cells = [name, strength, what, *(f"{figure:+.2f}" for figure in figures)]
                print("|", " | ".join(cells), "|", flush=True)


@torch.inference_mode()
def gains(network: SAPHN, folder: Path, strength: str, crops: int) -> Iterator[tuple[float, float]]:
    """What the first and the last estimate of each crop gain, dB."""
    files = list_pictures(folder)
    for number, file in enumerate(files[:: max(1, len(files) // crops)][:crops]):
        rng = torch.Generator().manual_seed(number)
        picture = read_picture(file)
        side = (min(SIDE + 2 * MARGIN, *picture.shape[:2]) - 2 * MARGIN) // MULTIPLE * MULTIPLE
        crop = random_crop(picture, side + 2 * MARGIN, rng)[None].float() / 255
        blurred, sharp = synthesize(crop, PRESETS[strength], rng, margin=MARGIN)
        blurred = blurred.mul(255).round().div(255)
        first, *_, last = network.estimates(blurred)
        before = psnr(blurred, sharp)
        yield psnr(first, sharp) - before, psnr(last, sharp) - before


def psnr(picture: Tensor, sharp: Tensor) -> float:
    return float(-10 * (picture.clamp(0, 1) - sharp).square().mean().clamp(min=1e-10).log10())


if __name__ == "__main__":
    main()
