"""Time every network of the package in turn, against `saphn` and `saphn-s`, in one run.

    python benchmarks/peers.py [--size 1280x720] [--rounds 1] [--device cpu] [--dtype float32] [--skip motionflow]
        [--json FILE]

Networks without weights get random ones, which cost the same. Networks that do not fit into memory are told. On a
processor `motionflow` follows the motion of every pixel through hundreds of resamplings: leave it out, or wait.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from unsmear.process import tune_process

tune_process()  # before PyTorch is loaded

from unsmear.bench.measure import measure
from unsmear.bench.subject import Subject
from unsmear.device import choose_device
from unsmear.errors import OutOfMemoryError
from unsmear.models import list_models
from unsmear.precision import DTYPES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--skip", nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    models = [name for name in list_models() if name not in args.skip]
    device = choose_device(args.device).device
    for name in models[:]:
        try:
            Subject(name, height, width, device, DTYPES[args.dtype])
        except OutOfMemoryError as error:
            models.remove(name)
            print(f"{name} is left out: {error}")
    report = measure(models, width=width, height=height, device=args.device, dtype=args.dtype, rounds=args.rounds)
    seconds = {result.model: result.seconds for result in report.models}
    machine, rates = report.machine, report.rates
    print(f"{machine.device_name}, {machine.threads} threads, PyTorch {machine.torch}, {report.dtype}, {args.size}")
    print(f"matrix rate {rates.matrix / 1e9:.0f} GFLOP/s, copy {rates.copy / 1e9:.1f} GB/s; rounds: {report.rounds}\n")
    print("| network | million weights | GMAC | s | of saphn | of saphn-s | MiB | of matrix rate | of ceiling |")
    print(f"|{' --- |' * 9}")
    for r in sorted(report.models, key=lambda result: result.seconds):
        memory = "-" if r.memory is None else f"{r.memory / 2**20:,.0f}"
        print(
            f"| `{r.model}` | {r.parameters / 1e6:.2f} | {r.macs / 1e9:,.1f} | {r.seconds:.2f}"
            f" | {r.seconds / seconds['saphn']:.2f} | {r.seconds / seconds['saphn-s']:.1f} | {memory}"
            f" | {r.of_matrix_rate:.0%} | {r.of_ceiling:.0%} |"
        )
    if args.json:
        args.json.write_text(json.dumps(asdict(report), indent=1) + "\n")


if __name__ == "__main__":
    main()
