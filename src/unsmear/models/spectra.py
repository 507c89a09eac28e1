"""What small windows of a picture tell of its blur: power spectra, and how its edges would have to be sharpened."""

import torch
from torch import Tensor
from torch.nn import functional

WINDOW = 32  # pixels: side of the windows that are transformed; they overlap by half
BINS = WINDOW * (WINDOW // 2 + 1)
_AROUND = 11, 5  # windows along each side around a place: 192 and 96 pixels
AROUND_BINS = 2 * len(_AROUND) * BINS  # spectra of a place; those of the whole picture follow
EDGE = 9  # pixels: how wide edges may be that are made steps
SCALE = 4.0  # of the mixtures that edges tell, for them to count for as much as spectra
_NOISE = 1e-6  # power of what no picture tells: rounding to 8 bits has as much
_FADE = (3 * WINDOW / 8) ** 2  # sum of the squares of a window's fade
_FAINT = 1e-5  # power below which edges tell nothing


def transform_windows(luma: Tensor) -> Tensor:
    """The Fourier transform of every window of (B, 1, H, W), complex, (B, 544, h, w), one every 16 pixels."""
    missing = [max(0, WINDOW - side) for side in luma.shape[2:]]
    luma = functional.pad(luma, (0, missing[1], 0, missing[0]), mode="replicate")
    windows = luma[:, 0].unfold(1, WINDOW, WINDOW // 2).unfold(2, WINDOW, WINDOW // 2)  # (B, h, w, 32, 32)
    fade = torch.hann_window(WINDOW, device=luma.device)
    fade = fade[:, None] * fade
    transform = torch.fft.rfft2((windows - windows.mean((3, 4), keepdim=True)) * fade)
    return transform.flatten(3).permute(0, 3, 1, 2)


def log_spectra(seen: Tensor) -> tuple[Tensor, Tensor]:
    """Power spectra around every place, and of the whole picture, as logarithms.

    Welch's method: the mean over windows of what the Fourier transform makes of each (less its mean, and faded out by
    a Hann window). Zeros of a blur's spectrum outlast the averaging, while most of what is in the picture does not.
    The mean is taken twice, of the power and of its logarithm: the first is that of the strongest edges, the second
    that of what is everywhere.

    Args:
        seen: What `transform_windows` makes of the luma, values in [0, 1].

    Returns:
        (B, 4 * 544, h, w), one place every 16 pixels, both means over 192 and then over 96 pixels; and both over the
        whole picture, (B, 2 * 544, 1, 1). All are about zero for ordinary pictures. Each has the 32 x 17 frequencies of
        a real picture, row after row.
    """
    power = _power(seen)
    row, column = torch.fft.fftfreq(WINDOW, device=seen.device), torch.fft.rfftfreq(WINDOW, device=seen.device)
    ordinary = 2e-5 / (row[:, None] ** 2 + column**2 + 1e-3)  # power falls with the square of the frequency
    ordinary = (ordinary + _NOISE).log().flatten()[:, None, None]

    def logarithm(power: Tensor) -> Tensor:
        return ((power + _NOISE).log() - ordinary) / 2

    every = logarithm(power)
    around = []
    for side in _AROUND:
        around += [logarithm(mean_around(power, side)), mean_around(every, side)]
    whole = [logarithm(mean_around(power, None)), mean_around(every, None)]
    return torch.cat(around, 1), torch.cat(whole, 1)


def edge_mixtures(seen: Tensor, wanted: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
    """The mixtures of filters by which a picture would come nearest to itself with sharp edges.

    Edges have been steps, mostly, and what makes them steps again undoes the motion. At every frequency that is a
    least-squares fit: the sum over windows of what is wanted times the conjugate of what is seen, over the power.

    Args:
        seen: What `transform_windows` makes of the luma, values in [0, 1].
        wanted: The same of the luma with sharp edges, which is what `sharpen_edges` gives.
        projection: `edge_projection` of the filters, (count, 544).

    Returns:
        (B, 2 * count, h, w), at the places of `log_spectra`, over 192 and then over 96 pixels; and over the whole
        picture, (B, count, 1, 1).
    """
    power, shared = _power(seen), (wanted * seen.conj()).real / _FADE

    def mixture(side: int | None) -> Tensor:
        fit = mean_around(shared, side) / (mean_around(power, side) + _FAINT) - 1
        return functional.conv2d(fit, projection[:, :, None, None])

    return torch.cat([mixture(side) for side in _AROUND], 1), mixture(None)


def edge_projection(filters: Tensor) -> Tensor:
    """What makes mixtures of filters (count, side, side) of the real part of a transfer function: (count, 544).

    The real part belongs to the even part of a filter. The mixtures are those that come nearest, times `SCALE`.
    """
    side = filters.shape[-1]
    nearest = torch.linalg.pinv(filters.flatten(1).double())  # (side * side, count)
    place = torch.arange(side, dtype=torch.float64) - side // 2
    row, column = torch.fft.fftfreq(WINDOW).double(), torch.fft.rfftfreq(WINDOW).double()
    row_phase, column_phase = place[:, None] * row, place[:, None] * column
    phase = row_phase[:, None, :, None] + column_phase[None, :, None, :]  # (side, side, 32, 17)
    twice = torch.full((WINDOW // 2 + 1,), 2.0, dtype=torch.float64)  # frequencies whose negative is left out
    twice[[0, -1]] = 1
    waves = (2 * torch.pi * phase).cos() * twice / WINDOW**2
    return (SCALE * nearest.T @ waves.flatten(2).flatten(0, 1)).float()


def sharpen_edges(luma: Tensor) -> Tensor:
    """Make steps of all edges of (B, 1, H, W) that are at most as wide as `EDGE`.

    Every pixel becomes the brightest or the darkest one around, whichever is nearer to it: the shock filter of Kramer
    and Bruckner (1975). A little smoothing before keeps noise from being taken for edges.
    """
    smooth = functional.pad(luma, [1] * 4, mode="replicate")
    for axis in (2, 3):  # binomial; a convolution of one channel takes twice as long
        left, middle, right = (smooth.narrow(axis, at, smooth.shape[axis] - 2) for at in range(3))
        smooth = (left + 2 * middle + right) / 4
    brightest, darkest = maximum_around(smooth, EDGE), -maximum_around(-smooth, EDGE)
    return torch.where(brightest - smooth < smooth - darkest, brightest, darkest)


def maximum_around(x: Tensor, side: int) -> Tensor:
    """The maximum of (B, C, h, w) over a square of an odd side around every place."""
    x = functional.pad(x, [side // 2] * 4, value=-torch.inf)
    for axis in (2, 3):
        reach = 1
        while reach < side:  # PyTorch's max pooling, which also tells where it was, takes a hundred times as long
            step = min(reach, side - reach)
            kept = x.shape[axis] - step
            x = torch.maximum(x.narrow(axis, 0, kept), x.narrow(axis, step, kept))
            reach += step
    return x


def _power(transform: Tensor) -> Tensor:
    return (transform.real.square() + transform.imag.square()) / _FADE


def mean_around(x: Tensor, side: int | None) -> Tensor:
    """The mean of (B, C, h, w) over a square around every place, as much of it as there is; None for all of it."""
    if side is None:
        return x.mean((2, 3), keepdim=True)
    for box in ((side, 1), (1, side)):  # one direction after the other takes a fifth of the additions
        margins = box[0] // 2, box[1] // 2
        x = functional.avg_pool2d(x, box, stride=1, padding=margins, count_include_pad=False)
    return x
