"""How long one small picture takes from the command line, beside the import of PyTorch that it cannot do without.

    python benchmarks/startup.py [--size 200x150] [--rounds 15]

Both run in turn, each in a process of its own; medians, and the median of the ratios within a round.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from PIL import Image

PHOTO = Path(__file__).parents[1] / "examples" / "airplane.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="200x150")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "small.jpg"), Path(folder, "result.jpg")
        Image.open(PHOTO).convert("RGB").resize((width, height)).save(source)
        deblur = ["-m", "unsmear", "deblur", str(source), "--output", str(result), "--overwrite", "--quiet"]
        rounds = [(seconds("-c", "import torch"), seconds(*deblur)) for _ in range(args.rounds + 1)][1:]
    torch, whole = (median(column) for column in zip(*rounds, strict=True))
    print(f"import torch {torch:.2f} s, unsmear deblur {whole:.2f} s, ratio {median(b / a for a, b in rounds):.2f}")


def seconds(*arguments: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
