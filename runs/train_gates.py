"""Train the gates of the blind deconvolution of `saphn-s`: how much to take of what each of its parts would do.

    python runs/train_gates.py --photos DIR --frames DIR --pool DIR --init FILE --out FILE

The parts near, mid and far of --init are kept as they are (`train_blind_deconvolution.py` trains those). What they
would do to a picture, and what is missing there, are looked at once: the gain of any shares of the three is known by
their products, of which means around 24 cells of each picture are kept in --pool. A run draws --draw pictures beside
those that lie there; runs with other seeds may draw at the same time, with --steps 0. Behind other parts, begin a new
pool. Every 20th file is held back and has photos of its own, and what is gained there is printed.
"""

import argparse
import math
from pathlib import Path

from unsmear.process import tune_process

tune_process(training=True)  # before PyTorch is loaded

import torch
from torch import Tensor
from torch.nn import functional
from train_blind_deconvolution import SHARD, Part, decibels, fill_pool, read_pool, reduced

from unsmear.data.blur import CLEAN, GOPRO, MEDIUM, MILD, STRONG, BlurConfig
from unsmear.models import load_model, save_model
from unsmear.models.blind_deconvolution import BlindDeconvolution
from unsmear.models.gates import CELL, Gates, compare, detail
from unsmear.models.saphn import SAPHN
from unsmear.models.spectra import mean_around

STILL = BlurConfig(extent=0.0)
PICTURES = Part(
    side=704,
    sizes=(1, 2),
    blur=((MILD, 4), (MEDIUM, 4), (STRONG, 3), (GOPRO, 2), (CLEAN, 0.5), (STILL, 0.7)),
    frames_size=1,
    frames_share=0.1,
    rounded=True,
    floor=1e-6,
    imagined=0.0,
    patterns_share=0.1,
)
CELLS = 24  # of a picture
BATCH, RATE, WEIGHT_DECAY, NOISE = 48, 3e-3, 0.5, 0.1  # of the training; noise on what is compared, of its deviation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--frames", type=Path, required=True, help="folder with consecutive frames of a video")
    parser.add_argument("--pool", type=Path, required=True, help="folder for what is drawn")
    parser.add_argument("--init", required=True, help="weights of the network")
    parser.add_argument("--out", type=Path, required=True, help="weights file to write")
    parser.add_argument("--draw", type=int, default=10000, help="pictures to draw")
    parser.add_argument("--steps", type=int, default=2000, help="steps of the training")
    parser.add_argument("--harm", type=float, default=1.0, help="what a picture loses counts so many times more")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    network = load_model(args.init)
    if not isinstance(network, SAPHN) or network.blind is None:
        parser.error("--init must be a network with a filter basis")
    args.pool.mkdir(parents=True, exist_ok=True)
    if args.draw:
        draw(network.blind.eval(), args)
    if args.steps:
        network.blind.gates = train(args)
        save_model(network, args.out)
        print(f"wrote {args.out}")


def draw(blind: BlindDeconvolution, args: argparse.Namespace) -> None:
    """Fill the pool: for cells of each picture, what is compared, and products."""

    def frames_side(most: int, rng: torch.Generator) -> int:
        return most * (2 + int(torch.randint(3, (), generator=rng))) // 4 // CELL * CELL

    def sample(blurred: Tensor, sharp: Tensor, rng: torch.Generator) -> list[list[Tensor]]:
        side = blurred.shape[2] // CELL * CELL
        return _samples(blind, blurred[..., :side, :side], sharp[..., :side, :side], rng)

    photos = [list(reduced(args.photos, size)) for size in PICTURES.sizes]
    fill_pool("gates", PICTURES, photos, args, frames_side, sample, SHARD)


def _samples(blind: BlindDeconvolution, blurred: Tensor, sharp: Tensor, rng: torch.Generator) -> list[list[Tensor]]:
    """Of pictures (B, 1, side, side), each: what is compared (24, 14), and products of changes (24, 10)."""
    estimates, _ = blind.estimates(blurred)
    changes = torch.cat([estimates, sharp - blurred], 1)
    one, other = torch.triu_indices(changes.shape[1], changes.shape[1])
    products = mean_around(functional.avg_pool2d(changes[:, one] * changes[:, other], CELL), 3)
    samples = []
    for compared, product in zip(compare(detail(blurred), estimates), products, strict=True):
        picked = torch.randperm(product[0].numel(), generator=rng)[:CELLS]
        samples.append([some.flatten(1)[:, picked].T.contiguous() for some in (compared, product)])
    return samples


def train(args: argparse.Namespace) -> Gates:
    """Train new gates: the mean gain of pictures in dB, harm counted more."""
    (compared, products), held = (read_pool(args.pool, f"gates-{name}*.pt") for name in ("[0-9]", "held"))
    print(f"{len(compared)} pictures, {len(held[0])} held back, near alone gains {_near_alone(held[1]):+.3f} dB there")
    torch.manual_seed(args.seed)
    gates = Gates(3)
    mean, deviation = (f(compared.flatten(0, 1)) for f in (lambda x: x.mean(0), lambda x: x.std(0) + 1e-3))
    optimizer = torch.optim.AdamW(gates.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    for step in range(args.steps):
        share = min(1, (step + 1) / 50) * math.cos(math.pi / 2 * step / args.steps) ** 2
        optimizer.param_groups[0]["lr"] = share * RATE
        picked = torch.randint(len(compared), (BATCH,))
        seen = (compared[picked] - mean) / deviation
        gained = gain(gates.shares(seen + NOISE * torch.randn(seen.shape)), products[picked])
        loss = -(gained + args.harm * gained.clamp(max=0)).mean()
        gates.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 500 == 499 or step == args.steps - 1:
            with torch.no_grad():
                there = gain(gates.shares((held[0] - mean) / deviation), held[1])
            harm = there.clamp(max=0).mean()
            print(f"step {step + 1}: held back {there.mean():+.3f} dB, of it harm {harm:+.3f} dB", flush=True)
    with torch.no_grad():  # from here on the first layer does what was done before it
        gates.first.weight /= deviation
        gates.first.bias -= gates.first.weight @ mean
    return gates


def _near_alone(products: Tensor) -> float:
    return gain(torch.tensor([1.0, 0.0, 0.0]).expand(*products.shape[:2], 3), products).mean().item()


def gain(shares: Tensor, products: Tensor) -> Tensor:
    """What pictures gain, dB (B,), of shares (B, 24, 3), by products (B, 24, 10) of changes and what is missing."""
    left = torch.cat([-shares, torch.ones_like(shares[..., :1])], 2)
    one, other = torch.triu_indices(4, 4)
    twice = torch.where(one == other, 1.0, 2.0)
    error = (twice * left[..., one] * left[..., other] * products).sum(2).mean(1)
    return decibels(products[..., -1].mean(1), error, PICTURES.floor)


if __name__ == "__main__":
    main()
