"""What it costs that attention is normalized over whole pictures, though it has seen no more than crops in training.

    python runs/attention_statistics.py KODAK_DIR [--model NAME|FILE] [--limit N]

The pictures (768 x 512, some upright) are blurred and scored as by `runs/validate.py`. Beside the network as it is:
attention in windows of their own, 4 x 2 to a picture of 768 x 512, which are 192 x 256 pixels, about the crops of 192 x
192 of the last training; the softmax over pixels of Eq. 1 made flatter or steeper by a temperature; and no attention
at all, to see how much there is to win. Everything else still sees the whole picture. Gains in dB.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

from unsmear.process import tune_process

tune_process()  # before PyTorch is loaded

import torch
from torch import Tensor

from unsmear import Deblurrer
from unsmear.data.store import read_picture
from unsmear.models import load_model
from unsmear.models.network import Network
from unsmear.models.saphn import Attention
from unsmear.train.validation import Validation

LONG, SHORT = 4, 2  # windows along the longer and the shorter side of a picture
TEMPERATURES = (0.5, 0.8, 1.25, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sharp", type=Path, help="a folder of PNG files")
    parser.add_argument("--model", default="saphn-s")
    parser.add_argument("--limit", type=int, help="only the first N pictures")
    args = parser.parse_args()

    variants: dict[str, Callable[[Network], None]] = {"as it is": lambda network: None, "windows": use_windows}
    for temperature in TEMPERATURES:
        variants[f"temperature {temperature}"] = lambda network, t=temperature: heat(network, t)
    variants["none"] = leave_out
    validation = Validation([read_picture(p) for p in sorted(args.sharp.glob("*.png"))[: args.limit]])
    print("| attention | mild | medium | strong | sharp kept |\n| --- | --- | --- | --- | --- |")
    for name, change in variants.items():
        network = load_model(args.model)
        change(network)
        scores = validation.score(Deblurrer(network))
        gains = [statistics.mean(s.gain for s in scores[strength]) for strength in ("mild", "medium", "strong")]
        kept = statistics.mean(s.after for s in scores["sharp"])
        print(f"| {name} | {' | '.join(f'{gain:+.3f}' for gain in gains)} | {kept:.2f} |", flush=True)


def attentions(network: Network) -> list[Attention]:
    return [module for module in network.modules() if isinstance(module, Attention)]


def use_windows(network: Network) -> None:
    for attention in attentions(network):
        whole = attention.forward

        def forward(
            x: Tensor, source: Tensor, onto: Tensor, overwrite: bool = False, whole: Callable[..., Tensor] = whole
        ) -> Tensor:
            made = whole(*(cut(t) for t in (x, source, onto)))
            return join(made, *x.shape[2:])

        attention.forward = forward


def cut(x: Tensor) -> Tensor:
    """Put the windows of (B, C, H, W) into the batch."""
    down, across = (SHORT, LONG) if x.shape[3] >= x.shape[2] else (LONG, SHORT)
    rows = torch.cat(x.chunk(down, 2))
    return torch.cat(rows.chunk(across, 3)).contiguous(memory_format=torch.channels_last)


def join(windows: Tensor, height: int, width: int) -> Tensor:
    """Undo `cut`."""
    down, across = (SHORT, LONG) if width >= height else (LONG, SHORT)
    return torch.cat(torch.cat(windows.chunk(across), 3).chunk(down), 2)


def heat(network: Network, temperature: float) -> None:
    for attention in attentions(network):
        for parameter in attention.gather.parameters():
            parameter.data /= temperature


def leave_out(network: Network) -> None:
    for attention in attentions(network):
        attention.project.weight.data.zero_()


if __name__ == "__main__":
    main()
