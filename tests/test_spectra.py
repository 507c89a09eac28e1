"""Power spectra around places, and what is read from them."""

import numpy as np
import pytest
import torch
from scenes import scene, smeared
from scipy import ndimage
from torch.nn import functional

from unsmear.models.spectra import BINS, SPECTRA, WINDOW, SpectrumReader, log_spectra, whole_plane


def by_frequency(spectra):
    """What log_spectra gives as (6, 32, 17, h, w): of 192 and 96 pixels around places, and of the whole picture."""
    return spectra[0].unflatten(0, (SPECTRA, WINDOW, WINDOW // 2 + 1))


def test_spectra_are_those_of_welch():
    rows, columns = 3, 14
    x = np.random.default_rng(1).random((16 * (rows + 1), 16 * (columns + 1))).astype(np.float32)
    fade = np.outer(*[np.hanning(33)[:32]] * 2)
    power = {}
    for i, j in np.ndindex(rows, columns):
        window = x[16 * i : 16 * i + 32, 16 * j : 16 * j + 32]
        power[i, j] = np.abs(np.fft.rfft2((window - window.mean()) * fade)) ** 2 / (fade**2).sum()
    row, column = np.fft.fftfreq(32)[:, None], np.fft.rfftfreq(32)
    ordinary = np.log(2e-5 / (row**2 + column**2 + 1e-3) + 1e-6)

    def means(places):  # of the power, and of its logarithm
        logarithms = np.log(np.mean(places, 0) + 1e-6), np.mean(np.log(np.array(places) + 1e-6), 0)
        return [(logarithm - ordinary) / 2 for logarithm in logarithms]

    found = by_frequency(log_spectra(torch.from_numpy(x)[None, None])).numpy()
    assert found.shape == (6, 32, 17, rows, columns)
    for i, j in power:  # eleven and five windows along each side, fewer at the border
        of_192, of_96 = (
            means([p for (y, x), p in power.items() if max(abs(y - i), abs(x - j)) <= reach]) for reach in (5, 2)
        )
        expected = [*of_192, *of_96, *means(list(power.values()))]
        np.testing.assert_allclose(found[..., i, j], expected, atol=1e-4)


@pytest.mark.parametrize(("across", "along"), [(5, 0), (0, 5), (4, 3)])
def test_a_grating_stands_out_at_its_frequency(across, along):
    row, column = np.mgrid[:96, :96]
    wave = np.sin(2 * np.pi * (column * across + row * along) / 32)
    spectra = log_spectra(torch.from_numpy(0.5 + 0.4 * wave).float()[None, None])
    for one in by_frequency(spectra)[..., 2, 2]:
        assert divmod(int(one.argmax()), 17) == (along, across)


def test_the_spectrum_tells_the_motion():
    sharp = scene()[:, :1]
    zero = 8  # of 4 pixels' motion, in 32nds of a cycle
    of_rows, of_columns = (by_frequency(log_spectra(smeared(sharp, 4, axis))).mean((3, 4)) for axis in (3, 2))
    for rows, columns in zip(of_rows, of_columns, strict=True):
        assert rows[1:16, zero].mean() < columns[1:16, zero].mean() - 1
        assert columns[zero, 1:].mean() < rows[zero, 1:].mean() - 1


def test_a_flat_picture_has_a_spectrum():
    assert log_spectra(torch.full((1, 1, 48, 48), 0.3)).isfinite().all()


def test_spectra_may_be_told_of_every_second_place():
    for size in [(96, 112), (32, 48), (20, 300)]:
        luma = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(log_spectra(luma, step=2), log_spectra(luma)[..., ::2, ::2])


def test_half_of_the_plane_tells_the_whole():
    x = torch.rand(WINDOW, WINDOW, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    half = torch.fft.rfft2(x).abs().flatten()
    torch.testing.assert_close(half[whole_plane()], torch.fft.fft2(x).abs())


def test_reading_is_a_layer_beside_two_convolutions_of_a_periodic_plane():
    torch.manual_seed(0)
    reader = SpectrumReader(8).double().eval()
    spectra = torch.randn(5, SPECTRA * BINS, dtype=torch.float64)

    def convolved(planes, convolution):
        """Planes (C, 32, 32) that go on as they begin, correlated in the middle of the filters."""
        weights, biases = (p.detach().numpy() for p in convolution.parameters())
        return np.array(
            [
                sum(ndimage.correlate(plane, w, mode="wrap") for plane, w in zip(planes, of, strict=True)) + bias
                for of, bias in zip(weights, biases, strict=True)
            ]
        )

    def gelu(x):
        return functional.gelu(torch.from_numpy(x)).numpy()

    with torch.inference_mode():
        for place, found in zip(spectra, reader(spectra), strict=True):
            planes = place.view(SPECTRA, BINS)[:, whole_plane()].numpy()
            coarse = gelu(convolved(gelu(convolved(planes, reader.fine)), reader.coarse))[:, ::2, :17:2]
            shapes = reader.shapes(torch.from_numpy(coarse.flatten()))
            torch.testing.assert_close(found, reader.rest(torch.cat([reader.all_at_once(place), shapes])))


def test_places_are_read_one_by_one():
    """However many there are, and however many at once."""
    reader = SpectrumReader(8).eval()
    spectra = torch.randn(600, SPECTRA * BINS, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(reader(spectra)[413:414], reader(spectra[413:414]), atol=1e-5, rtol=1e-4)
