"""The blur measure: that it grows with blur and with nothing else, at any size and of any kind of array."""

import numpy as np
import pytest

from unsmear.errors import ImageError
from unsmear.sharpness import THRESHOLD, blur_extent, is_blurry


def scene(height=256, width=320, seed=0):
    """Rectangles of any size on top of each other, as gray values in [0, 1]; sharp to the pixel."""
    rng, pixels = np.random.default_rng(seed), np.full((height, width), 0.5)
    for _ in range(300):
        top, left = rng.integers(height), rng.integers(width)
        pixels[top : top + rng.integers(4, 50), left : left + rng.integers(4, 50)] = rng.random()
    return pixels


def smeared(pixels, length, axis=1):
    padded = np.pad(pixels, [(length, length) if a == axis else (0, 0) for a in range(pixels.ndim)], mode="edge")
    moved = [np.roll(padded, step, axis) for step in range(length)]
    return np.mean(moved, axis=0).take(range(length, length + pixels.shape[axis]), axis)


def bytes_of(pixels):
    return np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_grows_with_motion(axis, seed):
    extents = [blur_extent(smeared(scene(seed=seed), length, axis)) for length in (1, 2, 3, 5, 9, 15)]
    assert extents == sorted(extents)
    assert extents[0] < 1.6
    assert extents[3] > THRESHOLD


def test_slanted_motion_counts_as_well():
    pixels = scene()
    slanted = np.mean([np.roll(pixels, (step, step), (0, 1)) for step in range(6)], axis=0)
    assert blur_extent(slanted) > 1.5 * blur_extent(pixels)


def test_is_blurry():
    assert not is_blurry(bytes_of(scene()))
    assert is_blurry(bytes_of(smeared(scene(), 7)))
    assert not is_blurry(bytes_of(smeared(scene(), 7)), threshold=20)


@pytest.mark.parametrize("length", [1, 7])
def test_kind_of_array_does_not_matter(length):
    pixels = smeared(scene(), length)
    expected = blur_extent(pixels)
    eight, sixteen = bytes_of(pixels), np.rint(65535 * pixels).astype(np.uint16)
    alpha = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
    for image in (
        pixels.astype(np.float32),
        1000 * pixels - 500,
        1 - pixels,
        0.1 * pixels,
        eight,
        sixteen,
        eight[..., None],
        np.stack([eight] * 3, axis=-1),
        np.stack([eight, alpha], axis=-1),
        np.stack([eight] * 3 + [alpha], axis=-1),
        np.asfortranarray(eight),
    ):
        assert blur_extent(image) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("turn", [np.flipud, np.fliplr, np.transpose, np.rot90])
def test_turns_do_not_matter(turn):
    pixels = smeared(scene(), 6)
    assert blur_extent(turn(pixels)) == pytest.approx(blur_extent(pixels), rel=0.05)


@pytest.mark.parametrize("sigma", [0.02, 0.05])
def test_noise_hides_no_blur_and_makes_none(sigma):
    noise = np.random.default_rng(0).normal(0, sigma, scene().shape)
    assert not is_blurry(bytes_of(scene() + noise))
    assert is_blurry(bytes_of(smeared(scene(), 7) + noise))


def test_a_picture_sharp_in_parts_is_sharp():
    pixels = scene()
    pixels[:, 160:] = smeared(pixels, 12)[:, 160:]
    assert not is_blurry(pixels)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (2, 3), (15, 400)])
def test_too_small_to_tell(shape):
    assert blur_extent(np.random.default_rng(0).random(shape)) == 0


@pytest.mark.parametrize("size", [(16, 16), (17, 90), (63, 64), (64, 64), (65, 130), (127, 33), (1025, 70)])
def test_any_other_size(size):
    height, width = size
    extent = blur_extent(np.resize(scene(), (height, width)))
    assert 0 <= extent <= 48
    assert blur_extent(np.random.default_rng(0).random(size)) < 1.5


@pytest.mark.parametrize("image", [np.zeros((80, 90)), np.full((200, 70, 3), 255, np.uint8), np.ones((64, 64), bool)])
def test_nothing_to_go_by(image):
    assert blur_extent(image) == 0
    assert not is_blurry(image)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros(10), "up to 4 channels"),
        (np.zeros((0, 10)), "up to 4 channels"),
        (np.zeros((9, 9, 5)), "up to 4 channels"),
        (np.zeros((2, 9, 9, 3)), "up to 4 channels"),
        (np.zeros((9, 9), complex), "integers or floating point"),
        (np.full((20, 20), np.nan), "finite"),
        (np.full((20, 20), np.inf, np.float32), "finite"),
    ],
)
def test_no_pictures(image, words):
    with pytest.raises(ImageError, match=words):
        blur_extent(image)
