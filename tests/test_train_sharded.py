"""Training with the weights cut into pieces (FSDP): as with whole ones, but for rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")
if not torch.distributed.is_available():
    pytest.skip("this PyTorch knows no distributed training", allow_module_level=True)

from accelerate import Accelerator, DistributedType
from test_train import PLAIN, assert_same_weights, source

from unsmear import create_model, load_model
from unsmear.errors import UsageError
from unsmear.train.loop import train

ROUNDING = 1e-6  # gradients and their norm are summed in another order


def launch(out, *names):
    script = Path(__file__).with_name("train_sharded.py")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        script,
        out,
        *names,
    ]
    run = subprocess.run(
        command, timeout=600, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert run.returncode == 0, run.stderr


def average(run):
    """The averaged weights of a run's newest checkpoint, in float32."""
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    return torch.load(newest / "custom_checkpoint_0.pkl")


def losses(run):
    return [row["loss"] for row in json.loads((run / "log.json").read_text()) if "loss" in row]


def validations(run):
    return [row["validation"] for row in json.loads((run / "log.json").read_text()) if "validation" in row]


def check_equal(out, name):
    whole, cut = out / f"{name}-whole", out / f"{name}-cut"
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-5, nan_ok=True)
    assert len(losses(cut)) == PLAIN.steps
    expected, actual = average(whole), average(cut)
    assert int(actual["n_averaged"]) == PLAIN.steps - 1  # one step was not finite
    torch.testing.assert_close(actual, expected, rtol=0, atol=ROUNDING)
    torch.manual_seed(PLAIN.seed)
    start = create_model(PLAIN.model, **PLAIN.overrides).state_dict()
    network = load_model(cut / "weights.safetensors").requires_grad_(False)
    moved = max(float((weight - start[key]).abs().max()) for key, weight in network.named_parameters())
    assert moved > 3e-3
    for key, weight in network.named_parameters():  # the file holds 16 bits
        torch.testing.assert_close(weight, actual[f"module.{key}"], rtol=1e-3, atol=1e-6)


def check_resumed(out, name):
    assert len(losses(out / name)) < PLAIN.steps
    assert_same_weights(out / name, out / "muon-cut")
    torch.testing.assert_close(average(out / name), average(out / "muon-cut"), rtol=0, atol=0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("sharded")
    launch(out, "muon", "SHARDED_STATE_DICT")
    return out


def test_pieces_train_as_the_whole_does(runs):
    check_equal(runs, "muon")


def test_resuming_pieces_changes_no_bit(runs):
    check_resumed(runs, "SHARDED_STATE_DICT")


def test_pieces_are_pieces(runs):
    (checkpoint,) = (runs / "muon-cut" / "checkpoints").glob("step-*")
    pieces = [sorted(p.name for p in (checkpoint / f"optimizer_{i}").glob("*.distcp")) for i in range(2)]
    assert pieces == [["__0_0.distcp", "__1_0.distcp"]] * 2
    with pytest.raises(UsageError, match="was written with FSDP; resume it the same way"):
        train(PLAIN, source(), runs / "muon-cut", resume=True)


@pytest.mark.slow
def test_pieces_train_as_the_whole_does_in_every_way(tmp_path):
    names = ["adamw", "adam", "bf16", "blocks", "finetuned", "validated"]
    launch(tmp_path, "muon", *names, "FULL_STATE_DICT")
    for name in names:
        check_equal(tmp_path, name)
    check_resumed(tmp_path, "FULL_STATE_DICT")
    assert validations(tmp_path / "validated-cut") == validations(tmp_path / "validated-whole")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (DistributedType.DEEPSPEED, "DEEPSPEED is not supported: launch without it, or with --use_fsdp"),
        (DistributedType.MEGATRON_LM, "MEGATRON_LM is not supported"),
        (DistributedType.FSDP, "FSDP version 1 is not supported: launch with --fsdp_version 2"),
    ],
)
def test_other_kinds_of_sharding_are_refused(tmp_path, monkeypatch, kind, message):
    monkeypatch.setattr(Accelerator, "distributed_type", kind)
    monkeypatch.setattr(Accelerator, "is_fsdp2", False)
    with pytest.raises(UsageError, match=message):
        train(PLAIN, source(), tmp_path)
