"""Training batches. Batch i depends on the seed and on i alone, so a run resumes at any step, on any workers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from PIL.Image import Resampling
from torch import Tensor
from torch.utils.data import Dataset

from unsmear.data.blur import CLEAN, GOPRO, MEDIUM, MILD, STRONG, average_frames, synthesize
from unsmear.data.patterns import random_pattern
from unsmear.data.softness import random_color_softness, random_softness, soften
from unsmear.errors import UsageError

Batch = tuple[Tensor, Tensor]
"""Blurred and sharp crops, each (B, 3, size, size) float32 in [0, 1]."""


class Source(Protocol):
    """Something that training crops can be drawn from."""

    def draw(self, count: int, size: int, progress: float, rng: torch.Generator) -> Batch:
        """Draw crops at some point of the run, from 0 at its start to 1 at its end."""
        ...


@dataclass(frozen=True)
class SharpPhotos:
    """Sharp pictures, blurred as they are drawn.

    Attributes:
        pictures: (H, W, 3) uint8 each.
        mixture: Shares of the presets mild, medium, strong, gopro and clean; those left out are 0.
        curriculum: Whether medium blur and then the two strong ones come in over the first half of the run
            only. Mild and clean blur stay in the mixture: what is learned first must not be forgotten.
        soft_share: Share of the crops that are softened before they are blurred, see `random_softness`.
        soft_color_share: Share of the crops whose colors are softer than their luma, see `random_color_softness`.
        sharp_share: Share of the batches that are not blurred.
        grain_share: Share of the crops with strong noise, see `random_grain`.
        pattern_share: Share of the crops that are made regular patterns, see `random_pattern`.
        shrink_share: Share of the crops that are taken from photos made up to 2.5 times smaller, as those that people
            share are.
    """

    pictures: Sequence[np.ndarray]
    mixture: tuple[float, ...] = (1.0, 2.0, 1.0, 0.5)
    curriculum: bool = True
    soft_share: float = 0.0
    soft_color_share: float = 0.0
    sharp_share: float = 0.0
    grain_share: float = 0.0
    pattern_share: float = 0.0
    shrink_share: float = 0.0

    def needs(self, size: int) -> int:
        """Pixels that pictures must have along both sides for crops of `size`, with what lies around them."""
        return size + 2 * max(margin for (_, margin), share in zip(_PRESETS, self.mixture, strict=False) if share)

    def draw(self, count: int, size: int, progress: float, rng: torch.Generator) -> Batch:
        """Draw crops with something in them, and blur them with one of the presets, or not at all."""
        blurred, sharp = self._pair(count, size, progress, rng)
        grain = random_grain(sharp, self.grain_share, rng)
        return (blurred, sharp) if grain is None else ((blurred + grain).clamp(0, 1), (sharp + grain).clamp(0, 1))

    def _pair(self, count: int, size: int, progress: float, rng: torch.Generator) -> Batch:
        if self.sharp_share and torch.rand((), generator=rng) < self.sharp_share:
            sharp = self._sharp(count, size, rng)
            return sharp, sharp
        grown = min(1.0, 2 * progress) if self.curriculum else 1.0
        late = max(0.0, 1.5 * grown - 0.5)
        growth = torch.tensor([1.0, grown, late, late, 1.0])
        shares = torch.tensor(self.mixture) * growth[: len(self.mixture)]
        config, margin = _PRESETS[int(torch.multinomial(shares, 1, generator=rng))]
        return synthesize(self._sharp(count, size + 2 * margin, rng), config, rng, margin=margin)

    def _sharp(self, count: int, size: int, rng: torch.Generator) -> Tensor:
        crops = [self._textured(size, rng)[None] for _ in range(count)]
        crops = [random_pattern(crop, self.pattern_share, rng) for crop in crops]
        crops = [random_color_softness(crop, self.soft_color_share, rng) for crop in crops]
        return torch.cat([random_softness(crop, self.soft_share, rng) for crop in crops])

    def _textured(self, size: int, rng: torch.Generator) -> Tensor:
        """Sky and bokeh teach little: look a few times for a crop whose gradients exceed 3 gray levels."""
        for _ in range(3):
            crop = self._crop(size, rng)
            if 255 * crop[1].diff(dim=-1).abs().mean() > 3:
                return crop
        return self._crop(size, rng)

    def _crop(self, size: int, rng: torch.Generator) -> Tensor:
        picture = self.pictures[_below(len(self.pictures), rng)]
        return random_smaller_crop(picture, size, self.shrink_share, rng).float() / 255


# What lies around a crop is drawn with it, so that what moves in from outside is real.
_PRESETS = ((MILD, 8), (MEDIUM, 16), (STRONG, 40), (GOPRO, 40), (CLEAN, 8))


@dataclass(frozen=True)
class VideoFrames:
    """Consecutive frames of high-speed videos, averaged as the GoPro set was made.

    Attributes:
        frames: (H, W, 3) uint8 each, one clip after the other.
        clips: Number of frames of each clip, by name. Frames of a clip have one size.
        lengths: Fewest and most frames to average, odd.
        linear_share: Share of crops averaged in linear light instead of over the encoded values.
    """

    frames: Sequence[np.ndarray]
    clips: Mapping[str, int]
    lengths: tuple[int, int] = (3, 13)
    linear_share: float = 0.3

    def __post_init__(self) -> None:
        assert sum(self.clips.values()) == len(self.frames)
        shapes = (frame.shape for frame in self.frames)
        for name, count in self.clips.items():
            if count < self.lengths[1]:
                raise UsageError(f"{name}: averaging up to {self.lengths[1]} frames needs as many; got {count}")
            if len(set(islice(shapes, count))) > 1:
                raise UsageError(f"{name}: the frames of a clip must all be of one size")

    def draw(self, count: int, size: int, progress: float, rng: torch.Generator) -> Batch:
        """Draw windows of frames and average each; the middle frame is the sharp one."""
        pairs = []
        for _ in range(count):
            length = self.lengths[0] + 2 * _below((self.lengths[1] - self.lengths[0]) // 2 + 1, rng)
            first = self._first(length, rng)
            window = [self.frames[first + i] for i in range(length)]
            crops = _crops(window, size, rng)
            gamma = 2.2 if torch.rand((), generator=rng) < self.linear_share else None
            pairs.append(average_frames(crops.float() / 255, gamma))
        return torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])

    def _first(self, length: int, rng: torch.Generator) -> int:
        """The first frame of a window, drawn from all that lie within one clip."""
        place, begin = _below(sum(count - length + 1 for count in self.clips.values()), rng), 0
        for count in self.clips.values():
            if place < count - length + 1:
                break
            place -= count - length + 1
            begin += count
        return begin + place


@dataclass(frozen=True)
class RealPairs:
    """Blurred pictures with their sharp counterparts.

    Attributes:
        blurred: (H, W, 3) uint8 each.
        sharp: The counterparts, in the same order and sizes.
    """

    blurred: Sequence[np.ndarray]
    sharp: Sequence[np.ndarray]

    def draw(self, count: int, size: int, progress: float, rng: torch.Generator) -> Batch:
        """Draw the same crop from both pictures of a pair."""
        pairs = []
        for _ in range(count):
            index = _below(len(self.blurred), rng)
            pairs.append(_crops([self.blurred[index], self.sharp[index]], size, rng))
        blurred, sharp = (torch.stack(side).float() / 255 for side in zip(*pairs, strict=True))
        return blurred, sharp


class Batches(Dataset[Batch]):
    """All batches of a run on one process, by index.

    Args:
        sources: What to draw from, each with its share of the batches.
        count: Crops in a batch.
        size: Side of a crop, pixels.
        steps: Batches in the whole run.
        seed: Seed of the run.
        rank: Number of this process, each of which draws its own crops.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Source, float]],
        *,
        count: int,
        size: int,
        steps: int,
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        if not sources or sum(share for _, share in sources) <= 0:
            raise UsageError("there is nothing to train on: give sharp photos, video frames or pairs")
        self._sources = [source for source, _ in sources]
        self._shares = torch.tensor([share for _, share in sources], dtype=torch.float32)
        self._count, self._size, self._steps, self._seed, self._rank = count, size, steps, seed, rank

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> Batch:
        """Batch number `index`, always the same."""
        mixed = np.random.SeedSequence((self._seed, self._rank, index)).generate_state(1, np.uint64)[0]
        rng = torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
        source = self._sources[int(torch.multinomial(self._shares, 1, generator=rng))]
        blurred, sharp = source.draw(self._count, self._size, index / self._steps, rng)
        return blurred.contiguous(), sharp.contiguous()


def random_crop(picture: np.ndarray, size: int, rng: torch.Generator) -> Tensor:
    """A random square of a picture (H, W, 3), mirrored and turned at random, as (3, size, size) uint8."""
    return _crops([picture], size, rng)[0]


def random_smaller_crop(picture: np.ndarray, size: int, share: float, rng: torch.Generator) -> Tensor:
    """As `random_crop`, of a share of the pictures after these were made up to 2.5 times smaller.

    By one of five filters, as programs have them: what they leave of fine detail differs.
    """
    if not share:
        return random_crop(picture, size, rng)
    happens, much, kind = torch.rand(3, generator=rng).tolist()
    side = round(size * _SMALLEST**much) if happens < share else size
    crop = random_crop(picture, max(size, min(side, *picture.shape[:2])), rng)
    if crop.shape[1] == size:
        return crop
    image = Image.fromarray(crop.permute(1, 2, 0).numpy())
    smaller = image.resize((size, size), _RESAMPLING[int(kind * len(_RESAMPLING))])
    return torch.from_numpy(np.array(smaller)).permute(2, 0, 1)


_SMALLEST = 2.5  # times smaller than it is, no photo is made
_RESAMPLING = (Resampling.BOX, Resampling.BILINEAR, Resampling.HAMMING, Resampling.BICUBIC, Resampling.LANCZOS)


def random_grain(pictures: Tensor, share: float, rng: torch.Generator) -> Tensor | None:
    """Draw strong noise for a share of the pictures (B, 3, H, W); None if that is 0.

    Gaussian, of a standard deviation of 0.01 to 0.3, gray or colored or something between, in half of the cases coarser
    than a pixel. It is to be added to the blurred and to the sharp pictures alike: noise stays, as this is no denoiser,
    and blur that noise hides stays, too. A network that has met hardly any noise makes it many times as strong.
    """
    if not share:
        return None
    grains = []
    for _ in range(len(pictures)):
        happens, size, colored, coarse, sigma = torch.rand(5, generator=rng).tolist()
        grain = torch.zeros_like(pictures[:1])
        if happens < share:
            noise = torch.randn((4, *pictures.shape[2:]), generator=rng)
            grain = math.sqrt(1 - colored) * noise[None, :1] + math.sqrt(colored) * noise[None, 1:]
            if coarse < 0.5:
                grain = soften(grain, 0.3 + 0.7 * sigma)
            grain *= 0.01 * 30**size / grain.std()
        grains.append(grain)
    return torch.cat(grains)


def _crops(pictures: Sequence[np.ndarray], size: int, rng: torch.Generator) -> Tensor:
    """The same random crop of pictures of one size, as (N, 3, size, size) uint8."""
    height, width = pictures[0].shape[:2]
    if min(height, width) < size:
        raise UsageError(f"a training picture of {width} x {height} pixels is smaller than the crop of {size}")
    top, left = _below(height - size + 1, rng), _below(width - size + 1, rng)
    cut = np.stack([picture[top : top + size, left : left + size] for picture in pictures])
    crops = torch.from_numpy(cut).permute(0, 3, 1, 2)
    if _below(2, rng):
        crops = crops.flip(-1)
    return crops.rot90(_below(4, rng), (-2, -1))


def _below(limit: int, rng: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=rng))
