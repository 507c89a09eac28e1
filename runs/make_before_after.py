"""Draw the README's picture: details of example photographs, before and after.

python runs/make_before_after.py examples docs/before-after.png
"""

import argparse
from pathlib import Path

from PIL import Image

from unsmear import Deblurrer
from unsmear.data.store import read_picture

SIZE, ZOOM, GAP = 170, 2, 6
DETAILS = {"houses": (470, 330), "motocross": (330, 60), "airplane": (70, 130)}  # left and top of each detail


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("examples", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="saphn-s")
    args = parser.parse_args()
    deblurrer = Deblurrer(args.model)
    side = SIZE * ZOOM
    sheet = Image.new("RGB", (len(DETAILS) * (side + GAP) - GAP, 2 * side + GAP), "white")
    for column, (name, (left, top)) in enumerate(DETAILS.items()):
        blurred = read_picture(args.examples / f"{name}.png")
        for row, picture in enumerate((blurred, deblurrer.restore(blurred))):
            detail = Image.fromarray(picture[top : top + SIZE, left : left + SIZE])
            sheet.paste(
                detail.resize((side, side), Image.Resampling.NEAREST), (column * (side + GAP), row * (side + GAP))
            )
    sheet.save(args.out, optimize=True)


if __name__ == "__main__":
    main()
