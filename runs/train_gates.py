"""Train the gates of the blind deconvolution of `saphn-s`: how much to take of what each of its parts would do.

    python runs/train_gates.py [--colors] --photos DIR --frames DIR --pool DIR --init FILE --out FILE

The parts near, mid and far of --init are kept as they are (`train_blind_deconvolution.py` trains those). What they
would do to a picture, and what is missing there, are looked at once: the gain of any shares of the three is known by
their products, of which means around 24 cells of each picture are kept in --pool. A run draws --draw pictures beside
those that lie there; runs with other seeds may draw at the same time, with --steps 0. Behind other parts, begin a new
pool. Every 20th file is held back and has photos of its own, and what is gained there is printed.

With --colors it is the gates that tell how far what near does to the luma holds for colors, behind the others.
"""

import argparse
import math
from pathlib import Path

from unsmear.process import tune_process

tune_process(training=True)  # before PyTorch is loaded

import torch
from torch import Tensor, nn
from torch.nn import functional
from train_blind_deconvolution import SHARD, Part, decibels, fill_pool, read_pool, reduced

from unsmear.data.blur import CLEAN, GOPRO, MEDIUM, MILD, STRONG, BlurConfig
from unsmear.models import load_model, save_model
from unsmear.models.blind_deconvolution import BlindDeconvolution
from unsmear.models.gates import CELL, Gates, compare, detail
from unsmear.models.saphn import SAPHN
from unsmear.models.spectra import mean_around
from unsmear.train.growth import grow

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
    parser.add_argument("--colors", action="store_true", help="train the gates of colors, behind the others")
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
    if args.colors:
        network = grow(network, {"blind_colors": True})
    args.pool.mkdir(parents=True, exist_ok=True)
    if args.draw:
        draw(network.blind.eval(), args)
    if args.steps:
        setattr(network.blind, "color_gates" if args.colors else "gates", train(args))
        save_model(network, args.out)
        print(f"wrote {args.out}")


def draw(blind: BlindDeconvolution, args: argparse.Namespace) -> None:
    """Fill the pool: for cells of each picture, what is compared, and products."""
    look = _look_at_colors if args.colors else _look

    def frames_side(most: int, rng: torch.Generator) -> int:
        return most * (2 + int(torch.randint(3, (), generator=rng))) // 4 // CELL * CELL

    def sample(blurred: Tensor, sharp: Tensor, rng: torch.Generator) -> list[list[Tensor]]:
        side = blurred.shape[2] // CELL * CELL
        return samples(*look(blind, blurred[..., :side, :side], sharp[..., :side, :side]), rng)

    photos = [list(reduced(args.photos, size)) for size in PICTURES.sizes]
    fill_pool(_name(args), PICTURES, photos, args, frames_side, sample, SHARD, args.colors)


def _name(args: argparse.Namespace) -> str:
    return "colors" if args.colors else "gates"


def _look(blind: BlindDeconvolution, blurred: Tensor, sharp: Tensor) -> tuple[Tensor, Tensor]:
    """What is compared of pictures (B, 1, side, side), (B, 14, h, w); and what near, mid and far would change, and
    what is missing, (B, 4, 1, side, side)."""
    changes, _ = blind.changes(blurred, blurred)
    compared = compare(detail(blurred), torch.cat(changes, 1))
    return compared, torch.stack([*changes, sharp - blurred], 1)


def _look_at_colors(blind: BlindDeconvolution, blurred: Tensor, sharp: Tensor) -> tuple[Tensor, Tensor]:
    """The same of pictures (B, 3, side, side), (B, 8, h, w); and what near would change of colors beside the luma,
    and what is missing without that, (B, 2, 3, side, side)."""
    blind.color_gates = probe = _Probe()
    corrections = []
    for probe.share in 0.0, 1.0:
        corrections.append(blind(blurred).correction)
    without, all_of_it = corrections
    return probe.compared, torch.stack([all_of_it - without, sharp - blurred - without], 1)


class _Probe(nn.Module):
    """Stands in for gates: takes one share everywhere, and keeps what they would go by."""

    share: float
    compared: Tensor

    def forward(self, compared: Tensor, height: int, width: int) -> Tensor:
        self.compared = compared
        return compared.new_full((len(compared), 1, height, width), self.share)


def samples(compared: Tensor, changes: Tensor, rng: torch.Generator) -> list[list[Tensor]]:
    """Of pictures, each: what is compared of some cells, (24, channels), and products of changes, (24, products)."""
    one, other = torch.triu_indices(changes.shape[1], changes.shape[1])
    products = mean_around(functional.avg_pool2d((changes[:, one] * changes[:, other]).mean(2), CELL), 3)
    found = []
    for seen, product in zip(compared, products, strict=True):
        picked = torch.randperm(product[0].numel(), generator=rng)[:CELLS]
        found.append([some.flatten(1)[:, picked].T.contiguous() for some in (seen, product)])
    return found


def train(args: argparse.Namespace) -> Gates:
    """Train new gates: the mean gain of pictures in dB, harm counted more."""
    (compared, products), held = (read_pool(args.pool, f"{_name(args)}-{name}*.pt") for name in ("[0-9]", "held"))
    count = 1 if args.colors else 3
    print(
        f"{len(compared)} pictures, {len(held[0])} held back, all of near gains {_near(count, held[1]):+.3f} dB there"
    )
    torch.manual_seed(args.seed)
    gates = Gates(compared.shape[2], count)
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


def _near(count: int, products: Tensor) -> float:
    return gain(torch.eye(count)[0].expand(*products.shape[:2], count), products).mean().item()


def gain(shares: Tensor, products: Tensor) -> Tensor:
    """What pictures gain, dB (B,), of shares (B, 24, n), by products of n changes and what is missing, (B, 24, m)."""
    left = torch.cat([-shares, torch.ones_like(shares[..., :1])], 2)
    one, other = torch.triu_indices(left.shape[2], left.shape[2])
    twice = torch.where(one == other, 1.0, 2.0)
    error = (twice * left[..., one] * left[..., other] * products).sum(2).mean(1)
    return decibels(products[..., -1].mean(1), error, PICTURES.floor)


if __name__ == "__main__":
    main()
