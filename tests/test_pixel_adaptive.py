import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import unsmear
from unsmear.ops import generate_kernels, pixel_adaptive_conv2d, pixel_dependent_filter
from unsmear.ops.dispatch import plain_operators
from unsmear.ops.pixel_adaptive import _backward, _forward

FORMS = ["depthwise", "full"]


def arguments(form, shape=(2, 5, 6, 7), k=3, c_out=4, dtype=torch.float32, seed=0):
    """x, kernel, weight, bias."""
    generator = torch.Generator().manual_seed(seed)
    batch, c_in, height, width = shape
    filters = (c_in, 1, k, k) if form == "depthwise" else (c_out, c_in, k, k)
    shapes = [shape, (batch, k * k, height, width), filters, (filters[0],)]
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


def gradients(function, args, seed=1):
    y = function(*args)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, args, grad)]


def assert_close(actual, expected, tolerance=1e-5):
    for one, other in zip(actual, expected, strict=True):
        assert one.shape == other.shape
        scale = 1 + other.abs().max().item() if other.numel() else 1
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * scale)


def literal(x, kernel, weight, bias):
    """Eq. 7, one number at a time."""
    x, kernel, weight, bias = (t.detach().double().numpy() for t in (x, kernel, weight, bias))
    (batch, c_in, height, width), (c_out, c_group, k, _) = x.shape, weight.shape
    y = np.zeros((batch, c_out, height, width))
    for b, o, i, j in np.ndindex(*y.shape):
        y[b, o, i, j] = bias[o]
        for dy, dx in np.ndindex(k, k):
            row, column = i + dy - k // 2, j + dx - k // 2
            if 0 <= row < height and 0 <= column < width:
                factor = kernel[b, dy * k + dx, i, j]
                for c in range(c_group):
                    source = x[b, o if c_group < c_in else c, row, column]
                    y[b, o, i, j] += factor * weight[o, c, dy, dx] * source
    return torch.from_numpy(y)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    form=st.sampled_from(FORMS),
    k=st.sampled_from([1, 3, 5, 7]),
    shape=st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    c_out=st.integers(1, 5),
)
def test_equals_the_equation(form, k, shape, c_out):
    args = arguments(form, shape, k, c_out)
    expected = literal(*args)
    assert_close([pixel_adaptive_conv2d(*args).double()], [expected])
    assert_close([_forward(*args).double()], [expected])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    form=st.sampled_from(FORMS),
    k=st.sampled_from([1, 3, 5]),
    shape=st.tuples(
        st.integers(0, 3), st.sampled_from([1, 3, 16, 24, 32, 40, 64]), st.integers(1, 21), st.integers(1, 70)
    ),
    c_out=st.sampled_from([1, 7, 16, 32, 48]),
)
def test_gradients_equal_autograd(form, k, shape, c_out):
    args = arguments(form, shape, k, c_out)
    assert_close(gradients(pixel_adaptive_conv2d, args), gradients(_forward, args), 2e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [2, 16])
def test_gradcheck(form, channels):
    x, kernel, weight, bias = arguments(form, (2, channels, 3, 4), dtype=torch.float64)
    assert torch.autograd.gradcheck(pixel_adaptive_conv2d, (x, kernel, weight, bias), fast_mode=channels > 2)
    assert torch.autograd.gradcheck(pixel_adaptive_conv2d, (x, kernel, weight), fast_mode=True)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_on_other_devices(form):
    args = arguments(form, dtype=torch.float64)
    y, *expected = gradients(_forward, args)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    assert_close(_backward(grad, *[arg.detach() for arg in args[:3]]), expected[:3], 1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_plain_operators_keep_no_buffer_of_all_taps_either(form):
    """What is saved for the backward pass, in feature maps: x and the kernel, and no product for each of 25 taps."""
    args = arguments(form, (1, 32, 12, 12), 5, 32)
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with plain_operators(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y, *actual = gradients(pixel_adaptive_conv2d, args)
    weight = args[2]
    assert sum(saved.values()) - weight.untyped_storage().nbytes() < 3 * args[0].untyped_storage().nbytes()
    assert_close([y, *actual], gradients(_forward, args), 2e-5)


def makers(channels, k=3, side=1, dtype=torch.float32):
    """Weight and bias of a convolution that makes kernels."""
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(s, generator=generator, dtype=dtype) for s in ((k * k, channels, side, side), (k * k,))]


@pytest.mark.parametrize("shape", [(2, 5, 6, 7), (1, 16, 9, 70), (1, 48, 8, 5)])
@pytest.mark.parametrize("k", [3, 5])
def test_kernels_made_on_the_way_are_those_made_before(shape, k):
    x, _, weight, bias = (t.detach() for t in arguments("depthwise", shape, k))
    maker = makers(shape[1], k)
    expected = pixel_adaptive_conv2d(x, 2 * torch.sigmoid(F.conv2d(x, *maker)), weight, bias)
    with torch.no_grad():
        assert_close([pixel_dependent_filter(x, *maker, weight, bias)], [expected])
    assert_close([pixel_dependent_filter(x, *maker, weight, bias)], [expected])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("bounded", [True, False])
def test_filter_by_own_kernels(form, side, bounded):
    x, _, weight, bias = (t.detach() for t in arguments(form))
    maker = makers(5, side=side)
    kernel = generate_kernels(x, *maker, bounded=bounded)
    assert kernel.shape == (2, 9, 6, 7)
    if bounded:
        assert 0 <= kernel.min() < kernel.max() <= 2
    with torch.no_grad():
        y = pixel_dependent_filter(x, *maker, weight, bias, bounded=bounded)
    assert_close([y], [pixel_adaptive_conv2d(x, kernel, weight, bias)])


def test_extreme_and_missing_numbers_make_no_false_kernels():
    x, _, weight, _ = (t.detach() for t in arguments("depthwise", (1, 16, 8, 8)))
    x[0, :, 0, 0], x[0, 0, 7, 7] = 1e4, torch.nan
    maker = makers(16)
    expected = pixel_adaptive_conv2d(x, generate_kernels(x, *maker), weight)
    with torch.no_grad():
        y = pixel_dependent_filter(x, *maker, weight)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-2, equal_nan=True)


def test_wrong_maker_is_named():
    x, _, weight, bias = (t.detach() for t in arguments("depthwise"))
    with torch.no_grad(), pytest.raises(ValueError, match="kernel must be"):
        pixel_dependent_filter(x, *makers(5, k=5), weight, bias)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [3, 32])
def test_kernel_of_ones_is_a_convolution(form, channels):
    x, kernel, weight, bias = arguments(form, (2, channels, 20, 30), k=5, c_out=channels)
    groups = channels if form == "depthwise" else 1
    expected = F.conv2d(x, weight, bias, padding=2, groups=groups)
    assert_close([pixel_adaptive_conv2d(x, torch.ones_like(kernel), weight, bias)], [expected])


@pytest.mark.parametrize("form", FORMS)
def test_identity_is_exact(form):
    x = torch.randn(2, 24, 9, 11)
    kernel = torch.randn(2, 25, 9, 11)
    kernel[:, 12] = 1
    weight = torch.zeros(24, 1 if form == "depthwise" else 24, 5, 5)
    weight[:, :, 2, 2] = torch.eye(24) if form == "full" else 1
    assert torch.equal(pixel_adaptive_conv2d(x, kernel, weight), x)


@pytest.mark.parametrize("form", FORMS)
def test_memory_layout_does_not_matter(form):
    args = arguments(form, (2, 16, 10, 12))
    expected = gradients(pixel_adaptive_conv2d, args)
    last = [t.detach().to(memory_format=torch.channels_last).requires_grad_() for t in args[:3]]
    strided = [t.detach().repeat_interleave(2, -1)[..., ::2].requires_grad_() for t in args[:3]]
    for others in (last, strided):
        for one, other in zip(gradients(pixel_adaptive_conv2d, [*others, args[3]]), expected, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_of_an_expanded_tensor(form):
    args = arguments(form)
    actual = torch.autograd.grad(pixel_adaptive_conv2d(*args).sum(), args)
    assert_close(actual, torch.autograd.grad(_forward(*args).sum(), args))


@pytest.mark.parametrize("form", FORMS)
def test_bits_do_not_depend_on_run_or_threads(form):
    args = arguments(form, (2, 32, 50, 70), k=5, c_out=32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 1, 2, 3):
            torch.set_num_threads(threads)
            results.append(gradients(pixel_adaptive_conv2d, args))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], result, strict=True))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wanted", range(4))
def test_gradient_of_one_argument_alone(form, wanted):
    args = arguments(form)
    expected = gradients(pixel_adaptive_conv2d, args)[1 + wanted]
    alone = [arg if n == wanted else arg.detach() for n, arg in enumerate(args)]
    y = pixel_adaptive_conv2d(*alone)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    (actual,) = torch.autograd.grad(y, [alone[wanted]], grad)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("form", FORMS)
def test_without_gradients(form):
    args = arguments(form)
    expected = pixel_adaptive_conv2d(*args).detach()
    with torch.no_grad():
        assert torch.equal(pixel_adaptive_conv2d(*args), expected)
    with torch.inference_mode():
        assert torch.equal(pixel_adaptive_conv2d(*[arg.clone() for arg in args]), expected)


def test_second_derivative_is_refused():
    x, *rest = arguments("depthwise")
    (grad,) = torch.autograd.grad(pixel_adaptive_conv2d(x, *rest).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
def test_half_precision(form, dtype):
    args = [arg.detach().to(dtype).requires_grad_() for arg in arguments(form)]
    actual = gradients(pixel_adaptive_conv2d, args)
    assert all(t.dtype == dtype for t in actual)
    expected = gradients(pixel_adaptive_conv2d, [arg.detach().float().requires_grad_() for arg in args])
    grad_is_rounded = 8 * torch.finfo(dtype).eps
    assert_close([t.float() for t in actual], expected, grad_is_rounded)


def test_autocast_computes_in_float32():
    x, kernel, weight, bias = arguments("depthwise")
    with torch.autocast("cpu", torch.bfloat16):
        y = pixel_adaptive_conv2d(x.bfloat16(), kernel, weight, bias)
        y.sum().backward()
    assert y.dtype == torch.float32
    assert x.grad is not None
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def test_mixed_dtypes_are_promoted():
    x, kernel, weight, bias = arguments("full")
    assert pixel_adaptive_conv2d(x, kernel.double(), weight, bias).dtype == torch.float64


def test_infinity_and_nan_stay_where_they_are():
    x, kernel, weight, bias = (t.detach() for t in arguments("full", (1, 16, 9, 30), c_out=16))
    x[0, 3, 4, 20] = float("nan")
    y = pixel_adaptive_conv2d(x, kernel, weight, bias)
    touched = torch.zeros(9, 30, dtype=torch.bool)
    touched[3:6, 19:22] = True
    assert torch.equal(y.isnan().any(1)[0], touched)


@pytest.mark.parametrize("form", FORMS)
def test_shapes_without_data(form):
    args = [arg.detach().to("meta").requires_grad_() for arg in arguments(form)]
    y = pixel_adaptive_conv2d(*args)
    y.sum().backward()
    assert y.shape == (2, args[3].shape[0], 6, 7)
    assert all(arg.grad is not None and arg.grad.shape == arg.shape for arg in args)


def test_deterministic_algorithms():
    args = arguments("full")
    torch.use_deterministic_algorithms(True)
    try:
        gradients(pixel_adaptive_conv2d, args)
    finally:
        torch.use_deterministic_algorithms(False)


def test_export_holds_pytorch_operators_only():
    class Module(torch.nn.Module):
        def forward(self, x, kernel, weight):
            return pixel_adaptive_conv2d(x, kernel, weight)

    args = tuple(arg.detach() for arg in arguments("depthwise")[:3])
    program = torch.export.export(Module(), args)
    assert_close([program.module()(*args)], [pixel_adaptive_conv2d(*args)])


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((5, 6, 7), (1, 9, 6, 7), (4, 5, 3, 3), None), "4 dimensions"),
        (((1, 5, 6, 7), (1, 9, 6, 7), (4, 5, 3, 5), None), "square and odd"),
        (((1, 5, 6, 7), (1, 16, 6, 7), (4, 5, 4, 4), None), "square and odd"),
        (((1, 5, 6, 7), (1, 9, 6, 7), (4, 3, 3, 3), None), "weight must be"),
        (((1, 5, 6, 7), (1, 9, 6, 7), (4, 1, 3, 3), None), "weight must be"),
        (((1, 5, 6, 7), (1, 9, 7, 6), (4, 5, 3, 3), None), "kernel must be"),
        (((2, 5, 6, 7), (1, 9, 6, 7), (4, 5, 3, 3), None), "kernel must be"),
        (((1, 5, 6, 7), (1, 9, 6, 7), (4, 5, 3, 3), (5,)), "bias must be"),
    ],
)
def test_wrong_shapes_are_named(shapes, message):
    with pytest.raises(ValueError, match=message):
        pixel_adaptive_conv2d(*[None if shape is None else torch.zeros(shape) for shape in shapes])


def test_wrong_dtype_is_named():
    x, kernel, weight, _ = arguments("depthwise")
    with pytest.raises(ValueError, match="floating point"):
        pixel_adaptive_conv2d(x.to(torch.int32), kernel, weight)


def run(code, **environment):
    """Run code in a fresh interpreter with 2 threads and return what it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_does_not_load_the_compiler():
    assert run("import sys, unsmear.ops; print('numba' in sys.modules)") == "False\n"


FORK = """
import os, torch
from unsmear.ops import pixel_adaptive_conv2d
x, kernel, weight = torch.randn(1, 3, 40, 5), torch.randn(1, 1, 40, 5), torch.randn(3, 1, 1, 1)
expected = pixel_adaptive_conv2d(x, kernel, weight)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(pixel_adaptive_conv2d(x, kernel, weight), expected) else 1)
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_works_in_a_forked_child():
    assert run(FORK) == "0\n"


def test_runs_where_no_cache_can_be_written(tmp_path):
    shutil.copytree(
        Path(unsmear.__file__).parent / "ops",
        tmp_path / "unsmear/ops",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (tmp_path / "unsmear/__init__.py").touch()
    (tmp_path / "unsmear/ops/__pycache__").touch()  # a file in the way stops even root
    nowhere = str(tmp_path / "unsmear/__init__.py")
    code = """
import torch, unsmear
from unsmear.ops import pixel_adaptive_conv2d
ones = torch.ones(1, 1, 2, 2)
print(unsmear.__file__, pixel_adaptive_conv2d(ones, ones, torch.ones(1, 1, 1, 1)).sum().item())
"""
    output = run(code, PYTHONPATH=str(tmp_path), HOME=nowhere, XDG_CACHE_HOME=nowhere, LOCALAPPDATA=nowhere)
    assert output == f"{nowhere} 4.0\n"


MEMORY = """
import torch
from unsmear.ops import pixel_adaptive_conv2d
from unsmear.ops.pixel_adaptive import _backward, _forward

def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

def plain(*args):
    _backward(_forward(*args, None), *args)

def compiled(*args):
    y = pixel_adaptive_conv2d(*[t.requires_grad_() for t in args])
    y.backward(torch.randn_like(y))

def steps(size):
    for group in (1, 32):
        shapes = (1, 32, size, size), (1, 25, size, size), (32, group, 5, 5)
        for function in (plain, compiled):
            function(*map(torch.randn, shapes))

steps(8)
before = peak()
steps(160)
print((peak() - before) / (160 * 160 * 32 * 4))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_window():
    # In feature maps: x, kernel, output, their gradients and changes of layout make about 20; the
    # windows of all pixels would be 25 more.
    assert float(run(MEMORY)) < 30
