"""Classical blind deconvolution, for a network to start from: spectra that tell the blur, and filters that undo it.

Blur thins out the spectrum of a picture along its motion, and a Wiener filter made for that blur undoes it. What
learning finds hard is to see which: so the network is given the spectrum around every pixel, and a few fixed filters
whose sums, mixed at every pixel, come near the Wiener filters of small motions. The paper has neither; with
`filter_basis=0` a network has neither.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unsmear.ops.dispatch import no_autocast

BASIS_FILE = Path(__file__).parent / "filter_basis.npy"  # made by runs/make_filter_basis.py
_WINDOW = 44  # pixels: where the spectrum of a pixel is measured
_HIDDEN = 128


class FirstLook(NamedTuple):
    """What the blurred picture alone tells.

    Attributes:
        responses: What the filters make of its luma, (B, fold * fold, count, h, w).
        weights: What to mix them with at first, (B, count, h, w).
        features: For the coarsest scale of every level, level 1 first.
    """

    responses: Tensor
    weights: Tensor
    features: list[Tensor]


class BlindDeconvolution(nn.Module):
    """Tells every level of a network about the blur, and what the filters would make of the picture.

    Args:
        count: Filters of the basis.
        widths: Channels of each level at its coarsest scale, level 1 first.
        scale: Pixels of the picture to one of the coarsest scale, at least 2.
        fold: Side of the pixel blocks that the levels' pictures have folded into channels.
    """

    filters: Tensor
    bands: Tensor

    def __init__(self, count: int, widths: list[int], scale: int, fold: int) -> None:
        super().__init__()
        self.stride, self.fold = scale // 2, fold
        self.register_buffer("filters", filter_basis(count)[:, None])
        self.register_buffer("bands", oriented_bands()[:, None])
        self.read = nn.Sequential(
            nn.Conv2d(1 + len(self.bands), _HIDDEN, 1), nn.ReLU(), nn.Conv2d(_HIDDEN, _HIDDEN, 1), nn.ReLU()
        )
        self.tell = nn.ModuleList(nn.Conv2d(_HIDDEN, width, 1) for width in widths)
        self.mix = nn.Conv2d(_HIDDEN, count, 1)
        for parameter in (*self.tell.parameters(), *self.mix.parameters()):
            nn.init.zeros_(parameter)  # the network starts as if none of this were there

    def forward(self, x: Tensor) -> FirstLook:
        """Look at the blurred picture (B, 3, H, W), values in [0, 1]."""
        with no_autocast(x.device):  # spectra span many orders of magnitude
            red, green, blue = x.float().split(1, 1)
            luma = 0.299 * red + 0.587 * green + 0.114 * blue  # Rec. 601, over encoded values
            responses = self.filter_folded(luma)
            seen = self.log_spectrum(luma)
        seen = self.read(seen.to(self.mix.weight.dtype))
        weights = functional.interpolate(self.mix(seen), size=responses.shape[3:], mode="bilinear")
        return FirstLook(responses.to(weights.dtype), weights, [tell(seen) for tell in self.tell])

    def filter_folded(self, luma: Tensor) -> Tensor:
        """Correlate (B, 1, H, W) with every filter, pixel blocks folded: (B, fold * fold, count, H / fold, W / fold).

        The filters are folded instead of what they give: for each pixel of a block they begin elsewhere.
        """
        fold, margin = self.fold, self.filters.shape[-1] // 2
        filters = self.filters.float()
        moved = [
            functional.pad(filters, (right, fold - 1 - right, down, fold - 1 - down))
            for down in range(fold)
            for right in range(fold)
        ]
        blocks = functional.pixel_unshuffle(functional.pad(luma, [margin] * 4, mode="replicate"), fold)
        blocks = blocks.contiguous(memory_format=torch.channels_last)
        responses = functional.conv2d(blocks, functional.pixel_unshuffle(torch.cat(moved), fold))
        return responses.unflatten(1, (fold**2, -1))

    def log_spectrum(self, luma: Tensor) -> Tensor:
        """Logarithms of the energy in every band around a pixel, less their mean, and that mean.

        Args:
            luma: (B, 1, H, W), values in [0, 1].

        Returns:
            (B, bands + 1, H / scale, W / scale), about zero.
        """
        margin = self.bands.shape[-1] // 2
        around = functional.pad(luma, [margin] * 4, mode="replicate")
        energy = functional.conv2d(around, self.bands.float(), stride=self.stride).square()
        window = _WINDOW // self.stride | 1
        energy = functional.avg_pool2d(energy, window, stride=2, padding=window // 2, count_include_pad=False)
        spectrum = (energy + 1e-6).log()
        mean = spectrum.mean(1, keepdim=True)
        return torch.cat([spectrum - mean, mean / 3 + 2], 1)


def mix_filters(weights: Tensor, responses: Tensor) -> Tensor:
    """Apply a filter of its own at every pixel: a sum of those of the basis.

    Args:
        weights: (B, count, h, w).
        responses: What the basis makes of the picture, (B, fold * fold, count, h, w).

    Returns:
        (B, fold * fold, h, w).
    """
    return torch.einsum("bkhw,bskhw->bshw", weights, responses)


def filter_basis(count: int) -> Tensor:
    """The first `count` filters (count, 17, 17), most important first; each sums to 0.

    They are the principal components of Wiener filters, less the identity, of synthetic blur of up to 14 pixels.

    Raises:
        ValueError: If there are not as many.
    """
    filters = np.load(BASIS_FILE)
    if not 1 <= count <= len(filters):
        raise ValueError(f"filter_basis must be 0 to {len(filters)}, not {count}")
    return torch.from_numpy(filters[:count].astype(np.float32))


def oriented_bands(size: int = 15, angles: int = 8) -> Tensor:
    """Filters (56, size, size) for seven bands of frequency, an octave wide, in eight directions.

    Each has zero mean, and unit energy for pictures whose power falls with the square of the frequency.
    """
    grid = 64
    row, column = np.meshgrid(np.fft.fftfreq(grid), np.fft.fftfreq(grid), indexing="ij")
    frequency, angle = np.hypot(row, column) + 1e-9, np.arctan2(row, column)
    window = np.outer(*[np.hanning(size + 2)[1:-1]] * 2)
    begin = grid // 2 - size // 2
    inside = slice(begin, begin + size)
    filters = []
    for center in (0.04, 0.07, 0.11, 0.16, 0.22, 0.3, 0.4):  # cycles a pixel
        radial = frequency * np.exp(-8 * np.log(frequency / center) ** 2)
        for direction in range(angles):
            lobes = np.abs(np.cos(angle - np.pi * direction / angles)) ** 6
            f = np.fft.fftshift(np.fft.ifft2(radial * lobes).real)[inside, inside] * window
            f -= window * (f.sum() / window.sum())
            power = np.abs(np.fft.fft2(f, (grid, grid))) ** 2
            filters.append(f / np.sqrt((power / frequency**2)[frequency > 1e-3].sum() / grid**2))
    return torch.from_numpy(np.array(filters, np.float32))
