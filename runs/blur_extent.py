"""How well the estimate of blur of `unsmear explain` reads straight motion, docs/explain.md.

    python runs/blur_extent.py PHOTOS_DIR

Every second photo is blurred by straight motion of a random direction and gets noise of one gray level; the estimate is
read off every place of its middle 640 x 480 pixels that has edges. Prints lengths and errors of the direction.
"""

import argparse
from pathlib import Path

import numpy as np
from blur_statistics import straight

from unsmear.data.store import list_pictures, read_picture
from unsmear.explain.extent import measure_extent
from unsmear.explain.run import cut_middle

LENGTHS = 0, 3, 6, 9, 12, 16, 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    args = parser.parse_args()
    photos = [read_picture(file) for file in list_pictures(args.photos)[::2]]
    rng = np.random.default_rng(0)
    columns = []
    for length in LENGTHS:
        found, errors = [], []
        for photo in photos:
            angle = rng.uniform(0, np.pi)
            blurred = np.stack([straight(channel, length, angle) for channel in np.moveaxis(photo / 255, -1, 0)], -1)
            blurred += rng.normal(0, 1 / 255, blurred.shape)
            extent = measure_extent(cut_middle(blurred.clip(0, 1), 640, 480))
            apart = np.abs(extent.angle - angle) % np.pi
            found.append(extent.length[extent.is_seen])
            errors.append(np.degrees(np.minimum(apart, np.pi - apart))[extent.is_seen])
        low, middle, high = np.percentile(np.concatenate(found), (25, 50, 75))
        error = f"{np.median(np.concatenate(errors)):.0f}" if length else "-"  # without motion there is no direction
        columns.append((f"{middle:.1f}", f"{low:.1f} - {high:.1f}", error))
    print("| motion, px |", *(f"{length} |" for length in LENGTHS))
    print("| --- " * (1 + len(LENGTHS)) + "|")
    names = "read, px, median", "quartiles", "error of the direction, degrees, median"
    for name, cells in zip(names, zip(*columns, strict=True), strict=True):
        print(f"| {name} |", *(f"{cell} |" for cell in cells))


if __name__ == "__main__":
    main()
