"""`unsmear bench` and what is behind it: what is counted, in which order things are timed, and what is told."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unsmear.bench import machine, subject
from unsmear.bench.machine import Probes
from unsmear.bench.measure import measure
from unsmear.bench.subject import REST, Subject
from unsmear.bench.work import count_work
from unsmear.cli.bench import bench
from unsmear.cost import count_macs
from unsmear.errors import OutOfMemoryError, UsageError
from unsmear.models import create_model, list_models, save_model
from unsmear.models.saphn import SAPHN

CPU = torch.device("cpu")
KINDS = {"convolution", "transposed convolution", "filter", "attention"}
SPEED = {"seconds", "macs", "traffic", "flops", "of_matrix_rate", "of_ceiling"}


@pytest.fixture(autouse=True)
def _small_machine(monkeypatch):
    monkeypatch.setattr(machine, "_SIDE", 256)
    monkeypatch.setattr(machine, "_COPIED", 2**16)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_memory(monkeypatch):
    """Spares tests that are about something else the processes that measure memory."""
    monkeypatch.setattr(Subject, "memory", lambda self: None)


@pytest.fixture
def tiny(tmp_path):
    """A weights file of a network that is quick to run."""
    path = tmp_path / "[b]tiny.safetensors"
    save_model(create_model("saphn-s", levels=1, widths=(8, 8, 8), lower_widths=None, filter_basis=0), path)
    return str(path)


@pytest.mark.parametrize("name", list_models())
def test_work_by_kind_adds_up(name):
    with torch.device("meta"):
        network = create_model(name)
    macs, traffic = count_work(network, 96, 64)
    # What a network multiplies itself, outside of all its layers, is of no kind.
    assert 0 < macs.total() <= count_macs(network, 96, 64)
    assert set(macs) == set(traffic)
    assert "convolution" in macs
    assert all(value > 0 for value in (*macs.values(), *traffic.values()))
    if network.half_precision:
        halved = count_work(network, 96, 64, torch.bfloat16)
        assert halved == (macs, {kind: value // 2 for kind, value in traffic.items()})


@pytest.mark.parametrize("name", ["saphn", "saphn-s"])
def test_all_work_of_the_papers_network_is_of_a_kind(name):
    network = create_model(name)
    macs, _ = count_work(network, 48, 64)
    assert set(macs) == KINDS | ({"blind deconvolution"} if name == "saphn-s" else set())
    assert macs.total() == count_macs(network, 48, 64)


def test_least_traffic_of_a_convolution():
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)

        def forward(self, x):
            return self.conv(x).relu()

    macs, traffic = count_work(One(), 8, 6)
    assert macs == {"convolution": 5 * 4 * 3 * 3 * 9}
    assert traffic == {"convolution": 4 * (3 * 8 * 6 + 5 * 3 * 9 + 5 + 5 * 4 * 3)}


def test_report_agrees_with_itself(no_memory, tiny):
    report = measure(["saphn-s", tiny, tiny], width=50, height=33, device="cpu", rounds=2, parts=True)
    assert [r.model for r in report.models] == ["saphn-s", tiny, tiny]
    assert [r.weights for r in report.models] == ["shipped", "file", "file"]
    assert (report.width, report.height, report.dtype, report.rounds) == (50, 33, "float32", 2)
    assert report.rates.matrix == max(report.rates.product, report.rates.convolution)
    assert report.rates.copy > 0
    for result in report.models:
        assert len(result.all_seconds) == 2
        assert min(result.all_seconds) <= result.quartiles[0] <= result.seconds <= result.quartiles[1]
        assert result.pixels_per_second == 50 * 33 / result.seconds
        parts = {part.kind: part for part in result.parts}
        assert set(parts) - {"blind deconvolution"} == KINDS | {REST}
        assert sum(part.macs for part in result.parts) == result.macs
        assert sum(part.traffic for part in result.parts) == result.traffic
        assert sum(part.share for part in result.parts) == pytest.approx(1)
        assert parts[REST].macs == parts[REST].traffic == 0
        for speed in (result, *result.parts):
            assert speed.flops * speed.seconds == pytest.approx(2 * speed.macs)
            assert speed.of_matrix_rate == pytest.approx(speed.flops / report.rates.matrix)
            least = max(2 * speed.macs / report.rates.matrix, speed.traffic / report.rates.copy)
            assert speed.of_ceiling == pytest.approx(least / speed.seconds)
    first, second, third = report.models
    assert (first.padded_width, first.padded_height) == (64, 48)
    assert first.macs == count_macs(create_model("saphn-s"), 48, 64)
    assert (second.padded_width, second.padded_height) == (56, 40)
    assert second.macs == third.macs < first.macs


def test_everything_takes_turns(no_memory, tiny, monkeypatch):
    order = []
    for kind in (Probes, Subject):
        run = kind.run
        monkeypatch.setattr(kind, "run", lambda self, run=run: (order.append(type(self).__name__), run(self)))
    measure([tiny, tiny], width=8, height=8, device="cpu", rounds=3)
    assert order == ["Subject"] * 2 + ["Probes", "Subject", "Subject"] * 3  # the first passes warm up


def test_rounds_fill_the_time(no_memory, tiny, monkeypatch):
    clock = SimpleNamespace(perf_counter=count().__next__)  # a second passes whenever somebody looks
    monkeypatch.setattr("unsmear.bench.measure.time", clock)
    for seconds, rounds in ((0, 3), (5, 7), (9, 11)):
        monkeypatch.setattr("unsmear.bench.measure._SECONDS", seconds)
        assert measure([tiny], width=8, height=8, device="cpu").rounds == rounds


def test_timing_parts_leaves_nothing_behind(tiny):
    timed = Subject(tiny, 8, 8, CPU, torch.float32)
    with torch.inference_mode():
        seconds = timed.run_parts()
    assert all(value > 0 for value in seconds.values())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in timed.network.modules())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory_is_that_of_a_pass_alone(tiny):
    ballast = torch.ones(2**27)  # half a GiB here must not show there
    small, large = (Subject(tiny, side, side, CPU, torch.float32).memory() for side in (64, 512))
    features = 4 * 8 * 256 * 256  # bytes of one feature map
    assert 0 <= small < large
    assert features < large < 100 * features < ballast.nbytes


def test_pass_that_is_killed(tiny, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -9 $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(OutOfMemoryError, match="was killed, most likely for want of memory"):
        measure([tiny], width=8, height=8, device="cpu")


def test_pass_that_will_not_fit(monkeypatch, tiny):
    monkeypatch.setattr(subject, "free_memory", lambda device: 10_000)
    with pytest.raises(OutOfMemoryError, match=r"at 90x80 takes about 0\.0 GiB, but only 0\.0 GiB are free"):
        measure([tiny], width=90, height=80, device="cpu")


def test_type_that_the_device_lacks(monkeypatch, tiny):
    def forward(self, x):
        if x.is_meta:
            return x
        raise RuntimeError("not implemented for 'Half'\nmore")

    monkeypatch.setattr(SAPHN, "forward", forward)
    with pytest.raises(UsageError, match=r"float16: not implemented for 'Half'; take float32$"):
        measure([tiny], width=8, height=8, device="cpu", dtype="float16")
    with pytest.raises(RuntimeError):  # in float32 it would be a bug
        measure([tiny], width=8, height=8, device="cpu")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_types(no_memory, tiny, dtype):
    report = measure([tiny], width=8, height=8, device="cpu", dtype=dtype, rounds=1)
    assert report.models[0].traffic * 2 == measure([tiny], width=8, height=8, device="cpu", rounds=1).models[0].traffic


def test_wrong_numbers():
    for wrong in ({"width": 0}, {"height": -1}, {"threads": 0}, {"rounds": 0}):
        with pytest.raises(UsageError, match="must be at least 1"):
            measure(device="cpu", **wrong)


# The command


def test_tables(no_memory, tiny, capsys, tmp_path):
    written = tmp_path / "out.json"
    arguments = {"size": "1x1", "device": "cpu", "threads": 1, "rounds": 1}
    bench([tiny, "saphn"], modules=True, json_file=str(written), **arguments)
    out, err = capsys.readouterr()
    assert err == ""
    assert "1x1, float32, cpu, 1 threads" in out
    assert re.search(r"^matrix rate [\d,]+ GFLOP/s \(3x3 convolution [\d,]+, 256\^3 matrix product ", out, re.MULTILINE)
    assert "saphn ships without weights: random ones are timed, which cost the same" in out
    assert re.search(rf"^{re.escape(tiny)} .* 0\.02 .* - .*%$", out, re.MULTILINE)  # no memory told
    assert re.search(r"^saphn +13\.75 ", out, re.MULTILINE)
    assert len(re.findall(r"^transposed convolution +[\d.]+ .*%$", out, re.MULTILINE)) == 2
    assert len(re.findall(r"^rest +- +- +[\d.]+ +[\d.]+% +- +- +-$", out, re.MULTILINE)) == 2
    assert json.loads(written.read_text())["rounds"] == 1


def test_whole_way_as_json(tiny):
    """The keys are a promise to whoever keeps these files: add to them, take none away."""
    command = [sys.executable, "-m", "unsmear", "bench", "--model", tiny, "--modules", "--json", "-", "--size", "8x8"]
    command += ["--rounds", "1", "--threads", "1", "--device", "cpu"]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert (run.returncode, run.stderr) == (0, "")
    report = json.loads(run.stdout)
    assert set(report) == {"machine", "width", "height", "dtype", "rounds", "rates", "models"}
    assert set(report["machine"]) == {f.name for f in dataclasses.fields(machine.Machine)} == {
        *("processor", "processors", "threads", "device", "device_name", "system"),
        *("python", "torch", "unsmear", "commit", "wait_policy"),
    }  # fmt: skip
    assert report["machine"]["wait_policy"] == "PASSIVE"
    assert report["machine"]["threads"] == 1
    assert set(report["rates"]) == {"product", "product_side", "convolution", "matrix", "copy"}
    (model,) = report["models"]
    assert set(model) == SPEED | {
        *("model", "weights", "parameters", "padded_width", "padded_height"),
        *("all_seconds", "quartiles", "pixels_per_second", "memory", "parts"),
    }  # fmt: skip
    assert set(model["parts"][0]) == SPEED | {"kind", "share"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--size", "1280"], 2, "--size '1280': write WIDTHxHEIGHT in pixels, such as 1280x720"),
        (["--size", "0x9"], 2, "--size '0x9': write WIDTHxHEIGHT"),
        (["--size", "9" * 5000 + "x9"], 2, "write WIDTHxHEIGHT"),
        (["--model", "nobody"], 2, "unknown model 'nobody'"),
        (["--model", "no.safetensors"], 2, "no such file 'no.safetensors'"),
        (["--model", "text.safetensors"], 3, "text.safetensors: not a readable weights file"),
        (["--dtype", "int8"], 2, "unknown type 'int8': choose one of float32, bfloat16, float16"),
        (["--device", "tpu"], 2, "unknown device 'tpu'"),
        (["--rounds", "0"], 2, "Invalid value for '--rounds'"),
        (["--json", "text.safetensors"], 2, "text.safetensors: exists already; choose another file for --json"),
        (["--json", "no/a.json"], 2, "no/a.json: there is no such folder to write to"),
    ],
)
def test_mistakes_are_told_in_one_line(place, unsmear_here, arguments, code, words):
    Path("text.safetensors").write_text("hello")
    found, out, err = unsmear_here("bench", "--device", "cpu", *arguments)
    assert (found, out) == (code, "")
    assert err.startswith("unsmear: error: ")
    assert words in err
    assert err.count("\n") == 1
    assert os.listdir() == ["text.safetensors"]
