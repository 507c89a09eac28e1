"""Classical blind deconvolution, for a network to start from: spectra that tell the blur, and filters that undo it.

Blur thins out the spectrum of a picture along its motion, with zeros where the length of the path says, and a Wiener
filter made for that blur undoes it. So the power spectrum around every pixel and that of the whole picture tell what
to mix a few fixed filters with, whose sums come near the Wiener filters of small motions; first at a quarter and at
half of the size, where long motions are small ones, and then at full size. The levels of the network begin with the
picture that this gives, and hear what the spectra tell. The paper has nothing of it; with `filter_basis=0` a network
has neither.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unsmear.models.gates import Gates, detail
from unsmear.models.spectra import PLACE, SpectrumReader, log_spectra, mean_around
from unsmear.models.turns import Turns
from unsmear.ops.dispatch import no_autocast
from unsmear.ops.filter_bank import FilterBank
from unsmear.ops.filter_flow import filter_flow
from unsmear.samples import REC601

BASIS_FILE = Path(__file__).parent / "filter_basis.npy"  # made by runs/make_filter_basis.py
FAR, MID, _ENOUGH = 4, 2, 96  # how much smaller pictures are, and from which side of the smaller one on it is used
_SLIGHT = 0.03, 0.06  # root mean square of the change to that of detail, from nothing to all of it
_TOO_BRIGHT = 0.1, 0.25  # beyond white, from all of the change to nothing
_HIDDEN = 256
_EVERY = 2  # windows: from one place that has weights of its own to the next


class FirstLook(NamedTuple):
    """What the blurred picture alone tells.

    Attributes:
        correction: What to add to every color of the picture at first, pixel blocks folded, (B, fold * fold, h, w).
        bank: The first filters, for its luma without long motion.
        features: For the coarsest scale of every level, level 1 first.
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
        scale: Pixels of the picture to one of the coarsest scale.
        fold: Side of the pixel blocks that the levels' pictures have folded into channels.
    """

    def __init__(self, count: int, shared: int, widths: list[int], scale: int, fold: int) -> None:
        super().__init__()
        self.shared, self.scale, self.fold = shared, scale, fold
        self.far = SpectralDeconvolution(count)
        self.mid = SpectralDeconvolution(count)
        self.near = SpectralDeconvolution(count)
        self.gates = Gates(3)
        self.tell = nn.ModuleList(nn.Conv2d(_HIDDEN + count, width, 1) for width in widths)
        for parameter in self.tell.parameters():
            nn.init.zeros_(parameter)  # the network starts as if it were told nothing

    def forward(self, x: Tensor) -> FirstLook:
        """Look at the blurred picture (B, 3, H, W), values in [0, 1]."""
        with no_autocast(x.device):
            red, green, blue = (share * color for share, color in zip(REC601, x.float().split(1, 1), strict=True))
            luma = red + green + blue
        estimates, found = self.estimates(luma)
        with no_autocast(x.device):
            fine = detail(luma)
            shares = self.gates(fine, estimates.detach())
        near, mid, far = (shares * estimates).split(1, 1)
        long = mid + far
        change = near + long
        if not self.learns:  # they could never begin without slight changes
            trust = _trust(change, fine)
            change, long = trust * change, trust * long
        coarsest = x.shape[2] // self.scale, x.shape[3] // self.scale
        features = [functional.interpolate(tell(found), size=coarsest, mode="bilinear") for tell in self.tell]
        with no_autocast(x.device):
            bank = FilterBank(luma + long, self.near.filters[: self.shared].float(), self.fold, found.dtype)
        correction = functional.pixel_unshuffle(change.to(x.dtype), self.fold)
        return FirstLook(correction, bank, features)

    def estimates(self, luma: Tensor) -> tuple[Tensor, Tensor]:
        """What near, mid and far would each add to (B, 1, H, W), float32: (B, 3, H, W); and what near found."""
        near, found = self.near(luma)
        return torch.cat([near, self._undo_long(self.mid, MID, luma), self._undo_long(self.far, FAR, luma)], 1), found

    def _undo_long(self, part: "SpectralDeconvolution", factor: int, luma: Tensor) -> Tensor:
        """What to add to (B, 1, H, W) against long motion, which is short in a picture so much smaller."""
        enough = self.is_enough(luma, factor)
        if not enough and not self.training:
            return torch.zeros_like(luma)
        small = functional.avg_pool2d(luma, factor)
        mixed, _ = part(small)
        # Several processes train together only if every weight has a gradient.
        mixed = mixed * (_away_from_lamps(mixed.detach(), small) if enough else 0)
        return functional.interpolate(mixed, scale_factor=factor, mode="bicubic")

    @property
    def learns(self) -> bool:
        """Whether a part that mixes filters is being trained."""
        return self.training and any(part.mix.weight.requires_grad for part in (self.near, self.mid, self.far))

    @staticmethod
    def is_enough(picture: Tensor, factor: int) -> bool:
        """Whether a picture is large enough for motion to be told in one so much smaller."""
        return min(picture.shape[2:]) >= factor * _ENOUGH


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

    def forward(self, luma: Tensor) -> tuple[Tensor, Tensor]:
        """Find what to add to (B, 1, H, W), float32: as much, and what was found for that.

        That is (B, channels + count, h, w), for places 32 pixels apart. Between those mixtures are blended linearly.
        """
        with no_autocast(luma.device):  # spectra span many orders of magnitude
            spectra = log_spectra(luma, step=_EVERY).permute(0, 2, 3, 1)
        seen, weights = self.weigh(spectra.flatten(0, 2))
        found = torch.cat([seen, weights], 1).view(*spectra.shape[:3], -1).permute(0, 3, 1, 2)
        with no_autocast(luma.device):
            weights = found[:, -len(self.filters) :].float()
            mixed = filter_flow(luma[:, 0], weights, self.filters.float(), _EVERY * PLACE)
        return mixed[:, None], found

    def weigh(self, spectra: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the filters, by what `log_spectra` tells of places, (N, 6 * 544).

        Returns:
            What was read, (N, channels), of spectra that were turned; and the weights, (N, count).
        """
        with no_autocast(spectra.device):
            turned, turn = self.turns(spectra)
        seen = self.read(turned.to(self.mix.weight.dtype))
        return seen, self.turns.back(self.mix(seen), turn)


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
    beyond = maximum_around(luma + change - 1, 17)  # the side of the filters
    all_of_it, none = _TOO_BRIGHT
    doubt = ((beyond - all_of_it) / (none - all_of_it)).clamp(0, 1)
    return 1 - mean_around(doubt, 9)


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
