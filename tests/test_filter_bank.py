"""Filter banks against correlation by scipy, and a mixture pixel by pixel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from unsmear.models.blind_deconvolution import filter_basis
from unsmear.ops import filter_bank
from unsmear.ops.filter_bank import FilterBank, is_symmetric


@pytest.fixture(params=["compiled", "plain"], autouse=True)
def path(request, monkeypatch):
    """Both ways to compute: the compiled kernel, and PyTorch as it runs on other devices."""
    if request.param == "plain":
        monkeypatch.setattr(filter_bank, "takes_kernels", lambda x: False)


def symmetric_filters(count, side, seed=0):
    """Filters of every kind that is its own flipped and transposed self, or the negative of that."""
    filters = torch.randn(count, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    made = []
    for n, filter_ in enumerate(filters):
        flip, transposition = (-1) ** (n // 2), (-1) ** n
        for axis in (0, 1):
            filter_ = filter_ + flip * filter_.flip(axis)
        made.append(filter_ + transposition * filter_.T)
    return torch.stack(made)


def mixed_by_scipy(luma, filters, fold, weights, onto):
    expected = onto.clone()
    for b in range(len(luma)):
        gave = [ndimage.correlate(luma[b, 0].numpy(), f.numpy(), mode="nearest") for f in filters]
        gave = torch.nn.functional.pixel_unshuffle(torch.tensor(np.array(gave))[:, None], fold)  # (count, block, h, w)
        mixed = (weights[b][:, None] * gave).sum(0)
        expected[b] += mixed.repeat(expected.shape[1] // fold**2, 1, 1)
    return expected


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 2),
    fold=st.sampled_from([1, 2, 4]),
    height=st.integers(1, 4),
    width=st.sampled_from([1, 3, 63, 64, 65, 130]),  # the kernel takes 64 at once
    side=st.sampled_from([3, 5, 9, 17]),
    count=st.integers(1, 9),
    colors=st.sampled_from([1, 3]),
    seed=st.integers(0, 10**6),
    together=st.booleans(),
)
def test_equals_correlation(batch, fold, height, width, side, count, colors, seed, together):
    g = torch.Generator().manual_seed(seed)
    filters = symmetric_filters(count, side, seed) if side > 3 else symmetric_filters(min(count, 3), side, seed)
    count = len(filters)
    luma = torch.rand(batch, 1, height * fold, width * fold, generator=g, dtype=torch.float64)
    predicted = torch.randn(batch, height, width, count + colors * fold**2, generator=g, dtype=torch.float64)
    predicted = predicted.permute(0, 3, 1, 2)
    weights, onto = predicted.split([count, colors * fold**2], 1)
    if not together:  # any layout of memory will do
        weights, onto = weights.contiguous(), onto.contiguous()
    before = predicted.clone()
    with torch.no_grad():
        mixed = FilterBank(luma, filters, fold, torch.float64).mix(weights, onto)
    torch.testing.assert_close(mixed, mixed_by_scipy(luma, filters, fold, weights, onto), rtol=1e-10, atol=1e-10)
    assert torch.equal(predicted, before)


@pytest.mark.parametrize("fold", [1, 2, 4, 8])
def test_responses_are_correlations(fold):
    luma, filters = torch.rand(1, 1, 32, 48), filter_basis(24)
    responses = FilterBank(luma, filters, fold, torch.float32).responses()[0].transpose(0, 1)
    found = torch.nn.functional.pixel_shuffle(responses, fold)[:, 0]  # of each filter, all pixels of a block
    for k in (0, 7, 23):
        expected = ndimage.correlate(luma[0, 0].numpy(), filters[k].numpy(), mode="nearest")
        np.testing.assert_allclose(found[k], expected, atol=1e-5)


def test_any_filters_will_do():
    g = torch.Generator().manual_seed(1)
    filters = torch.randn(3, 5, 5, generator=g, dtype=torch.float64)
    filters[1] = 0
    assert not is_symmetric(filters)
    assert not is_symmetric(torch.zeros(2, 5, 5))
    assert not is_symmetric(torch.tensor([[[0.0, 1, 0], [0, 0, 0], [0, -1, 0]]]))  # one flip changes its sign alone
    luma, weights = torch.rand(1, 1, 8, 10, dtype=torch.float64), torch.randn(1, 3, 4, 5, dtype=torch.float64)
    onto = torch.zeros(1, 4, 4, 5, dtype=torch.float64)
    with torch.no_grad():
        mixed = FilterBank(luma, filters, 2, torch.float64).mix(weights, onto)
    torch.testing.assert_close(mixed, mixed_by_scipy(luma, filters, 2, weights, onto))


def test_filters_that_ship_are_symmetric():
    assert is_symmetric(filter_basis(96))


def test_has_gradients():
    luma = torch.rand(1, 1, 4, 6, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    onto = torch.zeros(1, 12, 2, 3, dtype=torch.float64, requires_grad=True)
    filters = symmetric_filters(4, 5)
    assert torch.autograd.gradcheck(
        lambda *t: FilterBank(t[0], filters, 2, torch.float64).mix(t[1], t[2]), (luma, weights, onto)
    )


def test_does_not_depend_on_the_number_of_threads():
    luma, filters = torch.rand(1, 1, 24, 300), filter_basis(24)
    weights, onto = torch.randn(1, 24, 12, 150), torch.randn(1, 12, 12, 150)
    threads, results = torch.get_num_threads(), []
    try:
        with torch.no_grad():
            for number in (1, 2):
                torch.set_num_threads(number)
                results.append(FilterBank(luma, filters, 2, torch.float32).mix(weights, onto))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)  # PyTorch's sums may depend on it, the kernel's do not
