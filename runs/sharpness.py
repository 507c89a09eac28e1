"""How often the blur measure is wrong, and how others do: the figures of docs/sharpness.md.

    python runs/sharpness.py PHOTOS_DIR KODAK_DIR --pairs PAIRS_DIR [--candidates] [--limit N] [--json FILE]

PHOTOS_DIR holds sharp photographs to choose on, KODAK_DIR others to report on, PAIRS_DIR real blur as files of one name
in the folders `blur` and `sharp`. Of the photographs the middle is measured, 640 pixels a side, and every fourth one is
blurred by its number as the seed; of the others, all are. With --candidates, other measures are compared at thresholds
by which each takes as many sharp photographs for blurred as ours does.
"""

import argparse
import io
import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from unsmear.data.store import list_pictures, read_picture
from unsmear.samples import luma
from unsmear.sharpness import THRESHOLD, blur_extent
from unsmear.train.validation import STRENGTHS, blurred_pair

Sample = tuple[str, np.ndarray]  # the set it belongs to, and the picture, (H, W, 3) uint8


def photos(folder: Path, limit: int | None) -> Iterator[Sample]:
    for seed, file in enumerate(list_pictures(folder)[:limit]):
        picture = read_picture(file)
        top, left = (max(0, side - 640) // 2 for side in picture.shape[:2])
        middle = np.ascontiguousarray(picture[top : top + 640, left : left + 640])
        yield "photos sharp", middle
        if seed % 4 == 0:
            yield from ((f"photos {name}", blurred_pair(middle, name, seed)[0]) for name in STRENGTHS)


def kodak(folder: Path, limit: int | None) -> Iterator[Sample]:
    for seed, file in enumerate(list_pictures(folder)[:limit]):
        picture = read_picture(file)
        yield "sharp", picture
        yield from ((name, blurred_pair(picture, name, seed)[0]) for name in STRENGTHS)
        yield from ((f"straight {length}", straight(picture, length, seed)) for length in (2, 3, 5, 8, 12, 20))
        moved = straight(picture, 8, seed)
        for name, degrade in DEGRADATIONS.items():
            yield f"sharp, {name}", degrade(picture)
            yield f"straight 8, {name}", degrade(moved)


def pairs(folder: Path) -> Iterator[Sample]:
    for file in sorted(folder.rglob("blur/*.png")):
        yield "real", read_picture(file)
        yield "real, sharp", read_picture(file.parent.parent / "sharp" / file.name)


def straight(picture: np.ndarray, length: float, seed: int) -> np.ndarray:
    """Even straight motion over `length` pixels, in a direction drawn by the seed, in linear light."""
    angle = np.random.default_rng(seed).uniform(0, np.pi)
    light = np.pad((picture / 255) ** 2.2, ((32, 32), (32, 32), (0, 0)), mode="reflect")
    down, across = np.fft.fftfreq(light.shape[0])[:, None], np.fft.rfftfreq(light.shape[1])[None]
    transfer = np.sinc(length * (across * np.cos(angle) + down * np.sin(angle)))[..., None]
    light = np.fft.irfft2(np.fft.rfft2(light, axes=(0, 1)) * transfer, s=light.shape[:2], axes=(0, 1))[32:-32, 32:-32]
    return (np.clip(light, 0, 1) ** (1 / 2.2) * 255).round().astype(np.uint8)


def noisy(picture: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma, picture.shape)
    return np.clip(picture + noise, 0, 255).round().astype(np.uint8)


def compressed(picture: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def softened(picture: np.ndarray, sigma: float) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(sigma)))


DEGRADATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "noise 5": lambda picture: noisy(picture, 5),
    "noise 12": lambda picture: noisy(picture, 12),
    "JPEG 50": lambda picture: compressed(picture, 50),
    "JPEG 20": lambda picture: compressed(picture, 20),
    "lens 0.7": lambda picture: softened(picture, 0.7),
    "lens 1.2": lambda picture: softened(picture, 1.2),
}


def gray(picture: np.ndarray) -> np.ndarray:
    return luma(picture) / 255


def crete(picture: np.ndarray) -> float:
    """How little slopes change when the picture is blurred again (Crete et al. 2007), the worse of both axes."""
    values = []
    for x in (gray(picture), gray(picture).T):
        sums = np.cumsum(np.pad(x, ((6, 5), (0, 0)), mode="edge"), axis=0, dtype=np.float64)
        slopes, blurred = (np.abs(np.diff(v, axis=0)) for v in (x, (sums[11:] - sums[:-11]) / 11))
        values.append(1 - np.maximum(slopes - blurred, 0).sum() / slopes.sum())
    return max(values)


def slope(picture: np.ndarray) -> float:
    """Exponent by which the power spectrum falls, over tiles of 64 pixels."""
    x = gray(picture)
    x = x[: len(x) // 64 * 64, : x.shape[1] // 64 * 64].reshape(len(x) // 64, 64, -1, 64).swapaxes(1, 2)
    x = (x - x.mean((2, 3), keepdims=True)) * np.outer(np.hanning(64), np.hanning(64)).astype(np.float32)
    power = (np.abs(np.fft.fft2(x)) ** 2).mean((0, 1))
    radius = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64))
    edges = np.linspace(2 / 64, 0.5, 16)
    means = [power[(radius >= low) & (radius < high)].mean() for low, high in pairwise(edges)]
    return -float(np.polyfit(np.log((edges[1:] + edges[:-1]) / 2), np.log(np.array(means) + 1e-12), 1)[0])


def laplacian(picture: np.ndarray) -> float:
    """Variance of the Laplacian over that of the picture, negative logarithm."""
    x = gray(picture)
    values = 4 * x[1:-1, 1:-1] - x[:-2, 1:-1] - x[2:, 1:-1] - x[1:-1, :-2] - x[1:-1, 2:]
    return -float(np.log((values.var() + 1e-9) / (x.var() + 1e-9)))


def edge_width(picture: np.ndarray) -> float:
    """Contrast over slope where slopes are steepest, the tenth percentile, in the worst of four directions."""
    x, reach, widths = gray(picture), 9, []
    rows, columns = (slice(reach, side - reach) for side in x.shape)
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        length = float(np.hypot(down, across))
        steps = round(8 / length)
        views = [
            x[rows.start + k * down : rows.stop + k * down, columns.start + k * across : columns.stop + k * across]
            for k in range(-steps, steps + 2)
        ]
        before, here, after = (np.abs(views[steps + k + 1] - views[steps + k]) for k in (-1, 0, 1))
        contrast = np.maximum.reduce(views) - np.minimum.reduce(views)
        edges = (contrast > 0.1) & (here > 0) & (here >= before) & (here >= after)
        if edges.sum() > 50:
            widths.append(float(np.percentile(contrast[edges] / here[edges] * length, 10)))
    return max(widths, default=8.0)


CANDIDATES: dict[str, Callable[[np.ndarray], float]] = {
    "blur_extent": blur_extent,
    "crete": crete,
    "slope": slope,
    "laplacian": laplacian,
    "edge_width": edge_width,
}


def compared(group: str) -> bool:
    """Whether other measures are tried on a set, too."""
    return "straight" not in group and (", " not in group or group == "real, sharp")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("kodak", type=Path)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--candidates", action="store_true")
    parser.add_argument("--limit", type=int, help="only the first N pictures of each folder")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    names = list(CANDIDATES) if args.candidates else ["blur_extent"]
    values: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    seconds, megapixels = dict.fromkeys(names, 0.0), 0.0
    samples = [photos(args.photos, args.limit), kodak(args.kodak, args.limit)]
    for source in [*samples, pairs(args.pairs)] if args.pairs else samples:
        for group, picture in source:
            counts = compared(group)
            megapixels += counts * picture.shape[0] * picture.shape[1] / 1e6
            for name in names if counts else names[:1]:
                begin = time.thread_time()
                values[name].setdefault(group, []).append(CANDIDATES[name](picture))
                seconds[name] += counts * (time.thread_time() - begin)

    groups, ours = list(values["blur_extent"]), values["blur_extent"]
    print(
        f"{'blur_extent':24} {'n':>4} {'5 %':>6} {'50 %':>6} {'95 %':>6}   called blurred from 1.6, 2.0, 2.5, 3.5 px on"
    )
    for group in groups:
        found = np.array(ours[group])
        shares = "  ".join(f"{np.mean(found >= threshold):4.0%}" for threshold in (1.6, 2.0, 2.5, 3.5))
        low, middle, high = np.quantile(found, (0.05, 0.5, 0.95))
        print(f"{group:24} {len(found):4} {low:6.2f} {middle:6.2f} {high:6.2f}   {shares}")
    alarms = float(np.mean(np.array(ours["photos sharp"]) >= THRESHOLD))
    shown = [group for group in values[names[-1]] if compared(group)]
    print(f"\nat thresholds that call {alarms:.0%} of the sharp photos blurred; ms a megapixel, one thread")
    print(f"{'':12} {'ms':>5} {'from':>6} " + " ".join(f"{group:>14}" for group in shown))
    for name in names:
        sharp = np.array(values[name]["photos sharp"])
        threshold = THRESHOLD if name == "blur_extent" else float(np.quantile(sharp, 1 - alarms))
        shares = " ".join(f"{np.mean(np.array(values[name][group]) >= threshold):14.0%}" for group in shown)
        print(f"{name:12} {1e3 * seconds[name] / megapixels:5.0f} {threshold:6.2f} {shares}")
        areas = {g: np.mean(np.array(values[name][g])[:, None] > sharp) for g in shown if g.startswith("photos")}
        print(f"{'  AUC':40} " + " ".join(f"{areas.get(group, np.nan):14.3f}" for group in shown[1:4]))
    if args.json:
        args.json.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
