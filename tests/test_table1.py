"""Table 1: what the paper prints stays as it is printed, what is measured is told apart, and nothing is made up."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("skimage", reason="needs the extra eval")

from PIL import Image

from unsmear.cli.table1 import table1 as command
from unsmear.data.pairs import find_pairs
from unsmear.errors import UsageError
from unsmear.evaluation import evaluate, table1
from unsmear.evaluation.table1 import ROWS, measure_table
from unsmear.models import create_model, list_models, save_model

# PSNR, SSIM and seconds, as in arXiv 2201.00155.
PRINTED = """
21 0.741 3800
24.6 0.846 700
23.64 0.824 3600
26.4 0.863 1200
29.08 0.914 6
28.7 0.858 1
30.26 0.934 1.2
29.19 0.931 1
30.90 0.935 1.0
31.20 0.940 0.98
29.55 0.934 0.48
31.85 0.948 0.34
"""


@pytest.fixture
def gopro(tmp_path):
    """Two small pairs of a test scene."""
    for number in range(2):
        sharp = np.random.default_rng(number).integers(0, 256, (4, 5, 3), np.uint8).repeat(12, 0).repeat(12, 1)
        blurred = np.mean([np.roll(sharp, step, axis=1).astype(float) for step in range(4)], axis=0)
        for folder, pixels in (("sharp", sharp), ("blur", blurred)):
            path = tmp_path / f"gopro/test/A/{folder}/{number:06}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.rint(pixels).astype(np.uint8)).save(path)
    return tmp_path / "gopro"


@pytest.fixture
def small(tmp_path):
    """A weights file of a small `saphn`."""
    network = create_model("saphn", levels=1, encoder_blocks=1, decoder_blocks=1, filters="depthwise")
    save_model(network, tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def test_the_paper_is_quoted_as_it_is_printed():
    assert [f"{row.psnr} {row.ssim} {row.seconds}" for row in ROWS] == PRINTED.split("\n")[1:-1]


def test_every_network_has_one_row_at_most():
    names = [name for row in ROWS for name in row.models]
    assert len(names) == len(set(names))
    assert set(names) <= set(list_models())


def test_cost_alone(capsys, tmp_path):
    assert command(models=["saphn-s"], json_file=tmp_path / "t.json", markdown_file=tmp_path / "t.md") == 0
    out, err = capsys.readouterr()
    assert "counting saphn-s" in err
    (measured,) = (line.split() for line in out.splitlines() if line.startswith("  saphn-s"))
    assert measured == ["saphn-s", "measured", "-", "-", "-", "-", "-", "5.10", "75.9", "shipped"]
    (printed,) = (line.split() for line in out.splitlines() if line.startswith("Gao"))
    assert printed == ["Gao", "et", "al.", "2019", "paper", "30.90", "0.935", "-", "-", "1.0", "-", "-", "-"]
    assert sum("  paper  " in line for line in out.splitlines()) == len(ROWS)
    assert "1103" in out
    assert "1111" in out

    table = json.loads((tmp_path / "t.json").read_text())
    last = table["rows"][-1]
    assert last["paper"] == {"psnr": 31.85, "ssim": 0.948, "seconds": 0.34}
    (ours,) = last["measured"]
    assert ours["parameters"] == 5_103_682
    assert ours["gmacs"] == pytest.approx(75.90, rel=0.001)
    assert ours["seconds"] is ours["psnr"] is ours["ssim"] is None
    assert not any(row["measured"] for row in table["rows"][:-1])

    lines = (tmp_path / "t.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert len(rows) == 2 + len(ROWS) + 1


def test_scores_are_those_of_the_evaluation(gopro, small, tmp_path, capsys):
    out = tmp_path / "scores"
    code = command(
        data=gopro,
        weights=[f"saphn={small}"],
        models=["saphn", "saphn-s", "dmphn"],
        out=out,
        json_file=tmp_path / "t.json",
        quiet=True,
    )
    assert code == 0
    text, err = capsys.readouterr()
    assert err == ""
    table = json.loads((tmp_path / "t.json").read_text())
    measured = {row["model"]: row for rows in table["rows"] for row in rows["measured"]}
    assert [*measured] == ["dmphn", "saphn", "saphn-s"]
    assert measured["dmphn"]["weights"] == "none"
    assert measured["dmphn"]["psnr"] is None
    evaluation = evaluate(find_pairs(gopro, split="test"), [str(small), "saphn-s"], protocols=["matlab-rgb", "skimage"])
    for name, model in (("saphn", str(small)), ("saphn-s", "saphn-s")):
        for summary in evaluation.summaries:
            if summary.model == model:
                assert measured[name]["psnr"] == pytest.approx(summary.psnr)
                assert measured[name]["ssim"][summary.protocol] == pytest.approx(summary.ssim)
        assert measured[name]["pictures"] == 2
    assert table["blurred"]["psnr"] == pytest.approx(evaluation.summaries[0].psnr)
    assert measured["saphn"]["parameters"] < 2e6  # of what is in the file, not of the preset
    assert "blurred input" in text
    assert "not the GoPro test set of 1111 pairs" in text
    assert (out / "report.html").is_file()


def test_times(small, monkeypatch):
    def measure(models, *, width, height, device, rounds):
        assert models == [str(small), "saphn-s"]
        assert (width, height, device, rounds) == (40, 24, "cpu", 2)
        results = (SimpleNamespace(seconds=len(model), quartiles=(1.0, 2.0)) for model in models)
        return SimpleNamespace(models=list(results))

    monkeypatch.setattr("unsmear.bench.measure.measure", measure)
    options = {"timed": True, "width": 40, "height": 24, "rounds": 2, "device": "cpu"}
    table = measure_table(["saphn-s", "saphn"], weights={"saphn": small}, **options)
    assert table.size == (40, 24)
    assert table.measured["saphn"].seconds == len(str(small))
    assert table.measured["saphn-s"].seconds == len("saphn-s")
    assert table.as_dict()["rows"][-1]["paper"]["seconds"] == 0.34


def test_what_does_not_fit_is_left_out(monkeypatch):
    monkeypatch.setattr(table1, "free_memory", lambda place: 1e6)
    table = measure_table(["saphn-s"], timed=True)
    assert table.measured["saphn-s"].seconds is None
    assert any("saphn-s was not timed: a pass at 1280x720 takes about" in note for note in table.notes)


def test_failures_are_told(gopro, capsys):
    (gopro / "test/A/blur/000001.png").write_bytes((gopro / "test/A/blur/000001.png").read_bytes()[:-60])
    assert command(data=gopro, models=["saphn-s"], quiet=True) == 1
    out, err = capsys.readouterr()
    assert "do not compare these scores" in out
    assert "A/000001" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": "big"}, "write WIDTHxHEIGHT"),
        ({"models": ["nobody"]}, "'nobody' is not measured for Table 1: choose among motionflow"),
        ({"weights": ["srn"]}, "write NAME=FILE"),
        ({"weights": ["srn=nowhere.safetensors"]}, "there is no such file"),
        ({"weights": ["srn={small}"]}, "holds weights of 'saphn'"),
        ({"weights": ["nafnet={small}"]}, "'nafnet' is not measured for Table 1"),
        ({"weights": ["saphn={small}", "saphn={small}"]}, "was given before"),
        ({"weights": ["saphn={small}"], "models": ["saphn-s"]}, "'saphn' is not measured"),
        ({"variant": "blur_gamma"}, "--variant is for scores"),
        ({"json_file": "there.json"}, "exists already; choose another file for --json"),
        ({"markdown_file": "nowhere/t.md"}, "there is no such folder to write to"),
        ({"data": "nowhere"}, "nowhere"),
    ],
)
def test_mistakes_are_told_in_one_line(options, words, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.json").touch()
    for name, value in options.items():
        if name in ("json_file", "markdown_file", "data"):
            options = {name: tmp_path / value}
        elif name == "weights":
            options = {**options, name: [text.format(small=small) for text in value]}
    with pytest.raises(UsageError, match=words) as error:
        command(**options)
    assert "\n" not in str(error.value)
