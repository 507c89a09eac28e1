"""How often the guard is wrong, what it finds, and what it brings: the figures of docs/guard.md.

    python runs/guard.py KODAK_DIR [--pairs DIR] [--model saphn-s] [--limit N] [--cache DIR]

The sets are those of `runs/validate.py`. A pixel counts as acted on where the guard changed the output by a gray level
or more, and falsely so where the output was closer to the truth than the input. A picture counts where the guard costs
0.05 dB or more. What an ideal network would suffer is shown by handing the truth to the guard as if it were the output.

Then the outputs of the medium set are spoiled on purpose. A fault is found where the guard takes back half or more of
the wrong pixels' squared error, and what is left of it is told as a share.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from unsmear.process import tune_process

tune_process()  # before PyTorch is loaded

import numpy as np
from PIL import Image, ImageFilter

from unsmear import Deblurrer
from unsmear.data.store import read_picture
from unsmear.guard import guard
from unsmear.train.validation import Validation, psnr

Fault = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""Spoils an output, given the input, too."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sharp", type=Path)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--model", default="saphn-s")
    parser.add_argument("--limit", type=int, help="only the first N sharp pictures")
    parser.add_argument("--cache", type=Path, help="a folder that keeps the outputs for the next run")
    args = parser.parse_args()
    files = sorted(args.pairs.rglob("blur/*.png")) if args.pairs else []
    pairs = [(read_picture(p), read_picture(p.parent.parent / "sharp" / p.name)) for p in files]
    sharp = [read_picture(p) for p in sorted(args.sharp.glob("*.png"))[: args.limit]]
    triples = restore_all(sharp, pairs, args.model, args.cache)
    print_alarms(triples)
    print_faults(triples["medium"])


Triples = dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]
"""Inputs, outputs and truths of every set."""


def restore_all(sharp: list[np.ndarray], pairs: list, model: str, cache: Path | None) -> Triples:
    names = [f"{name}-{i}" for name in ("mild", "medium", "strong", "sharp") for i in range(len(sharp))]
    names += [f"real-{i}" for i in range(len(pairs))]
    if cache is None or not all((cache / f"{name}.npz").exists() for name in names):
        deblurrer = Deblurrer(model)
        made = {
            f"{name}-{i}": (before, deblurrer.restore(before), truth)
            for name, items in Validation(sharp, pairs).sets().items()
            for i, (before, truth) in enumerate(items)
        }
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)
            for name, triple in made.items():
                np.savez(cache / f"{name}.npz", *triple)
    else:
        made = {name: tuple(np.load(cache / f"{name}.npz").values()) for name in names}
    triples: Triples = {}
    for name, triple in made.items():
        triples.setdefault(name.split("-")[0], []).append(triple)
    return triples


def print_alarms(triples: Triples) -> None:
    print(
        "| set | n | input, dB | output | worst gain | guarded | worst gain | acted on | falsely | pictures falsely |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    ideal = []
    for name, items in triples.items():
        rows = []
        for before, after, truth in items:
            result, _ = guard(before, after)
            acted = np.abs(result.astype(np.int16) - after).max(axis=2) >= 1
            closer = square_error(after, truth) < square_error(before, truth)
            rows.append([psnr(x, truth) for x in (before, after, result)] + [acted.mean(), np.mean(acted & closer)])
            kept, share = guard(before, truth)
            ideal.append((name, share, psnr(before, truth), psnr(kept, truth)))
        before, after, guarded, share, false = np.transpose(rows)
        worst = [f"{x.min():.2f}" if name == "sharp" else f"{(x - before).min():+.2f}" for x in (after, guarded)]
        print(
            f"| {name} | {len(items)} | {before.mean():.2f} | {after.mean():.2f} | {worst[0]} | {guarded.mean():.2f}"
            f" | {worst[1]} | {share.mean():.1%} | {false.mean():.1%} | {np.sum(guarded < after - 0.05)} |"
        )
    print("\nThe truth as if it were the output:\n\n| set | input, dB | guarded, dB, median | least | taken back |")
    print("| --- | --- | --- | --- | --- |")
    for name in triples:
        if name != "sharp":
            share, before, kept = np.transpose([row[1:] for row in ideal if row[0] == name])
            print(f"| {name} | {before.mean():.2f} | {np.median(kept):.1f} | {kept.min():.1f} | {share.mean():.1%} |")


def square_error(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.square(x.astype(np.float32) - y).sum(axis=2)


def print_faults(items: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    print("\n| fault | found | left of its squared error, median | 90 % |")
    print("| --- | --- | --- | --- |")
    for name, fault in FAULTS.items():
        left = []
        for number, (before, after, _) in enumerate(items):
            spoiled = fault(before, after, np.random.default_rng(number))
            result, _ = guard(before, spoiled)
            wrong = np.abs(spoiled.astype(np.int16) - after).max(axis=2) >= 4
            error = square_error(spoiled, after)[wrong].sum()
            left.append(square_error(result, after)[wrong].sum() / error if wrong.any() else 0)
        print(f"| {name} | {np.mean(np.less(left, 0.5)):.0%} | {np.median(left):.0%} | {np.quantile(left, 0.9):.0%} |")


def place(shape: tuple[int, ...], side: int, generator: np.random.Generator) -> tuple[slice, slice]:
    top, left = (int(generator.integers(0, length - side + 1)) for length in shape[:2])
    return slice(top, top + side), slice(left, left + side)


def block(side: int) -> Fault:
    def fault(before: np.ndarray, after: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        spoiled = after.copy()
        spoiled[place(after.shape, side, generator)] = generator.integers(0, 256, 3)
        return spoiled

    return fault


def black(before: np.ndarray, after: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    spoiled = after.copy()
    spoiled[place(after.shape, 128, generator)] = 0
    return spoiled


def tint(levels: int) -> Fault:
    """The color of a part, shifted by so many levels in two channels, one up and one down."""

    def fault(before: np.ndarray, after: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        spoiled = after.astype(np.int16)
        spoiled[place(after.shape, 160, generator)] += generator.permutation([levels, 0, -levels]).astype(np.int16)
        return np.clip(spoiled, 0, 255).astype(np.uint8)

    return fault


def checks(amplitude: int, period: int = 2) -> Fault:
    def fault(before: np.ndarray, after: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        spoiled = after.astype(np.int16)
        part = place(after.shape, 128, generator)
        y, x = np.indices((128, 128)) // (period // 2)
        spoiled[part] += np.where((x + y) % 2, amplitude, -amplitude).astype(np.int16)[..., None]
        return np.clip(spoiled, 0, 255).astype(np.uint8)

    return fault


def noise(deviation: float) -> Fault:
    def fault(before: np.ndarray, after: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        spoiled = after.astype(np.float32)
        part = place(after.shape, 128, generator)
        spoiled[part] += generator.normal(0, deviation, spoiled[part].shape)
        return np.rint(np.clip(spoiled, 0, 255)).astype(np.uint8)

    return fault


def halos(percent: int) -> Fault:
    """A part sharpened far too much, with halos of some 4 pixels around its edges."""

    def fault(before: np.ndarray, after: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        sharpened = np.asarray(Image.fromarray(after).filter(ImageFilter.UnsharpMask(2, percent, 0)))
        spoiled, part = after.copy(), place(after.shape, 256, generator)
        spoiled[part] = sharpened[part]
        return spoiled

    return fault


def thrice(before: np.ndarray, after: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    spoiled = before + 3 * (after.astype(np.float32) - before)
    return np.rint(np.clip(spoiled, 0, 255)).astype(np.uint8)


FAULTS: dict[str, Fault] = {
    "block of 32 x 32 px of one color": block(32),
    "block of 96 x 96 px of one color": block(96),
    "black tile of 128 x 128 px": black,
    "tint of 10 levels": tint(10),
    "tint of 20 levels": tint(20),
    "tint of 40 levels": tint(40),
    "checkerboard, +-8 levels": checks(8),
    "checkerboard, +-16 levels": checks(16),
    "checkerboard, +-32 levels": checks(32),
    "checkerboard of 2 x 2 px, +-16 levels": checks(16, 4),
    "noise of deviation 16": noise(16),
    "halos, unsharp mask of 300 %": halos(300),
    "halos, unsharp mask of 1000 %": halos(1000),
    "the change three times as large": thrice,
}


if __name__ == "__main__":
    main()
