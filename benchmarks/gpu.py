"""Checks and measures all that runs on a CUDA GPU, in one command of less than ten minutes.

    PYTHONPATH=src python benchmarks/gpu.py --json gpu.json [--parts checks operators ...] [--dry-run]

Needs PyTorch, Triton, NumPy, safetensors and Pillow, and no installation of this package. Every part is a process with
a time limit, because a fault on a GPU spoils the rest of its process. What a part has found is kept when it fails.
Targets: at 1280 x 720, batch 1, bfloat16, 60 frames a second for `saphn` and 200 for `saphn-s`; a training step of
`saphn` with 6 x 256 x 256 in 60 ms. `--dry-run` goes through everything at tiny sizes in Triton's interpreter.
`--parts tiles` tries other shapes of programs, to choose better ones by; that takes the ten minutes for itself.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor, nn
from torch.nn import functional as F

from unsmear.cost import count_macs
from unsmear.models import create_model
from unsmear.ops import (
    attention,
    attention_cuda,
    convolution,
    dispatch,
    filter_bank,
    pixel_adaptive,
    pixel_adaptive_cuda,
)
from unsmear.ops.cuda import room
from unsmear.replay import record_graph
from unsmear.restore import Deblurrer
from unsmear.train.loss import restoration_loss

DRY = os.environ.get("TRITON_INTERPRET") == "1"  # set for the process of a part: Triton asks when it is imported
DEVICE = torch.device("cpu" if DRY else "cuda")
HALF = torch.float32 if DRY else torch.bfloat16
TINY: dict[str, Any] = {"widths": (4, 8), "lower_widths": (4, 8), "levels": 1, "encoder_blocks": 1, "decoder_blocks": 1}
SIZE = (16, 16) if DRY else (720, 1280)
SCALES = [(4, 4, 8)] if DRY else [(32, 720, 1280), (64, 360, 640), (128, 180, 320)]
CHECKED: dict[torch.dtype, list[tuple[int, int, int]]] = {
    torch.float32: [(3, 5, 6)] if DRY else [(16, 37, 61), (64, 90, 70)],
    torch.bfloat16: [] if DRY else [(20, 8, 16), (48, 33, 40), *SCALES],
    torch.float16: [] if DRY else [(32, 33, 40)],
}


def tell(**values: Any) -> None:
    """Print a finding and keep it."""
    values = {key: str(v).removeprefix("torch.") if isinstance(v, torch.dtype) else v for key, v in values.items()}
    print("  ".join(f"{key} {f'{v:.4g}' if isinstance(v, float) else v}" for key, v in values.items()), flush=True)
    with open(os.environ["FINDINGS"], "a") as file:
        file.write(json.dumps(values) + "\n")


def timed(work: Callable[[], Any]) -> float:
    """Median milliseconds of a call, with cold caches."""
    if not DRY:
        return triton.testing.do_bench(work, warmup=100, rep=400, return_mode="median")
    begin = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - begin)


def gibibytes(work: Callable[[], Any]) -> float:
    """What a call adds to the peak of allocated memory."""
    if DRY:
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


@contextmanager
def computing(how: str) -> Iterator[None]:
    """Compute in Triton "kernels" or in "plain" PyTorch."""
    dispatch.use_triton = how == "kernels"
    if DRY:
        for module in (attention, convolution, filter_bank, pixel_adaptive):
            module.takes_kernels = lambda x: False
        for module in (attention, pixel_adaptive):
            module.takes_triton = lambda x, *channels: how == "kernels" and x.is_cpu and x.dtype != torch.float64
    yield


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(shape, device=DEVICE).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x


def picture(batch: int, height: int, width: int) -> Tensor:
    return torch.rand(batch, 3, height, width, device=DEVICE).contiguous(memory_format=torch.channels_last)


def network_of(name: str) -> nn.Module:
    """A network in which every part has something to do, as after training."""
    torch.manual_seed(0)
    network = create_model(name, **TINY if DRY else {}).to(DEVICE)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.02 * torch.randn_like(weight)
    return network.to(memory_format=torch.channels_last)


def runner(network: nn.Module, dtype: torch.dtype, *, compiled: bool = False) -> Callable[[Tensor], Tensor]:
    """The network as `Deblurrer` runs it."""
    network = deepcopy(network).eval().to(dtype)
    call = torch.compile(network, fullgraph=True, backend="aot_eager" if DRY else "inductor") if compiled else network

    @torch.no_grad()
    def run(x: Tensor) -> Tensor:
        with nullcontext() if dtype in (torch.float32, torch.float64) else torch.autocast("cuda", dtype=dtype):
            return call(x)

    return run


def error(one: Tensor, other: Tensor) -> float:
    """Norm of the difference over the norm."""
    one, other = one.detach().double(), other.detach().double()
    return ((one - other).norm() / (other.norm() + 1e-30)).item()


def operators(channels: int, height: int, width: int, dtype: torch.dtype) -> list[tuple[str, Any, list[Tensor]]]:
    """Every operator as a function, with its arguments."""
    side, batch, maps = 3 if DRY else 5, 2 if height < 100 else 1, max(2, channels // 2)
    x, source = (random(batch, channels, height, width, dtype=dtype) for _ in range(2))
    factors = torch.rand(batch, side**2, height, width, device=DEVICE).to(dtype)
    full, depthwise = (random(channels, n, side, side, dtype=dtype) / (n * side**2) ** 0.5 for n in (channels, 1))
    bias, generator = random(channels, dtype=dtype), random(side**2, channels, 3, 3, dtype=dtype) / channels
    to_maps, low, descriptors = (
        random(maps, channels, 1, 1) / channels**0.5,
        random(maps),
        random(batch, maps, channels),
    )
    filtered, gather = pixel_adaptive.pixel_adaptive_conv2d, attention.gather_descriptors
    return [
        ("filter full", filtered, [x, factors, full, bias]),
        ("filter depthwise", filtered, [x, factors, depthwise, bias]),
        ("factors", pixel_adaptive.generate_kernels, [x, generator, random(side**2, dtype=dtype)]),
        ("gather self", lambda x, *rest: gather(x, x, *rest), [x, to_maps, low]),
        ("gather cross", gather, [x, source, to_maps, low]),
        ("distribute", attention.distribute_descriptors, [descriptors, x, to_maps, low, source]),
    ]


def checks() -> None:
    """Every operator, forward and backward, against plain PyTorch in float64; then networks, and `Deblurrer`."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # which fills new memory with NaN, so that gaps show
    for dtype, shapes in CHECKED.items():
        for shape in shapes:
            for name, function, given in operators(*shape, dtype):
                check(name, function, given, dtype, shape)
    torch.use_deterministic_algorithms(False)
    for name in ("saphn", "saphn-s"):
        network, x = network_of(name), picture(1, *(SIZE if DRY else (128, 192)))
        with computing("plain"):
            change = runner(network, torch.float64)(x.double()) - x
        for dtype, limit in {torch.float32: 1e-2, HALF: 5e-2}.items():  # float32: convolutions may use TensorFloat-32
            with computing("kernels"):
                found = error(runner(network, dtype)(x) - x, change)
            tell(part="checks", what=name, dtype=dtype, error=found, passed=found < limit)
    image = (picture(1, *(SIZE if DRY else (96, 128)))[0].permute(1, 2, 0).cpu().numpy() * 255).astype("uint8")
    with computing("kernels"):
        quick, slow = (Deblurrer(network_of("saphn-s"), device=DEVICE.type, dtype=d) for d in ("auto", "float32"))
        worst = max(int(abs(quick.restore(image).astype(int) - slow.restore(image)).max()) for _ in range(4))
    replayed = DRY or quick._run._now[1]._replay is not None
    tell(part="checks", what="Deblurrer", dtype=quick.dtype, worst=worst, passed=worst <= 2 and replayed)


def check(name: str, function: Any, given: list[Tensor], dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    results = []
    for how, kind in (("kernels", None), ("kernels", None), ("plain", torch.float64)):
        tensors = [t.detach().to(kind or t.dtype).requires_grad_() for t in given]
        with computing(how):
            y = function(*tensors)
            slope = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype).to(y)
            results.append([y, *torch.autograd.grad(y, tensors, slope)])
    once, again, exact = results
    if name.startswith("gather"):  # the bias of its maps changes nothing (Eq. 1): its gradient is rounding alone
        once, exact = once[:-1], exact[:-1]
    errors = [error(*pair) for pair in zip(once, exact, strict=True)]
    repeats = all(torch.equal(*pair) for pair in zip(once, again, strict=False))
    limit = 1e-4 if dtype == torch.float32 else 2e-2
    passed = repeats and all(e < limit for e in errors)  # NaN is not
    tell(part="checks", what=name, shape=shape, dtype=dtype, errors=[f"{e:.1e}" for e in errors], passed=passed)


def operator_times() -> None:
    """What the GPU can do; then every operator at the scales of 1280 x 720, beside a plain 5x5 convolution."""
    side, big = 64 if DRY else 8192, torch.empty(2**16 if DRY else 2**32, dtype=torch.uint8, device=DEVICE)
    a, b, other = random(side, side, dtype=HALF), random(side, side, dtype=HALF), torch.empty_like(big)
    tell(part="rates", what="matrix product", tflops=2 * side**3 / timed(lambda: a @ b) / 1e9)
    tell(part="rates", what="copy", gb_per_s=2 * big.numel() / timed(lambda: other.copy_(big)) / 1e6)
    for shape in SCALES:
        weight = random(shape[0], shape[0], 5, 5, dtype=HALF) / (25 * shape[0]) ** 0.5
        plain = ("conv 5x5", lambda x, w: F.conv2d(x, w, padding=2), [random(1, *shape, dtype=HALF), weight])
        base = None
        for name, function, given in [plain, *operators(*shape, HALF)]:
            for how in ("kernels", "plain") if base else ("plain",):
                with computing(how):
                    times = both_ways(function, given)
                base = base or times
                ms, back = times
                ratios = {"to_conv": ms / base[0], "back_to_conv": back / base[1]}
                tell(part="operators", what=name, ops=how, shape=shape, ms=ms, backward_ms=back, **ratios)


def both_ways(function: Any, given: list[Tensor]) -> tuple[float, float]:
    """Milliseconds forward and backward."""
    with torch.no_grad():
        forward = timed(lambda: function(*given))
    tensors = [t.detach().requires_grad_() for t in given]
    y = function(*tensors)
    slope = torch.randn_like(y)
    return forward, timed(lambda: torch.autograd.grad(y, tensors, slope, retain_graph=True))


def network_times(name: str) -> None:
    """Frames a second, eager and replayed; with kernels and plain; in 16 bits and float32."""
    network, x = network_of(name), picture(1, *SIZE)
    for dtype, ops in ((HALF, "kernels"), (HALF, "plain"), (torch.float32, "kernels")):
        with computing(ops):
            measure(name, dtype, ops, "", runner(network, dtype), x, count_macs(network, *SIZE))


def compiled_times(name: str) -> None:
    """The same by way of torch.compile."""
    network, x = network_of(name), picture(1, *SIZE)
    with computing("kernels"):
        change = runner(network, HALF)(x) - x
        run, begin = runner(network, HALF, compiled=True), time.perf_counter()
        found = error(run(x) - x, change)
        tell(part="compile", what=name, seconds=time.perf_counter() - begin, error=found, passed=found < 5e-2)
        measure(name, HALF, "kernels", "compile", run, x, count_macs(network, *SIZE))


def measure(what: str, dtype: torch.dtype, ops: str, how: str, run: Any, x: Tensor, macs: int) -> None:
    """Time a network started by Python; as a graph; and as a graph of what cuDNN found to be fastest."""
    for started in ("eager",) if DRY else ("eager", "graph", "graph, cudnn.benchmark"):
        torch.backends.cudnn.benchmark = started.endswith("benchmark")
        run(x)
        started_run = run if started == "eager" else record_graph(run, x)
        ms = timed(lambda r=started_run: r(x))
        memory = gibibytes(lambda r=started_run: r(x))
        rate = {"ms": ms, "per_second": 1e3 / ms, "gib": memory, "tflops": 2 * macs / ms / 1e9}
        tell(part="networks", what=what, dtype=dtype, ops=ops, how=f"{how} {started}".strip(), **rate)
    torch.backends.cudnn.benchmark = False


def training_times(name: str, batch: int, crop: int) -> None:
    """A step of AdamW on one batch: eager, and all of it as one graph."""
    sharp = picture(batch, crop, crop)
    blurred = (sharp + 0.02 * torch.randn_like(sharp)).clamp(0, 1)
    for ops, how in (("kernels", "eager"), ("kernels", "graph"), ("plain", "eager")):
        if DRY and how == "graph":
            continue
        network = network_of(name).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True, capturable=not DRY)

        def step(network: Any = network, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            with nullcontext() if DRY else torch.autocast("cuda", dtype=HALF):
                estimates = network.estimates(blurred)
            loss = restoration_loss(estimates, sharp, lower_weight=0.1)
            loss.backward()
            optimizer.step()
            return loss

        run: Callable[[], Any] = step
        with computing(ops):
            first = step().item()
            memory = gibibytes(step)
            if how == "graph":
                stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
                with torch.cuda.stream(stream):
                    step()
                with torch.cuda.graph(graph, stream=stream):
                    step()
                run = graph.replay
            ms, last = timed(run), step().item()
        rate = {"ms": ms, "gib": memory, "tflops": 6 * count_macs(network, crop, crop) * batch / ms / 1e9}
        tell(part="training", what=f"{name} {batch}x{crop}x{crop}", ops=ops, how=how, **rate, passed=last < first)


def tiles() -> None:
    """Times of other shapes of programs: rows, columns, warps and stages; of attention pixels, warps and stages."""
    shapes = [(8, 16, w, s) for w in (4, 8) for s in (1, 2)] + [(4, 16, 4, 1), (4, 16, 4, 2), (16, 16, 8, 1)]
    blocks = [(r, w, s) for r in (64, 128) for w in (4, 8) for s in (1, 3)]
    tables = [pixel_adaptive_cuda.FULL, pixel_adaptive_cuda.DEPTHWISE, pixel_adaptive_cuda.GENERATE]
    for scale in SCALES:
        for n, (name, function, given) in enumerate(operators(*scale, HALF)):
            table, others = (tables[n], shapes) if n < 3 else (attention_cuda.SHAPES, blocks)
            chosen = table[room(scale[0])]
            for shape in dict.fromkeys([chosen, *others[: 1 if DRY else None]]):
                table[room(scale[0])] = shape
                try:
                    with computing("kernels"):
                        ms, back = both_ways(function, given)
                    tell(part="tiles", what=name, scale=scale, shape=shape, ms=ms, backward_ms=back)
                except Exception as fault:  # a shape that needs more than the GPU has is a finding, too
                    tell(part="tiles", what=name, scale=scale, shape=shape, fault=str(fault)[:100])
            table[room(scale[0])] = chosen


PARTS: dict[str, tuple[Callable[[], None], int]] = {  # and the seconds that each may take
    "checks": (checks, 150),
    "operators": (operator_times, 80),
    "saphn": (lambda: network_times("saphn"), 80),
    "saphn-s": (lambda: network_times("saphn-s"), 60),
    "train-saphn": (lambda: training_times("saphn", *((1, 16) if DRY else (6, 256))), 70),
    "train-saphn-s": (lambda: training_times("saphn-s", *((1, 16) if DRY else (16, 256))), 50),
    "compile-saphn-s": (lambda: compiled_times("saphn-s"), 100),
    "compile-saphn": (lambda: compiled_times("saphn"), 150),
    "tiles": (tiles, 560),
}
TOTAL = 570


def run_part(part: str, limit: float, environment: dict[str, str]) -> tuple[list[dict[str, Any]], str]:
    """Run a part in a process of its own; what it found, and its fault if it has one."""
    with tempfile.TemporaryDirectory() as folder:
        kept, fault = Path(folder) / "findings", ""
        kept.touch()
        try:
            command = [sys.executable, __file__, "--child", part]
            subprocess.run(command, env={**environment, "FINDINGS": str(kept)}, timeout=max(1, limit), check=True)
        except subprocess.SubprocessError as error:
            fault = str(error)[-200:]
        return [json.loads(line) for line in kept.read_text().splitlines()], fault


def report(findings: list[dict[str, Any]], faults: dict[str, str]) -> None:
    """Tables of the times, then what did not pass."""
    rate = next((f["tflops"] for f in findings if f.get("what") == "matrix product"), float("nan"))
    for part in dict.fromkeys(f["part"] for f in findings if "ms" in f):
        rows = [f | ({"of_rate": f["tflops"] / rate} if "tflops" in f else {}) for f in findings if f["part"] == part]
        columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in ("part", "passed")]
        print(f"\n## {part}\n\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
        for row in rows:
            cells = [row.get(column, "") for column in columns]
            print(f"| {' | '.join(f'{c:.3g}' if isinstance(c, float) else str(c) for c in cells)} |")
    passed = [f["passed"] for f in findings if "passed" in f]
    print(f"\nmatrix rate {rate:.4g} TFLOP/s; {sum(passed)} of {len(passed)} checks passed")
    for finding in findings:
        if not finding.get("passed", True):
            print("NOT PASSED:", finding)
    for part, fault in faults.items():
        print(f"FAILED: {part}: {fault}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the findings")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=[part for part in PARTS if part != "tiles"])
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes in Triton's interpreter, on a CPU")
    parser.add_argument("--child", choices=list(PARTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        PARTS[args.child][0]()
        return 0
    device = "interpreter" if args.dry_run else torch.cuda.get_device_name()
    versions = {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}
    environment = {**os.environ, "TRITON_INTERPRET": "1" if args.dry_run else "0"}
    begin, findings, faults = time.monotonic(), [], {}
    for part in args.parts:
        print(f"\n# {part}", flush=True)
        left = TOTAL - (time.monotonic() - begin)
        found, fault = run_part(part, min(PARTS[part][1], left), environment)
        findings += found
        faults |= {part: fault} if fault else {}
        if args.json:
            args.json.write_text(
                json.dumps({"device": device, **versions, "findings": findings, "faults": faults}, indent=1)
            )
    print(f"\n{device}, {versions}, {time.monotonic() - begin:.0f} s")
    report(findings, faults)
    return 1 if faults or not all(f.get("passed", True) for f in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
