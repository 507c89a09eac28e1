"""Train a part of the blind deconvolution of `saphn-s` alone, to begin the training of the network with.

    python runs/train_blind_deconvolution.py PART --photos DIR --frames DIR --pool DIR --out FILE [--init FILE [--keep]]

PART is near (motion of up to 14 pixels, at full size), mid (of up to 60, at half the size) or far (the same at a
quarter). The error of a sum of filters is a quadratic form of their weights: with the correlations of what the filters
make of a picture around a place and what is missing there, the gain of any mixture is known without the picture. So
every blurred picture is made once, the spectra and correlations of 16 of its places are kept in --pool, and a step over
384 places takes milliseconds. Photographs look alike at every size, so they are taken at many, and two thirds of them
are made softer or sharper first. A run draws --draw pictures beside those that lie in --pool; runs with other seeds may
draw at the same time, with --steps 0. Every 20th file is held back and has photos of its own, and what is gained there
is printed. Two fifths or half of what is learned from was never drawn (`imagined_blur.py`).

The part begins with fresh weights, or with --keep goes on from those that --init has, with --rest as well in what
follows the layers that see spectra alone; --init gives the rest of the network, fresh weights by default. Behind
another near part the levels of the network know nothing of the blur: train them again.
"""

import argparse
import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from unsmear.process import tune_process

tune_process(training=True)  # before PyTorch is loaded

import numpy as np
import torch
from imagined_blur import Imagined, draw_motions, pick_blur
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from unsmear.data.batches import VideoFrames, random_smaller_crop
from unsmear.data.blur import CLEAN, MEDIUM, MILD, PRESETS, BlurConfig, synthesize
from unsmear.data.camera import compress_jpeg
from unsmear.data.patterns import random_pattern
from unsmear.data.softness import random_color_softness, random_softness
from unsmear.data.store import PictureStore, list_pictures
from unsmear.models import create_model, load_model, save_model
from unsmear.models.blind_deconvolution import FAR, MID, SpectralDeconvolution, luma_of
from unsmear.models.saphn import SAPHN
from unsmear.models.spectra import BINS, PLACE, log_spectra
from unsmear.samples import REC601
from unsmear.train.growth import grow
from unsmear.train.muon import Muon

MARGIN = 16  # pixels around a picture that may move in
MIDDLE = 96  # pixels around a place where the mixture is to fit
EVERY = 2  # of the pixels along each side of these are enough
PLACES = 16  # of a picture, at most
SHARD = 100  # pictures in a file, at least
SHARES = torch.tensor(REC601)  # of the colors in luma
HELD = 20  # one file of so many is held back, and one photo
SMALLER_SHARE, SOFT_COLORS = 0.6, 0.5  # of the photos
SMALL = 0.3  # share of samples for which what lies around is the whole picture
BATCH, MOTIONS = 384, 12000  # samples of a step; motions that those imagined are of
WEIGHT_DECAY, NOISE = 0.2, 0.08  # of the training; noise on the spectra


@dataclasses.dataclass(frozen=True)
class Part:
    """What a part is trained on.

    Attributes:
        side: Largest pictures, pixels along each side.
        sizes: Fractions of the photos' size that pictures are cut from.
        blur: Kinds of blur, and the share of each.
        frames_size: Fraction of their size at which averaged frames are seen.
        frames_share: Share of pictures that are averages of up to 13 frames.
        rounded: Whether what is seen has 8 bits.
        floor: Mean squared error that counts as none.
        imagined: Share of samples that are not drawn.
        patterns_share: Share of photos that are made regular patterns.
        soft_share: Share of photos that are made softer or sharper.
    """

    side: int
    sizes: tuple[int, ...]
    blur: tuple[tuple[BlurConfig, float], ...]
    frames_size: int
    frames_share: float
    rounded: bool
    floor: float
    imagined: float
    patterns_share: float = 0.05
    soft_share: float = 0.65


def smaller_blur(factor: int, **shares: float) -> tuple[tuple[BlurConfig, float], ...]:
    """What presets look like in a picture so much smaller, and the share of each."""

    def smaller(config: BlurConfig) -> BlurConfig:
        return dataclasses.replace(
            config,
            extent=config.extent / factor,
            shot_noise=config.shot_noise / factor**2,
            read_noise=config.read_noise / factor,
            jpeg=0.0,
            max_step=0.4,
        )

    return tuple((smaller(PRESETS[name]), share) for name, share in shares.items())


PARTS = {
    "near": Part(576, (1, 2, 3), ((MILD, 4), (MEDIUM, 3), (CLEAN, 1)), 2, 0.07, True, 1e-6, 0.4),
    # Small errors at these sizes are none at full size, so they count as none.
    "mid": Part(
        384,
        (1, 2, 3),
        (*smaller_blur(MID, mild=2, medium=5, strong=2, gopro=1), (CLEAN, 2)),
        MID,
        0.1,
        False,
        1e-5,
        0.5,
    ),
    "far": Part(288, (2, 3, 4), smaller_blur(FAR, mild=3, medium=3, strong=4, gopro=4), FAR, 0.15, False, 3e-5, 0.5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--frames", type=Path, required=True, help="folder with consecutive frames of a video")
    parser.add_argument("--pool", type=Path, required=True, help="folder for what is drawn")
    parser.add_argument("--out", type=Path, required=True, help="weights file to write")
    parser.add_argument("--init", help="weights of the network to begin with")
    parser.add_argument("--filters", type=int, help="mix so many, those beyond what --init mixes from zero on")
    parser.add_argument("--keep", action="store_true", help="go on with the part that --init has")
    parser.add_argument("--rest", action="store_true", help="train only what follows the layers that see spectra")
    parser.add_argument("--draw", type=int, default=26000, help="pictures to draw")
    parser.add_argument("--frames-share", type=float, help="share of these that are averaged frames")
    parser.add_argument("--patterns-share", type=float, help="share of the photos that are made regular patterns")
    parser.add_argument("--soft-share", type=float, help="share of the photos that are made softer or sharper")
    parser.add_argument("--imagined", type=float, help="share of the samples that are not drawn")
    parser.add_argument("--steps", type=int, default=8000, help="steps of the training")
    parser.add_argument("--rate", type=float, default=3e-3, help="of Muon; AdamW has half of it")
    parser.add_argument("--harm", type=float, default=2.0, help="what a picture loses counts so many times more")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    network = load_model(args.init) if args.init else create_model("saphn-s")
    if args.filters:
        network = grow(network, {"blind_filters": args.filters})
    if not isinstance(network, SAPHN) or network.blind is None:
        parser.error("--init must be a network with a filter basis")
    module = getattr(network.blind, args.part)
    if not args.keep:
        module = SpectralDeconvolution(len(module.filters))
        setattr(network.blind, args.part, module)
    args.pool.mkdir(parents=True, exist_ok=True)
    part, filters = PARTS[args.part], module.filters
    told = {name: getattr(args, name) for name in ("frames_share", "patterns_share", "soft_share", "imagined")}
    part = dataclasses.replace(part, **{name: share for name, share in told.items() if share is not None})
    photos = [list(reduced(args.photos, size)) for size in part.sizes]
    fill_pool(
        args.part,
        part,
        photos,
        args,
        lambda most, _: most // PLACE * PLACE,
        lambda blurred, sharp, rng: _samples(blurred, sharp, filters, rng),
        SHARD * PLACES,
    )
    if args.steps:
        imagined = imagine(part, filters, photos, MOTIONS, args.seed) if part.imagined else None
        train(module, part, imagined, args)
        save_model(network, args.out)
        print(f"wrote {args.out}")


@torch.no_grad()
def fill_pool(
    name: str,
    part: Part,
    photos: list[list[np.ndarray]],
    args: argparse.Namespace,
    frames_side: Callable[[int, torch.Generator], int],
    sample: Callable[[Tensor, Tensor, torch.Generator], list[list[Tensor]]],
    count: int,
    colors: bool = False,
) -> None:
    """Draw pictures, and keep what there is to learn from in files.

    Args:
        name: What the files' names begin with.
        part: What pictures.
        photos: Those of every size.
        args: As `main` has them.
        frames_side: Side of averaged frames, of at most so many pixels.
        sample: Makes samples of blurred and sharp pictures, (B, 1, side, side) or (1, 3, side, side) each.
        count: Samples of a file, at least.
        colors: Whether pictures have colors, or luma alone.
    """
    rng = torch.Generator().manual_seed(args.seed)
    store = PictureStore(list_pictures(args.frames), notice=print)
    frames = VideoFrames(store, {args.frames.name: len(store)})
    most = min(part.side, min(store[0].shape[:2]) // part.frames_size)
    for shard in range(math.ceil(args.draw / SHARD)):
        held, begin = shard % HELD == 0, time.perf_counter()
        file = args.pool / f"{name}-{'held-' if held else ''}{args.seed}-{shard}.pt"
        some = [[p for number, p in enumerate(pictures) if (number % HELD == 0) == held] for pictures in photos]
        samples = []
        while len(samples) < count:
            if not held and torch.rand((), generator=rng) < part.frames_share:
                pair = frames.draw(1, frames_side(most, rng) * part.frames_size, 1.0, rng)
                blurred, sharp = (functional.avg_pool2d(side, part.frames_size) for side in pair)
                blurred, sharp = (blurred, sharp) if colors else (luma_of(blurred), luma_of(sharp))
            else:
                blurred, sharp = (blurred_photo if colors else blurred_photos)(part, some, rng)
            if part.rounded:
                blurred = blurred.mul(255).round().div(255)
            samples += sample(blurred, sharp, rng)
        torch.save([torch.stack(column) for column in zip(*samples, strict=True)], file)
        print(f"{file}: {60 * SHARD / (time.perf_counter() - begin):.0f} pictures a minute", flush=True)


def reduced(folder: Path, size: int) -> Iterable[np.ndarray]:
    """The photos of a folder, (H, W, 3) uint8 each, at a fraction of their size."""
    for photo in PictureStore(list_pictures(folder), notice=print):
        yield np.asarray(Image.fromarray(photo).reduce(size)) if size > 1 else photo


def squares(part: Part, photos: list[list[np.ndarray]], count: int, rng: torch.Generator) -> list[Tensor]:
    """Squares of some photos at one of the sizes or smaller, most of them softened, with margins, (1, 3, side, side).

    They are half, three quarters or all of what can be had.
    """
    pictures = photos[int(torch.randint(len(photos), (), generator=rng))]
    chosen = [pictures[at] for at in torch.randint(len(pictures), (count,), generator=rng).tolist()]
    share = (2 + int(torch.randint(3, (), generator=rng))) / 4
    side = min(int(share * part.side), *(min(p.shape[:2]) - 2 * MARGIN for p in chosen)) // PLACE * PLACE
    crops = [random_smaller_crop(picture, side + 2 * MARGIN, SMALLER_SHARE, rng)[None] / 255 for picture in chosen]
    crops = [random_pattern(crop, part.patterns_share, rng) for crop in crops]
    return [random_softness(crop, part.soft_share, rng) for crop in crops]


def blurred_photos(part: Part, photos: list[list[np.ndarray]], rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """The luma of squares of three photos, blurred and sharp, (3, 1, side, side) each.

    They take the places of the colors of one picture, so that one motion blurs them all: to make it takes most of the
    time.
    """
    colors = torch.cat([luma_of(crop) for crop in squares(part, photos, 3, rng)], 1)
    config = pick_blur(part.blur, rng)
    calmer = SHARES.square().sum().sqrt().item()  # the noise of luma than that of a color
    shot, read = config.shot_noise * calmer**2, config.read_noise * calmer
    alike = dataclasses.replace(config, shot_noise=shot, read_noise=read, jpeg=0.0)
    blurred, sharp = synthesize(colors, alike, rng, margin=MARGIN)
    seen = []
    for picture in blurred[0]:
        if torch.rand((), generator=rng) < config.jpeg:  # one by one, or they would be compressed as colors
            lowest, highest = config.jpeg_quality
            quality = int(torch.randint(lowest, highest + 1, (), generator=rng))
            picture = compress_jpeg(picture.expand(3, -1, -1), quality)[0]
        seen.append(picture[None])
    return torch.stack(seen), sharp.transpose(0, 1)


def blurred_photo(part: Part, photos: list[list[np.ndarray]], rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """A square of one photo, blurred and sharp, (1, 3, side, side) each; half of them have softer colors than luma."""
    [crop] = squares(part, photos, 1, rng)
    return synthesize(random_color_softness(crop, SOFT_COLORS, rng), pick_blur(part.blur, rng), rng, margin=MARGIN)


def _places(picture: Tensor, rng: torch.Generator) -> tuple[Tensor, list[list[int]]]:
    """Spectra at some places of a picture (1, 1, side, side), (N, 6 * 544), and the middles of these."""
    spectra = log_spectra(picture)[0].half()
    reach = MIDDLE // 2
    # The middle of a place lies as far beyond its corner as it is from the next one: half a window.
    along = torch.arange(spectra.shape[-1]) * PLACE + PLACE
    inside = ((along >= reach) & (along <= picture.shape[-1] - reach)).nonzero().flatten()
    places = torch.cartesian_prod(inside, inside)
    places = places[torch.randperm(len(places), generator=rng)[:PLACES]]
    return spectra[:, *places.T].T, along[places].tolist()


def _samples(blurred: Tensor, sharp: Tensor, filters: Tensor, rng: torch.Generator) -> list[list[Tensor]]:
    """What there is to learn from at some places of pictures (B, 1, side, side).

    For every place, spectra (6 * 544), and correlations of responses and what is missing; of those of responses among
    each other the upper triangle, row after row.
    """
    samples = []
    upper = torch.triu_indices(len(filters), len(filters))
    for picture, missing in zip(blurred.split(1), (sharp - blurred)[:, 0, ::EVERY, ::EVERY], strict=True):
        padded = functional.pad(picture, [filters.shape[-1] // 2] * 4, mode="replicate")
        responses = functional.conv2d(padded, filters[:, None], stride=EVERY)[0]
        for spectra, middle in zip(*_places(picture, rng), strict=True):
            down, right = (slice((at - MIDDLE // 2) // EVERY, (at + MIDDLE // 2) // EVERY) for at in middle)
            r, m = responses[:, down, right].flatten(1), missing[down, right].flatten()
            among = (r @ r.T)[*upper]
            samples.append([spectra.clone(), *(t / len(m) for t in (among, r @ m, m @ m))])
    return samples


def imagine(part: Part, filters: Tensor, photos: list[list[np.ndarray]], motions: int, seed: int) -> Imagined:
    """What is learned from without being drawn: of the photos that are not held back."""
    rng = torch.Generator().manual_seed(seed)
    some = [[p for number, p in enumerate(pictures) if number % HELD] for pictures in photos]
    sharp = [_places(luma_of(picture), rng)[0] for _ in range(motions // 12) for picture in squares(part, some, 3, rng)]
    config = part.blur[0][0]
    noise = config.shot_noise, config.read_noise
    return Imagined(torch.cat(sharp), draw_motions(motions, part.blur, part.side, rng), filters, noise, part.rounded)


def train(module: SpectralDeconvolution, part: Part, imagined: Imagined | None, args: argparse.Namespace) -> None:
    """Train what reads the spectra and mixes the filters: the mean gain of the mixtures in dB, harm counted more."""
    pool, held = (read_pool(args.pool, f"{args.part}-{name}*.pt") for name in ("[0-9]", "held"))
    print(f"{len(pool[0])} samples, {len(held[0])} held back", flush=True)
    among, missing, error = square(held[1]), *held[2:]
    best = best_gain(len(module.filters), part.floor, among, missing, error).mean()
    print(f"the best mixtures would gain {best:+.3f} dB there")
    torch.manual_seed(args.seed)
    read = module.read.rest if args.rest else module.read
    module.read.requires_grad_(False)
    read.requires_grad_()
    matrices = [weight for weight in read.parameters() if weight.ndim > 1]
    others = [*module.mix.parameters(), *(weight for weight in read.parameters() if weight.ndim == 1)]
    muon = Muon(matrices, lr=args.rate, weight_decay=WEIGHT_DECAY)
    adamw = torch.optim.AdamW(others, lr=args.rate / 2, weight_decay=WEIGHT_DECAY)
    unseen = round(part.imagined * BATCH)
    for step in range(args.steps):
        share = min(1, (step + 1) / 100) * math.cos(math.pi / 2 * step / args.steps) ** 2
        muon.param_groups[0]["lr"], adamw.param_groups[0]["lr"] = share * args.rate, share * args.rate / 2
        picked = torch.randint(len(pool[0]), (BATCH - unseen,))
        samples = [[column[picked].float() for column in pool]]
        if imagined is not None:
            samples.append(imagined.draw(unseen))
        spectra, among, missing, error = map(torch.cat, zip(*samples, strict=True))
        spectra += NOISE * torch.randn(spectra.shape)
        around, whole = spectra[:, : 2 * BINS], spectra[:, -2 * BINS :]
        whole[:] = torch.where(torch.rand(len(whole), 1) < SMALL, around, whole)
        gained = gain(module.weigh(spectra)[1], part.floor, square(among), missing, error)
        loss = -(gained + args.harm * gained.clamp(max=0)).mean()
        module.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 5.0)
        muon.step()
        adamw.step()
        if step % 1000 == 999:
            with torch.no_grad():
                weights = torch.cat([module.weigh(some.float())[1] for some in held[0].split(1024)])
                there = gain(weights, part.floor, square(held[1]), *held[2:])
            print(
                f"step {step + 1}: training {gained.mean():+.3f} dB, held back {there.mean():+.3f} dB, of it harm"
                f" {there.clamp(max=0).mean():+.3f} dB",
                flush=True,
            )


def read_pool(folder: Path, pattern: str) -> list[Tensor]:
    shards = [torch.load(file, mmap=True) for file in sorted(folder.glob(pattern))]  # read once, into what cat makes
    if not shards:
        raise SystemExit(f"{folder}: files are needed to train on and to hold back; --draw {2 * SHARD} or more")
    return [torch.cat(column) for column in zip(*shards, strict=True)]


def square(upper: Tensor) -> Tensor:
    """Symmetric matrices (B, n, n) of their upper triangles (B, n * (n + 1) / 2)."""
    side = math.isqrt(2 * upper.shape[1])
    where = torch.empty(side, side, dtype=torch.long)
    rows, columns = torch.triu_indices(side, side)
    where[rows, columns] = where[columns, rows] = torch.arange(upper.shape[1])
    return upper[:, where]


def gain(weights: Tensor, floor: float, among: Tensor, missing: Tensor, error: Tensor) -> Tensor:
    """What the mixtures gain, dB (B,).

    Args:
        weights: Of the filters, (B, count).
        floor: Mean squared error that counts as none.
        among: Correlations of the responses among each other, (B, count, count).
        missing: Of the responses with what is missing, (B, count).
        error: Mean square of what is missing, (B,).
    """
    left = error - 2 * (weights * missing).sum(1) + torch.einsum("nk,nkl,nl->n", weights, among, weights)
    return decibels(error, left, floor)


def best_gain(count: int, floor: float, among: Tensor, missing: Tensor, error: Tensor) -> Tensor:
    """What the best mixtures of the first `count` filters gain, dB (B,)."""
    few, aim = among[:, :count, :count], missing[:, :count]
    best = torch.linalg.solve(few + 1e-9 * torch.eye(count), aim)
    return gain(best, floor, few, aim, error)


def decibels(before: Tensor, after: Tensor, floor: float) -> Tensor:
    """Gain of mean squared errors."""
    return 10 * ((before + floor) / (after + floor)).log10()


if __name__ == "__main__":
    main()
