"""Train a part of the blind deconvolution of `saphn-s` alone, to begin the training of the network with.

    python runs/train_blind_deconvolution.py PART --photos DIR --frames DIR --pool DIR --out FILE [--init FILE [--keep]]

PART is near (motion of up to 14 pixels, at full size), mid (of up to 60, at half the size) or far (the same at a
quarter). The error of a sum of filters is a quadratic form of their weights: with the correlations of what the filters
make of a picture around a place and what is missing there, the gain of any mixture is known without the picture. So
every blurred picture is made once, what tells of the blur at 24 of its places is kept in --pool with the correlations
there, and a step over 256 places takes milliseconds. Photographs look alike at every size, so they are taken at
several, and half of them are softened first; and flipped or transposed, which every step does, they are photographs
still. A run draws --draw pictures beside those that lie in --pool; runs with other seeds may draw at the same time,
with --steps 0. Every 20th file is held back and has photos of its own, and what is gained there is printed.

The part begins with fresh weights, or with --keep goes on from those that --init has; --init gives the rest of the
network, fresh weights by default. With edges, if the network has them, it reads these, too. Behind another near part
the levels of the network know nothing of the blur: train them again.
"""

import argparse
import dataclasses
import itertools
import math
import time
from collections.abc import Iterable
from pathlib import Path

from unsmear.process import tune_process

tune_process()  # before PyTorch is loaded

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from unsmear.data.batches import VideoFrames, random_crop, random_softness
from unsmear.data.blur import CLEAN, MEDIUM, MILD, PRESETS, BlurConfig, synthesize
from unsmear.data.camera import compress_jpeg
from unsmear.data.store import PictureStore, default_cache, list_pictures
from unsmear.models import create_model, load_model, save_model
from unsmear.models.blind_deconvolution import FAR, MID, SpectralDeconvolution
from unsmear.models.saphn import SAPHN
from unsmear.models.spectra import (
    AROUND_BINS,
    WINDOW,
    edge_mixtures,
    edge_projection,
    log_spectra,
    sharpen_edges,
    transform_windows,
)

MARGIN = 16  # pixels around a picture that may move in
PLACE = WINDOW // 2  # pixels from one place to the next
MIDDLE = 96  # pixels around a place where the mixture is to fit
PLACES = 24  # of a picture, at most
SHARD = 100  # pictures in a file, at least
REC601 = torch.tensor([0.299, 0.587, 0.114])
HELD = 20  # one file of so many is held back, and one photo
SOFT_SHARE = 0.5
SMALL = 0.3  # share of samples for which what lies around is the whole picture
RATE, BATCH, WEIGHT_DECAY, NOISE = 1.5e-3, 256, 0.2, 0.08  # of the training; noise on the spectra
HARM = 2  # what a picture loses counts so many times more


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
    """

    side: int
    sizes: tuple[int, ...]
    blur: tuple[tuple[BlurConfig, float], ...]
    frames_size: int
    frames_share: float
    rounded: bool
    floor: float


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
    "near": Part(576, (1, 2, 3), ((MILD, 4), (MEDIUM, 3), (CLEAN, 1)), 2, 0.07, True, 1e-6),
    # Small errors at these sizes are none at full size, so they count as none.
    "mid": Part(
        384, (1, 2, 3), (*smaller_blur(MID, mild=2, medium=5, strong=2, gopro=1), (CLEAN, 2)), MID, 0.1, False, 1e-5
    ),
    "far": Part(288, (2, 3, 4), smaller_blur(FAR, mild=3, medium=3, strong=4, gopro=4), FAR, 0.15, False, 3e-5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--frames", type=Path, required=True, help="folder with consecutive frames of a video")
    parser.add_argument("--pool", type=Path, required=True, help="folder for what is drawn")
    parser.add_argument("--out", type=Path, required=True, help="weights file to write")
    parser.add_argument("--init", help="weights of the network to begin with")
    parser.add_argument("--keep", action="store_true", help="go on with the part that --init has")
    parser.add_argument("--draw", type=int, default=26000, help="pictures to draw")
    parser.add_argument("--steps", type=int, default=8000, help="steps of the training")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    network = load_model(args.init) if args.init else create_model("saphn-s")
    if not isinstance(network, SAPHN) or network.blind is None:
        parser.error("--init must be a network with a filter basis")
    module = getattr(network.blind, args.part)
    if not args.keep:
        module = SpectralDeconvolution(network.config.filter_basis, module.fold, network.config.edges)
        setattr(network.blind, args.part, module)
    # Spectra are the same for a motion and its reverse, which odd filters undo with the opposite sign: these stay out.
    is_even = (module.filters * module.filters.flip(1, 2)).sum((1, 2)) > 0
    if network.config.edges and not is_even.all():
        parser.error(
            "edges tell of even filters only, and --init has others: leave --keep out, or set filter_basis to 24"
        )
    try:
        turns = symmetries(module.filters[is_even])
    except ValueError as error:
        parser.error(f"{error}; without --keep, the part has others")
    args.pool.mkdir(parents=True, exist_ok=True)
    draw(PARTS[args.part], module.filters[is_even], args)
    if args.steps:
        train(module, is_even, turns, PARTS[args.part], args)
        save_model(network, args.out)
        print(f"wrote {args.out}")


@torch.no_grad()
def draw(part: Part, filters: Tensor, args: argparse.Namespace) -> None:
    """Fill the pool: for every place, what tells of its blur, and correlations of responses and what is missing."""
    rng = torch.Generator().manual_seed(args.seed)
    store = PictureStore(list_pictures(args.frames), default_cache(), print)
    frames = VideoFrames(store, {args.frames.name: len(store)})
    frames_side = min(part.side, min(store[0].shape[:2]) // part.frames_size // PLACE * PLACE)
    photos = [list(reduced(args.photos, size)) for size in part.sizes]
    for shard in range(math.ceil(args.draw / SHARD)):
        held, begin = shard % HELD == 0, time.perf_counter()
        file = args.pool / f"{args.part}-{'held-' if held else ''}{args.seed}-{shard}.pt"
        some = [[p for number, p in enumerate(pictures) if (number % HELD == 0) == held] for pictures in photos]
        samples = []
        while len(samples) < SHARD * PLACES:
            if not held and torch.rand((), generator=rng) < part.frames_share:
                pair = frames.draw(1, frames_side * part.frames_size, 1.0, rng)
                blurred, sharp = (luma(functional.avg_pool2d(side, part.frames_size)) for side in pair)
            else:
                blurred, sharp = blurred_photos(part, some, rng)
            if part.rounded:
                blurred = blurred.mul(255).round().div(255)
            samples += _samples(blurred, sharp, filters, rng)
        torch.save([torch.stack(column) for column in zip(*samples, strict=True)], file)
        print(f"{file}: {60 * SHARD / (time.perf_counter() - begin):.0f} pictures a minute", flush=True)


def reduced(folder: Path, size: int) -> Iterable[np.ndarray]:
    """The photos of a folder, (H, W, 3) uint8 each, at a fraction of their size."""
    for photo in PictureStore(list_pictures(folder), default_cache(), print):
        yield np.asarray(Image.fromarray(photo).reduce(size)) if size > 1 else photo


def luma(pictures: Tensor) -> Tensor:
    """Rec. 601, of (B, 3, H, W): (B, 1, H, W)."""
    return (pictures * REC601[:, None, None]).sum(1, keepdim=True)


def blurred_photos(part: Part, photos: list[list[np.ndarray]], rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """The luma of squares of three photos, blurred and sharp, (3, 1, side, side) each.

    They are half, three quarters or all of what can be had of photos at one of the sizes, and take the places of the
    colors of one picture, so that one motion blurs them all: to make it takes most of the time.
    """
    pictures = photos[int(torch.randint(len(photos), (), generator=rng))]
    chosen = [pictures[at] for at in torch.randint(len(pictures), (3,), generator=rng).tolist()]
    share = (2 + int(torch.randint(3, (), generator=rng))) / 4
    side = min(int(share * part.side), *(min(p.shape[:2]) - 2 * MARGIN for p in chosen)) // PLACE * PLACE
    crops = [random_crop(picture, side + 2 * MARGIN, rng)[None].float() / 255 for picture in chosen]
    colors = torch.cat([luma(random_softness(crop, SOFT_SHARE, rng)) for crop in crops], 1)
    shares = torch.tensor([float(share) for _, share in part.blur])
    config = part.blur[int(torch.multinomial(shares, 1, generator=rng))][0]
    calmer = REC601.square().sum().sqrt().item()  # the noise of luma than that of a color
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


def _samples(blurred: Tensor, sharp: Tensor, filters: Tensor, rng: torch.Generator) -> list[list[Tensor]]:
    """What there is to learn from at some places of pictures (B, 1, side, side)."""
    seen, wanted = transform_windows(blurred), transform_windows(sharpen_edges(blurred))
    told = [*log_spectra(seen), *edge_mixtures(seen, wanted, edge_projection(filters))]
    evidence = torch.cat([t.expand(-1, -1, *told[0].shape[2:]) for t in told], 1).half()
    reach = MIDDLE // 2
    # The middle of a place lies as far beyond its corner as it is from the next one: half a window.
    along = torch.arange(evidence.shape[-1]) * PLACE + PLACE
    inside = ((along >= reach) & (along <= blurred.shape[-1] - reach)).nonzero().flatten()
    places = torch.cartesian_prod(inside, inside)
    samples = []
    for number, missing in enumerate((sharp - blurred)[:, 0]):
        padded = functional.pad(blurred[number : number + 1], [filters.shape[-1] // 2] * 4, mode="replicate")
        responses = functional.conv2d(padded, filters[:, None])[0]
        for row, column in places[torch.randperm(len(places), generator=rng)[:PLACES]].tolist():
            down, right = (slice(int(along[at]) - reach, int(along[at]) + reach) for at in (row, column))
            r, m = responses[:, down, right].flatten(1), missing[down, right].flatten()
            correlations = (t / len(m) for t in (r @ r.T, r @ m, m @ m))
            samples.append([evidence[number, :, row, column].clone(), *correlations])
    return samples


def train(
    module: SpectralDeconvolution,
    is_even: Tensor,
    turns: list[tuple[Tensor, Tensor]],
    part: Part,
    args: argparse.Namespace,
) -> None:
    """Train what reads the blur and mixes the filters: the mean gain of the mixtures in dB, harm counted more."""
    count = int(is_even.sum())
    parts = [AROUND_BINS, AROUND_BINS // 2, 2 * count, count]  # of the evidence

    def mixtures(evidence: Tensor) -> Tensor:
        around, whole, around_edges, whole_edges = evidence[:, :, None, None].split(parts, 1)
        return module.mix(module.look((around, whole), (around_edges, whole_edges)))[:, is_even, 0, 0]

    pool, held = (read_pool(args.pool, f"{args.part}-{name}*.pt") for name in ("[0-9]", "held"))
    print(f"{len(pool[0])} samples, {len(held[0])} held back", flush=True)
    torch.manual_seed(args.seed)
    parameters = list(module.parameters())
    optimizer = torch.optim.AdamW(parameters, weight_decay=WEIGHT_DECAY)
    for step in range(args.steps):
        shape = math.cos(math.pi / 2 * step / args.steps) ** 2
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 100) * shape
        picked = torch.randint(len(pool[0]), (BATCH,))
        evidence, among, missing, error = (column[picked] for column in pool)
        frequencies, mixing = turns[int(torch.randint(len(turns), ()))]
        evidence = turn_evidence(evidence.float(), frequencies, mixing)
        correlations = mixing @ among @ mixing.T, missing @ mixing.T, error
        around, whole, *edges = (evidence + NOISE * torch.randn(evidence.shape)).split(parts, 1)
        small = torch.rand(BATCH, 1) < SMALL
        whole, edges[1] = (torch.where(small, a[:, : w.shape[1]], w) for a, w in ((around, whole), edges))
        gained = gain(mixtures(torch.cat([around, whole, *edges], 1)), part.floor, *correlations)
        loss = -(gained + HARM * gained.clamp(max=0)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        if step % 1000 == 999:
            with torch.no_grad():
                unseen = gain(mixtures(held[0].float()), part.floor, *held[1:]).mean()
            print(f"step {step + 1}: training {gained.mean():+.3f} dB, held back {unseen:+.3f} dB", flush=True)


def symmetries(filters: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What the 8 flips and transpositions of a picture do to its spectra, and to what filters make of it.

    Args:
        filters: (count, side, side).

    Returns:
        For each, the indices (544,) of the frequencies that come to stand at every one; and the matrix (count, count)
        that makes the responses of the turned picture, turned back, of those of the picture.

    Raises:
        ValueError: If a filter that is flipped or transposed is no mixture of the filters.
    """
    half = torch.arange(WINDOW * (WINDOW // 2 + 1)).view(WINDOW, -1)
    negative = -torch.arange(WINDOW) % WINDOW
    spectrum = torch.cat([half, half[negative].flip(1)[:, 1:-1]], 1)  # of a real picture: the same at -f as at f
    turns = []
    for down, right, transposed in itertools.product((False, True), repeat=3):
        frequencies = spectrum[negative] if down else spectrum
        frequencies = frequencies[:, negative] if right else frequencies
        frequencies = frequencies.T if transposed else frequencies
        # To filter a turned picture is to filter the picture with what is turned back, the last turn first.
        back = filters.transpose(1, 2) if transposed else filters
        back = back.flip([axis for axis, flips in ((1, down), (2, right)) if flips]).flatten(1)
        mixing = torch.linalg.lstsq(filters.flatten(1).T, back.T).solution.T
        if (mixing @ filters.flatten(1) - back).norm() > 0.01 * back.norm():
            raise ValueError(f"{len(filters)} filters: flipped or transposed, some are no mixtures of them")
        turns.append((frequencies[:, : WINDOW // 2 + 1].flatten(), mixing))
    return turns


def turn_evidence(evidence: Tensor, frequencies: Tensor, mixing: Tensor) -> Tensor:
    """What a turned picture tells: spectra and then mixtures, as (B, channels); the rest is of `symmetries`."""
    spectra, edges = evidence.tensor_split([AROUND_BINS * 3 // 2], 1)
    spectra = spectra.unflatten(1, (-1, len(frequencies)))[:, :, frequencies].flatten(1)
    # The responses are mixed by `mixing`, so what mixes them is by its inverse.
    edges = (edges.unflatten(1, (-1, len(mixing))) @ torch.linalg.inv(mixing)).flatten(1)
    return torch.cat([spectra, edges], 1)


def read_pool(folder: Path, pattern: str) -> list[Tensor]:
    shards = [torch.load(file) for file in sorted(folder.glob(pattern))]
    if not shards:
        raise SystemExit(f"{folder}: files are needed to train on and to hold back; --draw {2 * SHARD} or more")
    return [torch.cat(column) for column in zip(*shards, strict=True)]


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
    return 10 * ((error + floor) / (left + floor)).log10()


if __name__ == "__main__":
    main()
