"""`unsmear eval` and what is behind it: what is scored, how it goes on after a stop, and what is reported."""

import csv
import dataclasses
import html.parser
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("skimage", reason="needs the extra eval")

from PIL import Image

from unsmear.data.pairs import Pair, PairedFolder, find_pairs
from unsmear.errors import ModelError, UsageError
from unsmear.evaluation import PROTOCOLS, evaluate, report, run
from unsmear.evaluation.restorers import BLURRED, Network, Restored, hash_file
from unsmear.evaluation.summary import Evaluation, Row
from unsmear.image import open_picture
from unsmear.models import create_model, save_model

NAMES = ["A/000000", "A/000001", "A/000002", "B/000000"]


def picture(seed, height=48, width=64):
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(seed)
    a, b, c = rng.uniform(0.1, 0.6, 3)
    waves = [np.sin(a * x + b * y), np.sin(b * x - c * y), np.sign(np.sin(c * x + a * y))]
    return (128 + 80 * np.stack(waves, axis=-1)).astype(np.uint8)


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def gopro(tmp_path):
    """Four small pairs in two scenes, the later ones more blurred."""
    for number, name in enumerate(NAMES, 1):
        scene, frame = name.split("/")
        sharp = picture(number)
        blurred = np.mean([np.roll(sharp, step, axis=1).astype(float) for step in range(-number, number + 1)], axis=0)
        save(sharp, tmp_path / f"gopro/test/{scene}/sharp/{frame}.png")
        save(np.rint(blurred).astype(np.uint8), tmp_path / f"gopro/test/{scene}/blur/{frame}.png")
    return tmp_path / "gopro"


class Fake(Network):
    """Goes a part of the way to the sharp picture, which its weights file tells, and notes what it was asked for."""

    calls: list[tuple[str, str]] = []  # noqa: RUF012 - one for all of them
    fault: tuple[str, Exception] | None = None

    def __init__(self, model, *, device="auto", memory_gib=None, quality="normal"):
        self.name, self.sha256, self.quality = str(model), hash_file(Path(model)), quality
        self.way = float(Path(model).read_text()) * (1.5 if quality == "best" else 1)

    def restore(self, pair, blurred):
        self.calls.append((Path(self.name).name, pair.name))
        if self.fault and self.fault[0] == pair.name:
            raise self.fault[1]
        way = self.way * (-1 if "000002" in pair.name else 1)
        restored = blurred + way * (open_picture(pair.sharp).rgb - blurred.astype(float))
        return Restored(np.clip(np.rint(restored), 0, 255).astype(np.uint8), 1)


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "Network", Fake)
    monkeypatch.setattr(Fake, "calls", [])
    monkeypatch.setattr(Fake, "fault", None)
    files = [tmp_path / "half.safetensors", tmp_path / "fifth.safetensors"]
    for file, way in zip(files, ("0.5", "0.2"), strict=True):
        file.write_text(way)
    return [str(file) for file in files]


def found(folder):
    return find_pairs(folder, split="test")


def by_name(evaluation, protocol="skimage"):
    return {(row.model, row.picture): row for row in evaluation.rows if row.protocol == protocol}


# What is scored


def test_side_by_side(gopro, models):
    told = []
    evaluation = evaluate(found(gopro), models, progress=lambda *a: told.append(a), workers=1)
    assert list(evaluation.models) == [BLURRED, *models]
    assert [s.pair.name for _, _, s in told] == NAMES
    assert [t[:2] for t in told] == [(n, 4) for n in (1, 2, 3, 4)]
    assert len(evaluation.rows) == 4 * 2 * 3
    for row in evaluation.rows:
        pair = next(p for p in found(gopro).pairs if p.name == row.picture)
        blurred, sharp = open_picture(pair.blurred).rgb, open_picture(pair.sharp).rgb
        output = blurred if row.model == BLURRED else Fake(row.model).restore(pair, blurred).picture
        score, before = (PROTOCOLS[row.protocol].measure(p, sharp) for p in (output, blurred))
        assert (row.psnr, row.ssim) == (score.psnr, score.ssim)
        assert row.gain == (None if row.model == BLURRED else score.psnr - before.psnr)
    assert not evaluation.failures
    assert evaluation.data == "GoPro (blur), test: 4 pairs"


def test_summaries(gopro, models):
    evaluation = evaluate(found(gopro), models, protocols=["matlab-rgb", "skimage"])
    assert [(s.protocol, s.model) for s in evaluation.summaries] == [
        (protocol, model) for protocol in ("matlab-rgb", "skimage") for model in (BLURRED, *models)
    ]
    rows = by_name(evaluation)
    for summary in evaluation.summaries[3:]:
        mine = [rows[summary.model, name] for name in NAMES]
        assert summary.psnr == pytest.approx(np.mean([row.psnr for row in mine]))
        assert summary.ssim == pytest.approx(np.mean([row.ssim for row in mine]))
        assert (summary.pictures, summary.infinite) == (4, 0)
        if summary.model == BLURRED:
            assert (summary.gain, summary.interval, summary.worst) == (None, None, None)
            continue
        gains = [row.gain for row in mine]
        assert summary.gain == pytest.approx(np.mean(gains))
        assert summary.median == pytest.approx(np.median(gains))
        assert (summary.worst, summary.worst_picture, summary.worse) == (min(gains), "A/000002", 1)
        low, high = summary.interval
        assert min(gains) <= low < summary.gain < high <= max(gains)
    gains = {name: min(rows[model, name].gain for model in models) for name in NAMES}
    assert evaluation.worst_first == sorted(NAMES, key=lambda name: gains[name])
    assert evaluation.worst_first[0] == "A/000002"


def some(evaluation_rows, **changes):
    """An evaluation of made-up gains by name."""
    rows = []
    for name, gain in evaluation_rows.items():
        values = {"picture": name, "protocol": "skimage", "ssim": 0.5, "tiles": 1, "seconds": 0.0}
        rows.append(Row(model=BLURRED, psnr=30.0, gain=None, **values))
        rows.append(Row(model="m", psnr=30.0 + gain, gain=gain, **values))
    fields = {
        "data": "d",
        "data_sha256": "",
        "pairs": len(evaluation_rows),
        "protocols": {"skimage": "x"},
        "models": {BLURRED: "", "m": ""},
        "setup": "",
        "machine": None,
        "scenes": len({name.rpartition("/")[0] for name in evaluation_rows}),
        "rows": tuple(rows),
        "failures": (),
    }
    return Evaluation(**fields | changes)


def test_interval_is_over_scenes_where_there_are_enough():
    """Frames of a scene resemble each other: a hundred of them tell little more than one."""
    rng = np.random.default_rng(0)
    effects = rng.normal(0, 1, 10)
    gains = {f"{s}/{n}": effects[s] + rng.normal(0, 0.1) for s in range(10) for n in range(20)}
    flat = {name.replace("/", "-"): gain for name, gain in gains.items()}
    (_, scenes), (_, pictures) = some(gains).summaries, some(flat).summaries
    widths = [high - low for low, high in (scenes.interval, pictures.interval)]
    expected = 2 * 1.96 * effects.std() / np.sqrt(10)
    assert widths[0] == pytest.approx(expected, rel=0.25)
    assert widths[1] < widths[0] / 3
    assert some(gains).summaries[1].interval == scenes.interval  # seeded
    assert "bootstrap over 10 scenes" in some(gains).bootstrap
    assert "bootstrap over the pictures" in some(flat).bootstrap


def test_pictures_that_were_sharp(gopro, models):
    """Infinite scores are counted, and means leave them out."""
    save(picture(1), gopro / "test/A/blur/000000.png")
    save(picture(2), gopro / "test/A/blur/000001.png")
    Path(models[0]).write_text("0")
    evaluation = evaluate(found(gopro), models[:1])
    before, after = evaluation.summaries[:2]
    assert (before.infinite, after.infinite) == (2, 2)
    assert math.isfinite(before.psnr)
    assert (after.gain, after.worse) == (0, 0)
    assert by_name(evaluation)[models[0], "A/000000"].gain == 0


def test_a_single_pair(gopro, models):
    pair = found(gopro).pairs[0]
    evaluation = evaluate(PairedFolder("a/b", "", "all", (pair,)), models[:1])
    assert evaluation.summaries[1].interval is None
    assert evaluation.summaries[1].gain > 0


def test_fingerprint_is_of_the_content(gopro, models, tmp_path):
    first = evaluate(found(gopro), []).data_sha256
    shutil.move(gopro / "test/B", gopro / "test/C")
    assert evaluate(found(gopro), []).data_sha256 == first
    save(picture(7), gopro / "test/C/blur/000000.png")
    assert evaluate(found(gopro), []).data_sha256 != first


def test_a_real_network(tmp_path, gopro):
    """Weights are told by their hash, pictures come as `Deblurrer` gives them, and tiles are counted."""
    weights = tmp_path / "tiny.safetensors"
    save_model(create_model("saphn-s", levels=1, widths=(8, 8, 8), lower_widths=None), weights)
    network = Network(weights, device="cpu", memory_gib=0.02)
    blurred = picture(1, 400, 500)
    restored = network.restore(Pair("a", weights, weights), blurred)
    assert restored.tiles == network.deblurrer.plan(400, 500).num_tiles > 1
    assert (restored.picture == network.deblurrer.restore(blurred)).all()
    evaluation = evaluate(found(gopro), [weights], device="cpu")
    assert evaluation.models[str(weights)] == hash_file(weights)
    assert evaluation.tiling(str(weights)) == "4 whole"
    assert "cpu, float32" in evaluation.setup


def test_best_quality_of_a_real_network():
    blurred, pair = picture(1, 64, 48), Pair("a", Path(), Path())
    network = Network("saphn-s", device="cpu", quality="best")
    restored = network.restore(pair, blurred).picture
    assert (restored == network.deblurrer.restore(blurred, quality="best")).all()
    assert (restored != network.deblurrer.restore(blurred)).any()


# Going on


@pytest.fixture
def no_report(monkeypatch):
    monkeypatch.setattr(run, "write_reports", lambda *a, **k: None)


def test_only_what_changed_is_scored_again(gopro, models, tmp_path, no_report):
    def asked(*arguments, **options):
        Fake.calls.clear()
        evaluation = evaluate(found(gopro), *arguments, out=tmp_path / "out", **options)
        assert len(evaluation.rows) == 4 * len(evaluation.protocols) * len(evaluation.models)
        return sorted(Fake.calls), evaluation

    calls, first = asked(models[:1])
    assert calls == [("half.safetensors", name) for name in NAMES]
    calls, second = asked(models[:1])
    assert calls == []
    assert second == first
    assert asked(models)[0] == [("fifth.safetensors", name) for name in NAMES]
    assert len(asked(models, protocols=["skimage", "y"])[0]) == 8
    assert asked(models, protocols=["all"])[1].rows[:1] == first.rows[:1]
    Path(models[0]).write_text("0.6")
    calls, changed = asked(models)
    assert calls == [("half.safetensors", name) for name in NAMES]
    assert changed.summaries[1].gain != first.summaries[1].gain
    save(picture(9), gopro / "test/B/blur/000000.png")
    assert asked(models)[0] == [("fifth.safetensors", "B/000000"), ("half.safetensors", "B/000000")]


def test_best_quality_is_scored_beside_the_normal_one(gopro, models, tmp_path, no_report):
    out = tmp_path / "out"
    normal = evaluate(found(gopro), models[:1], out=out, save_images=True)
    best = evaluate(found(gopro), models[:1], out=out, save_images=True, quality="best")
    assert len(Fake.calls) == 8
    assert best.summaries[1].gain > normal.summaries[1].gain
    assert best.setup == f"{normal.setup}, mean of eight turns and flips"
    pictures = {path.relative_to(out / "restored").parts[0] for path in (out / "restored").rglob("*.png")}
    own = f"half-{hash_file(Path(models[0]))[:8]}"
    assert pictures == {own, f"{own}-best"}
    Fake.calls.clear()
    assert evaluate(found(gopro), models[:1], out=out) == normal
    assert not Fake.calls


def test_what_a_kill_leaves(gopro, models, tmp_path, no_report):
    """A process that is killed keeps what it had, and a line that it had half written does no harm."""
    out = tmp_path / "out"
    code = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_evaluation as t
        class Killed(t.Fake):
            def restore(self, pair, blurred):
                if pair.name == "B/000000":
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().restore(pair, blurred)
        t.run.Network = Killed
        t.evaluate(t.found({str(gopro)!r}), [{models[0]!r}], out={str(out)!r}, workers=1)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=600)
    assert killed.returncode == -signal.SIGKILL
    journal = out / "scores.jsonl"
    kept = {json.loads(line)["picture"] for line in journal.read_text().splitlines()}
    assert 0 < len(kept) < 4
    with journal.open("a") as file:
        file.write('{"picture": "B/0000')
    evaluation = evaluate(found(gopro), models[:1], out=out)
    assert sorted(name for _, name in Fake.calls) == sorted(set(NAMES) - kept)
    fresh = evaluate(found(gopro), models[:1])
    assert [(r.picture, r.psnr, r.ssim) for r in evaluation.rows] == [(r.picture, r.psnr, r.ssim) for r in fresh.rows]
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len(lines) == 4 * 2 * 2


def test_folders_of_others_are_left_alone(gopro, models, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/report.html").write_text("precious")
    with pytest.raises(UsageError, match="mine: has other files in it"):
        evaluate(found(gopro), models, out=tmp_path / "mine")
    with pytest.raises(UsageError, match=r"half\.safetensors: cannot be used: "):
        evaluate(found(gopro), models, out=models[0])
    assert not Fake.calls


def test_damaged_journal(gopro, models, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/scores.jsonl").write_text('{"psnr": 3}\n')
    with pytest.raises(UsageError, match=r"scores\.jsonl: line 1 is no score; remove it"):
        evaluate(found(gopro), models, out=tmp_path / "out")


# What cannot be scored


def test_one_bad_picture_does_not_stop_the_rest(gopro, models):
    file = gopro / "test/A/blur/000001.png"
    file.write_bytes(file.read_bytes()[:200])
    Fake.fault = "B/000000", ModelError("values that are no numbers")
    evaluation = evaluate(found(gopro), models[:1], protocols=["skimage"])
    assert [(f.picture, f.model) for f in evaluation.failures] == [("A/000001", ""), ("B/000000", models[0])]
    assert evaluation.failures[0].reason.startswith(f"{file}: the file is damaged or cut off")
    assert [s.pictures for s in evaluation.summaries] == [3, 2]
    assert list(report.choose_examples(evaluation)) == ["A/000002", "A/000000"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"protocols": ["ssim"]}, "unknown protocol 'ssim'"),
        ({"protocols": []}, "nothing to score"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"save_images": True}, "need a folder: give one with --out"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
    ],
)
def test_wrong_arguments(gopro, models, options, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        evaluate(found(gopro), models, **options)


def test_sizes_must_agree(gopro, models):
    save(picture(1, 48, 66), gopro / "test/B/sharp/000000.png")
    with pytest.raises(UsageError, match=r"differ in size: B/000000 \(64 x 48 and 66 x 48\)"):
        evaluate(found(gopro), models)


# Pictures restored by others, and kept ones


def test_kept_pictures_give_the_same_scores(gopro, models, tmp_path):
    """What is scored is what a PNG holds: scoring the written files again gives the same numbers."""
    first = evaluate(found(gopro), models[:1], out=tmp_path / "out", save_images=True)
    folder = next((tmp_path / "out/restored").iterdir())
    assert folder.name == f"half-{first.models[models[0]][:8]}"
    again = evaluate(found(gopro), [folder])
    assert [dataclasses.replace(r, model="", tiles=0, seconds=0) for r in again.rows] == [
        dataclasses.replace(r, model="", tiles=0, seconds=0) for r in first.rows
    ]
    assert again.tiling(str(folder)) == "restored before"
    (folder / "A/000000.png").unlink()
    evaluate(found(gopro), models[:1], out=tmp_path / "out", save_images=True)
    assert (folder / "A/000000.png").is_file()


def test_pictures_of_others_must_fit(gopro, models, tmp_path):
    for name in NAMES[1:]:
        save(picture(3), tmp_path / f"theirs/{name}.png")
    with pytest.raises(UsageError, match=r"theirs: there is no restored picture A/000000\.png"):
        evaluate(found(gopro), [tmp_path / "theirs"])
    save(picture(3, 20, 30), tmp_path / "theirs/A/000000.png")
    (failure,) = evaluate(found(gopro), [tmp_path / "theirs"]).failures
    assert "A/000000.png: has 30 x 20 pixels, but its pair 64 x 48" in failure.reason


# The report


class Page(html.parser.HTMLParser):
    """Tables as text, attributes of all tags, and the text of figures."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.tags, self.text = {}, [], ""
        self._table = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._table = self.tables.setdefault(dict(attrs)["id"], [])
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")

    def handle_endtag(self, tag):
        self._table = None if tag == "table" else self._table

    def handle_data(self, data):
        self.text += data
        if self._table and self._table[-1]:
            self._table[-1][-1] += data.strip()


@pytest.fixture
def reported(gopro, models, tmp_path):
    odd = "<b>&\"'\u00e9"
    for side in ("blur", "sharp"):
        (gopro / f"test/B/{side}/000000.png").rename(gopro / f"test/B/{side}/{odd}.png")
    names = [*NAMES[:3], f"B/{odd}"]
    evaluation = evaluate(found(gopro), models, out=tmp_path / "out", command="unsmear eval --data 'my <data>'")
    return names, evaluation, tmp_path / "out"


def test_page(reported):
    names, evaluation, out = reported
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    means, pictures = page.tables["summary"], page.tables["pictures"]
    assert len(means) == 1 + 2 * 3
    assert [row[0] for row in means[1:]] == ["skimage"] * 3 + ["matlab-rgb"] * 3
    assert means[1][1] == BLURRED
    summary = evaluation.summaries[1]
    assert means[2][3:6] == [f"{summary.psnr:.2f}", f"{summary.ssim:.4f}", f"{summary.gain:+.2f}"]
    assert means[2][9:] == ["1 of 4", "A/000002"]
    assert [row[0] for row in pictures[3:]] == evaluation.worst_first
    assert sorted(row[0] for row in pictures[3:]) == sorted(names)
    assert {len(row) for row in pictures[3:]} == {1 + 2 * (2 + 3 + 3)}
    examples = [a["aria-label"] for t, a in page.tags if t == "section"]
    assert examples == evaluation.worst_first
    images = [a for t, a in page.tags if t == "img"]
    assert len(images) == 4 * (4 + 3)
    assert all(a["src"].startswith("data:image/jpeg;base64,") and a["alt"] for a in images)
    for word in ("unsmear eval --data 'my <data>'", evaluation.setup, evaluation.data_sha256, "bootstrap over"):
        assert word in page.text
    for definition in evaluation.protocols.values():
        assert definition in page.text
    for sha256 in list(evaluation.models.values())[1:]:
        assert sha256 in page.text
    assert "failures" not in {a.get("id") for _, a in page.tags}


def test_page_needs_nothing_else(reported):
    """No request to anywhere, and no script from a file name."""
    text = (reported[2] / "report.html").read_text(encoding="utf-8")
    tags = Page(text).tags
    assert not re.findall(r"https?:|//cdn|@import|url\(", text)
    assert {tag for tag, _ in tags} & {"link", "iframe", "object", "base"} == set()
    assert [a for t, a in tags if t == "script"] == [{}]
    (policy,) = [a["content"] for t, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "<b>" not in text


def test_json_and_table_for_programs(reported):
    names, evaluation, out = reported
    whole = json.loads((out / "report.json").read_text(), parse_constant=pytest.fail)
    assert set(whole) == {f.name for f in dataclasses.fields(Evaluation)} | {"command", "bootstrap", "summaries"}
    assert len(whole["rows"]) == len(evaluation.rows)
    assert whole["summaries"][1]["gain"] == evaluation.summaries[1].gain
    with (out / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["picture", "model", "protocol", "psnr", "ssim", "gain", "tiles", "seconds"]
    assert [(r["picture"], r["model"], r["protocol"], float(r["psnr"])) for r in rows] == [
        (r.picture, r.model, r.protocol, r.psnr) for r in evaluation.rows
    ]
    assert {r["picture"] for r in rows} == set(names)


def test_infinite_values_survive(gopro, models, tmp_path):
    save(picture(1), gopro / "test/A/blur/000000.png")
    first = evaluate(found(gopro), models, out=tmp_path / "out")
    assert math.isinf(by_name(first)[BLURRED, "A/000000"].psnr)
    json.loads((tmp_path / "out/report.json").read_text(), parse_constant=pytest.fail)
    assert evaluate(found(gopro), models, out=tmp_path / "out", command="again") == first
    page = Page((tmp_path / "out/report.html").read_text())
    assert "4, 1 infinite" in {row[2] for row in page.tables["summary"][1:]}
    assert next(row for row in page.tables["pictures"] if row[0] == "A/000000")[1:3] == ["equal", "1.0000"]


def test_report_tells_what_is_missing(gopro, models, tmp_path):
    Fake.fault = "B/000000", ModelError("no <numbers>")
    evaluate(found(gopro), models[:1], out=tmp_path / "out")
    page = Page((tmp_path / "out/report.html").read_text())
    assert "Do not compare these means" in page.text
    assert f"B/000000, {models[0]}: no <numbers>" in page.text
    assert len(page.tables["pictures"]) == 3 + 4


def test_report_is_left_alone_if_nothing_changed(gopro, models, tmp_path):
    evaluate(found(gopro), models, out=tmp_path / "out")
    (tmp_path / "out/report.html").write_text("mark")
    Fake.calls.clear()
    evaluate(found(gopro), models, out=tmp_path / "out")
    assert not Fake.calls
    assert (tmp_path / "out/report.html").read_text() == "mark"
    evaluate(found(gopro), models[:1], out=tmp_path / "out")
    assert (tmp_path / "out/report.html").read_text() != "mark"


def test_examples_are_few():
    gains = {f"{n:04}": float((n * 7919) % 1111) for n in range(1111)}
    chosen = report.choose_examples(some(gains))
    order = sorted(gains, key=lambda name: gains[name])
    assert len(chosen) == 32
    assert list(chosen)[:24] == order[:24]
    assert list(chosen)[-4:] == order[-4:]
    assert all(order[rank - 1] == name for name, rank in chosen.items())
    assert 550 < chosen[list(chosen)[25]] < 560
    many = some(gains, models={BLURRED: "", "m": "", **{f"m{n}": "" for n in range(9)}})
    assert len(report.choose_examples(many)) * (2 * 11 + 1) <= 250
    assert len(report.choose_examples(some(dict(list(gains.items())[:30])))) == 30


def test_crops_show_where_models_matter():
    sharp = picture(1, 500, 700)
    blurred = np.roll(sharp, 3, axis=1)
    better = blurred.copy()
    better[300:330, 600:640] = sharp[300:330, 600:640]
    rows, cols = report.find_crop({BLURRED: blurred, "m": better, "sharp": sharp})
    assert (rows.stop - rows.start, cols.stop - cols.start) == report.CROP
    assert rows.start <= 300 < 330 <= rows.stop
    assert cols.start <= 600 < 640 <= cols.stop
    rows, cols = report.find_crop({BLURRED: blurred[:9, :7], "sharp": sharp[:9, :7]})
    assert (rows, cols) == (slice(0, 9), slice(0, 7))


# The command


@pytest.fixture
def command(tmp_path, monkeypatch, unsmear_here, models):
    """Runs the command in the folder of the test: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    return partial(unsmear_here, "eval")


def test_command(gopro, command):
    code, out, err = command(
        "--data", "gopro", "--model", "half.safetensors", "--model", "fifth.safetensors", "--out", "o"
    )
    assert code == 0
    assert "GoPro (blur), test: 4 pairs; SHA-256 of the files " in out
    for name in ("skimage", "matlab-rgb"):
        assert f"protocol {name}: {PROTOCOLS[name].definition}\n" in out
        lines = re.findall(
            rf"^{name} +(blurred input|\S+\.safetensors) +4 +\d\d\.\d\d +0\.\d{{4}}(.*)$", out, re.MULTILINE
        )
        assert [model for model, _ in lines] == [BLURRED, "half.safetensors", "fifth.safetensors"]
        assert lines[0][1].strip() == ""
        assert re.fullmatch(r" +\+\d\.\d\d +[-+]\d\.\d\d to [-+]\d\.\d\d( +[-+]\d\.\d\d){2} +1", lines[1][1])
    assert re.search(r"^worst of half\.safetensors under skimage: A/000002, -\d\.\d\d dB$", out, re.MULTILINE)
    assert err.splitlines()[0].startswith("1/4 A/000000: skimage PSNR, dB: blurred input ")
    assert err.splitlines()[-1].startswith("o/report.html: the report")
    assert sorted(os.listdir("o")) == ["report.html", "report.json", "scores.csv", "scores.jsonl"]
    assert "unsmear eval --data gopro --model half.safetensors" in Path("o/report.html").read_text()


def test_two_folders_and_two_files(gopro, command):
    folder = "gopro/test/A/"
    model = ["--model", "half.safetensors", "-q", "--protocol", "y"]
    code, out, err = command("--data", f"{folder}blur", "--sharp", f"{folder}sharp", *model)
    assert (code, err) == (0, "")
    assert "blur/sharp, all: 3 pairs" in out
    assert out.count("\ny  ") == 2
    code, out, err = command("--data", f"{folder}blur/000000.png", "--sharp", f"{folder}sharp/000000.png", *model)
    assert (code, err) == (0, "")
    assert "000000.png/000000.png, all: 1 pairs" in out


def test_failures_end_in_an_exit_code(gopro, command):
    Path("gopro/test/A/blur/000001.png").write_bytes(Path("gopro/test/A/blur/000001.png").read_bytes()[:200])
    code, out, err = command("--data", "gopro", "--model", "half.safetensors", "-q")
    assert code == 1
    assert "NOT ALL PICTURES WERE SCORED (1 failures)" in out
    assert err.count("\n") == 1
    assert err.startswith("unsmear: error: gopro/test/A/blur/000001.png: the file is damaged or cut off")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing option '--data'"),
        (["--data", "missing"], "missing: no such file or folder"),
        (["--data", "empty"], "empty: no pairs in a known layout; known are GoPro"),
        (["--data", "gopro", "--split", "train"], "gopro: there is no folder 'train' in it"),
        (["--data", "gopro", "--split", "all"], "split='all' must be train or test"),
        (["--data", "gopro", "--variant", "blur_gamma"], "there is no variant 'blur_gamma' in it; there is blur"),
        (
            ["--data", "gopro", "--protocol", "psnr"],
            "unknown protocol 'psnr': choose of skimage, matlab-rgb, y, aligned",
        ),
        (["--data", "gopro", "--sharp", "missing"], "missing: no such file or folder"),
        (["--data", "gopro", "--sharp", "half.safetensors"], "give two folders or two pictures, not one of each"),
        (["--data", "half.safetensors"], "half.safetensors: is one picture; give the sharp one with --sharp"),
        (["--data", "gopro", "--sharp", "gopro", "--variant", "blur"], "--variant is for the folder of a data set"),
        (["--data", "gopro", "--save-images"], "restored pictures need a folder: give one with --out"),
        (["--data", "gopro", "--workers", "0"], "Invalid value for '--workers'"),
    ],
)
def test_mistakes_are_told_in_one_line(gopro, command, arguments, words):
    Path("empty").mkdir()
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("unsmear: error: ")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        ("nobody", 2, "unknown model 'nobody'"),
        ("saphn", 3, "model 'saphn' ships without weights"),
        ("text.safetensors", 3, "text.safetensors: not a readable weights file"),
    ],
)
def test_unusable_models(gopro, command, monkeypatch, model, code, words):
    monkeypatch.setattr(run, "Network", Network)
    Path("text.safetensors").write_text("hello")
    result, out, err = command("--data", "gopro", "--model", model)
    assert (result, out) == (code, "")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("package", ["skimage", "jinja2"])
def test_missing_extra(gopro, command, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # makes the import fail
    for loaded in ("unsmear.evaluation.metrics", "skimage.filters", "skimage.metrics"):
        monkeypatch.delitem(sys.modules, loaded)
    code, out, err = command("--data", "gopro")
    assert (code, out) == (2, "")
    assert err == f"unsmear: error: evaluation needs the package {package}: pip install 'unsmear[eval]'\n"


def test_realblur_is_scored_aligned_by_others(tmp_path, gopro, command):
    shutil.move(gopro / "test", tmp_path / "RealBlur_J")
    for scene in ("A", "B"):
        (tmp_path / f"RealBlur_J/{scene}/sharp").rename(tmp_path / f"RealBlur_J/{scene}/gt")
    arguments = ("--data", "RealBlur_J", "--model", "half.safetensors", "-q")
    assert "--protocol aligned" in command(*arguments)[1]
    assert "--protocol aligned" not in command(*arguments, "--protocol", "aligned")[1]


def test_mistakes_do_not_wait_for_torch(tmp_path):
    stub = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))"
    code = f"{stub}; from unsmear.cli import main; main()"
    for arguments in (["--help"], ["--data", "missing"]):
        done = subprocess.run(
            [sys.executable, "-c", code, "eval", *arguments], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.stdout.endswith("False\n")
