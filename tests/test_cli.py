"""The command as people meet it: what it prints and where, its exit codes, and that it tidies up."""

import csv
import glob
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from unsmear import Deblurrer, cli, restore, treatment
from unsmear.batch import Job
from unsmear.errors import ModelError, OutOfMemoryError, UsageError
from unsmear.image import MAX_MEGAPIXELS, Picture
from unsmear.models import DEFAULT_MODEL, create_model, save_model, shipped_weights

SECONDS = re.compile(r"\d+\.\d s")


class FakePlan(NamedTuple):
    num_tiles: int

    def __str__(self):
        return f"{self.num_tiles} tiles"


class FakeDeblurrer:
    """Gives the negative of a picture, or raises `fault` for pictures of width 13."""

    fault: Exception | None = None

    def __init__(self, model, *, device="auto", dtype="auto"):
        self.name = model
        if model == "nobody":
            raise UsageError("unknown model 'nobody'")
        if model == "broken":
            raise ModelError("broken: damaged")

    def restore(self, rgb, *, strength, quality, progress):
        progress(0, 2)
        if self.fault is not None and rgb.shape[1] == 13:
            raise self.fault
        progress(2, 2)
        return np.rint(rgb + strength * (255.0 - 2 * rgb)).astype(np.uint8)

    def expected_peak(self, height, width, *, bytes_per_value):
        return bytes_per_value * 2**29

    def plan(self, height, width):
        return FakePlan(1 if height * width <= 1_500_000 else 2)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command in an empty folder, without a network: exit code, stdout, stderr without times."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(restore, "Deblurrer", FakeDeblurrer)
    monkeypatch.setattr(treatment, "guard", lambda before, after: (after, 0.0))  # to which a negative is harm
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["unsmear", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, SECONDS.sub("T", err)

    yield command
    for number, handler in handlers.items():
        signal.signal(number, handler)


def make(name, size=(8, 6), color=10):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (color,) * 3).save(path, "PNG")
    return path


def pixel(name):
    with Image.open(name) as img:
        return img.getpixel((0, 0))


def shell(*arguments, stub="", **options):
    """Starts the command as a process of its own; `stub` is Python code that runs before."""
    # Where tests run in the background, Ctrl-C is ignored, and processes inherit that.
    start = "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{start}\n{textwrap.dedent(stub)}\nfrom unsmear.cli import main\nmain()"
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, "-c", code, *arguments], **options)


# What is promised to users and their scripts


def test_flags_are_frozen(run):
    """Adding a flag is easy and taking one away is not: think twice, then change this list."""
    flags = {
        "": ["--version"],
        "deblur": [
            "--output -o",
            "--recursive -r",
            "--overwrite",
            "--strength",
            "--quality",
            "--only-if-blurry",
            "--guard",
            "--strip",
            "--compare",
            "--model",
            "--device",
            "--dtype",
            "--max-megapixels",
            "--jobs -j",
            "--shard",
            "--report",
            "--dry-run",
            "--quiet -q",
        ],
        "explain": [
            "--output -o",
            "--overwrite",
            "--model",
            "--block",
            "--list-blocks",
            "--max-side",
            "--device",
            "--quiet -q",
        ],
        "train": [
            "--data",
            "--out",
            "--recipe",
            "--set",
            "--validate",
            "--minutes",
            "--resume",
            "--tensorboard",
            "--quiet -q",
        ],
        "synth": ["--preview", "--strength", "--count", "--size", "--seed", "--overwrite"],
        "convert": ["--output -o", "--warm-start", "--overwrite"],
        "models": [],
        "doctor": [],
        "bench": [
            "--model",
            "--size",
            "--device",
            "--dtype",
            "--threads",
            "--rounds",
            "--modules",
            "--json",
        ],
        "eval": [
            "--data",
            "--sharp",
            "--model",
            "--protocol",
            "--out",
            "--save-images",
            "--split",
            "--variant",
            "--device",
            "--memory",
            "--quality",
            "--workers",
            "--quiet -q",
        ],
    }
    flags["table1"] = [
        "--data",
        "--variant",
        "--weights",
        "--model",
        "--time",
        "--size",
        "--rounds",
        "--device",
        "--memory",
        "--out",
        "--json",
        "--markdown",
        "--quiet -q",
    ]
    for command, expected in flags.items():
        _, out, _ = run(*command.split(), "--help")
        found = re.findall(r"^  (?:(-\w), )?(--[\w-]+)", out.split("Options:")[1], re.MULTILINE)
        assert [f"{long} {short}".strip() for short, long in found] == [*expected, "--help -h"]
    _, out, _ = run("--help")
    assert re.findall(r"^  (\w+) ", out.split("Commands:")[1].split("Exit")[0], re.MULTILINE) == list(flags)[1:]


def test_defaults_are_those_of_the_library():
    parameters = inspect.signature(cli.deblur).parameters
    assert parameters["model"].default == DEFAULT_MODEL
    assert parameters["max_megapixels"].default == MAX_MEGAPIXELS


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["deblur", "--help"], ["deblur", "missing"]])
def test_help_and_mistakes_do_not_wait_for_torch(arguments):
    stub = "import atexit; atexit.register(lambda: print('torch' in sys.modules, file=sys.__stderr__))"
    _, err = shell(*arguments, stub=stub).communicate(timeout=600)
    assert err.endswith(b"False\n")


def test_only_what_computes_imports_torch():
    modules = "unsmear.cli, unsmear.batch, unsmear.doctor, unsmear.image"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_and_version(run):
    assert run("--version") == (0, "unsmear 0.1.0\n", "")
    code, out, _ = run()
    assert code == 0
    assert "deblur" in out
    assert run("-h") == run("--help") == (0, out, "")
    _, out, _ = run("deblur", "-h")
    assert "name.deblurred.ext beside each input" in out


def test_models_are_listed(run):
    code, out, _ = run("models")
    assert code == 0
    assert "saphn-s" in out
    assert "1,9" in out


def test_doctor_tells_what_it_found(run, monkeypatch):
    code, out, _ = run("doctor")
    assert code == 0
    assert "PROBLEM" not in out
    for what in ("unsmear", "python", "torch", "numba", "pillow", "formats", "device", "threads", "memory"):
        assert re.search(rf"^{what} +\S", out, re.MULTILINE)
    assert "whole pictures up to 1500 x 1000 pixels" in out
    monkeypatch.setattr(restore, "Deblurrer", lambda model: FakeDeblurrer("broken"))
    code, out, _ = run("doctor")
    assert code == 1
    assert "PROBLEM: broken: damaged" in out
    monkeypatch.setitem(sys.modules, "numba", None)  # makes the import fail
    code, out, _ = run("doctor")
    assert code == 1
    assert "PROBLEM: cannot be used: import of numba halted" in out


# One picture


def test_one_picture(run):
    make("a b.png")
    assert run("deblur", "a b.png") == (0, "", "a b.png -> a b.deblurred.png (8 x 6, T)\n")
    assert pixel("a b.deblurred.png") == (245, 245, 245)
    assert sorted(os.listdir()) == ["a b.deblurred.png", "a b.png"]


def test_strength_and_output(run):
    make("a.png")
    assert run("deblur", "a.png", "-o", "x.bmp", "--strength", "0.5", "-q") == (0, "", "")
    assert pixel("x.bmp") == (128, 128, 128)


def test_existing_output_is_an_error_for_one_picture(run):
    make("a.png")
    make("a.deblurred.png", color=77)
    code, out, err = run("deblur", "a.png")
    assert (code, out) == (2, "")
    assert err == "unsmear: error: a.deblurred.png: exists already; choose another --output, or pass --overwrite\n"
    assert pixel("a.deblurred.png") == (77, 77, 77)
    assert run("deblur", "a.png", "--overwrite")[0] == 0
    assert pixel("a.deblurred.png") == (245, 245, 245)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["deblur"], 2, "Missing argument 'INPUT'. (see 'unsmear deblur --help')"),
        (["deblur", "missing.png"], 2, "missing.png: no such file or folder"),
        (["deblur", "a.png", "--overwite"], 2, "No such option: --overwite (Possible options: --overwrite)"),
        (["deblur", "a.png", "--strength", "2"], 2, "Invalid value for '--strength'"),
        (["deblur", "a.png", "--strength", "much"], 2, "Invalid value for '--strength'"),
        (["deblur", "a.png", "--model", "nobody"], 2, "unknown model 'nobody'"),
        (["deblur", "a.png", "--model", "broken"], 3, "broken: damaged"),
        (["deblur", "a.png", "--max-megapixels", "0.00001"], 1, "a.png: larger than 1e-05 megapixels"),
        (["deblur", "text.png"], 1, "text.png: not a picture that unsmear reads"),
        (["deblur", "a.png", "-o", "x.gif"], 2, "x.gif: end the name of the output with one of .jpg .jpeg"),
        (["debur", "a.png"], 2, "No such command 'debur'. Did you mean 'deblur'?"),
        (["deblur", "wide.png"], 4, "memory ran out"),
    ],
)
def test_mistakes_are_told_in_one_line(run, monkeypatch, arguments, code, words):
    make("a.png")
    make("wide.png", size=(13, 5))
    Path("text.png").write_text("hello")
    monkeypatch.setattr(FakeDeblurrer, "fault", OutOfMemoryError("memory ran out"))
    result, out, err = run(*arguments)
    assert (result, out) == (code, "")
    assert err.startswith("unsmear: error: ")
    assert words in err
    assert err.count("\n") == 1
    assert sorted(os.listdir()) == ["a.png", "text.png", "wide.png"]


@pytest.mark.parametrize(
    "name", ["[bold]a[/].png", "\u732b \U0001f408.png", "two\nlines.png", "x" * 235 + ".png", "-a.png"]
)
def test_odd_names(run, name):
    make(name)
    code, _, err = run("deblur", "--", name)
    assert code == 0
    assert err.count("\n") == 1
    assert err.startswith(name.replace("\n", "\\n"))
    assert pixel(name[:-4] + ".deblurred.png") == (245, 245, 245)


def test_names_that_are_no_text(run):
    name = os.fsdecode(b"\xff\x1b[31m.png")
    try:
        make(name)
    except OSError:
        pytest.skip("this file system wants text")
    code, _, err = run("deblur", name)
    assert code == 0
    assert err.startswith("\\udcff\\x1b[31m.png -> ")


def test_names_that_the_encoding_of_the_terminal_lacks(tmp_path):
    make(tmp_path / "\u732b.png")
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    process = shell("deblur", ".", "--dry-run", stub=SLOW % 0, cwd=tmp_path, env=environment)
    out, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (0, b"")
    assert out == b"\\u732b.png -> \\u732b.deblurred.png (8 x 6, a plan; about 0.5 GiB in all)\n"


def test_name_that_gets_too_long(run):
    make("x" * 251 + ".png")
    code, _, err = run("deblur", "x" * 251 + ".png")
    assert code == 2
    assert err.endswith(".deblurred.png: File name too long; choose another --output\n")
    assert run("deblur", "x" * 251 + ".png", "-o", "short.png")[0] == 0
    make("good.png")
    code, _, err = run("deblur", ".")
    assert code == 1
    assert ".deblurred.png: cannot be written: File name too long\n" in err
    assert Path("good.deblurred.png").exists()
    for arguments in (
        ["deblur", "good.png", "--overwrite", "--report", "n" * 300 + ".json"],
        ["explain", "good.png", "-o", "n" * 300 + ".png"],
        ["explain", "n" * 300 + ".png"],
        ["eval", "--data", "n" * 300],
        ["bench", "--json", "n" * 300 + ".json"],
    ):
        code, _, err = run(*arguments)
        assert code in (1, 2)
        assert "File name too long" in err
        assert err.count("\n") == 1
    assert run("explain", ".")[2] == "unsmear: error: .: is a folder, not a picture file\n"


# Many pictures


def test_many_pictures(run):
    for name in ("in/a.png", "in/b.png", "in/deep/c.png"):
        make(name)
    make("out/b.png")
    code, out, err = run("deblur", "in", "-r", "-o", "out")
    assert (code, out) == (0, "")
    first, *lines, last = err.splitlines()
    assert first == "in/b.png -> out/b.png (skipped, exists)"
    assert sorted(lines) == ["in/a.png -> out/a.png (8 x 6, T)", "in/deep/c.png -> out/deep/c.png (8 x 6, T)"]
    assert re.fullmatch(
        r"2 restored, 1 skipped \(exists; --overwrite makes them anew\) in T; the network worked \d+% of the time", last
    )
    code, _, err = run("deblur", "in", "-r", "-o", "out")
    assert (code, err.splitlines()[-1]) == (0, "3 skipped (exists; --overwrite makes them anew)")


def test_one_bad_picture_does_not_stop_the_rest(run, monkeypatch):
    make("a.png")
    Path("b.png").write_bytes(Path("a.png").read_bytes()[:40])
    make("c.png", size=(13, 5))
    make("d.png")
    monkeypatch.setattr(FakeDeblurrer, "fault", ModelError("values that are not numbers"))
    code, out, err = run("deblur", "a.png", "b.png", "c.png", "d.png", "-o", "out")
    assert (code, out) == (1, "")
    assert sorted(os.listdir("out")) == ["a.png", "d.png"]
    lines = err.splitlines()
    errors = sorted(line for line in lines if line.startswith("unsmear: error: "))
    assert errors[0].startswith("unsmear: error: b.png: the PNG file is damaged or cut off")
    assert errors[1] == "unsmear: error: c.png: values that are not numbers"
    assert lines[-3].startswith("2 restored, 2 failed in T; ")
    assert sorted(lines[-2:]) == ["failed: b.png", "failed: c.png"]


def test_quiet_leaves_only_errors(run):
    make("in/a.png")
    Path("in/b.png").touch()
    assert run("deblur", "in", "-q") == (1, "", "unsmear: error: in/b.png: the file is empty\n")


def test_bug_is_not_hidden(run, monkeypatch):
    """An error that is not ours is a bug in unsmear, and its traceback is what we need to see."""
    make("a.png", size=(13, 5))
    monkeypatch.setattr(FakeDeblurrer, "fault", ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        run("deblur", "a.png")


def test_dry_run_lists_on_stdout_and_writes_nothing(run):
    make("in/a.png", size=(20, 10))
    make("in/c.png")
    Path("in/b.png").touch()
    make("out/c.png")
    code, out, err = run("deblur", "in", "-o", "out", "--dry-run")
    assert code == 1
    assert (
        out
        == "in/c.png -> out/c.png (skipped, exists)\nin/a.png -> out/a.png (20 x 10, 1 tiles; about 0.5 GiB in all)\n"
    )
    assert err == "unsmear: error: in/b.png: the file is empty\n"
    assert os.listdir("out") == ["c.png"]
    assert run("deblur", "in/a.png", "-o", "new/", "--dry-run")[0] == 0
    assert not os.path.exists("new")


def test_report(run):
    make("in/a.png")
    make("in/b.png")
    make("out/b.png")
    Path("in/c.png").touch()
    for name in ("r.json", "r.csv"):
        assert run("deblur", "in", "-o", f"out-{name}", "--report", name)[0] == 1
    report = json.loads(Path("r.json").read_text())
    assert (report["restored"], report["failed"], report["skipped"], report["complete"]) == (2, 1, 0, True)
    rows = {Path(row["source"]).name: row for row in report["pictures"]}
    assert (rows["a.png"]["state"], rows["a.png"]["width"], rows["a.png"]["height"]) == ("restored", 8, 6)
    assert (rows["c.png"]["state"], rows["c.png"]["note"]) == ("failed", "in/c.png: the file is empty")
    with open("r.csv", newline="") as file:
        states = {row["source"]: row["state"] for row in csv.DictReader(file)}
    assert states == {"in/a.png": "restored", "in/b.png": "restored", "in/c.png": "failed"}
    assert run("deblur", "in", "-o", "out-r.json", "--report", "r.json")[0] == 1  # replaces its own report
    assert json.loads(Path("r.json").read_text())["skipped"] == 2
    Path("notes.json").write_text("{}")
    code, _, err = run("deblur", "in", "-o", "new", "--report", "notes.json")
    assert (code, err) == (
        2,
        "unsmear: error: notes.json: exists already, and is no report; choose another file for --report\n",
    )
    assert run("deblur", "in", "--report", "r.txt")[0] == 2
    assert run("deblur", "in", "--report", "nowhere/r.csv")[0] == 2
    assert run("deblur", "in/c.png", "--report", "one.json")[0] == 1  # one picture has a report, too
    assert json.loads(Path("one.json").read_text())["failed"] == 1


def test_sharp_pictures_are_kept_when_asked(run):
    rng = np.random.default_rng(0)
    sharp = np.kron(rng.integers(0, 256, (40, 40), np.uint8), np.ones((8, 8), np.uint8))
    soft = np.cumsum(np.cumsum(np.pad(sharp.astype(float), ((12, 0), (12, 0)), "wrap"), 0), 1)
    soft = (soft[12:, 12:] - soft[12:, :-12] - soft[:-12, 12:] + soft[:-12, :-12]) / 144
    os.mkdir("in")
    Image.fromarray(sharp).convert("RGB").save("in/sharp.png")
    Image.fromarray(np.rint(soft).astype(np.uint8)).convert("RGB").save("in/soft.png")
    code, _, err = run("deblur", "in", "-o", "out", "--only-if-blurry")
    assert code == 0
    assert Path("out/sharp.png").read_bytes() == Path("in/sharp.png").read_bytes()
    assert Path("out/soft.png").read_bytes() != Path("in/soft.png").read_bytes()
    assert re.search(r"in/sharp.png kept \(320 x 320, T; looks sharp, edges \d\.\d px\)", err)
    assert "1 restored, 1 kept as they were" in err
    assert run("deblur", "in", "--only-if-blurry", "-q")[0] == 0
    assert sorted(os.listdir("in")) == ["sharp.png", "soft.deblurred.png", "soft.png"]
    assert run("deblur", "in/sharp.png", "--only-if-blurry", "-o", "x.bmp", "-q")[0] == 0  # another format
    with Image.open("x.bmp") as img:
        assert np.array_equal(np.asarray(img)[..., 0], sharp)


def test_the_guard_can_be_turned_off(run, monkeypatch):
    monkeypatch.setattr(treatment, "guard", lambda before, after: (before, 1.0))
    make("a.png")
    assert "(8 x 6, T; 100% of the picture left as it was)" in run("deblur", "a.png")[2]
    assert pixel("a.deblurred.png") == (10, 10, 10)
    assert "left as it was" not in run("deblur", "a.png", "--no-guard", "--overwrite")[2]
    assert pixel("a.deblurred.png") == (245, 245, 245)


def test_sharp_raw_files_are_developed_not_copied(tmp_path):
    raw, photo = Job(tmp_path / "a.dng", tmp_path / "a.tif"), Job(tmp_path / "b.tif", tmp_path / "c.tif")
    flat = Picture(np.full((64, 64, 3), 99, np.uint8), format="TIFF")  # nothing to judge by: kept
    treat = treatment.treatment(FakeDeblurrer("any"), treatment.Options(only_if_blurry=True), lambda job: print)
    assert treat(raw, flat).picture is flat
    assert treat(photo, flat).picture is None


def test_shares(run):
    for i in range(5):
        make(f"in/{i}.png")
    assert run("deblur", "in", "-o", "out", "--shard", "2/2", "-q")[0] == 0
    assert sorted(os.listdir("out")) == ["1.png", "3.png"]
    assert run("deblur", "in", "-o", "out", "--shard", "1/2", "-q")[0] == 0
    assert len(os.listdir("out")) == 5
    assert run("deblur", "in/0.png", "--shard", "2/2")[::2] == (0, "nothing to do\n")
    for wrong in ("0/2", "3/2", "x", "1"):
        assert run("deblur", "in", "-o", "out", "--shard", wrong)[0] == 2


def test_a_folder_inside_that_cannot_be_read_stops_no_other(run, monkeypatch):
    """Superusers may read it all the same, so here the system says no for it."""
    for name in ("in/a.png", "in/closed/b.png", "in/z/c.png"):
        make(name)

    def listdir(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(folder)

    real = os.listdir
    monkeypatch.setattr(os, "listdir", listdir)
    code, _, err = run("deblur", "in", "-r", "-o", "out", "--report", "all.json")
    assert code == 1
    assert err.startswith("unsmear: error: in/closed: this folder cannot be read: Permission denied\n")
    assert sorted(p.name for p in Path("out").rglob("*.png")) == ["a.png", "c.png"]
    assert json.loads(Path("all.json").read_text())["complete"] is False
    assert run("deblur", "in", "-r", "-o", "out", "--dry-run")[0] == 1
    code, _, err = run("deblur", "in/closed", "-o", "out")
    assert (code, err) == (2, "unsmear: error: in/closed: this folder cannot be read: Permission denied\n")


def test_raw_files_that_nothing_can_read_are_told(run, monkeypatch):
    monkeypatch.setattr("unsmear.formats.find_spec", lambda name: None)
    make("in/a.png")
    Path("in/b.nef").touch()
    told = "1 camera raw files left out, which need rawpy: pip install 'unsmear[raw]'\n"
    assert run("deblur", "in", "-o", "out")[2].startswith(told)
    Path("in/a.png").unlink()
    assert run("deblur", "in", "-o", "new")[2] == f"unsmear: error: in: no pictures in this folder; {told}"


def test_several_pictures_make_no_folder_that_is_named_as_a_file(run):
    make("a.png")
    make("b.png")
    code, _, err = run("deblur", "a.png", "b.png", "-o", "c.png")
    assert code == 2
    told = "c.png: is the name of a file, but a folder is needed; end it in / if it is to be one"
    assert err == f"unsmear: error: {told}\n"
    assert run("deblur", "a.png", "b.png", "-o", "c.png/")[0] == 0
    assert sorted(os.listdir("c.png")) == ["a.png", "b.png"]


def test_what_cannot_be_written_is_told_before_the_work(run, monkeypatch):
    make("a.png")
    os.mkdir("closed")
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("closed"))
    for arguments, other in (
        (["deblur", "a.png", "--report", "closed/all.json"], "file for --report"),
        (["explain", "a.png", "-o", "closed/a.png"], "--output"),
        (["synth", ".", "--preview", "closed/a.png"], "file for --preview"),
    ):
        code, _, err = run(*arguments)
        assert (code, err) == (2, f"unsmear: error: closed: this folder cannot be written; choose another {other}\n")
    assert not Path("a.deblurred.png").exists()


def test_sheets_are_written_and_are_no_inputs(run):
    make("in/a.png", size=(600, 500))
    make("in/b.png")
    assert run("deblur", "in", "--compare", "-q")[0] == 0
    assert sorted(os.listdir("in"))[:3] == ["a.deblurred.png", "a.png", "a.png.compare.png"]
    with Image.open("in/a.png.compare.png") as sheet:
        assert sheet.width >= 1200
    for inputs in (["in"], ["in/*.png"], glob.glob("in/*.png")):
        assert run("deblur", *inputs, "--compare")[2].endswith("2 skipped (exists; --overwrite makes them anew)\n")
    assert len(os.listdir("in")) == 6


def test_sheets_replace_nothing(run):
    for name in ("in/a.png", "in/a.jpg", "in/b.png"):
        make(name)
    assert run("deblur", "in", "-o", "out", "--compare", "-q")[0] == 0
    sheets = ["a.jpg.compare.png", "a.png.compare.png", "b.png.compare.png"]
    assert [name for name in sorted(os.listdir("out")) if "compare" in name] == sheets
    os.remove("out/b.png")
    code, out, err = run("deblur", "in", "-o", "out", "--compare")
    way_out = "exists already, but no result; move it away, or pass --overwrite"
    assert (code, out, err) == (2, "", f"unsmear: error: out/b.png.compare.png: {way_out}\n")
    assert run("deblur", "in", "-o", "out", "--compare", "--overwrite", "-q")[0] == 0
    # nor inputs, nor the results of others
    make("b/a.png.compare.png")
    code, _, err = run("deblur", "in/a.png", "b/a.png.compare.png", "--compare", "-o", "b", "--overwrite")
    assert (code, err.count("\n")) == (2, 1)
    assert "in/a.png would be written over another input, b/a.png.compare.png" in err
    code, _, err = run("deblur", "in/a.png", "b/a.png.compare.png", "--compare", "-o", "new/")
    assert (code, err.count("\n")) == (2, 1)
    assert "would both be written to new/a.png.compare.png" in err
    code, _, err = run("deblur", "in/a.png", "--compare", "-o", "-")
    assert code == 2
    assert err == "unsmear: error: --compare writes a file beside the result; give --output FILE for that\n"


# Standard input and output


@pytest.fixture
def piped(run, monkeypatch):
    """Runs the command with bytes on standard input: exit code, standard output as bytes, stderr."""

    def command(data, *arguments):
        out = io.BytesIO()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out))
        code, _, err = run(*arguments)
        return code, out.getvalue(), err

    return command


def test_pipes(piped):
    data = make("a.png").read_bytes()
    code, out, err = piped(data, "deblur", "-")
    assert (code, err) == (0, "standard input -> standard output (8 x 6, T)\n")
    assert Image.open(io.BytesIO(out)).format == "PNG"
    assert pixel(io.BytesIO(out)) == (245, 245, 245)
    assert piped(data, "deblur", "-", "-o", "x.bmp")[:2] == (0, b"")
    assert pixel("x.bmp") == (245, 245, 245)
    assert piped(b"", "deblur", "a.png", "-o", "-")[:2] == (0, out)


@pytest.mark.parametrize(
    ("data", "arguments", "code", "words"),
    [
        (b"", ["-"], 1, "input: the file is empty"),
        (b"hello", ["-"], 1, "input: not a picture"),
        (b"", ["-", "-o", "a.png"], 2, "a.png: exists already"),
        (b"", ["-", "-o", "x"], 2, "x: end the name of the output with"),
        (b"", ["-", "a.png"], 2, "standard input and output take one picture"),
    ],
)
def test_mistakes_with_pipes(piped, data, arguments, code, words):
    make("a.png")
    result, out, err = piped(data, "deblur", *arguments)
    assert (result, out) == (code, b"")
    assert words in err


def test_terminal_gets_no_picture(run, monkeypatch):
    make("a.png")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run("deblur", "a.png", "-o", "-")[::2] == (
        2,
        "unsmear: error: will not write a picture to the terminal; redirect it, or give --output FILE\n",
    )
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert "no picture on standard input" in run("deblur", "-")[2]


# Processes

SLOW = """
    import time
    import types

    class Slow:
        def __init__(self, model, *, device, dtype): pass
        def restore(self, rgb, *, strength, quality, progress):
            progress(1, 4)
            sys.stderr.write("working\\n")
            sys.stderr.flush()
            time.sleep(%g)
            return rgb
        def plan(self, height, width): return "a plan"
        def expected_peak(self, height, width, *, bytes_per_value): return 2**29

    sys.modules["unsmear.restore"] = types.SimpleNamespace(Deblurrer=Slow)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_what_is_finished_and_nothing_else(number, tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        make(tmp_path / name)
    make(tmp_path / "out/a.png")
    process = shell("deblur", ".", "-o", "out", stub=SLOW % 60, cwd=tmp_path)
    while process.stderr.readline() != b"working\n":
        assert process.poll() is None
    process.send_signal(number)
    out, err = process.communicate(timeout=600)
    assert (process.returncode, out) == (130, b"")
    assert err == b"unsmear: error: interrupted; what was finished is in place, and nothing is half-written\n"
    assert os.listdir(tmp_path / "out") == ["a.png"]


def test_reader_that_goes_away_is_no_traceback(tmp_path):
    make(tmp_path / "a.png", size=(300, 300))
    reading, writing = os.pipe()
    os.close(reading)
    process = shell("deblur", "a.png", "-o", "-", stub=SLOW % 0, cwd=tmp_path, stdout=writing)
    os.close(writing)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 1
    assert b"Traceback" not in err


def test_terminal_shows_a_bar(tmp_path):
    for name in ("[bold].png", "b.png"):
        make(tmp_path / name)
    ours, theirs = pytest.importorskip("pty").openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    process = shell("deblur", ".", stub=SLOW % 0.3, cwd=tmp_path, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(ours, 4096)
        except OSError:  # how the end of a terminal shows on Linux
            break
        if not data:
            break
        shown += data
    os.close(ours)
    assert process.communicate(timeout=600)[0] == b""
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.decode())
    assert "loading saphn-s" in text
    assert "2/2 b.png " in text
    assert "[bold].png -> [bold].deblurred.png (8 x 6, " in text
    assert "2 restored in " in text


def test_full_disk_behind_standard_output(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no such device here")
    make(tmp_path / "a.png", size=(300, 300))
    with open("/dev/full", "wb") as full:
        process = shell("deblur", "a.png", "-o", "-", stub=SLOW % 0, cwd=tmp_path, stdout=full)
        _, err = process.communicate(timeout=600)
    assert process.returncode == 1
    assert b"unsmear: error: <stdout>: cannot be written: No space left on device\n" in err


def test_whole_way_with_a_network(tmp_path):
    save_model(create_model("saphn-s", levels=1), tmp_path / "tiny.safetensors")
    make(tmp_path / "a.png", size=(37, 21))
    arguments = ["deblur", "a.png", "--model", "tiny.safetensors", "--device", "cpu"]
    process = shell(*arguments, cwd=tmp_path)
    out, err = process.communicate(timeout=600)
    assert (process.returncode, out) == (0, b"")
    assert SECONDS.sub("T", err.decode()) == "a.png -> a.deblurred.png (37 x 21, T)\n"
    with Image.open(tmp_path / "a.deblurred.png") as img:
        assert (img.size, img.mode) == ((37, 21), "RGB")


@pytest.mark.skipif(shipped_weights(DEFAULT_MODEL) is None, reason="no weights here")
def test_whole_way_with_the_default_network(tmp_path):
    make(tmp_path / "a.png", size=(64, 48), color=100)
    process = subprocess.Popen([sys.executable, "-m", "unsmear", "deblur", "a.png", "-q"], cwd=tmp_path)
    assert process.wait(timeout=600) == 0
    with Image.open(tmp_path / "a.deblurred.png") as img:
        assert np.abs(np.asarray(img).astype(int) - 100).max() < 60


@pytest.mark.parametrize(("width", "compiled"), [(61, False), (1000, True)])
def test_one_small_picture_does_not_wait_for_compiled_kernels(tmp_path, width, compiled):
    """Plain PyTorch, on one thread: the same bits whatever number there is, and the picture that kernels give.

    Compiled kernels share the work among all threads, so sums are of another order, and a value may round otherwise.
    """
    blurred = np.random.default_rng(0).integers(0, 256, (45, width, 3), np.uint8)
    Image.fromarray(blurred).save(tmp_path / "a.png")
    stub = "import atexit\natexit.register(lambda: print('numba' in sys.modules, file=sys.stderr))"
    restored = []
    for threads in (1, 2):
        arguments = ["deblur", "a.png", "-q", "--device", "cpu", "--no-guard", "-o", f"{threads}.png"]
        process = shell(*arguments, stub=stub, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
        assert process.communicate(timeout=600) == (b"", f"{compiled}\n".encode())
        with Image.open(tmp_path / f"{threads}.png") as img:
            restored.append(np.asarray(img).astype(int))
    np.testing.assert_allclose(*restored, rtol=0, atol=int(compiled))
    np.testing.assert_allclose(restored[0], Deblurrer(device="cpu").restore(blurred).astype(int), atol=1)


def test_python_looks_for_garbage_only_among_what_is_new(tmp_path):
    Image.new("RGB", (40, 30), "gray").save(tmp_path / "a.png")
    frozen = "'torch' in sys.modules, gc.isenabled(), gc.get_freeze_count() > 1e5"
    stub = f"import atexit, gc\natexit.register(lambda: print({frozen}, file=sys.stderr))"
    process = shell("deblur", "a.png", "-q", stub=stub, cwd=tmp_path)
    assert process.communicate(timeout=600) == (b"", b"True True True\n")
