"""Score weights on pictures they were never trained on: the figures of the README and the model card.

    python runs/validate.py --sharp KODAK_DIR [--pairs PAIRS_DIR] [--model NAME_OR_FILE] [--json FILE]

Three kinds of rows. Synthetic: every sharp picture blurred by seed at three strengths, stored in 8 bits. Pairs: real
motion, files of one name in the folders `blur` and `sharp`. Sharp: the sharp pictures themselves, which should come back
as they are. PSNR is 10 log10(255^2 / MSE) over all pixels and channels of the 8-bit
pictures, without crop or alignment; the gain is that of the output minus that of the input, averaged over pictures.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unsmear import Deblurrer
from unsmear.data.blur import MEDIUM, MILD, STRONG, synthesize

STRENGTHS = {"mild": MILD, "medium": MEDIUM, "strong": STRONG}


def psnr(x: np.ndarray, y: np.ndarray) -> float:
    mse = np.square(x.astype(np.float64) - y).mean()
    return float(10 * np.log10(255**2 / mse)) if mse else float("inf")


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def blurred_pair(sharp: np.ndarray, strength: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture blurred by seed, and its sharp counterpart, both (H, W, 3) uint8."""
    batch = torch.from_numpy(sharp).permute(2, 0, 1)[None].float() / 255
    pair = synthesize(batch, STRENGTHS[strength], torch.Generator().manual_seed(seed))
    blurred, truth = ((t[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy() for t in pair)
    return blurred, truth


def real_pairs(folder: Path) -> list[tuple[str, Path, Path]]:
    """Name, blurred and sharp file of every pair under `folder`, in sibling folders `blur` and `sharp`."""
    return [(p.stem, p, p.parent.parent / "sharp" / p.name) for p in sorted(folder.rglob("blur/*.png"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sharp", type=Path, required=True)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--model", default="saphn-s")
    parser.add_argument("--limit", type=int, help="only the first N sharp pictures")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    deblurrer = Deblurrer(args.model)
    sharp = [read(p) for p in sorted(args.sharp.glob("*.png"))[: args.limit]]
    rows: dict[str, list[tuple[float, float]]] = {}
    for strength in STRENGTHS:
        for seed, picture in enumerate(sharp):
            blurred, truth = blurred_pair(picture, strength, seed)
            row = (psnr(blurred, truth), psnr(deblurrer.restore(blurred), truth))
            rows.setdefault(f"synthetic {strength}", []).append(row)
    if args.pairs:
        for name, blurred_path, sharp_path in real_pairs(args.pairs):
            blurred, truth = read(blurred_path), read(sharp_path)
            row = (psnr(blurred, truth), psnr(deblurrer.restore(blurred), truth))
            rows.setdefault("real pairs", []).append(row)
            print(f"  {name}: {row[0]:.2f} -> {row[1]:.2f} dB")
    kept = [psnr(deblurrer.restore(picture), picture) for picture in sharp]

    print(f"{'pictures':18} {'n':>3} {'input':>7} {'output':>7} {'gain':>7} {'worst':>7}   (PSNR in dB)")
    summary = {}
    for name, values in rows.items():
        before, after = np.array(values).T
        gain = after - before
        summary[name] = {
            "n": len(values), "input": before.mean(), "output": after.mean(), "gain": gain.mean(), "worst": gain.min(),
        }  # fmt: skip
        print(f"{name:18} {len(values):3} {before.mean():7.2f} {after.mean():7.2f} {gain.mean():+7.2f} {gain.min():+7.2f}")
    summary["sharp"] = {"n": len(kept), "output": float(np.mean(kept)), "worst": min(kept)}
    print(f"{'sharp, untouched':18} {len(kept):3} {'':7} {np.mean(kept):7.2f} {'':7} {min(kept):7.2f}")
    if args.json:
        args.json.write_text(json.dumps(summary, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
