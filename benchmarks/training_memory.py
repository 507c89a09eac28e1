"""Peak memory of one training step of `saphn` as the paper trains it, batch 6 x 256 x 256, float32.

    python benchmarks/training_memory.py [--recompute] [--batch 6] [--crop 256] [--model saphn]

Prints the resident memory of the process at its peak, PyTorch itself (some 0.3 GiB) included.
"""

import argparse
import resource

from unsmear.process import tune_process

tune_process(training=True)  # before PyTorch is loaded

import torch

from unsmear import create_model
from unsmear.train.config import paper
from unsmear.train.loop import make_optimizers
from unsmear.train.loss import restoration_loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="saphn")
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--recompute", action="store_true")
    args = parser.parse_args()
    network = create_model(args.model).train().to(memory_format=torch.channels_last)
    network.checkpoint_activations = args.recompute
    (optimizer,) = make_optimizers(network, paper())
    picture = torch.rand(args.batch, 3, args.crop, args.crop).contiguous(memory_format=torch.channels_last)
    restoration_loss(network.estimates(picture), picture.flip(0)).backward()
    optimizer.step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    what = "recomputed" if args.recompute else "kept"
    print(f"{args.model}, batch {args.batch} x {args.crop} x {args.crop}, activations {what}: {peak:.1f} GiB")


if __name__ == "__main__":
    main()
