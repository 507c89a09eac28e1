"""How much the filters that `saphn-s` mixes could gain on blurred pictures if the truth told how to mix them.

    python runs/fitted_filters.py PHOTOS [--seed 0] [--limit 24]

The filters at full size, at a half and at a quarter, all of them even, together: by the mixture that brings the luma of
a picture, or of every square of it, closest to that of the sharp one. What is gained is added to all colors alike, as
the network does, and scored as by `runs/validate.py`. The smaller the squares, the more there is to gain.
"""

import argparse
from pathlib import Path

from unsmear.process import tune_process

tune_process()  # before PyTorch is loaded

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from unsmear.data.store import list_pictures, read_picture
from unsmear.models.blind_deconvolution import FAR, MID, filter_basis
from unsmear.samples import REC601
from unsmear.train.validation import STRENGTHS, blurred_pair, psnr

COUNT = 96  # filters at every size
SIDES = 0, 192, 96  # pixels of the squares; 0 for the whole picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the first picture's blur")
    parser.add_argument("--limit", type=int, help="so many pictures at most")
    args = parser.parse_args()
    photos = list_pictures(args.photos)[: args.limit]
    print("| blur |", *(f"{side} pixels |" if side else "whole picture |" for side in SIDES))
    print("| --- " * (1 + len(SIDES)) + "|")
    for strength in STRENGTHS:
        found = [gains(read_picture(p), strength, args.seed + number) for number, p in enumerate(photos)]
        print(f"| {strength} |", *(f"{mean:+.2f} |" for mean in np.mean(found, 0)), flush=True)


def gains(photo: np.ndarray, strength: str, seed: int) -> list[float]:
    """What the best mixtures gain of one picture, dB, for each of `SIDES`."""
    blurred, sharp = blurred_pair(photo, strength, seed)
    height, width = (side // FAR * FAR for side in blurred.shape[:2])
    blurred, sharp = blurred[:height, :width], sharp[:height, :width]
    luma, aim = (torch.from_numpy(np.float32(p) / 255) @ torch.tensor(REC601) for p in (blurred, sharp))
    responses, before = all_responses(luma), psnr(blurred, sharp)
    found = []
    for side in SIDES:
        change = torch.zeros_like(luma)
        tall, wide = side or height, side or width
        for down in range(0, height, tall):
            for right in range(0, width, wide):
                square = np.s_[down : down + tall, right : right + wide]
                change[square] = closest(responses[:, *square], (aim - luma)[square])
        restored = np.clip(blurred + 255 * change[..., None].numpy(), 0, 255).round().astype(np.uint8)
        found.append(psnr(restored, sharp) - before)
    return found


def all_responses(luma: Tensor) -> Tensor:
    """What the filters make of (H, W) at every size: (3 * COUNT, H, W)."""
    filters = filter_basis(COUNT)
    responses = []
    for factor in (1, MID, FAR):
        small = functional.avg_pool2d(luma[None, None], factor)
        small = functional.pad(small, [filters.shape[-1] // 2] * 4, mode="replicate")
        some = functional.conv2d(small, filters[:, None])
        responses.append(some if factor == 1 else functional.interpolate(some, scale_factor=factor, mode="bicubic"))
    return torch.cat(responses, 1)[0]


def closest(responses: Tensor, aim: Tensor) -> Tensor:
    """The sum of responses (n, h, w), each by a weight of its own, that comes closest to (h, w).

    Every other pixel tells the weights of the rest, so that the noise of a pixel does not choose its own.
    """
    columns, aims, found = responses.flatten(1), aim.flatten(), torch.empty_like(aim).flatten()
    black = (torch.arange(aim.shape[0])[:, None] + torch.arange(aim.shape[1])).flatten() % 2 == 0
    for some in (black, ~black):
        few = columns[:, some]
        among = (few @ few.T).double() + 1e-7 * few.shape[1] * torch.eye(len(few))
        weights = torch.linalg.solve(among, (few @ aims[some]).double()).float()
        found[~some] = weights @ columns[:, ~some]
    return found.view_as(aim)


if __name__ == "__main__":
    main()
