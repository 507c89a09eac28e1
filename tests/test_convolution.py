"""Convolutions against their definitions, written as sums over taps and channels, in float64."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from unsmear.ops import convolution, convolve, convolve_transposed


@pytest.fixture(params=["compiled", "plain"], autouse=True)
def path(request, monkeypatch):
    """Both ways to compute: the compiled kernel, and PyTorch as it runs on other devices."""
    if request.param == "plain":
        monkeypatch.setattr(convolution, "takes_kernels", lambda x: False)


def by_definition(x, weight, bias, stride=1, relu=False, onto=None):
    """y[o, i, j] = bias[o] + sum over c, u, v of weight[o, c, u, v] * x[c, s i + u - 1, s j + v - 1], zero outside.

    Then max(0, y) if `relu`, and the sum with `onto`.
    """
    height, width = x.shape[2:]
    y = bias[:, None, None]
    around = F.pad(x, (1, 1, 1, 1))
    for u, v in itertools.product(range(3), repeat=2):
        moved = around[..., u : u + height : stride, v : v + width : stride]
        y = y + torch.einsum("oc,bchw->bohw", weight[..., u, v], moved)
    y = y.clamp(min=0) if relu else y
    return y if onto is None else y + onto


def transposed_by_definition(x, weight, bias):
    """To y[o, 2 i + u - 1, 2 j + v - 1] adds weight[c, o, u, v] * x[c, i, j], where that is in the picture."""
    batch, _, height, width = x.shape
    around = bias[:, None, None].repeat(batch, 1, 2 * height + 2, 2 * width + 2)
    for u, v in itertools.product(range(4), repeat=2):
        around[..., u : u + 2 * height : 2, v : v + 2 * width : 2] += torch.einsum(
            "co,bchw->bohw", weight[..., u, v], x
        )
    return around[..., 1:-1, 1:-1]


def draw(shapes, seed, dtype):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=dtype) for shape in shapes]


def inputs(batch, channels, out_channels, height, width, seed=0, dtype=torch.float64, stride=1):
    shapes = [
        (batch, channels, height, width),
        (out_channels, channels, 3, 3),
        (out_channels,),
        (batch, out_channels, -(-height // stride), -(-width // stride)),
    ]
    return draw(shapes, seed, dtype)


CASES = {
    "batch": st.integers(1, 3),
    "channels": st.sampled_from([1, 8, 16, 24]),
    "out_channels": st.sampled_from([1, 8, 9, 16, 21]),
    "height": st.integers(1, 13),
    "width": st.integers(1, 70),  # tiles of 4, some 24 of them at once, over rows and pictures
    "seed": st.integers(0, 10**6),
    "stride": st.sampled_from([1, 2, 3]),
    "layout": st.sampled_from([torch.contiguous_format, torch.channels_last]),
    "relu": st.booleans(),
    "adds": st.booleans(),
}


@settings(max_examples=40, deadline=None)
@given(**CASES)
def test_equals_its_definition(batch, channels, out_channels, height, width, seed, stride, layout, relu, adds):
    x, weight, bias, onto = inputs(batch, channels, out_channels, height, width, seed, stride=stride)
    x, onto = x.contiguous(memory_format=layout), onto.contiguous(memory_format=layout)
    expected = by_definition(x, weight, bias, stride, relu, onto if adds else None)
    before = x.clone(), onto.clone()
    with torch.no_grad():
        y = convolve(x, weight, bias, stride=stride, relu=relu, onto=onto if adds else None)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-11)
    assert torch.equal(x, before[0])
    assert torch.equal(onto, before[1])


@settings(max_examples=40, deadline=None)
@given(asked=st.sets(st.integers(0, 3), min_size=1), **CASES)
def test_gradients_equal_those_of_the_definition(
    batch, channels, out_channels, height, width, seed, stride, layout, relu, adds, asked
):
    shape = batch, channels, out_channels, height, width
    gradients = []
    for function in (convolve, by_definition):
        arguments = inputs(*shape, seed, stride=stride)
        arguments[0], arguments[3] = (arguments[n].contiguous(memory_format=layout) for n in (0, 3))
        wanted = [arguments[n].requires_grad_() for n in sorted(asked) if n != 3 or adds]
        if not wanted:
            return
        y = function(*arguments[:3], stride=stride, relu=relu, onto=arguments[3] if adds else None)
        slope = inputs(*shape, seed + 1, stride=stride)[3]
        gradients.append(torch.autograd.grad(y, wanted, slope))
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-10)


TRANSPOSED = {
    "batch": st.integers(1, 3),
    "channels": st.sampled_from([1, 8, 16, 24]),
    "out_channels": st.sampled_from([1, 8, 9, 16, 24]),
    "height": st.integers(1, 17),
    "width": st.integers(1, 90),  # tiles of 5, some 24 of them at once, over rows and pictures
    "seed": st.integers(0, 10**6),
    "layout": st.sampled_from([torch.contiguous_format, torch.channels_last]),
}


def inputs_of_transposed(batch, channels, out_channels, height, width, seed=0, dtype=torch.float64):
    shapes = [(batch, channels, height, width), (channels, out_channels, 4, 4), (out_channels,)]
    return draw(shapes, seed, dtype)


@settings(max_examples=40, deadline=None)
@given(**TRANSPOSED)
def test_transposed_equals_its_definition(batch, channels, out_channels, height, width, seed, layout):
    x, weight, bias = inputs_of_transposed(batch, channels, out_channels, height, width, seed)
    x = x.contiguous(memory_format=layout)
    expected, before = transposed_by_definition(x, weight, bias), x.clone()
    with torch.no_grad():
        y = convolve_transposed(x, weight, bias)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-11)
    assert torch.equal(x, before)


def test_transposed_has_gradients():
    arguments = [t.requires_grad_() for t in inputs_of_transposed(2, 8, 8, 3, 4)]
    assert torch.autograd.gradcheck(convolve_transposed, arguments)


def test_transposed_in_float32_is_as_exact_as_pictures_need():
    single = inputs_of_transposed(1, 128, 64, 30, 50, dtype=torch.float32)
    with torch.no_grad():
        y, expected = convolve_transposed(*single), transposed_by_definition(*(t.double() for t in single))
    assert y.dtype == torch.float32
    assert (y - expected).square().mean().sqrt() < 5e-6 * expected.square().mean().sqrt()


@pytest.mark.parametrize(
    "change", [{1: torch.zeros(8, 16, 4, 4)}, {1: torch.zeros(16, 16, 3, 3)}, {2: torch.zeros(15)}]
)
def test_shapes_that_do_not_fit_a_transposed_convolution(change):
    arguments = dict(enumerate(inputs_of_transposed(1, 16, 16, 8, 8))) | change
    with pytest.raises(ValueError, match="do not fit x"):
        convolve_transposed(*(arguments[n] for n in range(3)))


def test_gradients_of_many_pictures_are_taken_a_few_at_a_time(monkeypatch):
    from unsmear.ops import convolution_cpu

    gradients = []
    for at_once in (2**20, 1000):
        monkeypatch.setattr(convolution_cpu, "_AT_ONCE", at_once)
        x, weight, bias, _ = (t.requires_grad_() for t in inputs(5, 8, 8, 6, 7))
        gradients.append(torch.autograd.grad(convolve(x, weight, bias).square().sum(), [x, weight, bias]))
    for whole, pieces in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, pieces, rtol=1e-12, atol=1e-11)


def test_float32_is_as_exact_as_pictures_and_training_need():
    exact, single = (
        [t.to(dtype).requires_grad_() for t in inputs(2, 128, 128, 30, 50, dtype=torch.float32)[:3]]
        for dtype in (torch.float64, torch.float32)
    )
    y, expected = convolve(*single), by_definition(*exact)
    slope = inputs(2, 128, 128, 30, 50, seed=1, dtype=torch.float32)[3]
    gradients, expected_gradients = torch.autograd.grad(y, single, slope), torch.autograd.grad(expected, exact, slope)
    assert y.dtype == torch.float32
    for ours, theirs in zip([y, *gradients], [expected, *expected_gradients], strict=True):
        assert (ours - theirs).square().mean().sqrt() < 5e-6 * theirs.square().mean().sqrt()


def test_does_not_depend_on_the_number_of_threads():
    x, weight, bias, _ = inputs(2, 16, 32, 37, 91, dtype=torch.float32)
    transposed = inputs_of_transposed(1, 16, 32, 1, 1, dtype=torch.float32)[1:]
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            x.grad = None
            y = convolve(x.requires_grad_(), weight, bias, relu=True)
            y.sum().backward()
            with torch.no_grad():
                enlarged = convolve_transposed(x, *transposed)
                results.append([y.detach(), x.grad, convolve(x, weight, bias, stride=2), enlarged])
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(
            one, two, rtol=1e-6, atol=1e-5
        )  # oneDNN's sums may depend on it, the kernel's do not


def test_what_is_no_number_stays_none():
    x, weight, bias, _ = inputs(1, 16, 16, 9, 9, dtype=torch.float32)
    x[0, 3, 4, 4] = torch.nan
    with torch.no_grad():
        y, halved = convolve(x, weight, bias, relu=True), convolve(x, weight, bias, stride=2)
        doubled = convolve_transposed(x, *inputs_of_transposed(1, 16, 16, 1, 1, dtype=torch.float32)[1:])
    assert y[:, :, 3:6, 3:6].isnan().all()
    assert halved[:, :, 2, 2].isnan().all()
    assert doubled[:, :, 7:11, 7:11].isnan().all()


def test_has_gradients():
    x, weight, bias, onto = (t.requires_grad_() for t in inputs(1, 8, 8, 5, 6))
    assert torch.autograd.gradcheck(lambda *t: convolve(*t[:3], relu=True, onto=t[3]), (x, weight, bias, onto))


def test_autocast_lowers_the_precision():
    x, weight, bias, _ = inputs(1, 16, 16, 8, 8, dtype=torch.float32)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert convolve(x, weight, bias).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: torch.zeros(16, 8, 3, 3)}, "cannot convolve x"),
        ({1: torch.zeros(16, 16, 5, 5)}, "cannot convolve x"),
        ({2: torch.zeros(15)}, "cannot convolve x"),
        ({3: torch.zeros(1, 16, 8, 7)}, "onto must be"),
    ],
)
def test_shapes_that_do_not_fit(change, message):
    arguments = dict(enumerate(inputs(1, 16, 16, 8, 8))) | change
    with pytest.raises(ValueError, match=message):
        convolve(*(arguments[n] for n in range(3)), onto=arguments[3])
