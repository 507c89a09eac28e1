"""Time of the pixel-adaptive convolution relative to a plain 5x5 convolution with as many channels.

Every round runs each variant once, so that all of them meet the same state of the machine; only ratios mean
something.
"""

import os
import subprocess
import sys
import tempfile
import time

from unsmear.process import tune_process

tune_process()  # before PyTorch is loaded

import torch
from torch.nn import functional as F

from unsmear.ops import pixel_adaptive_conv2d

SHAPES = [(4, 32, 128, 128), (4, 64, 64, 64), (4, 128, 32, 32)]
ROUNDS = 15

FIRST_CALL = """
import sys, time, torch
from unsmear.ops import pixel_adaptive_conv2d
x, kernel = torch.randn(1, 32, 16, 16), torch.randn(1, 25, 16, 16)
weight = torch.randn(32, int(sys.argv[1]), 5, 5, requires_grad=True)
start = time.perf_counter()
y = pixel_adaptive_conv2d(x.requires_grad_(), kernel.requires_grad_(), weight)
middle = time.perf_counter()
y.sum().backward()
print(f"forward {middle - start:.2f} s, backward {time.perf_counter() - middle:.2f} s")
"""


def channels_last(*shape: int) -> torch.Tensor:
    return torch.randn(shape).to(memory_format=torch.channels_last).requires_grad_()


def measure(batch: int, channels: int, height: int, width: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of forward, and of forward with backward, of every round of every variant."""
    x, kernel = channels_last(batch, channels, height, width), channels_last(batch, 25, height, width)
    square = channels_last(channels, channels, 5, 5)
    column, bias = channels_last(channels, 1, 5, 5), torch.randn(channels, requires_grad=True)
    grad = channels_last(batch, channels, height, width).detach()
    variants = {
        "conv2d": (lambda: F.conv2d(x, square, bias, padding=2), (x, square, bias)),
        "depthwise": (lambda: pixel_adaptive_conv2d(x, kernel, column, bias), (x, kernel, column, bias)),
        "full": (lambda: pixel_adaptive_conv2d(x, kernel, square, bias), (x, kernel, square, bias)),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for _ in range(ROUNDS):
        for name, (function, inputs) in variants.items():
            start = time.perf_counter()
            with torch.no_grad():
                function()
            middle = time.perf_counter()
            torch.autograd.grad(function(), inputs, grad)
            seconds[name].append((middle - start, time.perf_counter() - middle))
    return {name: rounds[2:] for name, rounds in seconds.items()}


def main() -> None:
    print(f"{torch.get_num_threads()} threads, OMP_WAIT_POLICY={os.environ.get('OMP_WAIT_POLICY')}")
    print("ms and ratio to conv2d, each the least of all rounds (and the median)")
    for shape in SHAPES:
        results = {}
        for name, rounds in measure(*shape).items():
            for phase, times in zip(("forward", "forward + backward"), zip(*rounds, strict=True), strict=True):
                results[name, phase] = min(times), sorted(times)[len(times) // 2]
        for (name, phase), (least, median) in results.items():
            base_least, base_median = results["conv2d", phase]
            print(
                f"{shape!s:18} {name:9} {phase:18} {1e3 * least:7.2f} ({1e3 * median:7.2f}) ms "
                f"{least / base_least:5.2f} ({median / base_median:5.2f})"
            )
    print("first call in a process, without and with numba's cache on disk")
    for name, group in (("depthwise", "1"), ("full", "32")):
        with tempfile.TemporaryDirectory() as folder:
            for cache in ("empty", "filled"):
                command = [sys.executable, "-c", FIRST_CALL, group]
                environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
                output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
                print(f"{name:9} cache {cache:6} {output.strip()}")


if __name__ == "__main__":
    main()
