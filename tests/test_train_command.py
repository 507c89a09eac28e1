"""`unsmear train` and `unsmear synth` as a user meets them."""

import json
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image
from test_video import write_video

pytest.importorskip("accelerate")

from unsmear import load_model
from unsmear.errors import ImageError, UsageError
from unsmear.train.command import configure, open_log, run_training


def unsmear(*arguments):
    command = [sys.executable, "-m", "unsmear", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


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


@pytest.mark.parametrize("steps", [10, pytest.param(30, marks=pytest.mark.slow)])
def test_smoke_recipe_trains_stops_and_resumes(tmp_path, steps):
    photos, frames = write_pictures(tmp_path / "photos", 2), write_pictures(tmp_path / "frames", 13)
    scenes = tmp_path / "pairs" / "train" / "SCENE"
    for side in ("blur", "sharp"):
        write_pictures(scenes / side, 2)
    arguments = ["train", "--recipe", "smoke", "--data", photos, "--data", f"frames:{frames}"]
    arguments += ["--data", tmp_path / "pairs", "--validate", photos, "--out", tmp_path / "run"]
    for setting in ("frame_share=0.3", "pair_share=0.3", f"steps={steps}", "validate_every=10"):
        arguments += ["--set", setting]
    first = unsmear(*arguments, "--minutes", "0.001")
    assert first.returncode == 0, first.stderr
    assert "GoPro (blur), train: 2 pairs" in first.stderr
    assert "frames: 13 frames in 1 clip\n" in first.stderr
    assert "stopped, go on with --resume" in first.stderr

    again = unsmear(*arguments)
    assert again.returncode == 2
    assert again.stderr.strip().endswith("holds a run already; pass --resume to go on with it, or choose another --out")

    config = (tmp_path / "run" / "config.json").read_text()
    other = unsmear("train", "--data", photos, "--out", tmp_path / "run", "--resume")  # without its recipe
    assert other.returncode == 2
    assert "holds another run: overrides was {" in other.stderr
    assert other.stderr.count("\n") == 1
    assert (tmp_path / "run" / "config.json").read_text() == config

    last = unsmear(*arguments, "--resume", "--set", "log_every=10")
    assert last.returncode == 0, last.stderr
    assert f"{steps} of {steps} steps, done" in last.stderr
    assert "goes on with other settings: log_every was 5, not 10\n" in last.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert rows[-2]["step"] == steps
    assert {"loss", "psnr", "gain", "rate", "pictures_per_second", "minutes_left"} <= rows[-2].keys()
    assert rows[-1]["validation"]["mild"]["n"] == 2
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
        (["--set", "seed=-1"], "seed must not be negative"),
        (["--set", "learning_rate=NaN"], "learning_rate must be finite, not nan"),
        (["--set", "weight_decay=Infinity"], "weight_decay must be finite, not inf"),
        (["--set", "learning_rate=1e300"], "learning_rate must be finite, not 1e+300"),
        (["--set", "mixture=[NaN]"], "mixture must be finite, not nan"),
        (["--set", 'mixture=[1,"a"]'], """--set 'mixture=[1,"a"]': mixture is of another type, such as [1.0"""),
        (["--set", "frozen=[3]"], "--set 'frozen=[3]': frozen is of another type, such as []"),
        (["--set", "init=5"], "--set 'init=5': init is of another type, such as null or the name of a file"),
        (["--set", "crop=20"], "crop must be a multiple of 16 for 'saphn-s', not 20"),
        (
            ["--set", "init=saphn-s", "--set", 'overrides={"encoder_blocks":null}'],
            "'saphn-s' of init cannot become one with {'encoder_blocks': None}",
        ),
        (["--recipe", "finetune", "--set", "model=saphn"], "--set model: recipe 'finetune' begins with 'saphn-s'"),
        (["--set", 'overrides={"name":"x"}'], "--set overrides: the name is no part of a configuration"),
        (["--set", "seed=9223372036854775808"], "seed must be less than 2^63, not 9223372036854775808"),
        (["--set", f"learning_rate={10**400}"], f"--set 'learning_rate={10**400}': learning_rate is of another type"),
        (["--set", "crop=80"], "photos/000.png: 150 x 160 pixels, but crops need 160 along both sides; leave it out"),
        (["--out", "n" * 300], f"{'n' * 300}: File name too long; choose another file or folder"),
        (["--resume"], "run: holds no run to go on with; start without --resume"),
        (["--data", "missing"], "missing: no such folder or video; give PATH, or photos:PATH, frames:PATH, pairs:PATH"),
    ],
)
def test_mistakes_get_one_line(tmp_path, monkeypatch, unsmear_here, arguments, message):
    write_pictures(tmp_path / "photos", 1, (150, 160))
    monkeypatch.chdir(tmp_path)
    code, out, err = unsmear_here("train", "--data", "photos", "--out", "run", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"unsmear: error: {message}")
    assert err.count("\n") == 1


def train_briefly(out, *data, settings=(), **options):
    """Ten steps in this process, where warnings are errors; what a person would be told."""
    told = []
    config = configure("smoke", ["steps=10", "validate_every=10", *settings])
    given = {"validate": None, "minutes": None, "resume": False, "show": lambda row: None, "notice": told.append}
    run_training(config, [str(path) for path in data], out, **given | options)
    return told


def test_videos_and_folders_of_frames_are_trained_on(tmp_path):
    rng = np.random.default_rng(0)
    clip = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(13)]
    video = write_video(tmp_path / "clip.mp4", clip)
    write_video(tmp_path / "several/one.mkv", clip)
    write_video(tmp_path / "several/two.mov", clip)
    frames = write_pictures(tmp_path / "frames", 14)
    told = train_briefly(tmp_path / "run", video, f"frames:{tmp_path / 'several'}", f"frames:{frames}")
    assert told == [
        f"{video}: 13 frames in 1 clip",
        f"{tmp_path / 'several'}: 26 frames in 2 clips",
        f"{frames}: 14 frames in 1 clip",
    ]
    assert (tmp_path / "run/weights.safetensors").exists()

    short = write_video(tmp_path / "short.mp4", clip[:12])
    with pytest.raises(UsageError, match=r"short\.mp4: averaging up to 13 frames needs as many; got 12"):
        train_briefly(tmp_path / "other", short)


def test_several_clips_share_what_is_for_frames(tmp_path, monkeypatch):
    shares = []
    monkeypatch.setattr("unsmear.train.command.train", lambda config, sources, *_, **__: shares.extend(sources))
    photos, frames = write_pictures(tmp_path / "photos", 2), write_pictures(tmp_path / "frames", 13)
    train_briefly(tmp_path / "run", photos, f"frames:{frames}", f"frames:{frames}")
    assert [share for _, share in shares] == [0.125, 0.125, 0.75]


def test_photos_are_not_forgotten_for_pairs(tmp_path, monkeypatch):
    shares = []
    monkeypatch.setattr("unsmear.train.command.train", lambda config, sources, *_, **__: shares.extend(sources))
    photos = write_pictures(tmp_path / "photos", 2)
    for side in ("blur", "sharp"):
        write_pictures(tmp_path / "pairs" / side, 2)
    train_briefly(tmp_path / "run", photos, tmp_path / "pairs")
    assert [share for _, share in shares] == [0.5, 0.5]
    with pytest.raises(UsageError, match="frame_share and pair_share leave nothing for the photos: make them smaller"):
        train_briefly(tmp_path / "other", photos, tmp_path / "pairs", settings=["pair_share=1.0"])


def test_runs_that_never_came_to_a_checkpoint_begin_anew(tmp_path):
    photos = write_pictures(tmp_path / "photos", 2)
    (tmp_path / "run/checkpoints/.step-00000005.part").mkdir(parents=True)
    (tmp_path / "run/config.json").write_text("{")
    train_briefly(tmp_path / "run", photos)
    assert (tmp_path / "run/weights.safetensors").exists()


def test_settings_that_cannot_be_written_leave_those_there_were(tmp_path, monkeypatch):
    photos = write_pictures(tmp_path / "photos", 2)
    train_briefly(tmp_path / "run", photos)
    before = (tmp_path / "run/config.json").read_text()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ImageError, match=r"config\.json: cannot be written: No space left on device"):
        train_briefly(tmp_path / "run", photos, resume=True)
    assert (tmp_path / "run/config.json").read_text() == before


def test_infinities_in_the_log_are_text(tmp_path):
    with open_log(tmp_path) as write:
        write({"step": 1, "validation": {"sharp": {"after": float("inf")}}, "loss": float("nan")})
    row = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=pytest.fail)
    assert row == {"step": 1, "validation": {"sharp": {"after": "inf"}}, "loss": "nan"}


# TensorBoard


def scalars(folder):
    """Steps and values by name, as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_reads_what_the_log_holds(tmp_path):
    pytest.importorskip("tensorboard")
    photos, others = write_pictures(tmp_path / "photos", 2), write_pictures(tmp_path / "others", 1)
    train_briefly(tmp_path / "run", photos, validate=others, tensorboard=True)
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    written = scalars(tmp_path / "run")
    assert [step for step, _ in written["loss"]] == [5, 10]
    for name in ("loss", "psnr", "gain", "rate"):
        assert written[name] == [(row["step"], pytest.approx(row[name])) for row in rows if name in row]
    (validation,) = (row["validation"] for row in rows if "validation" in row)
    for strength in ("mild", "medium", "strong"):
        assert written[f"validation/{strength}/gain"] == [(10, pytest.approx(validation[strength]["gain"], abs=1e-5))]
    assert written["validation/sharp/after"] == [(10, pytest.approx(validation["sharp"]["after"]))]


def test_tensorboard_forgets_what_a_killed_run_will_do_again(tmp_path):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard.writer import SummaryWriter

    for steps in ([5, 10, 15], [10, 15, 20]):
        with suppress(KeyboardInterrupt), open_log(tmp_path, SummaryWriter) as write:
            for step in steps:
                write({"step": step, "loss": float(step)})
            raise KeyboardInterrupt  # which must not lose the last lines either
    assert scalars(tmp_path) == {"loss": [(step, step) for step in (5, 10, 15, 20)]}


def test_missing_tensorboard_is_named_before_anything_is_done(tmp_path):
    photos = write_pictures(tmp_path / "photos", 1)
    arguments = ["unsmear", "train", "--data", str(photos), "--out", str(tmp_path / "run"), "--tensorboard"]
    code = (
        f"import sys; sys.modules['tensorboard'] = None; sys.argv = {arguments}; from unsmear.cli import main; main()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    needed = "--tensorboard needs the package tensorboard: pip install 'unsmear[tensorboard]'"
    assert (run.returncode, run.stderr) == (2, f"unsmear: error: {needed}\n")
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()


def test_settings_change_the_recipe():
    config = configure("default", ["steps=7", "mixture=[1,0,0,2]", "init=saphn-s", 'overrides={"levels": 1}', "clip=1"])
    assert (config.steps, config.mixture, config.init, config.overrides) == (7, (1, 0, 0, 2), "saphn-s", {"levels": 1})
    assert configure("smoke", ["model=dmphn"]).overrides == {}  # those of the recipe are for its own model
    assert configure("smoke", ["model=saphn", 'overrides={"levels": 1}']).overrides == {"levels": 1}
    assert config.clip == 1.0
    with pytest.raises(UsageError, match="mixture must be up to five shares"):
        configure("default", ["mixture=[0,0,0,1]"])


def test_settings_may_be_of_another_form_than_those_of_the_recipe():
    assert configure("finetune", ['frozen=["blind."]']).frozen == ("blind.",)
    assert configure("finetune", ["model=srn", "init=null"]).init is None
    with pytest.raises(UsageError, match="give --set init=FILE or init=null, too"):
        configure("finetune", ["model=srn"])
    with pytest.raises(UsageError, match="frozen is of another type"):
        configure("finetune", ["frozen=[1]"])


def test_synth_draws_a_sheet(tmp_path, unsmear_here):
    photos = write_pictures(tmp_path / "photos", 2)
    run = unsmear("synth", photos, "--preview", tmp_path / "sheet.png", "--count", 3, "--size", 64)
    assert run.returncode == 0, run.stderr
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (2 * 64 + 2, 3 * 64 + 2 * 2)
    wrong = unsmear_here("synth", photos, "--preview", tmp_path / "sheet.png", "--strength", "wild")
    strengths = "mild, medium, strong, gopro, clean"
    assert wrong == (2, "", f"unsmear: error: unknown strength 'wild': choose one of {strengths}\n")
    code, _, err = unsmear_here("synth", photos, "--preview", tmp_path / "sheet.png")
    assert code == 2
    assert err.endswith("sheet.png: exists already; choose another file for --preview, or pass --overwrite\n")
    assert unsmear_here("synth", photos, "--preview", tmp_path / "sheet.png", "--size", 32, "--overwrite")[0] == 0
