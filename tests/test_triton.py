"""The GPU kernels against the equations and against plain PyTorch: on a GPU, or interpreted where there is none."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from test_attention import equations_1_to_6, global_attention
from test_attention import inputs as attention_inputs
from test_pixel_adaptive import arguments, gradients, literal, makers, run

from unsmear.ops import attention, gather_descriptors, generate_kernels, pixel_adaptive, pixel_dependent_filter
from unsmear.ops.attention import distribute_descriptors
from unsmear.ops.pixel_adaptive import _forward

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRET = ("TRITON_INTERPRET", "0" if DEVICE == "cuda" else "1")
with pytest.MonkeyPatch.context() as patch:
    patch.setenv(*INTERPRET)  # what kernels, and functions of Triton's own, become is decided at their import
    from unsmear.ops import attention_cuda, pixel_adaptive_cuda

ROOT = Path(__file__).parent.parent
FORMS = ["depthwise", "full"]
HALVES = [torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True, scope="module")
def _interpreter():
    """Triton's interpreter imports more on its way, and would multiply the bits of bfloat16 as whole numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*INTERPRET)
        if DEVICE == "cpu":
            import triton.language as tl
            from triton.runtime.interpreter import InterpreterBuilder

            multiply = InterpreterBuilder.create_dot

            def dot(self, a, b, *rest):
                a, b = (self.create_fp_ext(t, tl.float32) if t.dtype.scalar == tl.bfloat16 else t for t in (a, b))
                return multiply(self, a, b, *rest)

            patch.setattr(InterpreterBuilder, "create_dot", dot)
        yield


@pytest.fixture
def on_kernels(monkeypatch):
    """Let the public functions take the kernels for tensors on a CPU."""
    for module in (attention, pixel_adaptive):
        monkeypatch.setattr(module, "takes_kernels", lambda x: False)
        monkeypatch.setattr(module, "takes_triton", lambda x, *channels: x.dtype != torch.float64)


def to_device(tensors, dtype=torch.float32):
    return [t.detach().to(DEVICE, dtype).requires_grad_() for t in tensors]


def assert_near(actual, expected, tolerance):
    """Norm of the difference relative to the norm, which no single rounding dominates."""
    for one, other in zip(actual, expected, strict=True):
        assert one.shape == other.shape
        one, other = one.detach().cpu().double(), other.detach().cpu().double()
        assert (one - other).norm() <= tolerance * (other.norm() + 1e-3)


# Pixel-adaptive convolution


SHAPES = [  # below, at and above a tile and a room; several pictures; taps that do and do not fill groups
    ((2, 3, 5, 7), 3, 2),
    ((1, 16, 8, 16), 3, 16),
    ((2, 20, 9, 18), 1, 7),
    ((1, 5, 9, 17), 5, 33),
    ((1, 70, 3, 4), 3, 65),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("shape", "k", "c_out"), SHAPES[:3])
def test_filter_equals_the_equation(form, shape, k, c_out):
    given = arguments(form, shape, k, c_out)
    y = pixel_adaptive_cuda.pixel_adaptive(*to_device(given))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_near([y], [literal(*given)], 1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("shape", "k", "c_out"), SHAPES)
def test_filter_gradients_equal_autograd(form, shape, k, c_out):
    given = arguments(form, shape, k, c_out, dtype=torch.float64)
    actual = on_device(pixel_adaptive_cuda.pixel_adaptive, given)
    assert_near(actual, gradients(_forward, given), 1e-5)


def on_device(function, given, dtype=torch.float32):
    """Value and gradients on the kernels' device, by the same slopes as `gradients` has."""
    given = to_device(given, dtype)
    y = function(*given)
    slope = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return [y, *torch.autograd.grad(y, given, slope)]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("form", FORMS)
def test_filter_of_16_bits_sums_in_float32(form, dtype):
    given = [t.to(dtype).double() for t in arguments(form, (1, 20, 6, 9), 3, 18)]
    given = [t.detach().requires_grad_() for t in given]
    actual = on_device(pixel_adaptive_cuda.pixel_adaptive, given, dtype)
    assert all(t.dtype == dtype for t in actual)
    # Outputs are rounded once, products of the filter's gradient once more.
    assert_near(actual, gradients(_forward, given), 1.5 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("form", FORMS)
def test_filter_without_bias_and_by_strided_memory(form):
    given = to_device(arguments(form, (2, 6, 5, 6)))[:3]
    expected = on_device(lambda *a: pixel_adaptive_cuda.pixel_adaptive(*a, None), given)
    strided = [t.detach().repeat_interleave(2, -1)[..., ::2].requires_grad_() for t in given]
    y = pixel_adaptive_cuda.pixel_adaptive(*strided, None)
    assert torch.equal(y, expected[0])
    slope = torch.ones((), device=DEVICE).expand(y.shape)
    assert_near(
        torch.autograd.grad(y, strided, slope),
        torch.autograd.grad(_forward(*(t.double() for t in given), None).sum(), given),
        1e-5,
    )


@pytest.mark.parametrize("form", FORMS)
def test_filter_repeats_to_the_bit(form):
    given = arguments(form, (1, 5, 9, 17))
    for one, other in zip(*(on_device(pixel_adaptive_cuda.pixel_adaptive, given) for _ in range(2)), strict=True):
        assert torch.equal(one, other)


def test_infinity_and_nan_stay_where_they_are():
    given = to_device(arguments("full", (1, 16, 9, 20), c_out=16))
    given[0].data[0, 3, 4, 15] = torch.nan
    y = pixel_adaptive_cuda.pixel_adaptive(*given)
    touched = torch.zeros(9, 20, dtype=torch.bool)
    touched[3:6, 14:17] = True
    assert torch.equal(y.isnan().any(1)[0].cpu(), touched)


@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("bounded", [True, False])
def test_factors_made_by_a_convolution(side, bounded, on_kernels):
    given = [arguments("full", (2, 20, 9, 17))[0], *makers(20, side=side)]
    actual = on_device(lambda *a: generate_kernels(*a, bounded=bounded), given)
    given = [t.detach().double().requires_grad_() for t in given]
    assert_near(actual, gradients(lambda *a: generate_kernels(*a, bounded=bounded), given), 1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_filter_by_own_kernels(form, on_kernels):
    x, _, weight, bias = arguments(form, (1, 6, 5, 7))
    given = [x, *makers(6), weight, bias]
    actual = on_device(pixel_dependent_filter, given)
    given = [t.detach().double().requires_grad_() for t in given]
    assert_near(actual, gradients(pixel_dependent_filter, given), 1e-5)


# Global attention


@pytest.mark.parametrize("shape", [(2, 3, 5, 2, 3, 4), (1, 17, 16, 9, 12, 13)])
def test_attention_equals_the_equations(shape, on_kernels):
    given = attention_inputs(*shape, dtype=torch.float32)
    y = global_attention(*to_device(given[:-1]))
    features, source, gather, gather_bias, distribute, distribute_bias, *gate = given[:-1]
    rows = [torch.hstack([w.flatten(1), b[:, None]]) for w, b in ((gather, gather_bias), (distribute, distribute_bias))]
    for b in range(shape[0]):
        pictures = (features[b].flatten(1), source[b].flatten(1))
        expected = equations_1_to_6(*(t.tolist() for t in (*pictures, *rows, *gate)))
        assert_near([y[b].flatten(1)], [torch.tensor(expected)], 1e-5)


SIZES = [  # one block, several blocks, several stretches of several blocks
    (2, 3, 5, 2, 3, 4),
    (1, 16, 16, 8, 12, 15),
    (2, 32, 20, 17, 25, 41),
]


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_attention_gradients_equal_autograd(shape, own, dtype, on_kernels):
    def function(x, source, *rest):
        return global_attention(x, x if own else source, *rest)

    batch, channels, width, *rest = shape
    given = [t.to(dtype).double() for t in attention_inputs(batch, channels, channels if own else width, *rest)]
    used = [n for n in range(len(given)) if not (own and n == 1)]
    results = []
    for precise in (dtype, torch.float64):
        # Features are 16 bits wide, weights are parameters and stay float32.
        kinds = [precise if n in (0, 1, 8) else torch.promote_types(precise, torch.float32) for n in range(9)]
        tensors = [t.to(DEVICE, kind).requires_grad_() for t, kind in zip(given, kinds, strict=True)]
        y = function(*tensors)
        slope = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype).to(y)
        results.append([y, *torch.autograd.grad(y, [tensors[n] for n in used], slope)])
    for n, (one, other) in enumerate(zip(*results, strict=True)):
        if n > 0 and used[n - 1] == 3:
            # The bias of the gather maps changes nothing (Eq. 1), so its gradient is rounding alone.
            assert one.abs().max() < 0.1 * results[1][n - 1].abs().max()
        else:
            # The interpreter cuts numbers to bfloat16 where GPUs round them, which adds up.
            assert_near([one], [other], 1e-5 if dtype == torch.float32 else 0.05)


def test_large_logits_do_not_overflow(on_kernels):
    x, source, weight, bias, *_ = to_device(attention_inputs(1, 4, 4, 2, 20, 30, dtype=torch.float32))
    descriptors = gather_descriptors(x, source, 1e4 * weight, bias)
    best = torch.nn.functional.conv2d(x.double(), weight.double()).flatten(2).argmax(2)[0]
    torch.testing.assert_close(descriptors[0], source[0].flatten(1).T[best], rtol=1e-3, atol=1e-3)
    assert distribute_descriptors(descriptors, x, 1e4 * weight, bias).isfinite().all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy under the interpreter
def test_nan_stays_visible(on_kernels):
    given = to_device(attention_inputs(1, 4, 4, 2, 8, 8, dtype=torch.float32))
    given[0].data[0, 0, 3, 3] = torch.nan
    assert global_attention(*given).isnan().all()


@pytest.mark.parametrize("dtype", HALVES)
def test_many_small_weights_sum_to_one(dtype):
    # 2**14 equal weights are 6e-5 each: float16 would hold them in 10 bits.
    x = torch.full((1, 1, 128, 128), 0.5, dtype=dtype, device=DEVICE)
    weight, bias = torch.zeros(2, 1, device=DEVICE), torch.zeros(2, device=DEVICE)
    descriptors, *_ = attention_cuda.gather(x, None, weight, bias)
    torch.testing.assert_close(descriptors, torch.full((1, 2, 1), 0.5, device=DEVICE), rtol=1e-6, atol=0)


# In PyTorch


def test_operators_keep_pytorchs_rules():
    x, kernel, weight, bias = to_device(arguments("full", (1, 4, 4, 5)))
    column = weight[:, :1].detach().requires_grad_()
    features, source, maps, low, *_ = to_device(attention_inputs(1, 3, 4, 2, 4, 5, dtype=torch.float32))
    maps, descriptors = maps.flatten(1), torch.randn(1, 2, 4, device=DEVICE, requires_grad=True)
    for operator, given in (
        (pixel_adaptive_cuda.pixel_adaptive, (x, kernel, weight, bias)),
        (pixel_adaptive_cuda.pixel_adaptive, (x, kernel, column, None)),
        (pixel_adaptive_cuda.generate_factors, (x, *to_device(makers(4)), True)),
        (attention_cuda.gather, (features, source, maps, low)),
        (attention_cuda.gather, (features, None, maps, low)),
        (attention_cuda.distribute, (descriptors, features, maps, low, source)),
    ):
        checks = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(operator, given, test_utils=checks)
    top = total = torch.rand(1, 2, device=DEVICE)
    for operator, given in (
        (pixel_adaptive_cuda.pixel_adaptive_gradients, (x, x, kernel, weight)),
        (pixel_adaptive_cuda.pixel_adaptive_gradients, (x, x, kernel, column)),
        (attention_cuda.gather_gradients, (descriptors, features, source, maps, low, descriptors, top, total)),
        (attention_cuda.distribute_gradients, (source, descriptors, features, maps, low)),
    ):
        given = [t.detach() for t in given]
        torch.library.opcheck(operator, given, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("form", FORMS)
def test_a_compiled_graph_holds_the_kernels(form, on_kernels):
    def function(x, weight, bias, generator, low, maps, floor):
        y = pixel_dependent_filter(x, generator, low, weight, bias)
        return distribute_descriptors(gather_descriptors(x, x, maps, floor), x, maps, floor, y)

    x, _, weight, bias = arguments(form, (1, 4, 4, 5))
    maps, floor = attention_inputs(1, 4, 4, 2, 4, 5, dtype=torch.float32)[2:4]
    given = [x, weight[:4], bias[:4], *makers(4), maps, floor]
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert_near(on_device(compiled, given), on_device(function, given), 1e-5)


NOTHING_THERE = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triton":
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocker())
import torch
from unsmear.ops import dispatch, pixel_adaptive_conv2d
ones = torch.ones(1, 1, 2, 2)
print(dispatch.use_triton, pixel_adaptive_conv2d(ones, ones, torch.ones(1, 1, 1, 1)).sum().item())
"""


@pytest.mark.skipif(torch.version.cuda is not None, reason="PyTorch for CUDA comes with Triton")
def test_works_without_triton():
    assert run(NOTHING_THERE) == "False 4.0\n"


# Benchmarks


def run_script(*arguments, path=()):
    path = os.pathsep.join(str(folder) for folder in (*path, ROOT / "src"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    environment.pop("TRITON_INTERPRET")
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "kib", "dtype"),  # with 8.9, a processor has the least shared memory of all
    [(90, 227, "bfloat16"), (90, 227, "float16"), (90, 227, "float32"), (89, 99, "bfloat16"), (89, 99, "float32")],
)
def test_kernels_compile_for_gpus(capability, kib, dtype):
    channels = ["16", "64"] if dtype == "float32" else ["32", "128"]
    options = ["--capability", str(capability), "--dtype", dtype, "--channels", *channels]
    rows = [line.split() for line in run_script("benchmarks/gpu_kernels.py", *options).splitlines()[2:]]
    assert len(rows) == 28
    assert all(int(row[-4]) <= kib * 1024 for row in rows)


BARE = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name in ("numba", "llvmlite", "typer", "rich", "accelerate", "torchvision", "scipy", "av", "matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""


@pytest.mark.slow
def test_the_gpu_benchmark_runs_dry_where_little_is_installed(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BARE)
    run_script("benchmarks/gpu.py", "--dry-run", "--json", str(tmp_path / "gpu.json"), path=[tmp_path])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert not found["faults"]
    assert {f["part"] for f in found["findings"]} >= {"checks", "rates", "operators", "networks", "training", "compile"}
    assert all(f.get("passed", True) for f in found["findings"])
