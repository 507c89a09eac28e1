"""What the compiler makes of the Triton kernels: registers, spills, shared memory, instructions. Needs no GPU.

    python benchmarks/gpu_kernels.py [--capability 90] [--channels 32 64 128] [--dtype bfloat16] [--size 720 1280]

Every launch of every operator is recorded as it would be made, compiled for GPUs of a compute capability, and taken
apart. Spills (stack) and more shared memory than the card has cost or prevent speed; a product of 16-bit numbers that
shows no matrix instructions (HGMMA from capability 9.0 on, HMMA) runs far below the card's rate.
"""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from unsmear.ops import attention_cuda, pixel_adaptive_cuda

TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
OPTIONS = ("num_warps", "num_stages")
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


def launches(
    channels: int, height: int, width: int, dtype: torch.dtype
) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """Every launch of every operator: the kernel, its arguments and its constants."""
    recorded = []

    def record(kernel: Any, grid: tuple[int, ...], device: torch.device, *args: Any, **constants: Any) -> None:
        recorded.append((kernel, args, constants))

    pixel_adaptive_cuda.launch = attention_cuda.launch = record
    x = torch.empty(1, channels, height, width, dtype=dtype)
    factors, generator = torch.empty(1, 25, height, width, dtype=dtype), torch.empty(25, channels, 3, 3, dtype=dtype)
    maps, low = torch.empty(channels // 2, channels, dtype=dtype), torch.empty(channels // 2, dtype=dtype)
    pixel_adaptive_cuda.generate_factors(x, generator, generator[:, 0, 0, 0], True)
    for group in (channels, 1):
        weight = torch.empty(channels, group, 5, 5, dtype=dtype)
        pixel_adaptive_cuda.pixel_adaptive(x, factors, weight, x[0, :, 0, 0])
        pixel_adaptive_cuda.pixel_adaptive_gradients(x, x, factors, weight)
    for source in (None, x):
        descriptors, top, total = attention_cuda.gather(x, source, maps, low)
        attention_cuda.gather_gradients(descriptors, x, source, maps, low, descriptors, top, total)
    attention_cuda.distribute(descriptors, x, maps, low, x)
    attention_cuda.distribute_gradients(x, descriptors, x, maps, low)
    return recorded


def form(kernel: Any, args: tuple[Any, ...], constants: dict[str, Any]) -> str:
    """Which of its uses a kernel is compiled for."""
    given = dict(zip(kernel.arg_names, args, strict=False)) | constants
    if "DEPTHWISE" in given:
        return ("depthwise" if given["DEPTHWISE"] else "full") + ("" if given["own"] is None else " back")
    return "" if "source" not in given else "self" if given["source"] is None else "cross"


def build(kernel: Any, args: tuple[Any, ...], constants: dict[str, Any], capability: int) -> dict[str, int]:
    """Compile a launch and count what came out."""
    options = {key: constants[key] for key in OPTIONS if key in constants}
    fixed = {key: value for key, value in constants.items() if key not in options}
    # Triton compiles anew for numbers that are 1, and for those that are multiples of 16.
    given = dict(zip(kernel.arg_names, args, strict=False))
    fixed |= {key: value for key, value in given.items() if value is None or (isinstance(value, int) and value == 1)}
    kinds, even = {}, {}
    for i, key in enumerate(kernel.arg_names):
        is_number = key not in fixed and isinstance(given[key], int)
        kinds[key] = "constexpr" if key in fixed else "i32" if is_number else TYPES[given[key].dtype]
        if key not in fixed and (not is_number or given[key] % 16 == 0):
            even[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature=kinds, constexprs=fixed, attrs=even)
    result = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([TOOLS / "cuobjdump", option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("-res-usage", "-sass")
        )
    registers, stack = (int(re.search(rf"{what}:(\d+)", usage)[1]) for what in ("REG", "STACK"))
    return {
        "warps": options.get("num_warps", 4),
        "registers": registers,
        "stack": stack,
        "shared": result.metadata.shared,
        "instructions": len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", code, re.MULTILINE)),
        "HGMMA": code.count("HGMMA"),
        "HMMA": code.count("HMMA"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capability", type=int, default=90)
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--size", type=int, nargs=2, default=[720, 1280], help="height and width")
    args = parser.parse_args()
    print(f"Triton {triton.__version__}, compute capability {args.capability / 10}, {args.dtype}")
    row = "{:21} {:14} {:>8} {:>6} {:>10} {:>6} {:>7} {:>13} {:>6} {:>5}"
    columns = ("channels", "warps", "registers", "stack", "shared", "instructions", "HGMMA", "HMMA")
    print(row.format("kernel", "form", *columns))
    for channels in args.channels:
        for launch in launches(channels, *args.size, getattr(torch, args.dtype)):
            found = build(*launch, args.capability)
            print(row.format(launch[0].__name__, form(*launch), channels, *found.values()), flush=True)


if __name__ == "__main__":
    main()
