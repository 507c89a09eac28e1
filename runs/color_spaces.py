"""What restoring costs pictures of other color spaces than the network's, docs/pictures.md.

    python runs/color_spaces.py PHOTOS_DIR [--limit N]

Photographs are put into four color spaces of 16 bits, their colors drawn apart beyond sRGB, blurred by 5 pixels along
the rows in linear light, and restored by `saphn-s`: as pictures are, with the difference carried over; with their own
numbers taken as sRGB; and converted to sRGB and back. Prints mean PSNR against the sharp picture in its own numbers.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy import ndimage

from unsmear.arrays import ArrayDeblurrer
from unsmear.data.store import list_pictures, read_picture
from unsmear.image import Picture
from unsmear.image.color import Profile, matrix_profile, parse_profile
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
        photos = (read_picture(file) for file in list_pictures(args.photos)[: args.limit])
        outside, *found = np.mean([scores(photo, icc, profile, deblurrer) for photo in photos], 0)
        print(f"| {name} | {100 * outside:.0f} % |", *(f"{score:.2f} |" for score in found), flush=True)


def scores(photo: np.ndarray, icc: bytes, profile: Profile, deblurrer: ArrayDeblurrer) -> list[float]:
    """Share of pixels outside sRGB, and PSNR of the blurred picture and of the three ways to restore it."""

    def pixels(planes: np.ndarray) -> np.ndarray:
        return planes.clip(0, 1).T.reshape(photo.shape)

    encoded = photo.reshape(-1, 3).T.astype(np.float32) / 255
    gray = encoded.mean(0)
    own = np.clip(profile.own(gray + SATURATION * (encoded - gray)), 0, 1)
    in_srgb = profile.srgb(own)
    outside = ((in_srgb < -1e-3) | (in_srgb > 1.001)).any(0).mean()
    light = (curve.light(plane).reshape(photo.shape[:2]) for curve, plane in zip(profile.curves, own, strict=True))
    blurred = [ndimage.uniform_filter1d(plane, LENGTH, axis=1).ravel() for plane in light]
    values = pixels(np.stack([c.encode(plane) for c, plane in zip(profile.curves, blurred, strict=True)]))
    picture = Picture(np.rint(65535 * values).astype(np.uint16), icc=icc)
    restored = deblurrer.restore(picture.srgb())
    carried, taken = picture.with_srgb(restored).rgb / 65535, deblurrer.restore(picture.rgb) / 65535
    back, sharp = pixels(profile.own(restored.reshape(-1, 3).T)), pixels(own)
    results = picture.rgb / 65535, carried, taken, back
    return [outside, *(-10 * np.log10(np.mean((result - sharp) ** 2)) for result in results)]


if __name__ == "__main__":
    main()
