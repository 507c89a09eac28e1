"""Which pictures are found, where their results go, and which calls are refused before any work."""

import os
from itertools import chain
from pathlib import Path

import pytest
from PIL import Image

from unsmear.batch import plan_jobs
from unsmear.errors import UsageError


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of pictures and of what may lie about among them; the working folder is its parent."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a.PNG", "sub/c.tif", "sub/deep/d.webp"):
        make(f"photos/{name}")
    ours = "b.deblurred.jpg", "b.explained.png"
    for name in (".hidden.jpg", "._b.jpg", "Thumbs.db", "notes.txt", *ours, ".git/x.jpg"):
        path = Path("photos", name)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    os.mkfifo("photos/pipe.jpg")
    Path("photos/itself.jpg").symlink_to("itself.jpg")
    Path("photos/broken.jpg").symlink_to("nowhere.jpg")
    return tmp_path


def make(name):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    formats = {".jpg": "JPEG", ".tif": "TIFF", ".webp": "WEBP", ".jpeg": "JPEG"}
    Image.new("RGB", (8, 6), (10, 20, 30)).save(path, formats.get(path.suffix, "PNG"))
    return path


def planned(*inputs, output=None, **options):
    return [(str(job.source), str(job.target)) for job in plan_jobs(list(inputs), output, **options).jobs]


def test_one_file(photos):
    assert planned("photos/b.jpg", overwrite=True) == [("photos/b.jpg", "photos/b.deblurred.jpg")]
    assert planned("photos/b.jpg", output="x.png") == [("photos/b.jpg", "x.png")]
    assert planned("photos/b.jpg", output="new/") == [("photos/b.jpg", "new/b.jpg")]
    Path("there").mkdir()
    assert planned("photos/b.jpg", output="there") == [("photos/b.jpg", "there/b.jpg")]


def test_folder_without_what_is_hidden_foreign_or_our_own(photos):
    assert planned("photos", output="out") == [("photos/a.PNG", "out/a.PNG"), ("photos/b.jpg", "out/b.jpg")]


def test_tree_is_kept(photos):
    assert planned("photos", output="out", recursive=True) == [
        ("photos/a.PNG", "out/a.PNG"),
        ("photos/b.jpg", "out/b.jpg"),
        ("photos/sub/c.tif", "out/sub/c.tif"),
        ("photos/sub/deep/d.webp", "out/sub/deep/d.webp"),
    ]


def test_results_of_an_earlier_run_inside_the_input_are_no_inputs(photos):
    make("photos/out/b.jpg")
    assert ("photos/out/b.jpg", "photos/out/out/b.jpg") not in planned("photos", output="photos/out", recursive=True)


def test_links_are_followed_but_no_folder_is_entered_twice(photos):
    Path("photos/sub/loop").symlink_to(photos / "photos")
    Path("photos/link.jpg").symlink_to("b.jpg")
    make("elsewhere/e.jpg")
    Path("photos/album").symlink_to(photos / "elsewhere")
    sources = [source for source, _ in planned("photos", output="out", recursive=True)]
    assert sources == [
        "photos/a.PNG",
        "photos/album/e.jpg",
        "photos/b.jpg",
        "photos/link.jpg",
        "photos/sub/c.tif",
        "photos/sub/deep/d.webp",
    ]


def test_patterns_that_the_shell_did_not_expand(photos):
    assert planned("photos/b.*jpg", output="out/") == [("photos/b.jpg", "out/b.jpg")]
    assert [s for s, _ in planned("photos/**/[cd].*", output="out")] == [
        "photos/sub/c.tif",
        "photos/sub/deep/d.webp",
    ]
    make("photos/odd[1].jpg")
    assert planned("photos/odd[1].jpg") == [("photos/odd[1].jpg", "photos/odd[1].deblurred.jpg")]
    with pytest.raises(UsageError, match="no file matches this pattern"):
        plan_jobs(["photos/*.gif"])


def test_same_command_twice_does_not_take_results_for_inputs(photos):
    batch = plan_jobs(["photos/b.jpg", "photos/b.deblurred.jpg", "photos/a.PNG"])
    assert [str(job.source) for job in batch.jobs] == ["photos/a.PNG"]
    assert [str(job.source) for job in batch.existing] == ["photos/b.jpg"]
    assert planned("photos/b.deblurred.jpg") == [("photos/b.deblurred.jpg", "photos/b.deblurred.deblurred.jpg")]


def test_same_file_twice_is_done_once(photos):
    assert planned("photos/a.PNG", "./photos/a.PNG", "photos", output="out", overwrite=True) == [
        ("photos/a.PNG", "out/a.PNG"),
        ("photos/b.jpg", "out/b.jpg"),
    ]


def test_names_without_a_known_extension_get_one_by_content(photos):
    make("scan").rename("scan.orig")
    assert planned("scan.orig") == [("scan.orig", "scan.deblurred.png")]
    assert planned("scan.orig", output="out/") == [("scan.orig", "out/scan.png")]


def test_existing_results_are_left_out_of_many(photos):
    make("out/b.jpg")
    batch = plan_jobs(["photos"], "out")
    assert [str(job.source) for job in batch.jobs] == ["photos/a.PNG"]
    assert [str(job.target) for job in batch.existing] == ["out/b.jpg"]
    assert batch.is_many
    assert len(plan_jobs(["photos"], "out", overwrite=True).jobs) == 2


@pytest.mark.parametrize(
    ("inputs", "output", "words"),
    [
        (["missing.jpg"], None, "missing.jpg: no such file or folder"),
        (["photos/b.jpg", "missing.jpg"], "out", "missing.jpg: no such file or folder"),
        ([""], None, "'': no such file or folder"),
        (["n" * 300 + ".jpg"], None, "no such file or folder"),
        (["photos/itself.jpg"], None, "photos/itself.jpg: no such file"),
        (["photos/broken.jpg"], None, "photos/broken.jpg: no such file"),
        (["photos/pipe.jpg"], None, "not a picture file but a folder, pipe or device"),
        (["/dev/zero"], None, "not a picture file but a folder, pipe or device"),
        (["empty"], None, "empty: no pictures in this folder; --recursive looks into"),
        (
            ["photos/b.jpg"],
            None,
            "photos/b.deblurred.jpg: exists already; choose another --output, or pass --overwrite",
        ),
        (["photos/b.jpg"], "photos/b.jpg", "photos/b.jpg: the result would replace its input"),
        (["photos"], "photos", "the result would replace its input"),
        (["photos/b.jpg"], "link.jpg", "link.jpg: the result would replace its input"),
        (["photos/b.jpg"], "x.gif", "x.gif: end the name of the output with one of .jpg"),
        (["photos/b.jpg"], "", "the name of the output is empty"),
        (["photos/b.jpg"], "missing/x.jpg", "missing: no such folder for the output"),
        (["photos/b.jpg"], "photos/notes.txt/x.jpg", "photos/notes.txt: is a file, but a folder is needed"),
        (["photos"], "photos/notes.txt", "photos/notes.txt: is a file, but a folder is needed"),
        (["photos/b.jpg"], "n" * 300 + ".jpg", "File name too long"),
        (["photos"], "n" * 300, "File name too long"),
        (
            ["photos/a.PNG", "other/a.PNG"],
            "out",
            "photos/a.PNG and other/a.PNG would both be written to out/a.PNG",
        ),
        (["-", "photos/b.jpg"], None, "standard input and output take one picture"),
        (["photos"], "-", "photos: is not a picture file"),
    ],
)
def test_wrong_calls_are_refused_before_any_work(photos, inputs, output, words):
    Path("empty").mkdir()
    Path("link.jpg").symlink_to("photos/b.jpg")
    make("other/a.PNG")
    before = sorted(photos.rglob("*"))
    with pytest.raises(UsageError) as caught:
        plan_jobs(inputs, output)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(photos.rglob("*")) == before


def test_no_result_is_written_over_another_input(photos):
    make("a.png")
    Path("a.png").rename("a")  # whose content asks for the name a.png
    make("a.png")
    with pytest.raises(UsageError, match=r"a would be written over another input, a\.png"):
        plan_jobs(["a", "a.png"], "./", overwrite=True)


def test_folder_that_cannot_be_written(photos, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root, who may everything
    with pytest.raises(UsageError, match="this folder cannot be written"):
        plan_jobs(["photos/a.PNG"])


def test_shares_of_a_folder(photos):
    everything = planned("photos", output="out", recursive=True)
    shares = [planned("photos", output="out", recursive=True, shard=(i, 3)) for i in (1, 2, 3)]
    assert sorted(chain.from_iterable(shares)) == everything
    assert [len(share) for share in shares] == [2, 1, 1]
    make("out/a.PNG")  # what is done already does not move the others to another share
    batches = [plan_jobs(["photos"], "out", recursive=True, shard=(i, 3)) for i in (1, 2, 3)]
    assert [[str(j.source) for j in (*b.existing, *b.jobs)] for b in batches] == [[s for s, _ in n] for n in shares]
