"""Flips and transpositions of spectra, and of what is found by them."""

import itertools

import numpy as np
import pytest
import torch
from scenes import scene, smeared

from unsmear.models.blind_deconvolution import SpectralDeconvolution, filter_basis
from unsmear.models.spectra import BINS, SPECTRA
from unsmear.models.turns import Turns

TURNS = list(itertools.product((False, True), repeat=3))


def turned(picture, down, right, transposed):
    picture = picture.flip([axis for axis, flips in ((2, down), (3, right)) if flips])
    return picture.mT if transposed else picture


def back(picture, down, right, transposed):
    return turned(picture.mT if transposed else picture, down, right, False)


def spectra_of(picture):
    """The power of a picture (1, 1, 32, 32) as logarithms, as if it were all that there is around a place."""
    power = torch.fft.rfft2(picture[0, 0].double()).abs().square()
    return (power + 1e-3).log().float().flatten().repeat(SPECTRA)[None]


@pytest.fixture(scope="module")
def picture():
    return smeared(scene(48)[:, :1], 5, 3)[..., :32, :32]


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_turned_pictures_are_read_alike(picture, turn):
    turns = Turns(filter_basis(4))
    expected, _ = turns(spectra_of(picture))
    found, _ = turns(spectra_of(turned(picture, *turn)))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_all_motions_lie_within_an_octant():
    turns, (row, column) = Turns(filter_basis(4)), np.mgrid[:32, :32]
    for down, right in itertools.product((-9, -6, -4, 4, 6, 9), (-8, -5, -2, 2, 5, 8)):
        wave = torch.from_numpy(np.sin(2 * np.pi * (down * row + right * column) / 32))[None, None]
        seen, _ = turns(spectra_of(wave))
        across = {divmod(int(one.argmax()), 17) for one in seen.view(SPECTRA, BINS)}
        assert across == {tuple(sorted((abs(down), abs(right))))}


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_a_turned_filter_is_itself_or_its_negative(turn):
    filters = filter_basis(96)
    for one, other in zip(filters, turned(filters[:, None], *turn)[:, 0], strict=True):
        assert min((other - one).norm(), (other + one).norm()) < 5e-3 * one.norm()


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_weights_that_are_turned_back_filter_the_picture_as_it_is(turn):
    """To filter what is turned, and turn that back, is what the weights do that are turned back."""
    filters, picture = filter_basis(96), torch.rand(1, 1, 40, 40)
    turns, weights = Turns(filters), torch.randn(96, generator=torch.Generator().manual_seed(0))
    down, right, transposed = turn

    def filtered(picture, weights):
        return torch.nn.functional.conv2d(picture, torch.tensordot(weights, filters, 1)[None, None])

    found = filtered(picture, turns.back(weights[None], torch.tensor([(down != right) + 2 * transposed]))[0])
    torch.testing.assert_close(found, back(filtered(turned(picture, *turn), weights), *turn), atol=5e-3, rtol=0)


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_a_turned_picture_is_deblurred_as_it_would_be_turned(picture, turn):
    torch.manual_seed(0)
    part = SpectralDeconvolution(24).eval()
    torch.nn.init.normal_(part.mix.weight)

    def deblurred(picture):
        weights = part.weigh(spectra_of(picture))[1][0]
        return torch.nn.functional.conv2d(picture, torch.tensordot(weights, part.filters, 1)[None, None])

    with torch.inference_mode():
        expected, found = deblurred(picture), back(deblurred(turned(picture, *turn)), *turn)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=0.02 * expected.std().item(), rtol=0)
