"""Time of convolutions, transposed ones, and mixed filters by the compiled kernels, relative to plain PyTorch.

Every round runs both once, so that they meet the same state of the machine; only ratios mean something. The shapes are
those of `saphn-s` at 1280x720, and for convolutions with their gradients those of training on 16 crops of 64 pixels and
on 6 of 256.
"""

import time
from collections.abc import Callable
from functools import partial
from statistics import median

from unsmear.process import tune_process

tune_process()  # before PyTorch is loaded

import torch

from unsmear.models.blind_deconvolution import filter_basis
from unsmear.ops import convolution, convolve, convolve_transposed, filter_bank
from unsmear.ops.filter_bank import FilterBank

# Batch, channels, output channels, height, width.
CONVOLUTIONS = [
    (1, 32, 32, 360, 640),
    (1, 64, 64, 180, 320),
    (1, 128, 128, 90, 160),
    (2, 16, 16, 180, 640),
    (2, 32, 32, 90, 320),
    (2, 64, 64, 45, 160),
    (1, 32, 36, 360, 640),
]
DIRECT = [  # and the stride
    (1, 12, 32, 360, 640, 1),
    (1, 32, 64, 360, 640, 2),
    (1, 64, 128, 180, 320, 2),
    (1, 3, 32, 720, 1280, 1),
]
TRANSPOSED = [
    (1, 128, 64, 90, 160),
    (1, 64, 32, 180, 320),
    (2, 64, 32, 45, 160),
    (2, 32, 16, 90, 320),
]
TRAINED = [
    (16, 32, 32, 32, 32),
    (16, 64, 64, 16, 16),
    (16, 128, 128, 8, 8),
    (32, 16, 16, 16, 32),
    (64, 32, 32, 8, 8),
    (16, 32, 36, 32, 32),
    (6, 32, 32, 128, 128),
    (6, 64, 64, 64, 64),
    (6, 128, 128, 32, 32),
]
FILTERS, LEVELS = 24, 3
ROUNDS = 15


def channels_last(*shape: int) -> torch.Tensor:
    return torch.randn(shape).to(memory_format=torch.channels_last)


def measure(function: Callable[[], object]) -> tuple[float, float]:
    """Median milliseconds by plain PyTorch and by the compiled kernels."""
    kernels = convolution.takes_kernels
    ways = {"plain": lambda x: False, "compiled": kernels}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):  # one of them to warm up
        for name, takes in ways.items():
            convolution.takes_kernels = filter_bank.takes_kernels = takes
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    convolution.takes_kernels = filter_bank.takes_kernels = kernels
    plain, compiled = (1000 * median(some[1:]) for some in seconds.values())
    return plain, compiled


def main() -> None:
    print("| what | plain, ms | compiled, ms | ratio |\n| --- | --- | --- | --- |")
    with torch.inference_mode():
        restore()
    train()


def restore() -> None:
    for batch, channels, out_channels, height, width in CONVOLUTIONS:
        x, weight = channels_last(batch, channels, height, width), channels_last(out_channels, channels, 3, 3)
        bias, onto = torch.randn(out_channels), channels_last(batch, out_channels, height, width)
        shape = f"{batch} x {channels} to {out_channels} x {height} x {width}"
        for what, options in (("ReLU", {"relu": True}), ("sum", {"onto": onto})):
            tell(f"{shape}, {what}", *measure(partial(convolve, x, weight, bias, **options)))
    for batch, channels, out_channels, height, width, stride in DIRECT:
        x, weight = channels_last(batch, channels, height, width), channels_last(out_channels, channels, 3, 3)
        what = f"{batch} x {channels} to {out_channels} x {height} x {width}, stride {stride}"
        tell(what, *measure(partial(convolve, x, weight, torch.randn(out_channels), stride=stride)))
    for batch, channels, out_channels, height, width in TRANSPOSED:
        x, weight = channels_last(batch, channels, height, width), torch.randn(channels, out_channels, 4, 4)
        what = f"{batch} x {channels} to {out_channels} x {height} x {width}, transposed"
        tell(what, *measure(partial(convolve_transposed, x, weight, torch.randn(out_channels))))
    luma, filters = torch.rand(1, 1, 720, 1280), filter_basis(FILTERS)
    weights, onto = channels_last(1, FILTERS + 12, 360, 640).split([FILTERS, 12], 1)

    def mix() -> None:
        bank = FilterBank(luma, filters, 2, torch.float32)
        for _ in range(LEVELS):
            bank.mix(weights, onto)

    tell(f"{FILTERS} filters, mixed {LEVELS} times", *measure(mix))


def train() -> None:
    for batch, channels, out_channels, height, width in TRAINED:
        x = channels_last(batch, channels, height, width).requires_grad_()
        weight = channels_last(out_channels, channels, 3, 3).requires_grad_()
        bias, slope = torch.randn(out_channels).requires_grad_(), channels_last(batch, out_channels, height, width)
        shape = f"{batch} x {channels} to {out_channels} x {height} x {width}"
        tell(f"{shape}, ReLU, gradients", *measure(partial(gradients, x, weight, bias, slope)))


def gradients(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, slope: torch.Tensor) -> None:
    torch.autograd.grad(convolve(x, weight, bias, relu=True), [x, weight, bias], slope)


def tell(what: str, plain: float, compiled: float) -> None:
    print(f"| {what} | {plain:.1f} | {compiled:.1f} | {compiled / plain:.2f} |", flush=True)


if __name__ == "__main__":
    main()
