"""Average weights of one network, as those of version 12 of `saphn-s` were: of the file it began with, and of its end.

python runs/average_weights.py MODEL|FILE ... --out FILE
"""

import argparse
from pathlib import Path

import torch

from unsmear.models import load_model, save_model


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    networks = [load_model(model) for model in args.models]
    if any(network.config != networks[0].config for network in networks):
        parser.error("these are not of one network: their configurations differ")
    for alike in zip(*(network.parameters() for network in networks), strict=True):
        alike[0].copy_(torch.stack(alike).mean(0))
    save_model(networks[0], args.out)


if __name__ == "__main__":
    main()
