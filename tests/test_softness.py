"""Softness of photos that no motion made."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from unsmear.data.softness import draw_transfer, random_color_softness, random_softness, soften
from unsmear.samples import REC601


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_softening_is_a_gaussian():
    picture = np.random.default_rng(0).random((2, 3, 40, 50)).astype(np.float32)
    for sigma in (0.25, 1.3, 2.0):
        softened = soften(torch.from_numpy(picture), sigma).numpy()
        expected = ndimage.gaussian_filter(picture, (0, 0, sigma, sigma), mode="mirror", truncate=6)
        np.testing.assert_allclose(softened, expected, atol=2e-3)


def test_what_is_drawn_is_softer_or_sharper_and_seldom_alike_both_ways():
    row, column = torch.fft.fftfreq(64), torch.fft.rfftfreq(64)
    rng = generator()
    drawn = torch.stack([draw_transfer(row, column, rng) for _ in range(400)])
    assert drawn.shape == (400, 64, 33)
    assert (drawn[:, 0, 0] == 1).all()
    assert drawn.min() >= 0
    assert torch.equal(drawn[:, 1:32], drawn[:, 33:].flip(1))  # even, so nothing moves
    down, across = drawn[:, 16, 0], drawn[:, 0, 16]
    assert 0.01 < (down > 1.2).float().mean() < 0.4  # sharpened
    assert 0.2 < (down < 0.5).float().mean() < 0.8  # softened
    unlike = (down - across).abs()
    assert unlike.min() < 0.01
    assert unlike.max() > 0.25
    corner = drawn[:, 16, 16] / (down * across)  # 1 for a Gaussian, and where rows and columns fade apart
    assert corner.min() < 0.5


@pytest.mark.parametrize("shape", [(1, 1, 40, 40), (1, 3, 33, 50), (1, 3, 17, 16)])
def test_a_share_of_the_crops_is_softened_and_no_crop_moves(shape):
    crop = torch.rand(shape, generator=generator(1))
    rng = generator(2)
    softened = [random_softness(crop, 0.5, rng) for _ in range(60)]
    assert 18 <= sum(torch.equal(other, crop) for other in softened) <= 42
    for other in softened:
        assert other.shape == crop.shape
        assert 0 <= other.min() <= other.max() <= 1
        assert other.mean().item() == pytest.approx(crop.mean().item(), abs=0.01)
        centered, seen = crop - crop.mean(), other - other.mean()
        here = (centered * seen).mean()
        for shift in (1, -1):
            for axis in (2, 3):
                assert (centered.roll(shift, axis) * seen).mean() < here


def test_the_colors_of_a_share_are_softened_and_its_luma_is_not():
    crop = 0.3 + 0.4 * torch.rand(1, 3, 40, 50, generator=generator(1))  # in the middle: nothing is clipped
    rng = generator(2)
    softened = [random_color_softness(crop, 0.5, rng) for _ in range(60)]
    assert 18 <= sum(torch.equal(other, crop) for other in softened) <= 42
    shares = torch.tensor(REC601)[:, None, None]
    for other in softened:
        luma, expected = ((c * shares).sum(1) for c in (other, crop))
        torch.testing.assert_close(luma, expected)
        if not torch.equal(other, crop):
            assert (other - luma[:, None]).std() < 0.9 * (crop - luma[:, None]).std()


def test_a_smooth_crop_stays_as_it_is():
    """Borders are continued by reflection: what varies slowly is neither softened nor darkened there."""
    slope = torch.linspace(0.3, 0.4, 64).expand(1, 1, 64, 64)
    rng = generator(3)
    for _ in range(30):
        assert (random_softness(slope, 1.0, rng) - slope).abs().max() < 0.005
