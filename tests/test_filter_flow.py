"""Filters that change slowly across a picture, against the equation."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from unsmear.ops.filter_flow import filter_flow


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
    return [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]


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
    inputs = [t.requires_grad_() for t in drawn(11, 13, (2, 3), count=2, side=3, channels=2)]
    torch.autograd.gradcheck(lambda *t: filter_flow(*t, 4), inputs)
