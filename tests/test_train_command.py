"""`unsmear train` and `unsmear synth` as a user meets them."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("accelerate")

from unsmear import load_model
from unsmear.errors import UsageError
from unsmear.train.command import configure


def unsmear(*arguments):
    command = [sys.executable, "-m", "unsmear", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("UNSMEAR_CACHE", str(tmp_path / "cache"))


def write_pictures(folder, count, size=(150, 140)):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(folder.name))
    for i in range(count):
        coarse = rng.integers(0, 256, (14, 15, 3), np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / f"{i:03}.png")
    return folder


def test_smoke_recipe_trains_stops_and_resumes(tmp_path):
    photos, frames = write_pictures(tmp_path / "photos", 3), write_pictures(tmp_path / "frames", 13)
    scenes = tmp_path / "pairs" / "train" / "SCENE"
    for side in ("blur", "sharp"):
        write_pictures(scenes / side, 2)
    arguments = ["train", "--recipe", "smoke", "--data", photos, "--data", f"frames:{frames}"]
    arguments += ["--data", tmp_path / "pairs", "--validate", photos, "--out", tmp_path / "run"]
    arguments += ["--set", "frame_share=0.3", "--set", "pair_share=0.3"]
    first = unsmear(*arguments, "--minutes", "0.001")
    assert first.returncode == 0, first.stderr
    assert "GoPro (blur), train: 2 pairs" in first.stderr
    assert "stopped, go on with --resume" in first.stderr

    again = unsmear(*arguments)
    assert again.returncode == 2
    assert again.stderr.strip().endswith("holds a run already; pass --resume to go on with it, or choose another --out")

    last = unsmear(*arguments, "--resume")
    assert last.returncode == 0, last.stderr
    assert "30 of 30 steps, done" in last.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert rows[-2]["step"] == 30
    assert {"loss", "psnr", "gain", "rate", "pictures_per_second", "minutes_left"} <= rows[-2].keys()
    assert rows[-1]["validation"]["mild"]["n"] == 3
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["config"]["pair_share"] == 0.3
    assert load_model(tmp_path / "run" / "weights.safetensors").config.widths == (16, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "nope"], "unknown recipe 'nope': choose one of default, paper, gpu, finetune, smoke"),
        (["--set", "depth=3"], "--set 'depth=3': write FIELD=VALUE with one of model, overrides"),
        (["--set", "steps=many"], "--set 'steps=many': steps is of another type, such as 100000"),
        (["--set", "steps=0"], "steps must be at least 1"),
        (["--data", "missing"], "missing: no such folder; give DIR, or photos:DIR, frames:DIR, pairs:DIR"),
    ],
)
def test_mistakes_get_one_line(tmp_path, arguments, message):
    photos = write_pictures(tmp_path / "photos", 1)
    run = unsmear("train", "--data", photos, "--out", tmp_path / "run", *arguments)
    assert run.returncode == 2
    assert run.stderr.startswith(f"unsmear: error: {message}")
    assert run.stderr.count("\n") == 1


def test_settings_change_the_recipe():
    config = configure("default", ["steps=7", "mixture=[1,0,0,2]", "init=saphn-s", 'overrides={"levels": 1}', "clip=1"])
    assert (config.steps, config.mixture, config.init, config.overrides) == (7, (1, 0, 0, 2), "saphn-s", {"levels": 1})
    assert config.clip == 1.0
    with pytest.raises(UsageError, match="mixture must be four shares"):
        configure("default", ["mixture=[0,0,0,1]"])


def test_synth_draws_a_sheet(tmp_path):
    photos = write_pictures(tmp_path / "photos", 2)
    run = unsmear("synth", photos, "--preview", tmp_path / "sheet.png", "--count", 3, "--size", 64)
    assert run.returncode == 0, run.stderr
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (2 * 64 + 2, 3 * 64 + 2 * 2)
    wrong = unsmear("synth", photos, "--preview", tmp_path / "sheet.png", "--strength", "wild")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "unsmear: error: unknown strength 'wild': choose one of mild, medium, strong, gopro\n",
    )
