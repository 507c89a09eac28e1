"""Runs of two processes, whole and cut into pieces, for test_train_sharded.py. Usage: train_sharded.py OUT NAME...

Started once by torchrun, as starting the processes takes longer than the runs.
"""

import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import accelerate.accelerator
import accelerate.optimizer
import numpy as np
import torch
from accelerate.state import AcceleratorState, DistributedType, PartialState
from test_train import PLAIN, source

from unsmear.data.batches import RealPairs
from unsmear.train.loop import train
from unsmear.train.validation import Validation

LAUNCHED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}


class OneBad(RealPairs):
    """Pairs of which the first process meets one that is not finite."""

    def draw(self, count, size, progress, rng):
        blurred, sharp = super().draw(count, size, progress, rng)
        return (blurred * math.nan if progress == 0.25 and PartialState().is_main_process else blurred), sharp


class CutOnProcessors(AcceleratorState):
    """Accelerate takes up FSDP on GPUs only; here is what it does there, for processors."""

    def __init__(self, *args, **given):
        fresh = not self._shared_state
        super().__init__(*args, **given)
        if fresh:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = given["fsdp_plugin"]
            if self._mixed_precision != "no":
                self.fsdp_plugin.set_mixed_precision(self._mixed_precision)


def run(out, config, *, cut, launched=None, **given):
    """Train in folder `out`, and leave the log there."""
    AcceleratorState._reset_state(reset_partial_state=True)
    state = CutOnProcessors if cut else AcceleratorState
    accelerate.accelerator.AcceleratorState = accelerate.optimizer.AcceleratorState = state
    variables = {**LAUNCHED, **(launched or {})} if cut else {}
    os.environ.update(variables)
    good, rows = source()[0][0], []
    train(config, [(OneBad(good.blurred, good.sharp), 1.0)], out, log=rows.append, **given)
    for name in variables:
        del os.environ[name]
    if PartialState().is_main_process:
        (out / "log.json").write_text(json.dumps(rows))


def main(out, names):
    pictures = [np.random.default_rng(1).integers(0, 256, (40, 48, 3), np.uint8)]
    blocks = {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_TRANSFORMER_CLS_TO_WRAP": "ResidualBlock"}
    both = {
        "muon": (PLAIN, {}),
        "adamw": (replace(PLAIN, optimizer="adamw"), {}),
        "adam": (replace(PLAIN, optimizer="adam", loss="mse", lower_weight=0.1, clip=0.0), {}),
        "bf16": (replace(PLAIN, precision="bf16"), {}),
        "blocks": (replace(PLAIN, checkpoint_activations=True), {"launched": blocks}),
        "finetuned": (replace(PLAIN, init=str(out / "muon-whole" / "weights.safetensors")), {}),
        "validated": (replace(PLAIN, validate_every=4), {"validation": Validation(pictures)}),
    }
    for name in names:
        if name in both:
            config, given = both[name]
            for kind in ("whole", "cut"):
                run(out / f"{name}-{kind}", config, cut=kind == "cut", **given)
        else:  # interrupted after a step
            launched = {"FSDP_STATE_DICT_TYPE": name}
            for resume in (False, True):
                minutes = None if resume else 0
                run(out / name, PLAIN, cut=True, launched=launched, minutes=minutes, resume=resume)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
    torch.distributed.destroy_process_group()
