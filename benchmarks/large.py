"""Time and memory of `unsmear deblur FILE` for files of 1 to 100 megapixels, each in a process of its own (Linux).

    python benchmarks/large.py [--megapixels 1 6 24 60 100] [--formats jpg png] [OPTIONS OF unsmear deblur]

The pictures are noise made smooth. Told is what `ArrayDeblurrer.expected_peak` says beforehand, took the peak of
resident memory; seconds are those of the whole command.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from unsmear.arrays import ArrayDeblurrer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megapixels", nargs="+", type=float, default=[1, 6, 24, 60, 100])
    parser.add_argument("--formats", nargs="+", default=["jpg", "png"])
    args, options = parser.parse_known_args()
    deblurrer = ArrayDeblurrer(device="cpu")
    print("| picture | tiles | told, MiB | took, MiB | told too much | s | s per megapixel |\n|" + " --- |" * 7)
    with tempfile.TemporaryDirectory() as folder:
        for megapixels in args.megapixels:
            height = round(math.sqrt(megapixels * 1e6 * 3 / 4))
            size = height, round(megapixels * 1e6 / height)
            told, tiles = deblurrer.expected_peak(*size, bytes_per_value=1) / 2**20, deblurrer.plan(*size).num_tiles
            for format in args.formats:
                path = Path(folder) / f"a.{format}"
                small = Image.effect_noise((size[1] // 8 + 1, size[0] // 8 + 1), 50).convert("RGB")
                small.resize(size[::-1], Image.Resampling.BICUBIC).save(path)
                took, seconds = deblur(path, options)
                print(
                    f"| {megapixels:g} MP, {format} | {tiles} | {told:.0f} | {took:.0f} | {told / took - 1:+.0%} |"
                    f" {seconds:.1f} | {seconds / megapixels:.2f} |",
                    flush=True,
                )


def deblur(path: Path, options: list[str]) -> tuple[float, float]:
    """MiB at the peak, and seconds."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "unsmear", "deblur", str(path), "-q", "--overwrite", "--device", "cpu", *options]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    return usage.ru_maxrss / 1024, time.perf_counter() - begin


if __name__ == "__main__":
    main()
