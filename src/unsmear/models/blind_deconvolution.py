"""Classical blind deconvolution, for a network to start from: spectra that tell the blur, and filters that undo it.

Blur thins out the spectrum of a picture along its motion, with zeros where the length of the path says, and a Wiener
filter made for that blur undoes it. So the power spectrum around every pixel and that of the whole picture tell what
to mix a few fixed filters with, whose sums come near the Wiener filters of small motions; first at a quarter and at
half of the size, where long motions are small ones, and then at full size. What the luma tells is done to each color.
The levels of the network begin with the picture that this gives, and hear what the spectra tell. The paper has nothing
of it; with `filter_basis=0` a network has neither.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unsmear.models.gates import COLORS_COMPARED, COMPARED, Gates, compare, compare_colors, detail
from unsmear.models.spectra import PLACE, SpectrumReader, log_spectra, mean_around
from unsmear.models.turns import Turns
from unsmear.ops.dispatch import no_autocast
from unsmear.ops.enlarge import enlarge
from unsmear.ops.filter_bank import FilterBank
from unsmear.ops.filter_flow import filter_flow
from unsmear.samples import REC601

BASIS_FILE = Path(__file__).parent / "filter_basis.npy"  # made by runs/make_filter_basis.py
FAR, MID, ENOUGH = 4, 2, 96  # how much smaller pictures are, and from which side of the smaller one on it is used
_SLIGHT = 0.03, 0.06  # root mean square of the change to that of detail, from nothing to all of it
_TOO_BRIGHT = 0.1, 0.25  # beyond white, from all of the change to nothing
_AROUND = 17  # pixels: the side of the filters
_HIDDEN = 256
_EVERY = 2  # windows: from one place that has weights of its own to the next


class FirstLook(NamedTuple):
    """What the blurred picture alone tells.

    Attributes:
        correction: What to add to the picture at first, (B, 3, H, W), or (B, 1, H, W) to every color.
        bank: The first filters, for its luma without long motion.
        features: For the coarsest scale of every level, level 1 first, at places 32 pixels apart.
    """

    correction: Tensor
    bank: FilterBank
    features: list[Tensor]


class BlindDeconvolution(nn.Module):
    """Makes a first estimate, and tells every level of a network about the blur.

    Args:
        count: Filters to mix.
        shared: Of which levels of the network get the responses of the first.
        widths: Channels of each level at its coarsest scale, level 1 first.
        fold: Side of the pixel blocks that the levels' pictures have folded into channels.
        colors: Whether each color is filtered by itself, and at full size between values and light; if not, what the
            luma lacks is added to all of them.
    """

    def __init__(self, count: int, shared: int, widths: list[int], fold: int, *, colors: bool = True) -> None:
        super().__init__()
        self.shared, self.fold = shared, fold
        self.far = SpectralDeconvolution(count)
        self.mid = SpectralDeconvolution(count)
        self.near = SpectralDeconvolution(count)
        self.gates = Gates(COMPARED, 3)
        self.color_gates = Gates(COLORS_COMPARED, 1) if colors else None
        self.tell = nn.ModuleList(nn.Conv2d(_HIDDEN + count, width, 1) for width in widths)
        for parameter in self.tell.parameters():
            nn.init.zeros_(parameter)  # the network starts as if it were told nothing

    def forward(self, x: Tensor) -> FirstLook:
        """Look at the blurred picture (B, 3, H, W), values in [0, 1]."""
        with no_autocast(x.device):
            picture = x.float().contiguous()  # color by color, which is what pooling and filters want
            luma = luma_of(picture)
            changes, found = self.changes(luma, luma if self.color_gates is None else picture)
            del picture  # nothing large is kept longer than needed
            fine, estimates = detail(luma), torch.cat([luma_of(change) for change in changes], 1)
            shares = self.gates(compare(fine, estimates.detach()), *luma.shape[2:])
            if not self.learns:  # they could never begin without slight changes
                shares = _trust((shares * estimates).sum(1, keepdim=True), fine) * shares
            del estimates
            long = (shares[:, 1:2] * changes[1]).addcmul_(shares[:, 2:], changes[2])
            del changes[1:]
            bank = FilterBank(luma + luma_of(long), self.near.filters[: self.shared].float(), self.fold, found.dtype)
            correction = torch.addcmul(long, shares[:, :1], changes.pop())
            del long, shares
            if self.color_gates is not None:
                correction = _as_those_around(correction, x.float(), luma)
        features = [tell(found) for tell in self.tell]
        return FirstLook(correction.to(x.dtype), bank, features)

    def changes(self, luma: Tensor, picture: Tensor) -> tuple[list[Tensor], Tensor]:
        """What near, mid and far would each add, by what the luma tells; and what near found.

        Args:
            luma: (B, 1, H, W), float32.
            picture: (B, 3, H, W), float32, of that luma, or it itself.

        Returns:
            Three of the picture's shape, and what `SpectralDeconvolution` found at full size.
        """
        found = self.near.find(luma)
        near = self._undo_short(found, luma, picture)
        return [near, *(self._undo_long(*which, luma, picture) for which in ((self.mid, MID), (self.far, FAR)))], found

    def _undo_short(self, found: Tensor, luma: Tensor, picture: Tensor) -> Tensor:
        """What to add to (B, C, H, W) against the motion that was found at its size."""
        if self.color_gates is None:
            return self.near.undo(found, picture)
        near = _change_of_values(picture, self.near.undo(found, picture + picture.square()))
        if picture is luma:
            return near
        of_luma, fine = luma_of(near), detail(picture)
        fine_luma = luma_of(fine)
        compared = compare_colors(fine_luma, of_luma, fine - fine_luma, near - of_luma)
        return torch.lerp(of_luma, near, self.color_gates(compared.detach(), *luma.shape[2:]))

    def _undo_long(self, part: "SpectralDeconvolution", factor: int, luma: Tensor, picture: Tensor) -> Tensor:
        """What to add to (B, C, H, W) against long motion, which is short in a picture so much smaller."""
        enough = self.is_enough(luma, factor)
        if not enough and not self.training:
            return torch.zeros_like(picture)
        small = functional.avg_pool2d(luma, factor)
        mixed = part.undo(part.find(small), small if picture is luma else functional.avg_pool2d(picture, factor))
        # Several processes train together only if every weight has a gradient.
        mixed = mixed * (_away_from_lamps(luma_of(mixed.detach()), small) if enough else 0)
        return enlarge(mixed, factor)

    @property
    def learns(self) -> bool:
        """Whether a part that mixes filters is being trained."""
        return self.training and any(part.mix.weight.requires_grad for part in (self.near, self.mid, self.far))

    @staticmethod
    def is_enough(picture: Tensor, factor: int) -> bool:
        """Whether a picture is large enough for motion to be told in one so much smaller."""
        return min(picture.shape[2:]) >= factor * ENOUGH


class FilterMixture(nn.Module):
    """Mixes the filters of a bank, at every pixel by weights of its own, and adds what that gives to every color."""

    def forward(self, bank: FilterBank, weights: Tensor, onto: Tensor) -> Tensor:
        """Mix by (B, count, h, w), and add to pictures with pixel blocks folded, (B, 3 * fold * fold, h, w)."""
        return bank.mix(weights, onto)


class SpectralDeconvolution(nn.Module):
    """Reads from the spectrum what to mix the filters with, at every place.

    Args:
        count: Filters to mix.
    """

    filters: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("filters", filter_basis(count))
        self.turns = Turns(self.filters)
        self.read = SpectrumReader(_HIDDEN)
        self.mix = nn.Linear(_HIDDEN, count)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def find(self, luma: Tensor) -> Tensor:
        """Find by the luma (B, 1, H, W) what blur there is, at places 32 pixels apart.

        That is (B, channels + count, h, w), float32: what was read, and the weights of the filters.
        """
        with no_autocast(luma.device):  # spectra span many orders of magnitude
            spectra = log_spectra(luma, step=_EVERY).permute(0, 2, 3, 1)
        shape = spectra.shape[:3]
        seen, weights = self.weigh(spectra.flatten(0, 2))
        return torch.cat([seen, weights], 1).view(*shape, -1).permute(0, 3, 1, 2)

    def undo(self, found: Tensor, picture: Tensor) -> Tensor:
        """What to add to a picture (B, C, H, W) against the blur that was found. In between places it is blended."""
        with no_autocast(picture.device):
            weights = found[:, -len(self.filters) :].float()
            return filter_flow(picture, weights, self.filters.float(), _EVERY * PLACE)

    def weigh(self, spectra: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the filters, by what `log_spectra` tells of places, (N, 6 * 544).

        Returns:
            What was read, (N, channels), of spectra that were turned; and the weights, (N, count).
        """
        with no_autocast(spectra.device):
            turned, turn = self.turns(spectra)
        seen = self.read(turned.to(self.mix.weight.dtype))
        return seen, self.turns.back(self.mix(seen), turn)


def _change_of_values(values: Tensor, change: Tensor) -> Tensor:
    """How much values change, to 0 at least, if their sums with their squares do by as much.

    Motion blurs light, which is nearly the square of what a picture stores, or it is made by averaging the stored
    values, as of frames. What undoes short motion sees the sum of both, for it cannot tell.
    """
    middle = values + 0.5
    return middle.square().add_(change).clamp_min(0.25).sqrt() - middle  # v + v * v = (v + 1 / 2) ** 2 - 1 / 4


def luma_of(picture: Tensor) -> Tensor:
    """That of (B, 3, H, W), or of what is luma already, (B, 1, H, W)."""
    if picture.shape[1] == 1:
        return picture
    red, green, blue = (share * color for share, color in zip(REC601, picture.split(1, 1), strict=True))
    return red + green + blue


def _trust(change: Tensor, fine: Tensor) -> Tensor:
    """How far to trust a change (B, 1, H, W) of a picture with such detail, in [0, 1]: (B, 1, 1, 1).

    What undoes a motion changes much of what there is in detail. Slight changes are as often wrong as right, and would
    harm pictures that are all but sharp.
    """
    share, most = (some.square().mean((1, 2, 3), keepdim=True) for some in (change, fine))
    none, all_of_it = _SLIGHT
    return ((share / (most + 1e-9) - none**2) / (all_of_it**2 - none**2)).clamp(0, 1)


def _away_from_lamps(change: Tensor, luma: Tensor) -> Tensor:
    """How far to follow a change of (B, 1, h, w) at every place, in [0, 1]: (B, 1, h, w).

    Of a lamp brighter than the sensor can record, the picture has too little light for any filter that undoes a motion:
    it leaves dark outlines as far as it reaches. It also makes the lamp much brighter than white, which tells where.
    """
    beyond = maximum_around(luma + change - 1, _AROUND)
    all_of_it, none = _TOO_BRIGHT
    doubt = ((beyond - all_of_it) / (none - all_of_it)).clamp(0, 1)
    return 1 - mean_around(doubt, 9)


def _as_those_around(correction: Tensor, picture: Tensor, luma: Tensor) -> Tensor:
    """A correction (B, 3, H, W) that leaves what every color has beyond the luma within what there is of it around.

    Where a motion is not quite told, or a color was too bright for the sensor, filters go too far. In all colors alike
    that is hardly seen, but in one of them it is another color, as cyan around white letters on red.
    """
    of_luma = luma_of(correction)
    corrected = []
    for color, change in zip(picture.split(1, 1), correction.split(1, 1), strict=True):
        beyond = color - luma
        lowest, highest = -maximum_around(-beyond, _AROUND), maximum_around(beyond, _AROUND)
        corrected.append((beyond + (change - of_luma)).clamp(lowest, highest) - beyond + of_luma)
    return torch.cat(corrected, 1)


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


def filter_basis(count: int) -> Tensor:
    """The first `count` filters (count, 17, 17); each sums to 0.

    They are the even principal components, most important first, of Wiener filters, less the identity, of synthetic
    blur of up to 14 pixels. Turned by half they are what they were: of others, spectra tell nothing.

    Raises:
        ValueError: If there are not as many.
    """
    filters = np.load(BASIS_FILE)
    if not 1 <= count <= len(filters):
        raise ValueError(f"filter_basis and blind_filters must be within 1 to {len(filters)}, not {count}")
    return torch.from_numpy(filters[:count].astype(np.float32))
