"""How much more a network with a filter basis gains on photos that it was trained on than on others.

    python runs/seen.py SEEN UNSEEN [--model NAME|FILE ...] [--crops 30]

Of each folder so many photos, evenly spread, each a crop of 480 pixels blurred by its number as the seed: what the
first estimate gains, which is the blind deconvolution's, what the levels add to it, and the least gain of all.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from unsmear.process import tune_process

tune_process()  # before PyTorch is loaded

import numpy as np
import torch
from torch import Tensor

from unsmear.data.batches import random_crop
from unsmear.data.store import list_pictures, read_picture
from unsmear.models import load_model
from unsmear.models.saphn import SAPHN
from unsmear.train.validation import blurred_pair, psnr

STRENGTHS = ("mild", "medium")
SIDE = 480  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seen", type=Path, metavar="SEEN")
    parser.add_argument("unseen", type=Path, metavar="UNSEEN")
    parser.add_argument("--model", nargs="+", default=["saphn-s"])
    parser.add_argument("--crops", type=int, default=30)
    args = parser.parse_args()
    print("| weights | blur | photos | first estimate, dB | levels, dB | all, dB | worst, dB |\n" + "| --- " * 7 + "|")
    for name in args.model:
        network = load_model(name)
        if not isinstance(network, SAPHN) or network.blind is None:
            parser.error(f"{name} has no first estimate")
        for strength in STRENGTHS:
            for folder, what in ((args.seen, "seen"), (args.unseen, "unseen")):
                first, last = torch.tensor(list(gains(network, folder, strength, args.crops))).T
                figures = [first.mean(), (last - first).mean(), last.mean(), last.min()]
                cells = [name, strength, what, *(f"{figure:+.2f}" for figure in figures)]
                print("|", " | ".join(cells), "|", flush=True)


@torch.inference_mode()
def gains(network: SAPHN, folder: Path, strength: str, crops: int) -> Iterator[tuple[float, float]]:
    """What the first and the last estimate of each crop gain, dB."""
    files = list_pictures(folder)
    for number, file in enumerate(files[:: max(1, len(files) // crops)][:crops]):
        crop = random_crop(read_picture(file), SIDE, torch.Generator().manual_seed(number))
        blurred, sharp = blurred_pair(crop.permute(1, 2, 0).numpy(), strength, number)
        first, *_, last = network.estimates(torch.from_numpy(blurred).permute(2, 0, 1)[None] / 255)
        before = psnr(blurred, sharp)
        yield psnr(in_8_bits(first), sharp) - before, psnr(in_8_bits(last), sharp) - before


def in_8_bits(estimate: Tensor) -> np.ndarray:
    """(1, 3, H, W) in [0, 1] as (H, W, 3) uint8."""
    return estimate[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()


if __name__ == "__main__":
    main()
