"""Compare choices of network and training at an equal budget, by pictures that no run was trained on.

    python runs/compare.py GROUP --photos DIR --validate DIR --out DIR [--steps 1000] [--seeds 0 1]

The groups are losses, designs, components, takeoff and additions.

Every variant starts from fresh weights and is scored with its averaged weights. Losses and components take the same
number of steps on the same batches. Designs take the same arithmetic: as many steps as cost the multiply-accumulates
of --steps steps of the recipe's network and batch, so that a smaller network sees more pictures. What is finished is
found again in --out, so a run that was stopped goes on. The table gives the mean gain over the blurred input in dB,
over the pictures and the seeds; behind it, half the span between the seeds. "training" is the mean gain on the
training batches of the second half of the run.
"""

import argparse
import dataclasses
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unsmear.process import tune_process

tune_process(training=True)  # before PyTorch is loaded

from unsmear import Deblurrer, create_model
from unsmear.cost import count_macs
from unsmear.data.store import PictureStore, list_pictures, read_picture
from unsmear.train.command import open_log, sharp_photos
from unsmear.train.config import TrainConfig, default
from unsmear.train.loop import train
from unsmear.train.validation import Validation, summarize

SIDE = 384  # center crops of the validation pictures
CLEAN = (0.0, 0.0, 0.0, 0.0, 1.0)
PAPER = {"skips": False, "filter_basis": 0}  # nothing that the paper has not

# What each variant changes in the recipe "default" with mild and medium blur from the start; `overrides` are of the
# network `saphn-s`.
GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    "losses": {
        "MSE, output only": {"loss": "mse", "lower_weight": 0.0},
        "MSE, all levels": {"loss": "mse"},
        "Charbonnier, output only": {"lower_weight": 0.0},
        "Charbonnier, all levels": {},
        "Charbonnier, all levels, frequency 0.05": {"frequency_weight": 0.05},
    },
    "designs": {
        "as shipped": {},
        "wider, 48/96/192": {"overrides": {"widths": [48, 96, 192], "lower_widths": [24, 48, 96]}},
        "thinner, 16/32/64": {"overrides": {"widths": [16, 32, 64], "lower_widths": [8, 16, 32]}},
        "equal widths at all levels": {"overrides": {"lower_widths": None}},
        "two blocks a scale": {"overrides": {"encoder_blocks": 2, "decoder_blocks": 2}},
        "half the maps": {"overrides": {"channels_per_map": 4}},
        "full filters": {"overrides": {"filters": "full"}},
        "kernels from 3x3": {"overrides": {"generator_kernel": 3}},
        "no residual to the input": {"overrides": {"residual": False, "filter_basis": 0}},
        "full resolution": {"overrides": {"unshuffle": 1}},
        "quarter resolution": {"overrides": {"unshuffle": 4}},
        "one level": {"overrides": {"levels": 1}},
        "two levels": {"overrides": {"levels": 2}},
        "4 crops of 128": {"batch_size": 4, "crop": 128},
        "curriculum": {"curriculum": True},
    },
    "takeoff": {
        "only clean blur, no skips": {"mixture": CLEAN, "overrides": PAPER},
        "only clean blur, skips": {"mixture": CLEAN, "overrides": {"filter_basis": 0}},
        "only clean blur, skips and filter basis": {"mixture": CLEAN},
    },
    "additions": {
        "skips and filter basis, as shipped": {},
        "no filter basis": {"overrides": {"filter_basis": 0}},
        "neither, as in the paper": {"overrides": PAPER},
    },
    "components": {
        "attention and filtering": {"overrides": PAPER},
        "attention only": {"overrides": PAPER | {"filtering": False}},
        "filtering only": {"overrides": PAPER | {"attention": False, "cross_attention": False}},
        "neither": {"overrides": PAPER | {"attention": False, "cross_attention": False, "filtering": False}},
        "both, no attention to the encoder": {"overrides": PAPER | {"cross_attention": False}},
        "both, full filters": {"overrides": PAPER | {"filters": "full"}},
        "both, one level": {"overrides": PAPER | {"levels": 1}},
        "both, two levels": {"overrides": PAPER | {"levels": 2}},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--validate", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()

    store = PictureStore(list_pictures(args.photos))
    validation = Validation([center(read_picture(p)) for p in list_pictures(args.validate)])
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in args.seeds:  # all variants of a seed first, so that a table can be had early
        for name, changes in GROUPS[args.group].items():
            config = dataclasses.replace(default(), steps=args.steps, seed=seed, curriculum=False, cooldown=0.4)
            config = dataclasses.replace(config, **{"mixture": (2.0, 1.0), **changes})
            if args.group == "designs":
                config = dataclasses.replace(
                    config, steps=round(args.steps * arithmetic(default()) / arithmetic(config))
                )
            folder = args.out / args.group / f"{name} {seed}".replace(" ", "-").replace(",", "")
            rows.setdefault(name, []).append(run(config, store, validation, folder))
            print(f"seed {seed}: {name}", flush=True)
        print_table(rows, args.steps)


def arithmetic(config: TrainConfig) -> int:
    """Multiply-accumulates of the forward pass of a step."""
    network = create_model(config.model, **config.overrides)
    return config.batch_size * count_macs(network, config.crop, config.crop)


def run(config: TrainConfig, store: PictureStore, validation: Validation, folder: Path) -> dict[str, Any]:
    """Train and score one variant, unless its result is there already."""
    result = folder / "result.json"
    if not result.exists():
        photos = sharp_photos(store, config)
        config = dataclasses.replace(config, log_every=min(config.log_every, config.steps))
        resume = any((folder / "checkpoints").glob("step-*"))
        folder.mkdir(parents=True, exist_ok=True)
        with open_log(folder) as log:
            train(config, [(photos, 1.0)], folder, resume=resume, log=log)
        lines = (folder / "log.jsonl").read_text().splitlines()
        gained = {row["step"]: row["gain"] for row in map(json.loads, lines)}  # what was done twice counts once
        scores = summarize(validation.score(Deblurrer(folder / "weights.safetensors")))
        gains = {name: row.get("gain", row["after"]) for name, row in scores.items()}
        tail = [gain for step, gain in gained.items() if step > config.steps / 2]
        found = {"gains": gains, "training_gain": statistics.mean(tail), "steps": config.steps}
        result.write_text(json.dumps(found, indent=1) + "\n")
    return json.loads(result.read_text())


def print_table(rows: dict[str, list[dict[str, Any]]], steps: int) -> None:
    columns = ["mild", "medium", "strong", "sharp"]
    print(f"\n{steps} steps\n| variant | {' | '.join(columns)} | training |\n|{' --- |' * (2 + len(columns))}")
    for name, results in rows.items():
        cells = [spread(result["gains"][column] for result in results) for column in columns]
        cells.append(spread(result["training_gain"] for result in results))
        print(f"| {name} | {' | '.join(cells)} |")


def spread(values: Iterable[float]) -> str:
    values = list(values)
    half = f" +-{(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):+.3f}{half}"


def center(picture: Any) -> Any:
    top, left = max(0, picture.shape[0] - SIDE) // 2, max(0, picture.shape[1] - SIDE) // 2
    return picture[top : top + SIDE, left : left + SIDE]


if __name__ == "__main__":
    main()
