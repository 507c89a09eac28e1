"""Power spectra around every place of a picture, and what reads from them what blur there is."""

import torch
from torch import Tensor, nn
from torch.nn import functional

WINDOW = 32  # pixels: side of the windows whose spectra are averaged
PLACE = WINDOW // 2  # pixels from one window to the next
AROUND = 11, 5  # windows along each side around a place: 192 and 96 pixels
SPECTRA = 2 * len(AROUND) + 2  # those of the whole picture come last
BINS = WINDOW * (WINDOW // 2 + 1)
NOISE = 1e-6  # power of what no picture tells: rounding to 8 bits has as much
_MARGIN = 3  # frequencies, for both convolutions
_AT_ONCE, _SHAPES = 64, 128  # channels of what is seen of all frequencies, and by the convolutions
_PLACES = 256  # at a time: what convolutions make of more would not stay in the cache


def log_spectra(luma: Tensor, step: int = 1) -> Tensor:
    """Power spectra around every place, and of the whole picture, as logarithms.

    Welch's method: the mean over windows of what the Fourier transform makes of each (less its mean, and faded out by
    a Hann window). Zeros of a blur's spectrum outlast the averaging, while most of what is in the picture does not.
    The mean is taken twice, of the power and of its logarithm: the first is that of the strongest edges, the second
    that of what is everywhere.

    Args:
        luma: (B, 1, H, W), values in [0, 1].
        step: From one place to the next, in windows, which lie 16 pixels apart.

    Returns:
        (B, 6 * 544, h, w): both means over 192 and over 96 pixels around every place, and over the whole picture. All
        are about zero for ordinary pictures. Each has the 32 x 17 frequencies of a real picture, row after row.
    """
    missing = [max(0, WINDOW - side) for side in luma.shape[2:]]
    luma = functional.pad(luma, (0, missing[1], 0, missing[0]), mode="replicate")
    windows = luma[:, 0].unfold(1, WINDOW, PLACE).unfold(2, WINDOW, PLACE)  # (B, h, w, 32, 32)
    fade = torch.hann_window(WINDOW, device=luma.device)
    fade = fade[:, None] * fade
    transform = torch.fft.rfft2((windows - windows.mean((3, 4), keepdim=True)).mul_(fade))
    power = transform.real.square().addcmul_(transform.imag, transform.imag).flatten(3).div_(fade.square().sum())
    del transform  # which is large, and so are those changed in place
    power = power.permute(0, 3, 1, 2)
    row, column = torch.fft.fftfreq(WINDOW, device=luma.device), torch.fft.rfftfreq(WINDOW, device=luma.device)
    ordinary = (ordinary_power(row, column) + NOISE).log().flatten()[:, None, None]

    def logarithm(power: Tensor) -> Tensor:
        return (power + NOISE).log().sub_(ordinary).div_(2)

    every = logarithm(power)
    spectra = []
    for along in AROUND:
        spectra += [logarithm(mean_around(power, along, step)), mean_around(every, along, step)]
    whole = logarithm(power.mean((2, 3), keepdim=True)), every.mean((2, 3), keepdim=True)
    spectra += [mean.expand_as(spectra[0]) for mean in whole]
    return torch.cat([some.movedim(1, 3) for some in spectra], 3).movedim(3, 1)  # in memory place by place


def ordinary_power(row: Tensor, column: Tensor) -> Tensor:
    """Power of ordinary pictures at frequencies, in cycles a pixel: it falls with their square."""
    return 2e-5 / (row[:, None] ** 2 + column**2 + 1e-3)


def mean_around(x: Tensor, side: int, step: int = 1) -> Tensor:
    """The mean of (B, C, h, w) over a square around every `step`-th place, as much of it as there is."""
    for box, steps in (((side, 1), (step, 1)), ((1, side), (1, step))):  # a fifth of the additions of a square at once
        margins = box[0] // 2, box[1] // 2
        x = functional.avg_pool2d(x, box, steps, margins, count_include_pad=False)
    return x


def whole_plane() -> Tensor:
    """Which of the 544 frequencies of a real picture has the power of each of all 32 x 32: (32, 32) indices."""
    half = torch.arange(BINS).view(WINDOW, -1)
    negative = -torch.arange(WINDOW) % WINDOW  # the same at -f as at f
    return torch.cat([half, half[negative].flip(1)[:, 1:-1]], 1)


class SpectrumReader(nn.Module):
    """Reads from spectra what blur there is.

    One layer sees all frequencies at once. Beside it two convolutions go over the spectra as over pictures: the gaps
    that motions leave in them look alike wherever they lie. Both give few values: of more, most would be
    the same thing said twice.

    Args:
        channels: Of what is read.
    """

    frequencies: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rows, columns = (torch.arange(-_MARGIN, size + _MARGIN) % WINDOW for size in (WINDOW, WINDOW // 2 + 1))
        self.register_buffer("frequencies", whole_plane()[rows][:, columns].flatten(), persistent=False)
        self.plane = len(rows), len(columns)
        self.all_at_once = nn.Linear(SPECTRA * BINS, _AT_ONCE, bias=False)
        self.fine = nn.Conv2d(SPECTRA, 16, 3)
        self.coarse = nn.Conv2d(16, 32, 5, stride=2)
        self.shapes = nn.Linear(32 * (WINDOW // 2) * (WINDOW // 4 + 1), _SHAPES, bias=False)
        self.rest = nn.Sequential(
            nn.Linear(_AT_ONCE + _SHAPES, channels),
            nn.GELU(),
            nn.Linear(channels, channels),
            nn.GELU(),
            nn.Linear(channels, channels),
            nn.GELU(),
        )

    def forward(self, spectra: Tensor) -> Tensor:
        """Read what `log_spectra` tells of places, (N, 6 * 544): (N, channels)."""
        shapes = torch.cat([self._shapes(some) for some in spectra.split(_PLACES)])
        return self.rest(torch.cat([self.all_at_once(spectra), shapes], 1))

    def _shapes(self, spectra: Tensor) -> Tensor:
        """What the convolutions find in the spectra of some places."""
        spectra = spectra.unflatten(1, (SPECTRA, BINS))
        pictures = spectra.gather(2, self.frequencies.expand(*spectra.shape[:2], -1)).unflatten(2, self.plane)
        for convolution in (self.fine, self.coarse):
            pictures = functional.gelu(convolution(pictures))
        return self.shapes(pictures.flatten(1))
