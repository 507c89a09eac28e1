"""Draw the model card's sheet: details of the validation pictures, blurred, restored and sharp; the failures, too.

    python runs/make_contact_sheet.py KODAK_DIR docs/contact-sheet.jpg [--model saphn-s]

Blur and scores are those of `runs/validate.py`. Of each strength the pictures with the two highest, the two middle
and the two lowest gains are shown, each where the gain on 160 x 160 pixels is nearest to that of the whole picture.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from unsmear import Deblurrer
from unsmear.data.store import list_pictures, read_picture
from unsmear.train.validation import STRENGTHS, blurred_pair, psnr

SIDE, ZOOM, GAP, TITLE = 160, 2, 6, 18  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="saphn-s")
    args = parser.parse_args()
    deblurrer = Deblurrer(args.model)
    pictures = [read_picture(path) for path in list_pictures(args.pictures)]
    rows = []
    for strength in STRENGTHS:
        scored = []
        for seed, picture in enumerate(pictures):
            blurred, sharp = blurred_pair(picture, strength, seed)
            restored = deblurrer.restore(blurred)
            scored.append((gain(blurred, restored, sharp), seed, blurred, restored, sharp))
        scored.sort(key=lambda row: row[:2], reverse=True)
        middle = len(scored) // 2
        for number, seed, *trio in scored[:2] + scored[middle - 1 : middle + 1] + scored[-2:]:
            title = f"{strength}, picture {seed}: {psnr(trio[0], trio[2]):.1f} dB, {number:+.2f} dB"
            rows.append(draw(title, typical_detail(number, *trio)))
    width, height = rows[0].size
    sheet = Image.new("RGB", (2 * width + 3 * GAP, len(rows) // 2 * height), "white")
    for i, row in enumerate(rows):
        sheet.paste(row, (i % 2 * (width + 3 * GAP), i // 2 * height))
    sheet.save(args.out, quality=88)


def gain(blurred: np.ndarray, restored: np.ndarray, sharp: np.ndarray) -> float:
    return psnr(restored, sharp) - psnr(blurred, sharp)


def typical_detail(number: float, *trio: np.ndarray) -> list[np.ndarray]:
    height, width = trio[0].shape[:2]
    places = [
        (slice(top, top + SIDE), slice(left, left + SIDE))
        for top in range(0, height - SIDE + 1, SIDE // 2)
        for left in range(0, width - SIDE + 1, SIDE // 2)
    ]
    place = min(places, key=lambda place: abs(gain(*(picture[place] for picture in trio)) - number))
    return [picture[place] for picture in trio]


def draw(title: str, details: list[np.ndarray]) -> Image.Image:
    side = SIDE * ZOOM
    row = Image.new("RGB", (3 * side + 2 * GAP, side + TITLE + GAP), "white")
    ImageDraw.Draw(row).text((2, 3), f"{title} (blurred, restored, sharp)", "black")
    for column, detail in enumerate(details):
        large = Image.fromarray(detail).resize((side, side), Image.Resampling.NEAREST)
        row.paste(large, (column * (side + GAP), TITLE))
    return row


if __name__ == "__main__":
    main()
