"""What windows of a picture tell of its blur."""

import numpy as np
import pytest
import torch
from scenes import scene, smeared
from scipy import ndimage

from unsmear.models.blind_deconvolution import filter_basis
from unsmear.models.spectra import (
    BINS,
    EDGE,
    SCALE,
    WINDOW,
    edge_mixtures,
    edge_projection,
    log_spectra,
    maximum_around,
    sharpen_edges,
    transform_windows,
)

FADE = np.outer(*[np.hanning(33)[:32]] * 2)


@pytest.fixture(scope="module")
def projection():
    return edge_projection(filter_basis(24))


def kinds(told):
    """Of 192 and 96 pixels around places, and of the whole picture: (3, ..., h, w)."""
    around, whole = told
    return torch.cat([around[0].unflatten(0, (2, -1)), whole[0][None].expand(-1, -1, *around.shape[2:])])


def spectra(x):
    """Both means of the power: (6, 32, 17, h, w)."""
    return kinds(log_spectra(transform_windows(x))).unflatten(1, (2, WINDOW, WINDOW // 2 + 1)).flatten(0, 1)


def mixtures(x, projection):
    """By which the picture would come nearest to itself with sharp edges: (3, 24, h, w)."""
    return kinds(edge_mixtures(transform_windows(x), transform_windows(sharpen_edges(x)), projection))


def windows(picture):
    """The transform of every window, by its place."""
    found = {}
    for i, j in np.ndindex(picture.shape[0] // 16 - 1, picture.shape[1] // 16 - 1):
        window = picture[16 * i : 16 * i + 32, 16 * j : 16 * j + 32]
        found[i, j] = np.fft.rfft2((window - window.mean()) * FADE) / np.sqrt((FADE**2).sum())
    return found


def near_each(places):
    """The places of all windows around each: eleven and five along each side, fewer at the border, and all."""
    for i, j in places:
        of_192, of_96 = ([p for p in places if max(abs(p[0] - i), abs(p[1] - j)) <= reach] for reach in (5, 2))
        yield i, j, [of_192, of_96, list(places)]


def test_spectra_are_those_of_welch():
    rows, columns = 3, 14
    x = np.random.default_rng(1).random((16 * (rows + 1), 16 * (columns + 1))).astype(np.float32)
    power = {place: np.abs(transform) ** 2 for place, transform in windows(x).items()}
    row, column = np.fft.fftfreq(32)[:, None], np.fft.rfftfreq(32)
    ordinary = np.log(2e-5 / (row**2 + column**2 + 1e-3) + 1e-6)

    def means(places):  # of the power, and of its logarithm
        some = np.array([power[place] for place in places])
        return [(logarithm - ordinary) / 2 for logarithm in (np.log(some.mean(0) + 1e-6), np.log(some + 1e-6).mean(0))]

    found = spectra(torch.from_numpy(x)[None, None]).numpy()
    assert found.shape == (6, 32, 17, rows, columns)
    for i, j, surroundings in near_each(power):
        expected = [mean for places in surroundings for mean in means(places)]
        np.testing.assert_allclose(found[..., i, j], expected, atol=1e-4)


def test_edges_tell_the_filters_that_fit_best(projection):
    x = smeared(scene(112), 3, 3)[:, :1, :64]
    filters = filter_basis(24).double().flatten(1).numpy()
    seen = windows(x[0, 0].numpy())
    wanted = windows(sharpen_edges(x)[0, 0].numpy())
    found = mixtures(x, projection).numpy()
    for i, j, surroundings in near_each(seen):
        for kind, places in enumerate(surroundings):
            shared = sum(wanted[p] * seen[p].conj() for p in places)
            power = sum(np.abs(seen[p]) ** 2 + 1e-5 for p in places)
            fit = np.fft.fftshift(np.fft.irfft2(shared / power - 1))[8:25, 8:25]  # the filter less the identity
            mixture = SCALE * np.linalg.lstsq(filters.T, fit.ravel(), rcond=None)[0]
            np.testing.assert_allclose(found[kind, :, i, j], mixture, atol=1e-3)


@pytest.mark.parametrize(("axis", "other"), [(2, 3), (3, 2)])
def test_edges_tell_what_undoes_the_motion(projection, axis, other):
    """Nearer to what undoes it than to what undoes the motion across."""
    filters = filter_basis(24)
    mixture = mixtures(smeared(scene()[:, :1], 5, axis), projection)[2, :, 0, 0]

    def restored(blurred):
        changes = ndimage.correlate(blurred, np.tensordot(mixture.numpy() / SCALE, filters.numpy(), 1), mode="nearest")
        return blurred + changes

    def error(along):
        sharp = scene()[0, 0].numpy()
        blurred = ndimage.uniform_filter1d(sharp, 5, axis=along - 2, mode="nearest")
        return np.square(restored(blurred) - sharp).mean() / np.square(blurred - sharp).mean()

    assert error(axis) < 0.8
    assert error(axis) < 0.8 * error(other)


def test_edges_become_steps():
    row = torch.cat([torch.zeros(20), torch.linspace(0, 1, EDGE - 2), torch.ones(20)])
    steps = sharpen_edges(row.expand(1, 1, 24, -1))
    assert set(steps.unique().tolist()) == {0, 1}
    assert (steps.diff(dim=3) >= 0).all()


def test_edges_are_sharpened_by_the_nearest_extreme():
    x = torch.rand(2, 1, 20, 30)
    smooth = ndimage.convolve(x.numpy(), np.outer([1, 2, 1], [1, 2, 1])[None, None] / 16, mode="nearest")
    size = (1, 1, EDGE, EDGE)
    brightest, darkest = ndimage.maximum_filter(smooth, size), ndimage.minimum_filter(smooth, size)
    expected = np.where(brightest - smooth < smooth - darkest, brightest, darkest)
    np.testing.assert_allclose(sharpen_edges(x).numpy(), expected, atol=1e-6)


def test_sharp_edges_stay():
    halves = torch.cat([torch.zeros(16), torch.ones(16)]).expand(1, 1, 24, -1)
    torch.testing.assert_close(sharpen_edges(halves), halves)


@pytest.mark.parametrize(("across", "along"), [(5, 0), (0, 5), (4, 3)])
def test_a_grating_stands_out_at_its_frequency(across, along):
    row, column = np.mgrid[:96, :96]
    wave = np.sin(2 * np.pi * (column * across + row * along) / 32)
    for one in spectra(torch.from_numpy(0.5 + 0.4 * wave).float()[None, None])[..., 2, 2]:
        assert divmod(int(one.argmax()), 17) == (along, across)


def test_the_spectrum_tells_the_motion():
    sharp = scene()[:, :1]
    zero = 8  # of 4 pixels' motion, in 32nds of a cycle
    of_rows, of_columns = (spectra(smeared(sharp, 4, axis)).mean((3, 4)) for axis in (3, 2))
    for rows, columns in zip(of_rows, of_columns, strict=True):
        assert rows[1:16, zero].mean() < columns[1:16, zero].mean() - 1
        assert columns[zero, 1:].mean() < rows[zero, 1:].mean() - 1


@pytest.mark.parametrize("size", [(48, 48), (7, 60)])
def test_flat_and_small_pictures_tell_something(projection, size):
    flat = torch.full((2, 1, *size), 0.3)
    seen, wanted = transform_windows(flat), transform_windows(sharpen_edges(flat))
    spectra_around, spectra_of_all = log_spectra(seen)
    edges_around, edges_of_all = edge_mixtures(seen, wanted, projection)
    assert spectra_around.shape[:2] == (2, 4 * BINS)
    assert spectra_of_all.shape == (2, 2 * BINS, 1, 1)
    assert edges_around.shape == (2, 48, *spectra_around.shape[2:])
    assert edges_of_all.shape == (2, 24, 1, 1)
    assert all(t.isfinite().all() for t in (spectra_around, spectra_of_all, edges_around, edges_of_all))


@pytest.mark.parametrize("side", [1, 5, 9, 17])
def test_maximum_around_is_max_pooling(side):
    x = torch.randn(2, 1, 23, 31)
    assert torch.equal(maximum_around(x, side), torch.nn.functional.max_pool2d(x, side, 1, side // 2))
