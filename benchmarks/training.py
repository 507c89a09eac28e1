"""Where the time of a training step goes, and which share of the machine's matrix rate it reaches.

    python benchmarks/training.py [--model saphn-s] [--batch 16] [--crop 64] [--threads 2] [--profile]

A step's operations are three times those of the forward pass, which `unsmear.cost` counts. The machine's rate is that
of a float32 convolution of 128 channels, the fastest that the same library does here, measured in turn with the steps:
on a busy machine only the ratio means something.
"""

import argparse
import statistics
import time

from unsmear.process import tune_process

tune_process(training=True)  # before PyTorch is loaded

import torch
from torch import nn

from unsmear import create_model
from unsmear.cost import count_macs
from unsmear.train.config import default
from unsmear.train.loop import make_optimizers
from unsmear.train.loss import restoration_loss


def timed(work) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="saphn-s")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    config = default()
    network = create_model(args.model).train().to(memory_format=torch.channels_last)
    optimizers = make_optimizers(network, config)
    sharp = torch.rand(args.batch, 3, args.crop, args.crop)
    blurred = (sharp + 0.02 * torch.randn_like(sharp)).contiguous(memory_format=torch.channels_last)
    conv = nn.Conv2d(128, 128, 3, padding=1).to(memory_format=torch.channels_last)
    features = torch.randn(4, 128, 64, 64).contiguous(memory_format=torch.channels_last)
    parts: dict[str, list[float]] = {"forward": [], "backward": [], "optimizer": [], "matrix rate": []}

    def step() -> None:
        begin = time.perf_counter()
        loss = restoration_loss(network.estimates(blurred), sharp, lower_weight=config.lower_weight)
        forward = time.perf_counter()
        loss.backward()
        backward = time.perf_counter()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        parts["forward"].append(forward - begin)
        parts["backward"].append(backward - forward)
        parts["optimizer"].append(time.perf_counter() - backward)

    with torch.no_grad():
        conv(features)
    step()
    for values in parts.values():
        values.clear()
    conv_operations = 2 * features.numel() * conv.weight[0].numel()
    for _ in range(args.rounds):
        step()
        with torch.no_grad():
            parts["matrix rate"].append(min(timed(lambda: conv(features)) for _ in range(3)))

    seconds = {name: statistics.median(values) for name, values in parts.items()}
    rate = conv_operations / seconds.pop("matrix rate")
    whole = sum(seconds.values())
    side = 16 * network.size_multiple
    operations = 6 * count_macs(network, side, side) / side**2 * args.crop**2 * args.batch
    print(f"{args.model}, batch {args.batch} x {args.crop} x {args.crop}, {args.threads} threads, float32")
    for name, value in seconds.items():
        print(f"{name:12} {1e3 * value:8.1f} ms  {value / whole:6.1%}")
    print(f"{'step':12} {1e3 * whole:8.1f} ms, {operations / 1e9:.1f} GFLOP")
    print(f"fraction of the matrix rate ({rate / 1e9:.0f} GFLOP/s): {operations / whole / rate:.1%}")
    if args.profile:
        from torch.profiler import profile

        with profile() as record:
            step()
        print(record.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40))


if __name__ == "__main__":
    main()
