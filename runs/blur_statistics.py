"""Compare the blur that we make with real blur: the table and the plot of docs/blur.md.

    python runs/blur_statistics.py FRAMES_DIR PAIRS_DIR [--plot docs/blur-statistics.png] [--check]

Real blur: the pairs of PAIRS_DIR, and averages of 7 to 13 consecutive frames of FRAMES_DIR around every 20th.
Synthetic blur: every preset of `unsmear.data.blur`, on the sharp pictures of exactly those.

PSNR is that of blurred against sharp, 8 bits. A gradient ratio is a quantile of the gradient magnitude (gray,
neighboring pixels) of all blurred pictures over that of all sharp ones. Extent, in pixels, is measured in
textured patches of 192 x 192: it is the length of the straight, even motion which best explains the amplitude
spectrum of the blurred patch by that of the sharp one. Amplitudes do not change when things are shifted.
`--check` measures straight motions of known length and any direction, on the same sharp pictures, and ends.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unsmear.data.blur import PRESETS, BlurConfig, average_frames, synthesize
from unsmear.data.pairs import find_pairs
from unsmear.data.store import list_pictures
from unsmear.train.validation import psnr

Pair = tuple[np.ndarray, np.ndarray]
QUANTILES = (0.5, 0.75, 0.9, 0.99, 0.999)
EDGES = np.linspace(0, 362, 3621)  # gray levels, up to the largest gradient
PATCH = 192
COMPARED = ("MILD", "MEDIUM", "STRONG", "GOPRO")  # the preset clean is like no real blur
LENGTHS = np.arange(0, 81)
ANGLES = np.arange(24) * np.pi / 24


@dataclass
class Statistics:
    """What is known about some pairs: PSNR (dB) a pair, extent (pixels) a patch, histograms of gradients."""

    psnr: list[float] = field(default_factory=list)
    extent: list[float] = field(default_factory=list)
    blurred: np.ndarray = field(default_factory=lambda: np.zeros(len(EDGES) - 1))
    sharp: np.ndarray = field(default_factory=lambda: np.zeros(len(EDGES) - 1))

    def add(self, blurred: np.ndarray, sharp: np.ndarray) -> None:
        """Take in a pair of (H, W, 3) uint8 pictures."""
        self.psnr.append(psnr(blurred, sharp))
        gray = [picture.mean(-1, dtype=np.float32) for picture in (blurred, sharp)]
        for total, picture in zip((self.blurred, self.sharp), gray, strict=True):
            dx, dy = np.diff(picture, axis=1)[:-1], np.diff(picture, axis=0)[:, :-1]
            total += np.histogram(np.hypot(dx, dy), EDGES)[0]
        self.extent += extents(*gray)

    def merge(self, other: "Statistics") -> None:
        self.psnr += other.psnr
        self.extent += other.extent
        self.blurred += other.blurred
        self.sharp += other.sharp

    def ratios(self) -> list[float]:
        """Gradient quantiles of blurred over sharp."""
        return [quantile(self.blurred, q) / quantile(self.sharp, q) for q in QUANTILES]


def quantile(counts: np.ndarray, share: float) -> float:
    heaps = np.cumsum(counts)
    return float(np.interp(share * heaps[-1], heaps, EDGES[1:]))


@cache
def motions() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bins of a patch's spectrum that are used, their frequency, and the amplitude of each motion there."""
    fy, fx = np.meshgrid(np.fft.fftfreq(PATCH), np.fft.rfftfreq(PATCH), indexing="ij")
    frequency = np.hypot(fy, fx)
    used = (frequency > 1.5 / PATCH) & (frequency < 0.25)  # the finest is mostly noise
    along = np.cos(ANGLES)[:, None] * fx[used] + np.sin(ANGLES)[:, None] * fy[used]
    amplitudes = np.abs(np.sinc(LENGTHS[:, None, None] * along)).reshape(-1, used.sum())
    return used, frequency[used], amplitudes


def extents(blurred: np.ndarray, sharp: np.ndarray) -> list[float]:
    """Length of the motion in every textured patch of a pair of gray pictures."""
    used, frequency, amplitudes = motions()
    window = np.outer(np.hanning(PATCH), np.hanning(PATCH))
    found = []
    for top in range(0, sharp.shape[0] - PATCH + 1, PATCH * 3 // 4):
        for left in range(0, sharp.shape[1] - PATCH + 1, PATCH * 3 // 4):
            patches = [p[top : top + PATCH, left : left + PATCH] for p in (blurred, sharp)]
            if np.abs(np.diff(patches[1], axis=1)).mean() < 1:  # a gray level: nothing to see
                continue
            # Times the frequency, as of gradients: otherwise the coarsest bins would decide alone.
            b, s = (np.abs(np.fft.rfft2((p - p.mean()) * window))[used] * frequency for p in patches)
            error = amplitudes**2 @ s**2 - 2 * amplitudes @ (b * s)
            found.append(float(LENGTHS[error.argmin() // len(ANGLES)]))
    return found


def read(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


def to_tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 255


def to_pixels(values: torch.Tensor) -> np.ndarray:
    return (values.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def averages(frames: list[Path], every: int) -> Iterator[Pair]:
    """Real blur, as the GoPro set was made: plain averages of 7 to 13 frames."""
    rng = np.random.default_rng(0)
    for middle in range(every - 1, len(frames) - 6, every):
        reach = int(rng.integers(3, 7))
        window = torch.stack([to_tensor(read(f)) for f in frames[middle - reach : middle + reach + 1]])
        blurred, sharp = average_frames(window)
        yield to_pixels(blurred), to_pixels(sharp)


def synthetic(sharp: list[np.ndarray], config: BlurConfig, draws: int) -> Iterator[Pair]:
    for seed in range(draws * len(sharp)):
        picture = to_tensor(sharp[seed % len(sharp)])[None]
        blurred, truth = synthesize(picture, config, torch.Generator().manual_seed(seed))
        yield to_pixels(blurred[0]), to_pixels(truth[0])


def straight(picture: np.ndarray, length: float, angle: float) -> np.ndarray:
    """A gray picture that moved straight and evenly, and lies off its place by a fifth of that."""
    fy, fx = np.fft.fftfreq(picture.shape[0])[:, None], np.fft.rfftfreq(picture.shape[1])
    along = length * (np.cos(angle) * fx + np.sin(angle) * fy)
    moved = np.fft.rfft2(picture) * np.sinc(along) * np.exp(0.4j * np.pi * along)
    return np.fft.irfft2(moved, picture.shape)


def check(sharp: list[np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    print("| true extent | measured, 5 25 50 75 95 % |")
    print("| --- | --- |")
    for length in (0, 2, 5, 10, 20, 30, 45, 60):
        found = []
        for picture in sharp:
            gray = picture.mean(-1, dtype=np.float32)
            found += extents(straight(gray, length, rng.uniform(0, np.pi)), gray)
        print(f"| {length} | {spread(found)} |", flush=True)


def spread(values: list[float]) -> str:
    return " ".join(f"{n:.0f}" for n in np.percentile(values, (5, 25, 50, 75, 95)))


def row(name: str, found: Statistics) -> str:
    center = f"{np.mean(found.psnr):.1f} | {np.median(found.psnr):.1f}"
    span = f"{min(found.psnr):.1f} to {max(found.psnr):.1f}"
    ratios = " ".join(f"{ratio:.2f}" for ratio in found.ratios())
    return f"| {name} | {center} | {span} | {ratios} | {spread(found.extent)} |"


def plot(rows: dict[str, Statistics], file: Path) -> None:
    import matplotlib.pyplot as plt

    figure, (gradients, motion, nearness) = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    colors = dict(zip(rows, ("black", "tab:blue", "tab:green", "tab:orange", "tab:red"), strict=True))
    real = rows["real"]
    levels = np.arange(60) * 2 + 1  # bins of two gray levels, because the finest are those of 8 bits

    def shares(counts: np.ndarray) -> np.ndarray:
        return counts[: 20 * len(levels)].reshape(-1, 20).sum(1) / counts.sum()

    gradients.semilogy(levels, shares(real.sharp), "--", color="gray", label="sharp")
    for name, found in rows.items():
        style = {"color": colors[name], "label": name, "linewidth": 2.5 if name == "real" else 1.3}
        gradients.semilogy(levels, shares(found.blurred), **style)
        for axes, values in ((motion, found.extent), (nearness, found.psnr)):
            axes.plot(np.sort(values), (np.arange(len(values)) + 0.5) / len(values), **style)
    gradients.set(title="gradients of blurred pictures", xlabel="magnitude, gray levels", ylabel="share of pixels")
    motion.set(title="extent of blur", xlabel="pixels", ylabel="share of patches below", xlim=(0, 60))
    nearness.set(title="blurred against sharp", xlabel="PSNR, dB", ylabel="share of pictures below", xlim=(20, 45))
    for axes in (gradients, motion, nearness):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(file, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frames", type=Path, help="consecutive frames of a high-speed video")
    parser.add_argument("pairs", type=Path, help="blurred and sharp pictures, any layout of find_pairs")
    parser.add_argument("--every", type=int, default=20, help="average around every so many frames")
    parser.add_argument("--draws", type=int, default=2, help="synthetic pictures from a sharp one")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--check", action="store_true", help="only check how well extents are measured")
    args = parser.parse_args()

    torch.set_num_threads(1)
    sources = {
        "pairs": [(read(p.blurred), read(p.sharp)) for p in find_pairs(args.pairs, split="test").pairs],
        "averaged frames": list(averages(list_pictures(args.frames), args.every)),
    }
    if args.check:
        check([sharp for pairs in sources.values() for _, sharp in pairs])
        return
    total = {name: Statistics() for name in ("real", *COMPARED)}
    for source, pairs in sources.items():
        print(f"\n{len(pairs)} {source}\n")
        ratios = "gradient ratios, 50 75 90 99 99.9 %"
        print(f"| blur | PSNR, mean | median | range | {ratios} | extent, 5 25 50 75 95 % |")
        print("| --- | --- | --- | --- | --- | --- |")
        sharp = [pair[1] for pair in pairs]
        made = {name: synthetic(sharp, PRESETS[name.lower()], args.draws) for name in COMPARED}
        for name, blurred in {"real": pairs, **made}.items():
            found = Statistics()
            for pair in blurred:
                found.add(*pair)
            total[name].merge(found)
            print(row(name, found), flush=True)
    if args.plot:
        plot(total, args.plot)


if __name__ == "__main__":
    main()
