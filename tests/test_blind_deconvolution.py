"""Spectra that tell the blur, and filters that undo it."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from unsmear import create_model
from unsmear.errors import UsageError
from unsmear.models.blind_deconvolution import BlindDeconvolution, filter_basis, mix_filters, oriented_bands


@pytest.fixture(scope="module")
def module():
    return BlindDeconvolution(24, [8], scale=8, fold=2)


def scene(size=96):
    """Edges and texture, (1, 3, size, size)."""
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.standard_normal((size, size)), 3)
    picture = 0.5 + 0.3 * np.sign(smooth) + 0.05 * rng.standard_normal((size, size))
    return torch.from_numpy(np.clip(picture, 0, 1)).float().expand(1, 3, size, size)


def smeared(x, length, axis):
    return torch.from_numpy(ndimage.uniform_filter1d(x.numpy(), length, axis=axis, mode="nearest"))


def test_filters_keep_the_mean_brightness():
    assert filter_basis(32).sum((1, 2)).abs().max() < 1e-2
    assert oriented_bands().sum((1, 2)).abs().max() < 1e-4


def test_only_so_many_filters_exist():
    with pytest.raises(UsageError, match="filter_basis must be 0 to 32, not 33"):
        create_model("saphn-s", filter_basis=33)
    with pytest.raises(UsageError, match="needs residual=True"):
        create_model("saphn-s", residual=False)


@pytest.mark.parametrize("axis", [2, 3])
def test_a_mixture_undoes_motion(module, axis):
    sharp = scene()
    blurred = smeared(sharp, 3, axis)
    responses = module(blurred).responses
    columns = responses[0].transpose(0, 1).flatten(1).T.double()
    missing = torch.nn.functional.pixel_unshuffle((sharp - blurred)[:, :1], 2).flatten().double()[:, None]
    weights = torch.linalg.lstsq(columns, missing).solution[:, 0].float()
    restored = mix_filters(weights[None, :, None, None], responses).flatten()
    before, after = missing.square().mean(), (missing[:, 0] - restored).square().mean()
    assert 10 * torch.log10(before / after) > 4  # dB


def test_every_pixel_has_its_own_mixture():
    weights, responses = torch.randn(2, 3, 4, 5), torch.randn(2, 4, 3, 4, 5)
    expected = torch.zeros(2, 4, 4, 5)
    for b, k, s, y, x in np.ndindex(2, 3, 4, 4, 5):
        expected[b, s, y, x] += weights[b, k, y, x] * responses[b, s, k, y, x]
    torch.testing.assert_close(mix_filters(weights, responses), expected)


@pytest.mark.parametrize("fold", [1, 2, 4, 8])
def test_responses_are_correlations_of_luma(fold):
    module = BlindDeconvolution(24, [8], scale=8, fold=fold)
    x = torch.rand(1, 3, 32, 48)
    luma = np.tensordot([0.299, 0.587, 0.114], x[0].numpy(), 1)
    responses = module(x).responses[0].transpose(0, 1)  # of each filter, all pixels of a block
    found = torch.nn.functional.pixel_shuffle(responses, fold)[:, 0]
    for k in (0, 7, 23):
        expected = ndimage.correlate(luma, module.filters[k, 0].numpy(), mode="nearest")
        np.testing.assert_allclose(found[k], expected, atol=1e-5)


@pytest.mark.parametrize("direction", range(8))
def test_a_grating_stands_out_in_its_band(module, direction):
    angle = np.pi * direction / 8
    row, column = np.mgrid[:96, :96]
    wave = np.sin(2 * np.pi * 0.16 * (column * np.cos(angle) + row * np.sin(angle)))  # cycles a pixel
    luma = torch.from_numpy(0.5 + 0.4 * wave).float()[None, None]
    spectrum = module.log_spectrum(luma)[0, :-1, 6, 6].reshape(7, 8)
    assert divmod(int(spectrum.argmax()), 8) == (3, direction)


def test_the_spectrum_tells_the_direction_of_motion(module):
    sharp = scene()[:, :1]
    along_rows, along_columns = (module.log_spectrum(smeared(sharp, 5, axis)).mean((0, 2, 3)) for axis in (3, 2))
    horizontal, vertical = 8 * 3, 8 * 3 + 4  # of 0.16 cycles a pixel
    assert along_rows[horizontal] < along_rows[vertical] - 1
    assert along_columns[vertical] < along_columns[horizontal] - 1


def test_any_size_and_batch(module):
    x = torch.rand(2, 3, 16, 24)
    look = module(x)
    assert look.responses.shape == (2, 4, 24, 8, 12)
    assert look.weights.shape == (2, 24, 8, 12)
    assert [f.shape for f in look.features] == [(2, 8, 2, 3)]
