"""What the guard costs beside a pass of the network: time on one thread, and memory for a large picture.

    python benchmarks/guard.py [--rounds 5] [--megapixels 100]

Both work in turn, on the same 1280 x 720 picture; medians of processor time. Memory is by how much the guard raises the
peak of a process that holds the picture before and after.
"""

import argparse
import resource
import time
from statistics import median

from unsmear.process import tune_process

tune_process()  # before PyTorch is loaded

import numpy as np
import torch

from unsmear.arrays import ArrayDeblurrer
from unsmear.guard import guard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megapixels", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    side = round((args.megapixels * 1e6) ** 0.5)
    large = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    after = large.copy()
    after >>= 1  # in place: what is made on the way would hide in the peak before
    after += 64
    before, begin = peak(), time.process_time()
    guard(large, after)
    print(f"{side} x {side}: {time.process_time() - begin:.1f} s of one core, {peak() - before:.0f} MiB")
    deblurrer, picture = ArrayDeblurrer(device="cpu"), large[:720, :1280]
    restored = deblurrer.restore(picture)
    times = []
    for _ in range(args.rounds):
        begin = time.process_time()
        deblurrer.restore(picture)
        middle = time.process_time()
        guard(picture, restored)
        times.append((middle - begin, time.process_time() - middle))
    network, guarded = (1000 * median(column) for column in zip(*times, strict=True))
    share = median(g / n for n, g in times)
    print(f"1280 x 720: network {network:.0f} ms, guard {guarded:.0f} ms, {share:.1%} of it")


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
