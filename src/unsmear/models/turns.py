"""Spectra are turned before they are read, so that what is learned of one motion holds for all that turn into it.

A photograph that is flipped or transposed is a photograph still. A power spectrum is the same at a frequency and its
negative, so only four of the eight flips and transpositions make another one of it. By one of these four every spectrum
comes to have more power where rows and columns rise together than where they do not, and more across the columns than
across the rows. All motions then lie within an eighth of a circle, or nearly so, and what is found for the turned
picture is turned back.
"""

import torch
from torch import Tensor, nn

from unsmear.models.spectra import BINS, SPECTRA, WINDOW, whole_plane
from unsmear.ops.filter_bank import signs

_COARSEST = 0.04  # cycles a pixel; what is slower is the picture rather than its blur


class Turns(nn.Module):
    """Turns spectra, and back the weights of filters that are found for them.

    Args:
        filters: (count, side, side). Every one that is flipped or transposed is itself, or its negative.
    """

    frequencies: Tensor
    signs: Tensor
    directions: Tensor

    def __init__(self, filters: Tensor) -> None:
        super().__init__()
        plane = whole_plane()
        flipped = plane[:, -torch.arange(WINDOW) % WINDOW]
        turned = [p[:, : WINDOW // 2 + 1].flatten() for p in (plane, flipped, plane.T, flipped.T)]
        self.register_buffer("frequencies", torch.stack(turned), persistent=False)
        ones = filters.new_ones(len(filters))
        flip, transposition = signs(filters)
        ways = torch.stack([ones, flip, transposition, flip * transposition])
        self.register_buffer("signs", ways, persistent=False)
        self.register_buffer("directions", _directions(), persistent=False)

    def forward(self, spectra: Tensor) -> tuple[Tensor, Tensor]:
        """Turn what `log_spectra` tells of places, (N, 6 * 544), each as it has to be.

        Returns:
            The turned spectra, and by which of the four turns, (N,).
        """
        spectra = spectra.unflatten(1, (SPECTRA, BINS))
        flipped, transposed = (spectra[:, 1] @ self.directions.to(spectra.dtype) <= 0).long().unbind(1)
        turn = flipped + 2 * transposed
        frequencies = self.frequencies[turn][:, None].expand_as(spectra)
        return spectra.gather(2, frequencies).flatten(1), turn

    def back(self, weights: Tensor, turn: Tensor) -> Tensor:
        """Weights (N, count) for the pictures as they are, of those for the turned ones."""
        return weights * self.signs[turn].to(weights.dtype)


def _directions() -> Tensor:
    """How far every frequency is one where rows and columns rise together, and one across columns: (544, 2)."""
    row, column = torch.fft.fftfreq(WINDOW)[:, None], torch.fft.rfftfreq(WINDOW)
    square = row**2 + column**2
    twice = 1.0 + ((column > 0) & (column < 0.5))  # frequencies whose negative is left out
    share = torch.where((square > _COARSEST**2) & (square <= 0.25), twice / square, 0.0)
    return torch.stack([share * row * column, share * (column**2 - row**2)], 2).flatten(0, 1)
