"""The protocols, against loops that spell them out, against scikit-image, and against values stored once."""

import math

import numpy as np
import pytest

pytest.importorskip("skimage", reason="needs the extra eval")

from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from unsmear.errors import UsageError
from unsmear.evaluation import PROTOCOLS, align
from unsmear.evaluation.metrics import choose_protocols, luma

C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def measure(name, output, sharp):
    score = PROTOCOLS[name].measure(output, sharp)
    return score.psnr, score.ssim


def pair(height, width):
    """A colorful picture and a worse one, by integers alone: the same on every machine."""
    y, x, c = np.mgrid[:height, :width, :3]
    sharp = (x * x // 7 + y * (5 + c) + (x // 8 + y // 6) % 2 * 90 + 40 * c) % 256
    output = np.clip(sharp + (x * 31 + y * 17 + c * 7) % 41 - 20 + (x > width // 2) * 9, 0, 255)
    return output.astype(np.uint8), sharp.astype(np.uint8)


def smooth(height, width, seed=0):
    """A picture whose finest detail spans many pixels."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:height, :width]
    waves = np.zeros((height, width, 3))
    for _ in range(12):
        a, b, phase, c = *rng.uniform(-0.35, 0.35, 2), rng.uniform(0, 6), rng.integers(3)
        waves[..., c] += np.sin(a * x + b * y + phase)
    return 128 + 25 * waves


def in_8_bits(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def window(dimensions):
    line = np.exp(-(np.arange(-5, 6.0) ** 2) / (2 * 1.5**2))
    grid = line
    for _ in range(dimensions - 1):
        grid = grid[..., None] * line
    return grid / grid.sum()


def similarity_at(x, y, weights):
    """SSIM of one window."""
    mx, my = (weights * x).sum(), (weights * y).sum()
    vx, vy, vxy = (weights * x * x).sum() - mx**2, (weights * y * y).sum() - my**2, (weights * x * y).sum() - mx * my
    return (2 * mx * my + C1) * (2 * vxy + C2) / ((mx**2 + my**2 + C1) * (vx + vy + C2))


def mean_inside(x, y):
    """Mean SSIM of two planes over all windows that lie inside."""
    rows, cols = x.shape[0] - 10, x.shape[1] - 10
    places = [np.s_[r : r + 11, c : c + 11] for r in range(rows) for c in range(cols)]
    return np.mean([similarity_at(x[p], y[p], window(2)) for p in places])


def literal_psnr(x, y):
    total = sum((int(a) - int(b)) ** 2 for a, b in zip(x.ravel(), y.ravel(), strict=True))
    return 10 * math.log10(255**2 * x.size / total)


# Against loops


def test_skimage():
    output, sharp = pair(13, 14)
    psnr, ssim = measure("skimage", output, sharp)
    x, y = output.astype(float), sharp.astype(float)
    assert psnr == pytest.approx(literal_psnr(output, sharp), abs=1e-9)
    assert ssim == pytest.approx(np.mean([mean_inside(x[..., c], y[..., c]) for c in range(3)]), abs=1e-9)


@pytest.mark.parametrize("size", [(12, 9), (3, 4), (1, 1)])
def test_matlab_takes_color_for_depth(size):
    output, sharp = pair(*size)
    psnr, ssim = measure("matlab-rgb", output, sharp)
    x, y = (np.pad(p.astype(float), 5, mode="edge") for p in (output, sharp))  # in all three directions
    values = []
    for row in range(size[0]):
        for col in range(size[1]):
            for channel in range(3):
                place = np.s_[row : row + 11, col : col + 11, channel : channel + 11]
                values.append(similarity_at(x[place], y[place], window(3)))
    assert psnr == pytest.approx(literal_psnr(output, sharp), abs=1e-9)
    assert ssim == pytest.approx(np.mean(values), abs=1e-9)


def test_y():
    output, sharp = pair(13, 12)
    x, y = luma(output), luma(sharp)
    psnr, ssim = measure("y", output, sharp)
    assert psnr == pytest.approx(literal_psnr(x, y), abs=1e-9)
    assert ssim == pytest.approx(mean_inside(x.astype(float), y.astype(float)), abs=1e-9)


def test_luma_is_that_of_matlab():
    colors = np.array(
        [[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128], [7, 200, 90]]]
    )
    assert luma(colors.astype(np.uint8)).tolist() == [[16, 235, 81, 145, 41, 126, 127]]


# Against scikit-image, and values stored once


def test_scikit_image_agrees():
    output, sharp = pair(48, 64)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    assert measure("skimage", output, sharp) == pytest.approx(
        (
            peak_signal_noise_ratio(sharp, output, data_range=255),
            structural_similarity(sharp, output, channel_axis=2, **options),
        ),
        abs=1e-9,
    )


def test_published_values():
    """What IPOL's program `imdiff` printed for these pictures, as told in scikit-image's pull request 4913."""
    try:
        sharp = data.camera()
    except ModuleNotFoundError:
        pytest.skip("this scikit-image ships without pictures")
    noise = 20 * np.random.RandomState(5).randn(*sharp.shape)  # the noise of that time
    noisy = np.clip(sharp + noise, 0, 255).astype(np.uint8)
    psnr, ssim = measure("skimage", *(np.repeat(p[..., None], 3, axis=2) for p in (noisy, sharp)))
    assert psnr == pytest.approx(22.409353363576034, abs=1e-4)
    assert ssim == pytest.approx(0.357959091663361, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "psnr", "ssim"),
    [
        ("skimage", 25.82526116, 0.97021309),
        ("matlab-rgb", 25.82526116, 0.98324625),
        ("y", 29.32800962, 0.96028016),
        ("aligned", 26.18489686, 0.97055670),
    ],
)
def test_stored_values(name, psnr, ssim):
    """Whoever changes these changes what every printed number means: it needs a new name."""
    assert measure(name, *pair(48, 64)) == pytest.approx((psnr, ssim), abs=2e-6)


# Common to all


@pytest.mark.parametrize("name", PROTOCOLS)
def test_equal_pictures(name):
    _, sharp = pair(16, 20)
    psnr, ssim = measure(name, sharp, sharp)
    assert psnr == math.inf
    assert ssim == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("size", [(1, 1), (10, 40), (40, 10), (11, 11)])
def test_small_pictures(name, size):
    output, sharp = pair(*size)
    psnr, ssim = measure(name, output, sharp)
    assert 5 < psnr < 100 or name == "aligned"
    assert (ssim is None) == (min(size) < 11 and name != "matlab-rgb")


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("value", [0, 255])
def test_flat_pictures(name, value):
    _, sharp = pair(16, 20)
    psnr, ssim = measure(name, np.full_like(sharp, value), sharp)
    assert 3 < psnr < 20
    assert -1 <= ssim < 0.5


def test_names():
    assert [p.name for p in choose_protocols(["y", "skimage", "y"])] == ["y", "skimage"]
    assert [p.name for p in choose_protocols(["all"])] == list(PROTOCOLS) == ["skimage", "matlab-rgb", "y", "aligned"]
    with pytest.raises(UsageError, match=r"unknown protocol 'ssim': choose of skimage, matlab-rgb, y, aligned, or all"):
        choose_protocols(["skimage", "ssim"])


# Alignment

SHIFT = np.array([[1, 0, 0.6], [0, 1, -1.3], [0, 0, 1]])
TURN = np.array([[1.004, 0.01, -1.2], [-0.008, 0.997, 1.7], [2e-5, -1e-5, 1]])


def seen_through(matrix, picture):
    """What another camera sees: pixel (x, y) shows the place that the matrix takes it to."""
    return align._bicubic(picture, *align._positions(matrix, *picture.shape[:2]))


@pytest.mark.parametrize("matrix", [np.eye(3), SHIFT, TURN])
def test_homography_is_found(matrix):
    output = smooth(60, 80)
    found = align.find_homography(seen_through(matrix, output)[..., 1], output[..., 1])
    corners = np.array([[0, 0], [79, 0], [0, 59], [79, 59.0]])
    assert np.abs(align._apply(found, corners) - align._apply(matrix, corners)).max() < 0.15


def test_alignment_undoes_motion_and_brightness():
    output = smooth(60, 80)
    sharp = in_8_bits(seen_through(TURN, output))
    assert measure("skimage", in_8_bits(output * 0.8), sharp)[0] < 25
    psnr, ssim = measure("aligned", in_8_bits(output * 0.8), sharp)
    assert psnr > 40
    assert ssim > 0.99


def test_only_what_is_covered_counts():
    sharp = in_8_bits(smooth(60, 80))
    output = np.roll(sharp, 4, axis=1)
    output[:, :4] = 0  # of the sharp picture, four columns at the right were never seen
    warped, covered = align.align(output, sharp)
    assert covered[:, :70].all()
    assert not covered[:, 77:].any()
    error = np.square(warped - sharp)[covered]
    assert measure("aligned", output, sharp)[0] == pytest.approx(10 * np.log10(255**2 / error.mean()), abs=1e-9)


def test_blur_is_no_motion():
    """Blur that is alike to both sides must not be taken for a shift, nor cost anything."""
    sharp = in_8_bits(smooth(60, 80))
    blurred = in_8_bits(np.mean([np.roll(sharp, step, axis=1).astype(float) for step in (-2, -1, 0, 1, 2)], axis=0))
    found = align.find_homography(*(p[..., 1].astype(float) for p in (sharp, blurred)))
    assert np.abs(align._apply(found, np.array([[40, 30.0]])) - [40, 30]).max() < 0.1
    assert measure("aligned", blurred, sharp)[0] > measure("skimage", blurred, sharp)[0] - 0.1


def test_positions_need_no_rounding(monkeypatch):
    """OpenCV rounds positions to 1/32 pixel, which we do not: it does not matter."""
    output, exact = smooth(60, 80), align._positions
    pictures = in_8_bits(output), in_8_bits(seen_through(SHIFT, output) + 8 * smooth(60, 80, seed=1) / 128)
    psnr, ssim = measure("aligned", *pictures)
    monkeypatch.setattr(align, "_positions", lambda *a: tuple(np.rint(v * 32) / 32 for v in exact(*a)))
    assert measure("aligned", *pictures) == pytest.approx((psnr, ssim), abs=0.05)


def test_unlike_pictures_stay_where_they_are():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 255, (2, 40, 50))
    found = align.find_homography(x, y)
    assert np.isfinite(found).all()
    flat = np.full((20, 30), 7.0)
    assert (align.find_homography(flat, flat) == np.eye(3)).all()


def test_cubic_of_opencv():
    row = np.array([[[0.0], [0.0], [1.0], [0.0], [0.0], [0.0]]])
    cols = np.array([[2.0, 2.5, 1.5, 3.5, 0.5, 5.0]])
    values = align._bicubic(row, cols, np.zeros_like(cols))
    assert values.ravel().tolist() == [1, 0.59375, 0.59375, -0.09375, -0.09375, 0]
