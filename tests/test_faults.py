"""What goes wrong around the program: kills, interrupts, full and read-only disks, files that vanish.

By small real means: signals, a disk of one megabyte, limits of the system.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pictures import make
from PIL import Image

from unsmear.atomic import write_whole
from unsmear.batch import plan_jobs
from unsmear.errors import ImageError
from unsmear.pipeline import Treated, run_jobs
from unsmear.report import write_report

# A batch as `unsmear deblur in -r -o out` runs it, with a network that gives negatives.
BATCH = """
import json, signal, sys, time
from pathlib import Path
from unsmear.batch import plan_jobs
from unsmear.errors import UnsmearError
from unsmear.pipeline import Treated, run_jobs

signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored in the background
signal.signal(signal.SIGTERM, signal.default_int_handler)

def negative(job, picture):
    print("working", flush=True)
    time.sleep(float(sys.argv[1]))
    return Treated(picture.with_srgb(255 - picture.srgb()))

outcomes = []
try:
    batch = plan_jobs(["in"], "out", recursive=True)
    run_jobs(batch.jobs, [negative], max_megapixels=1, done=outcomes.append)
except KeyboardInterrupt:
    sys.exit(130)
except UnsmearError as error:
    print(json.dumps({"refused": str(error)}))
    sys.exit(error.exit_code)
failed = {o.job.source_name: o.note for o in outcomes if o.error}
there = {str(path): path.read_bytes().hex() for path in Path("out").rglob("*") if path.is_file()}
report = {"done": len(outcomes) - len(failed), "skipped": len(batch.existing), "failed": failed, "there": there}
print(json.dumps(report))
sys.exit(bool(failed))
"""


def folder(count, size=(8, 6)):
    for i in range(count):
        make(f"in/{i % 3}/{i:03}.png", i % 256, size)


def batch(seconds=0.0, shell="exec "):
    """Starts the batch as a process of its own; `shell` is what goes before it on the command line."""
    command = [sys.executable, "-c", BATCH, str(seconds)]
    return subprocess.Popen(["sh", "-c", shell + '"$@"', "sh", *command], stdout=subprocess.PIPE, text=True)


def result(process):
    out, _ = process.communicate(timeout=600)
    return json.loads(out.splitlines()[-1])


def negative(job, picture):
    return Treated(picture.with_srgb(255 - picture.srgb()))


def tree(folder="out"):
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


# Killed at any moment


@pytest.mark.parametrize(
    ("count", "kills"), [(30, 4), pytest.param(500, 100, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_a_batch_that_is_killed_goes_on_where_it_was(place, count, kills):
    folder(count)
    result(batch())
    expected = tree()
    assert len(expected) == count
    shutil.rmtree("out")
    rng, killed, before = random.Random(0), 0, {}
    while killed < kills:
        process = batch(0.001)
        process.stdout.readline()  # it has begun
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        found = tree() if Path("out").exists() else {}
        assert all(expected[name] == data for name, data in found.items())  # nothing partial, and nothing hidden
        assert before.items() <= found.items()
        before = found
        if len(found) == count:
            shutil.rmtree("out")
            before = {}
    report = result(batch())
    assert (report["done"], report["skipped"], report["failed"]) == (count - len(before), len(before), {})
    assert tree() == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("times", [1, 2])
def test_interrupts_leave_whole_files_only(number, times, place):
    folder(40)
    process = batch(0.02)
    while len(list(Path("out").rglob("*.png"))) < 3 and process.poll() is None:
        time.sleep(0.001)
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.01)
    process.communicate(timeout=600)
    assert process.returncode in ((130,) if times == 1 else (130, -number))  # impatience may meet Python's own end
    written = list(tree())
    assert 3 <= len(written) < 40
    assert all(np.asarray(Image.open(name)).shape == (6, 8, 3) for name in written)
    assert not [name for name in written if ".tmp" in name]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupts_end_within_two_seconds(number, place):
    folder(40)
    process = batch(60)
    process.stdout.readline()
    began = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=600)
    assert process.returncode == 130
    assert time.monotonic() - began <= 2


def test_new_files_have_no_name_before_they_are_whole(place, monkeypatch):
    if not hasattr(os, "O_TMPFILE"):
        pytest.skip("only Linux has files without names")
    seen = []

    def look(descriptor):
        seen.append(os.listdir())
        real(descriptor)

    real = os.fsync
    monkeypatch.setattr(os, "fsync", look)
    write_whole(Path("a.png"), b"new")
    if seen == [[]]:  # else this file system cannot
        write_whole(Path("a.png"), b"newer")
        assert [len(names) for names in seen] == [0, 2]
    assert tree(".") == {"a.png": b"newer" if len(seen) == 2 else b"new"}


def test_where_files_cannot_be_without_a_name_they_are_hidden(place, monkeypatch):
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    write_whole(Path("a.png"), b"new")
    assert tree(".") == {"a.png": b"new"}
    assert Path("a.png").stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_a_file_that_somebody_makes_meanwhile_is_replaced_only_if_any_may_be(place, monkeypatch):
    real = os.fsync

    def overtake(descriptor):
        real(descriptor)
        Path("a.png").write_bytes(b"theirs")

    monkeypatch.setattr(os, "fsync", overtake)
    with pytest.raises(ImageError, match=r"a\.png: cannot be written: a file of that name is there by now"):
        write_whole(Path("a.png"), b"ours", replace=False)
    assert tree(".") == {"a.png": b"theirs"}
    write_whole(Path("a.png"), b"ours")
    assert tree(".") == {"a.png": b"ours"}


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


# Disks that are full, read-only, or gone


def with_disk(options):
    """How to give a process a small disk of its own as its output, which goes when it goes."""
    if sys.platform != "linux" or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0:
        pytest.skip("no disks can be made here")
    os.mkdir("out")
    return f"exec unshare -rm sh -c 'mount -t tmpfs -o {options} none out && exec \"$@\"' sh "


def noisy(count):
    """Pictures of 10 KB and two small ones, and what becomes of them."""
    rng = np.random.default_rng(0)
    for i in range(count):
        make(f"in/{i:02}.png")
        Image.fromarray(rng.integers(0, 256, (60, 57, 3), np.uint8)).save(f"in/{i:02}.png")
    make("in/a.png")
    make("in/b.png")
    expected = result(batch())["there"]
    shutil.rmtree("out")
    return expected


def check_partly_written(process, expected, words):
    report = result(process)
    assert process.returncode == 1
    assert 1 <= report["done"] < len(expected)
    assert report["done"] + len(report["failed"]) == len(expected)
    for source, note in report["failed"].items():
        assert note == f"{source.replace('in/', 'out/')}: cannot be written: {words}"
    assert len(report["there"]) == report["done"]  # and nothing hidden
    assert report["there"].items() <= expected.items()


def test_a_full_disk_is_told_and_leaves_whole_files_only(place):
    expected = noisy(12)
    check_partly_written(batch(shell=with_disk("size=64k")), expected, "No space left on device")


def test_a_limit_of_file_sizes_is_told_and_leaves_whole_files_only(place):
    expected = noisy(3)
    check_partly_written(batch(shell="ulimit -f 8 && exec "), expected, "File too large")


def test_a_disk_that_is_read_only_is_refused_before_any_work(place):
    folder(3)
    process = batch(shell=with_disk("ro"))
    assert result(process) == {"refused": "out: this folder cannot be written; choose another --output"}
    assert process.returncode == 2


def test_inputs_that_vanish_or_change_meanwhile(place):
    folder(12)
    jobs = plan_jobs(["in"], "out", recursive=True).jobs
    outcomes = []

    def treat(job, picture):
        if job is jobs[0]:
            for other in jobs[6:9]:
                other.source.unlink()
            jobs[9].source.write_bytes(b"something else")
            shutil.rmtree(jobs[11].source.parent)  # that of the last ones
        return negative(job, picture)

    run_jobs(jobs, [treat], max_megapixels=1, done=outcomes.append)
    failed = {o.job.source for o in outcomes if o.error}
    assert len(outcomes) == 12
    assert {job.source for job in jobs[6:]} == failed
    assert len(tree()) == 6


@pytest.mark.parametrize("count", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_one_rotten_file_among_many(count, place):
    folder(count)
    rotten = Path(f"in/{count // 2 % 3}/{count // 2:03}.png")
    rotten.write_bytes(rotten.read_bytes()[:50])
    planned = plan_jobs(["in"], "out", recursive=True)
    outcomes = []
    run_jobs(planned.jobs, [negative], max_megapixels=1, done=outcomes.append)
    write_report(Path("r.json"), outcomes, planned.existing, complete=True)
    report = json.loads(Path("r.json").read_text())
    assert (report["restored"], report["failed"]) == (count - 1, 1)
    assert [row["source"] for row in report["pictures"] if row["state"] == "failed"] == [str(rotten)]
    assert len(tree()) == count - 1
    assert not list(Path("out").rglob(".*"))
