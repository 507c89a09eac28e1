"""What restoring costs pictures of other color spaces than the network's, docs/pictures.md.

    python runs/color_spaces.py PHOTOS_DIR [--limit N]

Photographs are put into four color spaces of 16 bits, their colors drawn apart beyond sRGB, blurred by 5 pixels along
the rows in linear light, and restored by `saphn-s`: as pictures are, with the difference carried over; with their own
numbers taken as sRGB; and converted to sRGB and back. Prints mean PSNR against the sharp picture in its own numbers.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from unsmear.arrays import ArrayDeblurrer
from unsmear.data.store import list_pictures
from unsmear.image import Picture
from unsmear.image.color import matrix_profile, parse_profile
from unsmear.image.heif import DISPLAY_P3

ADOBE_RGB = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060))
PROPHOTO = ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001))
SPACES = {
    "Display P3": (DISPLAY_P3, None),
    "Adobe RGB": (ADOBE_RGB, 563 / 256),
    "ProPhoto": (PROPHOTO, 1.8),
    "linear Display P3": (DISPLAY_P3, 1.0),
}
SATURATION, LENGTH = 2.5, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--limit", type=int, default=6)
    args = parser.parse_args()
    deblurrer = ArrayDeblurrer(device="cpu")
    print("| | outside sRGB | blurred | difference carried over | own numbers taken as sRGB | converted and back |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, (primaries, gamma) in SPACES.items():
        icc = matrix_profile(name, primaries, gamma)
        profile = parse_profile(icc)
        assert profile is not None
        rows = []
        for file in list_pictures(args.photos)[: args.limit]:
            encoded = np.asarray(Image.open(file).convert("RGB")).reshape(-1, 3).T.astype(np.float32) / 255
            gray = encoded.mean(0)
            own = np.clip(profile.own(gray + SATURATION * (encoded - gray)), 0, 1)
            outside = ((profile.srgb(own) < -1e-3) | (profile.srgb(own) > 1.001)).any(0).mean()
            size = Image.open(file).size[::-1]
            sharp = own.T.reshape(*size, 3)
            light = [c.light(v) for c, v in zip(profile.curves, own, strict=True)]
            blurred = [ndimage.uniform_filter1d(v.reshape(size), LENGTH, axis=1).ravel() for v in light]
            values = np.stack([c.encode(v) for c, v in zip(profile.curves, blurred, strict=True)])
            seen = np.rint(65535 * values.clip(0, 1)).astype(np.uint16).T.reshape(*size, 3)
            picture = Picture(seen, icc=icc)
            in_srgb = deblurrer.restore(picture.srgb())
            back = profile.own(in_srgb.reshape(-1, 3).T).clip(0, 1).T.reshape(*size, 3)
            carried = picture.with_srgb(in_srgb).rgb / 65535
            results = seen / 65535, carried, deblurrer.restore(seen) / 65535, back
            rows.append([100 * outside, *(-10 * np.log10(np.mean((r - sharp) ** 2)) for r in results)])
        outside, *scores = np.mean(rows, 0)
        print(f"| {name} | {outside:.0f} % |", *(f"{score:.2f} |" for score in scores), flush=True)


if __name__ == "__main__":
    main()
