"""How much of what a pass on the CPU adds to a process it needs: the most bytes of tensors alive at once beside that.

    python benchmarks/working_memory.py [--model NAME] [--size 1280x720]

"Added" is what `unsmear bench` tells, the peak of resident memory in a fresh process. What it has beyond the tensors
alive is freed memory that the allocator keeps, and loses between them.
"""

import argparse
import sys
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

from unsmear.bench.subject import Subject
from unsmear.ops import memory
from unsmear.process import tune_process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["saphn-s", "saphn"])
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes, of which the median counts")
    args = parser.parse_args()
    tune_process()
    memory.SMALLEST = sys.maxsize  # the profiler sees what PyTorch allocates
    width, height = map(int, args.size.split("x"))
    for name in args.model:
        subject = Subject(name, height, width, torch.device("cpu"), torch.float32)
        with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            subject.run()
        events = sorted(record.profiler.kineto_results.events(), key=lambda event: event.start_ns())
        alive = max(accumulate(event.nbytes() for event in events if event.name() == "[memory]"))
        added = sorted(subject.memory() or 0 for _ in range(args.rounds))[args.rounds // 2]
        print(f"{name}: {alive / 2**20:.0f} MiB alive, {added / 2**20:.0f} MiB added, ratio {added / alive:.2f}")


if __name__ == "__main__":
    main()
