"""Pictures read, treated and written at the same time: nothing lost, nothing mixed up, nothing half-written."""

import io
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pictures import make
from PIL import Image

from unsmear import pipeline
from unsmear.batch import Job, plan_jobs
from unsmear.errors import ImageError, UsageError
from unsmear.image import Picture, from_pil, save_picture
from unsmear.pipeline import Treated, run_job, run_jobs


def negative(job, picture):
    return Treated(picture.with_srgb(255 - picture.srgb()))


def color(name):
    with Image.open(name) as img:
        return img.getpixel((0, 0))[0]


def folder(count, **options):
    return [Job(make(f"in/{i:03}.png", i, **options), Path(f"out/{i:03}.png")) for i in range(count)]


def run(jobs, *treatments, **options):
    outcomes = []
    usage = run_jobs(jobs, treatments or [negative], max_megapixels=1, done=outcomes.append, **options)
    return outcomes, usage


# One picture


def test_one_picture(place):
    job = Job(make("b.png"), Path("x/y/b.png"))
    outcome = run_job(job, negative, max_megapixels=1)
    assert (outcome.state, outcome.width, outcome.height) == ("restored", 8, 6)
    assert os.listdir("x/y") == ["b.png"]
    assert color("x/y/b.png") == 245


def test_the_input_may_be_replaced_when_asked(place):
    make("a.png")
    [job] = plan_jobs(["a.png"], "a.png", overwrite=True).jobs
    run_job(job, negative, max_megapixels=1)
    assert color("a.png") == 245


def test_what_the_output_cannot_hold_is_found_out_before_the_work(place):
    Image.new("RGBA", (4, 4)).save("clear.png")
    with pytest.raises(ImageError, match=r"x\.jpg: JPEG cannot hold transparency"):
        run_job(Job(Path("clear.png"), Path("x.jpg")), lambda *_: pytest.fail("worked"), max_megapixels=1)


def test_nothing_is_left_when_the_work_fails(place):
    make("b.png")
    before = sorted(place.rglob("*"))
    for fault in (ImageError("no"), KeyboardInterrupt()):

        def fail(job, picture, fault=fault):
            raise fault

        with pytest.raises(type(fault)):
            run_job(Job(Path("b.png"), Path("new/b.png")), fail, max_megapixels=1)
    assert sorted(place.rglob("*")) == before


def test_a_picture_that_is_kept(place):
    source = make("a.png")
    kept = Treated(None, kept=True)
    assert run_job(Job(source, Path("out/a.png")), lambda *_: kept, max_megapixels=1).state == "kept"
    assert not Path("out").exists()
    run_job(Job(source, Path("out/a.png")), lambda *_: kept, max_megapixels=1, copy_kept=True)
    assert Path("out/a.png").read_bytes() == source.read_bytes()
    stream = io.BytesIO()
    run_job(Job(source, stream), lambda *_: kept, max_megapixels=1, copy_kept=True)
    assert stream.getvalue() == source.read_bytes()
    # A picture, too, that its file could not stay as: without --output nothing is written.
    run_job(Job(source, Path("b.png")), lambda _, picture: Treated(picture, kept=True), max_megapixels=1)
    assert not Path("b.png").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_result_that_came_meanwhile_stays_unless_it_may_be_replaced(place, overwrite):
    job = Job(make("a.png"), Path("b.png"), overwrite=overwrite)

    def treat(job, picture):
        job.target.write_bytes(b"theirs")
        return Treated(picture)

    if overwrite:
        run_job(job, treat, max_megapixels=1)
    else:
        with pytest.raises(ImageError, match=r"b\.png: cannot be written: a file of that name is there by now"):
            run_job(job, treat, max_megapixels=1)
    assert (Path("b.png").read_bytes() == b"theirs") is not overwrite


def test_the_sheet_is_written_where_the_job_says(place):
    def treat(job, picture):
        return Treated(picture, sheet=from_pil(Image.new("RGB", (3, 3))))

    run_job(Job(make("a.png"), Path("out/a.jpg"), Path("out/sheet.png")), treat, max_megapixels=1)
    assert sorted(os.listdir("out")) == ["a.jpg", "sheet.png"]


def test_depth_that_the_format_cannot_hold_is_told(place):
    deep = Picture(np.full((4, 5, 3), 40_000, np.uint16), format="PNG")
    save_picture(deep, Path("deep.png"))
    outcome = run_job(Job(Path("deep.png"), Path("a.jpg")), lambda job, p: Treated(p), max_megapixels=1)
    assert outcome.note == "16 bits a channel, of which JPEG holds 8"
    assert run_job(Job(Path("deep.png"), Path("b.png")), lambda job, p: Treated(p), max_megapixels=1).note == ""


# Many pictures


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("devices", [1, 3])
def test_many_pictures(place, workers, devices):
    outcomes, usage = run(folder(40), *[negative] * devices, workers=workers)
    assert sorted(o.job.target_name for o in outcomes) == [f"out/{i:03}.png" for i in range(40)]
    assert all(o.state == "restored" for o in outcomes)
    assert [color(f"out/{i:03}.png") for i in range(40)] == [255 - i for i in range(40)]
    assert 0 <= usage.share <= 1


def test_all_devices_take_part(place):
    met = threading.Barrier(2, timeout=600)
    seen = set()

    def treat(job, picture):
        if len(seen) < 2:
            seen.add(threading.get_ident())
            met.wait()
        return negative(job, picture)

    assert len(run(folder(2), treat, treat)[0]) == 2
    assert len(seen) == 2


def test_bad_pictures_do_not_stop_the_others(place):
    jobs = folder(20)
    Path("in/003.png").write_bytes(b"rotten")
    Path("in/007.png").unlink()
    Path("in/009.png").write_bytes(Path("in/008.png").read_bytes()[:45])
    Path("out").mkdir()
    Path("out/011.png").mkdir()  # cannot be written

    def treat(job, picture):
        if job.source_name == "in/005.png":
            raise ImageError("too dark")
        return negative(job, picture)

    outcomes, _ = run(jobs, treat)
    failed = {o.job.source_name: o.note for o in outcomes if o.state == "failed"}
    assert sorted(failed) == ["in/003.png", "in/005.png", "in/007.png", "in/009.png", "in/011.png"]
    assert failed["in/005.png"] == "in/005.png: too dark"
    assert failed["in/007.png"] == "in/007.png: no such file"
    assert len(outcomes) == 20
    assert len(list(Path("out").glob("*.png"))) == 16  # and the folder


def test_large_pictures_go_alone(place, monkeypatch):
    monkeypatch.setattr(pipeline, "_PIXELS_IN_WORK", 100)
    alive, most, lock = 0, 0, threading.Lock()

    def open_slowly(source, **options):
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return real(source, **options)

    def save_slowly(*args, **options):
        nonlocal alive
        time.sleep(0.01)
        with lock:
            alive -= 1

    real = pipeline.open_picture
    monkeypatch.setattr(pipeline, "open_picture", open_slowly)
    monkeypatch.setattr(pipeline, "save_picture", save_slowly)
    outcomes, _ = run(folder(8), workers=3)  # 48 pixels each: two fit
    assert (len(outcomes), most) == (8, 2)
    most = 0
    outcomes, _ = run(folder(4, size=(20, 20)), workers=3)
    assert (len(outcomes), most) == (4, 1)


@pytest.mark.parametrize("where", ["treat", "write", "other device"])
def test_what_is_no_fault_of_a_picture_stops_all(place, monkeypatch, where):
    def treat(job, picture):
        if where != "write" and job.source_name == "in/004.png":
            raise ZeroDivisionError("a bug")
        return negative(job, picture)

    def save(*args, **options):
        raise ZeroDivisionError("a bug")

    if where == "write":
        monkeypatch.setattr(pipeline, "save_picture", save)
    with pytest.raises(ZeroDivisionError):
        run(folder(30), *[treat] * (2 if where == "other device" else 1))
    assert not [p for p in Path("out").rglob("*") if p.name.startswith(".")] if Path("out").exists() else True


def test_an_interrupt_leaves_whole_files_only(place):
    def treat(job, picture):
        if job.source_name == "in/010.png":
            raise KeyboardInterrupt
        return negative(job, picture)

    with pytest.raises(KeyboardInterrupt):
        run(folder(30), treat)
    written = sorted(Path("out").iterdir())
    assert len(written) <= 10
    assert all(color(p) == 255 - int(p.stem) for p in written)


def test_threads_end(place):
    before = threading.active_count()
    run(folder(5), negative, negative)
    assert threading.active_count() == before


def test_reading_and_writing_hide_behind_the_work(place, monkeypatch):
    # Not a timing of this machine: all waits are made here, and are long against everything else.
    def slowly(function, seconds):
        def call(*args, **options):
            time.sleep(seconds)
            return function(*args, **options)

        return call

    monkeypatch.setattr(pipeline, "open_picture", slowly(pipeline.open_picture, 0.05))
    monkeypatch.setattr(pipeline, "save_picture", slowly(pipeline.save_picture, 0.05))
    _, usage = run(folder(12), slowly(negative, 0.1))
    assert usage.share > 0.6  # one after the other it would be half


def test_a_folder_that_cannot_be_made(place):
    Path("out").write_text("a file")
    outcomes, _ = run(folder(2))
    assert [type(o.error) for o in outcomes] == [UsageError, UsageError]


def test_rgb_is_not_shared_between_pictures(place):
    def treat(job, picture):
        values = np.full_like(picture.srgb(), int(job.source_name[3:6]) + 100)
        return Treated(picture.with_srgb(values))

    run(folder(25), treat, treat, workers=4)
    assert [color(f"out/{i:03}.png") for i in range(25)] == list(range(100, 125))
