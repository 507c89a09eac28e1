"""Filters that change slowly across a picture, against the equation."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from unsmear.ops import filter_flow as module
from unsmear.ops.filter_flow import filter_flow


@pytest.fixture(params=["compiled", "plain"], autouse=True)
def path(request, monkeypatch):
    """Both ways to compute: the compiled kernel, and PyTorch as it runs on other devices."""
    if request.param == "plain":
        monkeypatch.setattr(module, "takes_kernels", lambda x: False)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def blends(places, spacing, length):
    """How much every place counts at every pixel along one axis, (places, length)."""
    middles = spacing * (np.arange(places) + 0.5) - 0.5
    return np.stack([np.interp(np.arange(length), middles, one) for one in np.eye(places)])


def literal(picture, weights, filters, spacing):
    """The equation, place by place, in float64."""
    _, h, w = weights.shape
    down, along = blends(h, spacing, picture.shape[0]), blends(w, spacing, picture.shape[1])
    filtered = np.zeros(picture.shape)
    for i, j in np.ndindex(h, w):
        its_filter = np.tensordot(weights[:, i, j], filters, 1)
        filtered += down[i][:, None] * along[j] * ndimage.correlate(picture, its_filter, mode="nearest")
    return filtered


def drawn(height, width, places, count=3, side=5, batch=1, channels=1):
    rng = torch.Generator().manual_seed(height * width)
    shapes = (batch, channels, height, width), (batch, count, *places), (count, side, side)
    picture, weights, filters = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes)
    return picture, weights, filters + filters.flip(1, 2)  # turned by half they are what they were


@pytest.mark.parametrize(
    ("size", "places", "spacing"),
    [
        ((32, 48), (4, 6), 8),  # multiples of the spacing
        ((29, 43), (3, 4), 8),  # places end before the picture does
        ((16, 16), (1, 1), 8),
        ((3, 40), (1, 4), 8),  # lower than from the corner to the first place
        ((216, 112), (6, 3), 32),
    ],
)
@pytest.mark.parametrize("side", [1, 5, 17])
def test_every_place_has_its_filter(size, places, spacing, side):
    picture, weights, filters = drawn(*size, places, side=side, batch=2, channels=2)
    found = filter_flow(picture, weights, filters, spacing)
    for one, channel in np.ndindex(2, 2):
        expected = literal(picture[one, channel].numpy(), weights[one].numpy(), filters.numpy(), spacing)
        np.testing.assert_allclose(found[one, channel], expected, rtol=1e-9, atol=1e-9)


def test_filters_that_are_not_even_will_do():
    picture, weights, filters = drawn(40, 50, (2, 3))
    filters[1, 0, 2] += 1
    expected = literal(picture[0, 0].numpy(), weights[0].numpy(), filters.numpy(), 16)
    np.testing.assert_allclose(filter_flow(picture, weights, filters, 16)[0, 0], expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 2),
    channels=st.integers(1, 4),
    height=st.integers(1, 40),
    width=st.integers(1, 90),
    spacing=st.sampled_from([2, 6, 16, 32, 40]),
    side=st.sampled_from([1, 3, 9]),
    places=st.tuples(st.integers(1, 4), st.integers(1, 6)),
)
def test_sizes(batch, channels, height, width, spacing, side, places):
    rows, columns = (max(1, min(n, 1 + length // spacing)) for n, length in zip(places, (height, width), strict=True))
    picture, weights, filters = drawn(height, width, (rows, columns), side=side, batch=batch, channels=channels)
    found = filter_flow(picture, weights, filters, spacing)
    assert found.shape == picture.shape
    expected = literal(picture[-1, -1].numpy(), weights[-1].numpy(), filters.numpy(), spacing)
    np.testing.assert_allclose(found[-1, -1], expected, rtol=1e-9, atol=1e-9)


def test_takes_any_layout_and_float32():
    inputs = [some.float() for some in drawn(70, 90, (2, 3), side=17, channels=3)]
    expected = filter_flow(*(some.double() for some in inputs), 32)
    last = inputs[0].contiguous(memory_format=torch.channels_last)
    for picture in (inputs[0], last):
        found = filter_flow(picture, *inputs[1:], 32)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6 * expected.abs().max().item())
    assert torch.equal(last, inputs[0])


def test_does_not_depend_on_the_number_of_threads():
    inputs = [some.float() for some in drawn(70, 90, (2, 3), side=17, channels=3)]
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(filter_flow(*inputs, 32))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)  # PyTorch's sums may depend on it, the kernel's do not


def test_strips_join_without_a_seam(monkeypatch):
    picture, weights, filters = drawn(160, 96, (10, 6), channels=2)
    whole = filter_flow(picture, weights, filters, 16)
    monkeypatch.setattr("unsmear.ops.filter_flow._AT_ONCE", 1)
    torch.testing.assert_close(filter_flow(picture, weights, filters, 16), whole)


def test_one_filter_everywhere_is_correlation():
    picture, weights, filters = drawn(70, 50, (3, 2))
    weights = weights[:, :, :1, :1].expand_as(weights)
    expected = ndimage.correlate(picture[0, 0].numpy(), np.tensordot(weights[0, :, 0, 0], filters, 1), mode="nearest")
    np.testing.assert_allclose(filter_flow(picture, weights, filters, 16)[0, 0], expected, rtol=1e-9, atol=1e-9)


def test_gradients_are_those_of_the_equation():
    with torch.enable_grad():
        inputs = [t.requires_grad_() for t in drawn(11, 13, (2, 3), count=2, side=3, channels=2)]
        torch.autograd.gradcheck(lambda *t: filter_flow(*t, 4), inputs)
