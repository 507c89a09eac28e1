"""The guard, tried with pictures whose faults are known."""

import doctest

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import unsmear.guard
from unsmear.batch import Job
from unsmear.guard import guard
from unsmear.image import Picture
from unsmear.restore import Deblurrer, deblur
from unsmear.treatment import Options, treatment


def scene(height=192, width=256, seed=0):
    """Squares of one color each, as sharp as pixels allow."""
    colors = np.random.default_rng(seed).integers(100, 156, (height // 24 + 1, width // 24 + 1, 3), np.uint8)
    return colors.repeat(24, axis=0).repeat(24, axis=1)[:height, :width]


def smear(picture, length=7):
    """Horizontal motion blur."""
    padded = np.pad(picture.astype(np.float32), ((0, 0), (length // 2, length // 2), (0, 0)), mode="edge")
    width = picture.shape[1]
    return np.rint(np.mean([padded[:, i : i + width] for i in range(length)], axis=0)).astype(np.uint8)


def shifted(picture, part, levels):
    values = picture.astype(np.int16)
    values[part] += np.asarray(levels, np.int16)
    return np.clip(values, 0, 255).astype(np.uint8)


def checkerboard(side, amplitude):
    y, x = np.indices((side, side))
    return np.where((x + y) % 2, amplitude, -amplitude)[..., None]


def largest(x, y):
    return np.abs(x.astype(np.float64) - y).max()


def error(x, y):
    return np.square(x.astype(np.float64) - y).sum()


PART = slice(64, 128), slice(96, 160)


def test_the_example_in_the_documentation_holds():
    assert doctest.testmod(unsmear.guard).failed == 0


def test_what_deblurring_does_is_left_alone():
    sharp = scene()
    result, share = guard(smear(sharp), sharp)
    assert share == 0
    np.testing.assert_array_equal(result, sharp)


FAULTS = {
    "color": lambda good: shifted(good, PART, [60, -40, 10]),
    "tint": lambda good: shifted(good, PART, [15, 0, -15]),
    "weak checkerboard": lambda good: shifted(good, PART, checkerboard(64, 8)),
    "strong checkerboard": lambda good: shifted(good, PART, checkerboard(64, 32)),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("seed", range(3))
def test_faults_are_taken_back_where_they_are_and_nowhere_else(fault, seed):
    good = scene(seed=seed)
    blurred, spoiled = smear(good), FAULTS[fault](good)
    result, share = guard(blurred, spoiled)
    assert 0.01 < share < 0.4
    assert error(result[PART], blurred[PART]) < 0.3 * error(spoiled[PART], blurred[PART])
    np.testing.assert_array_equal(result[:32], good[:32])
    np.testing.assert_array_equal(result[:, :64], good[:, :64])


def test_a_black_tile_is_taken_back_completely():
    good = scene()
    spoiled = good.copy()
    spoiled[PART] = 0
    blurred = smear(good)
    result, _ = guard(blurred, spoiled)
    np.testing.assert_array_equal(result[PART], blurred[PART])


def test_ringing_far_beyond_the_values_around_it_is_taken_back():
    blurred = smear(np.repeat(np.where(np.arange(256) < 128, 100, 130), 3).reshape(1, 256, 3).repeat(192, 0))
    spoiled = shifted(blurred, np.s_[:, 118:124], -80)
    result, _ = guard(blurred, spoiled)
    assert largest(result, blurred) < 1


def test_a_sharp_picture_stays_as_it_was():
    sharp = scene()
    result, share = guard(sharp, shifted(sharp, np.s_[:], [2, -1, 1]))
    np.testing.assert_array_equal(result, sharp)
    assert share == 1


def test_noise_may_be_taken_away():
    rng = np.random.default_rng(0)
    after = np.full((128, 128, 3), 100, np.uint8)
    before = np.rint(after + rng.normal(0, 4, after.shape)).astype(np.uint8)
    np.testing.assert_array_equal(guard(before, after)[0], after)


def test_it_fades_from_one_to_the_other():
    before = np.full((128, 128, 3), 0.5, np.float32)
    after = before + np.float32(0.004)  # one gray level, which may be
    after[40:80, 40:80] += 0.2
    result, _ = guard(before, after)
    share = (result - before)[..., 0] / 0.004
    share[np.abs(after - before)[..., 0] > 0.1] = 0  # whatever is left there is little of much
    assert share.max() == pytest.approx(1, abs=1e-3)
    assert share.min() == 0
    assert max(np.abs(np.diff(share, axis=axis)).max() for axis in (0, 1)) < 0.13


@given(st.integers(1, 40), st.integers(1, 150), st.sampled_from([(3,), (1,), ()]))
@settings(deadline=None, max_examples=40)
def test_any_size_stays_between_before_and_after(height, width, channels):
    rng = np.random.default_rng(height * 1000 + width)
    before, after = (rng.integers(0, 256, (height, width, *channels), np.uint8) for _ in range(2))
    kept = before.copy(), after.copy()
    result, share = guard(before, after)
    assert (result.shape, result.dtype) == (before.shape, before.dtype)
    assert isinstance(share, float)
    assert 0 <= share <= 1
    assert (result >= np.minimum(before, after)).all()
    assert (result <= np.maximum(before, after)).all()
    np.testing.assert_array_equal(before, kept[0])
    np.testing.assert_array_equal(after, kept[1])


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500, 3), (500, 1, 3), (65, 63, 3)])
def test_equal_pictures_come_back(shape):
    picture = np.random.default_rng(0).integers(0, 65536, shape, np.uint16)
    result, share = guard(picture, picture.copy())
    assert share == 0
    np.testing.assert_array_equal(result, picture)


def test_all_depths_are_judged_alike():
    blurred, spoiled = smear(scene()), shifted(scene(), PART, [30, 0, -30])
    expected, share = guard(blurred, spoiled)
    deep, deep_share = guard(blurred * np.uint16(257), spoiled * np.uint16(257))
    real, real_share = guard(*(x.astype(np.float32) / np.float32(255) for x in (blurred, spoiled)))
    assert largest(deep / 257, expected) <= 0.51
    assert largest(real * 255, expected) <= 0.51
    assert share == pytest.approx(deep_share, abs=1e-3) == pytest.approx(real_share, abs=1e-3)


def test_pictures_that_do_not_fit_each_other_are_refused():
    picture = scene()
    with pytest.raises(ValueError, match="not of one kind"):
        guard(picture, picture[1:])
    with pytest.raises(ValueError, match="not of one kind"):
        guard(picture, picture.astype(np.float32))


class Spoiler(nn.Module):
    """A network that works but for a colored block."""

    name, size_multiple, peak_bytes_per_pixel = "spoiler", 8, 1000.0

    def forward(self, x):
        x = x.clone()
        x[:, 0, 64:128, 96:160] += 0.3
        return x


def test_calls_are_guarded_unless_told_otherwise_and_restore_is_raw():
    blurred, deblurrer = smear(scene()), Deblurrer(Spoiler(), device="cpu")
    raw = deblurrer.restore(blurred)
    assert largest(raw, blurred) > 50
    np.testing.assert_array_equal(deblurrer(blurred, guard=False), raw)
    np.testing.assert_array_equal(deblur(blurred, model=Spoiler(), device="cpu", guard=False), raw)
    np.testing.assert_array_equal(deblurrer(blurred), guard(blurred, raw)[0])
    assert error(deblurrer(blurred), blurred) < 0.01 * error(raw, blurred)
    tensor = torch.from_numpy(blurred).permute(2, 0, 1) / 255
    assert (deblurrer(tensor) - tensor).square().sum() < 0.01 * (deblurrer(tensor, guard=False) - tensor).square().sum()


@pytest.mark.parametrize("guarded", [True, False])
def test_pictures_are_guarded_and_a_note_tells_so(guarded):
    picture = Picture(smear(scene()))
    treat = treatment(Deblurrer(Spoiler(), device="cpu"), Options(guard=guarded), lambda job: lambda done, total: None)
    treated = treat(Job("in.png", "out.png"), picture)
    assert treated.picture is not None
    assert (error(treated.picture.rgb, picture.rgb) < 1e5) == guarded
    assert treated.note == ("3% of the picture left as it was" if guarded else "")
