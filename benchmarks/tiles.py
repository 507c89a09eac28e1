"""How far a picture done in tiles is from the same picture done whole.

    python benchmarks/tiles.py PICTURE... [--model saphn-s] [--grids 2x2 3x3] [--overlaps 32 64 128 256]

Every picture is done once whole, and then in every grid of tiles with every overlap. Prints, over all pictures, the
PSNR between the two (mean and worst), the largest difference in gray levels of 255, and the gradient across seams: that
of the tiled picture over that of the whole one, over all steps that lie in the fade of a seam, for the worst picture
and for the worst seam of all. 1 is none to see. Pictures must be wide enough: neighbors share at most half a tile.
"""

import argparse
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from unsmear.process import tune_process

tune_process()  # before PyTorch is loaded

import numpy as np
import torch

from unsmear.data.store import read_picture
from unsmear.models import load_model
from unsmear.models.network import Network
from unsmear.tiling import TilePlan, merge_tiles, reflect_indices


@dataclass
class Difference:
    """Of one tiled picture to the whole one: PSNR, largest difference, and gradient ratio at seams: all, worst."""

    psnr: float
    largest: float
    seams: float
    worst_seam: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--model", default="saphn-s")
    parser.add_argument("--grids", nargs="+", default=["2x2", "3x3"], help="columns x rows of tiles")
    parser.add_argument("--overlaps", nargs="+", type=int, default=[32, 64, 128, 256], help="pixels")
    args = parser.parse_args()
    network = load_model(args.model).eval()
    cases = [(grid, overlap) for grid in args.grids for overlap in args.overlaps]
    rows: dict[tuple[str, int], list[Difference]] = {case: [] for case in cases}
    for path in args.pictures:
        picture = read_picture(path)
        height, width = picture.shape[:2]
        whole = restore(network, picture, make_plan(height, width, "1x1", 0, network.size_multiple))
        for grid, overlap in cases:
            plan = make_plan(height, width, grid, overlap, network.size_multiple)
            found = compare(whole, restore(network, picture, plan), plan)
            rows[grid, overlap].append(found)
            print(
                f"{path.name} {width}x{height}, {plan}: {found.psnr:.1f} dB, max {found.largest:.1f},"
                f" seams {found.seams:.3f}, worst {found.worst_seam:.3f}",
                flush=True,
            )
    print("\n| tiles | overlap, px | PSNR, dB, mean | worst | largest difference | gradient at seams | worst seam |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for (grid, overlap), found in rows.items():
        print(
            f"| {grid} | {overlap} | {np.mean([f.psnr for f in found]):.1f} | {min(f.psnr for f in found):.1f}"
            f" | {max(f.largest for f in found):.1f} | {max(f.seams for f in found):.3f}"
            f" | {max(f.worst_seam for f in found):.3f} |"
        )


def make_plan(height: int, width: int, grid: str, overlap: int, multiple: int) -> TilePlan:
    cols, rows = map(int, grid.split("x"))
    sides = {}
    for name, length, count in (("height", height, rows), ("width", width, cols)):
        padded = -(-length // multiple) * multiple
        tile = -(-(padded + (count - 1) * overlap) // count // multiple) * multiple
        if count > 1 and tile < 2 * overlap:
            raise SystemExit(f"{width} x {height} pixels are too few for {grid} tiles with an overlap of {overlap}")
        sides[name] = tile
    return TilePlan(
        height=height,
        width=width,
        tile_height=sides["height"],
        tile_width=sides["width"],
        rows=rows,
        cols=cols,
        overlap=overlap,
        multiple=multiple,
        peak_bytes=0,
    )


@torch.inference_mode()
def restore(network: Network, picture: np.ndarray, plan: TilePlan) -> np.ndarray:
    """Values of the output in gray levels, float32, clipped and not rounded."""

    def compute(top: int, left: int) -> np.ndarray:
        y = reflect_indices(top, top + plan.tile_height, plan.height)
        x = reflect_indices(left, left + plan.tile_width, plan.width)
        tile = torch.from_numpy(picture[y[:, None], x]).permute(2, 0, 1)[None]
        tile = tile.to(torch.float32, memory_format=torch.channels_last) / 255
        return network(tile)[0].permute(1, 2, 0).numpy()

    return np.concatenate([np.clip(strip, 0, 1) * 255 for _, strip in merge_tiles(plan, compute)])


def compare(whole: np.ndarray, tiled: np.ndarray, plan: TilePlan) -> Difference:
    difference = tiled - whole
    sums = []  # of the steps across every seam: of the tiled picture, and of the whole one
    for axis, starts, tile in ((0, plan.tops, plan.tile_height), (1, plan.lefts, plan.tile_width)):
        steps = [np.abs(np.diff(values, axis=axis)).sum((1 - axis, 2)) for values in (tiled, whole)]
        for first, second in pairwise(starts):
            shared = first + tile - second
            fade = slice(second + shared // 4, second + shared - shared // 4)
            sums.append([s[fade].sum() for s in steps])
    of_tiled, of_whole = np.transpose(sums)
    return Difference(
        psnr=float(10 * np.log10(255**2 / np.square(difference).mean(dtype=np.float64))),
        largest=float(np.abs(difference).max()),
        seams=float(of_tiled.sum() / of_whole.sum()),
        worst_seam=float((of_tiled / of_whole).max()),
    )


if __name__ == "__main__":
    main()
