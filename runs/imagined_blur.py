"""Blur that is never made: what a motion does to the spectra of sharp photos, and what filters would gain on that.

Where everything around moves alike, blur multiplies the spectrum of what is there by the transfer function of the
motion. So the spectra of a sharp photo become those of any blurred one, with the correlations that
`train_blind_deconvolution.py` learns from, for a thousandth of the work; and no motion need be seen twice.
"""

import dataclasses
import math

import torch
from torch import Tensor

from unsmear.data.blur import BlurConfig, draw_extent
from unsmear.data.trajectory import INSTANTS, draw_motion
from unsmear.models.spectra import NOISE, WINDOW, ordinary_power

POINTS = 6  # of a picture, whose motions are alike but not the same
ALIKE = 0.3  # share of pictures in which they are the same
NOISELESS = 0.3  # share of pictures with no noise but that of rounding
ROUNDING = 1.3e-6  # variance of values of 8 bits, with what JPEG and cameras leave
GRAY = 0.2  # mean light of a photo, which shot noise grows with

ROW, COLUMN = torch.fft.fftfreq(WINDOW), torch.fft.rfftfreq(WINDOW)
ORDINARY = (ordinary_power(ROW, COLUMN) + NOISE).log().flatten()


@dataclasses.dataclass(frozen=True)
class Motions:
    """Transfer functions (N, POINTS, 544): at points of pictures, and what they do to the power of windows there."""

    transfer: Tensor
    power: Tensor


def draw_motions(
    count: int, blur: tuple[tuple[BlurConfig, float], ...], side: int, generator: torch.Generator
) -> Motions:
    """Draw motions of pictures (side, side)."""
    frequencies = torch.fft.fftfreq(2 * WINDOW)  # twice as fine as windows tell
    ordinary = ordinary_power(frequencies, frequencies)
    transfer, power = [], []
    for _ in range(count):
        config = pick_blur(blur, generator)
        extent = draw_extent(config, generator)
        motion = draw_motion(
            (side, side),
            extent,
            tremor=config.tremor,
            rotation=config.rotation,
            zoom=config.zoom,
            generator=generator,
        )
        steps = max(7, min(64, math.ceil(2.5 * extent)))
        instants = ((torch.arange(steps) + 0.5) / steps * (INSTANTS - 1)).long()
        where = (torch.rand(POINTS, 2, generator=generator) - 0.5) * side
        nearness = 1 - config.parallax * torch.rand(POINTS, 1, generator=generator)
        points = torch.cat([nearness, torch.ones(POINTS, 1), where], 1)
        if torch.rand((), generator=generator) < ALIKE:
            points = points[:1].expand_as(points)
        path = torch.einsum("pc,tcd->ptd", points, motion[instants])
        across, down = (torch.exp(-2j * math.pi * path[..., axis, None] * frequencies) for axis in (0, 1))
        fine = torch.einsum("pty,ptx->pyx", down, across) / steps
        transfer.append(_coarser(fine))
        power.append(_coarser(_leaked(ordinary * fine.abs() ** 2) / _leaked(ordinary[None])))
    return Motions(torch.stack(transfer), torch.stack(power).clamp_min(1e-7))


def pick_blur(blur: tuple[tuple[BlurConfig, float], ...], generator: torch.Generator) -> BlurConfig:
    """One of some kinds of blur, each with the share that stands beside it."""
    shares = torch.tensor([float(share) for _, share in blur])
    return blur[int(torch.multinomial(shares, 1, generator=generator))][0]


def _leaked(power: Tensor) -> Tensor:
    """What windows see of a spectrum (N, 64, 64): each frequency has a part of its neighbors'."""
    time = torch.arange(WINDOW)
    apart = torch.arange(-4, 5) / 2
    waves = torch.exp(-2j * math.pi * apart[:, None] * time / WINDOW)
    seen = (torch.hann_window(WINDOW) * waves).sum(1).abs() ** 2
    for axis in (1, 2):
        power = torch.stack([s * power.roll(k - 4, axis) for k, s in enumerate(seen / seen.sum())]).sum(0)
    return power


def _coarser(spectrum: Tensor) -> Tensor:
    return spectrum[:, ::2, ::2][:, :, : WINDOW // 2 + 1].flatten(1)


class Imagined:
    """Samples as `train_blind_deconvolution.py` has them in its pool.

    Args:
        sharp: What `log_spectra` tells at places of sharp photos, (M, 6 * 544).
        motions: Of which each sample takes one.
        filters: The even filters to mix, (count, side, side).
        noise: Largest variance of the noise per unit of light, and standard deviation in the dark.
        rounded: Whether what is seen has 8 bits.
    """

    def __init__(
        self, sharp: Tensor, motions: Motions, filters: Tensor, noise: tuple[float, float], rounded: bool
    ) -> None:
        self.sharp, self.motions, self.noise, self.rounding = sharp, motions, noise, ROUNDING if rounded else 0.0
        along = torch.arange(filters.shape[-1]) - filters.shape[-1] // 2
        phase = along[:, None, None, None] * ROW[:, None] + along[:, None, None] * COLUMN  # (side, side, 32, 17)
        # Even filters have real transfer functions.
        self.filters = torch.einsum("kyx,yxab->kab", filters, (2 * math.pi * phase).cos()).flatten(1)
        one, other = torch.triu_indices(len(filters), len(filters))
        self.products = self.filters[one] * self.filters[other]
        twice = torch.full((WINDOW // 2 + 1,), 2.0)  # frequencies whose negative is left out
        twice[[0, -1]] = 1
        self.share = twice.expand(WINDOW, -1).flatten() / WINDOW**2

    def draw(self, count: int) -> list[Tensor]:
        """Spectra (N, 6 * 544), correlations among responses, of these with what is missing, and the error."""
        spectra, scene, transfer, noise = self.scenes(count)
        blurred = scene * transfer.abs() ** 2
        among = (blurred + noise) @ self.products.T
        missing = (scene * transfer.real - blurred - noise) @ self.filters.T
        error = (scene * (1 - transfer).abs() ** 2 + noise).sum(1)
        return [spectra, among, missing, error]

    def scenes(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Spectra seen (N, 6 * 544), of what there is, transfer functions, and the noise, (N, 544) each.

        Frequencies of these are weighted so that their sum is a mean square.
        """
        picture, place = torch.randint(len(self.motions.power), (count,)), torch.randint(POINTS, (count,))
        transfer, here = self.motions.transfer[picture, place], self.motions.power[picture, place]
        everywhere = self.motions.power[picture].mean(1)
        power = torch.stack([0.75 * here + 0.25 * everywhere, here, everywhere], 1).repeat_interleave(2, 1)
        shot, read = (torch.rand(2, count, 1) ** 2 * torch.tensor(self.noise)[:, None, None]).unbind()
        noise = torch.where(torch.rand(count, 1) < NOISELESS, 0.0, shot * GRAY + read**2) + self.rounding + 1e-8
        sharp = self.sharp[torch.randint(len(self.sharp), (count,))].float().unflatten(1, (6, -1))
        seen = ((2 * sharp + ORDINARY).exp() - NOISE).clamp_min(0)
        # The mean of the logarithms of noise is that of its mean less 0.58.
        spectra = seen * power + noise[:, None] * torch.tensor([1, math.exp(-0.5772)] * 3)[:, None]
        spectra = ((spectra + NOISE).log() - ORDINARY) / 2
        scene = seen[:, 2] * self.share  # the power within 96 pixels
        return spectra.flatten(1), scene, transfer, noise * self.share
