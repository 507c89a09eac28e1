"""Files made to do harm, and files damaged by chance: a picture or a network comes out, or one line of ours.

The cases and what holds them are listed in docs/reliability.md.
"""

import json
import os
import re
import struct
import subprocess
import sys
import textwrap
import zlib
from dataclasses import asdict
from itertools import product
from pathlib import Path

import fuzz
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, exif_block, image, opened, png_with_header, tiff_of
from PIL import Image
from safetensors.torch import save_file
from test_image_color import PROFILES, with_curves
from test_restore import StandIn

from unsmear.batch import plan_jobs
from unsmear.errors import ImageError, ModelError
from unsmear.image import open_picture
from unsmear.models import MODELS, create_model, list_models, load_model, save_model
from unsmear.pipeline import Treated, run_jobs
from unsmear.restore import Deblurrer

HERE = Path(__file__).parent
LINUX = Path("/proc/self/clear_refs").exists()


def python(*arguments, seconds):
    """Runs Python in the folder of the tests, in a process of its own: exit code and all that it said."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=HERE, env=environment, capture_output=True, text=True, timeout=seconds
    )
    return done.returncode, done.stdout + done.stderr


# Damaged by chance


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("pictures", 600),
        ("weights", 300),
        pytest.param("pictures", 10_000, marks=pytest.mark.slow),
        pytest.param("weights", 10_000, marks=pytest.mark.slow),
    ],
)
def test_damaged_files_give_a_result_or_our_own_error(kind, count):
    code, said = python("fuzz.py", kind, "0", str(count), seconds=60 * 60)
    assert code == 0, said[-5000:]


def test_every_seed_is_sound_before_it_is_damaged():
    refused = {name for name, data in fuzz.picture_seeds().items() if fuzz.check_picture(data) != "picture"}
    assert refused == {"jpeg-cmyk", "webp-animated", "tiff-pages"}


def test_the_same_number_is_the_same_file():
    seeds = {"a": bytes(range(200)), "b": b"something else" * 9}
    once, twice = list(fuzz.cases(seeds, range(50))), list(fuzz.cases(seeds, range(50)))
    assert once == twice
    assert sum(data != seeds[name] for _, name, data in once) >= 45


@pytest.mark.parametrize("name", sorted(os.listdir(HERE / "corpus")))
def test_what_was_once_treated_wrongly(name):
    if name.endswith(".md"):
        rows = re.findall(r"^\| `([^`]+)`", (HERE / "corpus" / name).read_text(), re.MULTILINE)
        assert sorted([*rows, name]) == sorted(os.listdir(HERE / "corpus"))
        return
    data = (HERE / "corpus" / name).read_bytes()
    if name.endswith(".heic"):
        pytest.importorskip("pillow_heif")
    if name.endswith((".heic", ".tif")):
        assert fuzz.check_picture(data) == ("picture" if name == "turned-by-xmp.heic" else "refused")
    else:
        assert fuzz.check_weights(data, "ours.safetensors" if name.endswith("safetensors") else name) == "refused"


# Bombs: small files of large pictures


def bombs():
    """Files of a few bytes that promise more than 200 megapixels, or much of something else."""
    seeds = fuzz.picture_seeds()

    def patched(name, mark, offset, format, *values):
        data = bytearray(seeds[name])
        struct.pack_into(format, data, data.index(mark) + offset, *values)
        return bytes(data)

    black = np.zeros((2, 2, 3), np.uint16)
    webp = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\x3f\x00" * 2
    made = {
        "png": png_with_header(20_000, 20_000),
        "png-16": png_with_header(20_000, 20_000, depth=16),
        "gif": b"GIF89a\xff\xff\xff\xff" + bytes(60),
        "webp": b"RIFF" + struct.pack("<I", len(webp) + 4) + b"WEBP" + webp,
        "bmp": patched("bmp", b"BM", 18, "<ii", 20_000, -20_000),
        "jpeg": patched("jpeg", b"\xff\xc0", 5, ">HH", 65_500, 65_500),
        "tiff": encoded(Image.new("1", (8, 8)), "TIFF", compression="group4", tiffinfo={}),
        "tiff-16": tiff_of(black, t256=(4, 1, 20_000), t257=(4, 1, 20_000)),
        "tiff-directories": directories(99, 2_000_000),
        "tiff-pages": directories(5000, 4, reduced=False),
        "tiff-entries": directories(1, 2_000_000, entries=60_000),
        "avif": patched("avif", b"ispe", 8, ">II", 20_000, 20_000),
        "png-text": png_with(b"zTXt", b"a\0\0" + zlib.compress(bytes(20_000_000), 1)),
        "png-profile": png_with(b"iCCP", b"a\0\0" + zlib.compress(bytes(20_000_000), 1)),
        "png-length": png_with(b"tEXt", b"a\0b", length=2**31 - 1),
    }
    for name, tag in (("tiff", 256), ("tiff", 257)):
        made[name] = re.sub(
            struct.pack("<H", tag) + rb"[\x03\x04]\0\x01\0\0\0....",
            struct.pack("<HHII", tag, 4, 1, 20_000).replace(b"\\", b"\\\\"),
            made[name],
            count=1,
            flags=re.DOTALL,
        )
    if "raw" in seeds:
        raw = bytearray(seeds["raw"])
        for tag in (256, 257):
            struct.pack_into("<I", raw, raw.index(struct.pack("<HHI", tag, 4, 1)) + 8, 20_000)
        made["raw"] = bytes(raw)
    if "heic" in seeds:
        sides = struct.pack(">II", 20_000, 20_000)
        made["heic"] = re.sub(rb"(ispe....)........", lambda found: found[1] + sides, seeds["heic"], flags=re.DOTALL)
    return made


def directories(count, length, *, entries=1, reduced=True):
    """A TIFF file of many directories, whose entries all name the same data."""
    size = 2 + 12 * (entries + 4) + 4
    body, place = b"II*\0" + struct.pack("<I", 8), 8 + count * size
    for i in range(count):
        rows = [(254, 4, 1, int(reduced and i > 0)), (256, 4, 1, 4), (257, 4, 1, 4), (262, 3, 1, 1)]
        rows += [(1000 + j, 7, length, place) for j in range(entries)]
        body += struct.pack("<H", len(rows)) + b"".join(struct.pack("<HHII", *row) for row in rows)
        body += struct.pack("<I", 8 + (i + 1) * size if i + 1 < count else 0)
    return body + bytes(length)


def png_with(kind, data, length=None):
    good = encoded(image(), "PNG")
    chunk = struct.pack(">I", len(data) if length is None else length) + kind + data
    return good[:33] + chunk + struct.pack(">I", zlib.crc32(kind + data)) + good[33:]


def honest():
    """What time is measured by: a picture of four megapixels, and as many entries as a bomb has, of eight bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), np.uint8)
    return {
        "honest": encoded(Image.fromarray(noise), "PNG", compress_level=1),
        "honest-entries": directories(1, 8, entries=60_000),
    }


MEASURE = """
import sys, time
from pathlib import Path
import fuzz
from unsmear.errors import UnsmearError
from unsmear.image import open_picture, save_picture

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))

for data in fuzz.picture_seeds().values():  # so that all libraries are loaded
    fuzz.check_picture(data)
for name in sys.argv[2:]:
    Path("/proc/self/clear_refs").write_text("5")
    before, began, said = peak(), time.process_time(), "taken"
    try:
        open_picture(Path(name), max_megapixels=float(sys.argv[1]))
    except UnsmearError as error:
        said = str(error)
    print(f"{Path(name).stem}\\t{time.process_time() - began}\\t{peak() - before}\\t{said}")
"""


def measured(folder, megapixels=200.0):
    """What became of all files in a folder: seconds of the processor, MiB, and the message."""
    code, said = python("-c", MEASURE, str(megapixels), *map(str, sorted(folder.iterdir())), seconds=300)
    assert code == 0, said[-5000:]
    rows = (line.split("\t") for line in said.splitlines() if line.count("\t") == 3)
    return {name: (float(seconds), float(mib), words) for name, seconds, mib, words in rows}


@pytest.mark.skipif(not LINUX, reason="no way to measure memory here")
def test_bombs_are_refused_by_their_header(tmp_path):
    made, standards = bombs(), honest()
    for name, data in {**made, **standards}.items():
        (tmp_path / name).write_bytes(data)
    found = measured(tmp_path)
    picture, entries = (found.pop(name)[0] for name in standards)
    assert found.keys() == made.keys()
    kinds = {"gif": "not a picture", "tiff-directories": "damaged", "tiff-entries": "damaged"}
    kinds |= {"tiff-pages": "several pages", "png-text": "too large", "png-profile": "too large"}
    kinds |= {"png-length": "damaged", "avif": "damaged", "heic": "(larger than 200 megapixels|damaged)"}
    for name, (seconds, mib, words) in found.items():
        assert re.search(kinds.get(name, "larger than 200 megapixels"), words), (name, words)
        assert mib <= 20, (name, mib)
        assert seconds <= (5 * entries if name == "tiff-entries" else picture / 5), (name, seconds)


@pytest.mark.slow
@pytest.mark.skipif(not LINUX, reason="no way to measure memory here")
def test_real_bombs_are_refused_by_their_header(tmp_path):
    """Black pictures, whole: 400 megapixels, and one of 108 that Pillow would only warn of where 50 are allowed."""
    for side in (20_000, 10_392):
        for suffix, options in ((".png", {}), (".tif", {"compression": "tiff_adobe_deflate"}), (".webp", {})):
            if suffix != ".webp" or side < 16_384:
                picture = Image.new("L" if suffix == ".png" else "RGB", (side, side))
                picture.save(tmp_path / f"{side}{suffix[1:]}{suffix}", **options)
    (tmp_path / "honest").write_bytes(honest()["honest"])
    found = measured(tmp_path, 50)
    honest_seconds = found.pop("honest")[0]
    for seconds, mib, words in found.values():
        assert "larger than 50 megapixels" in words
        assert (mib <= 20, seconds <= honest_seconds / 5) == (True, True)


def test_the_limit_is_ours_where_pillow_asks_again(monkeypatch):
    """Pillow judges TIFF files a second time, when pixels are decoded."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for compression in ("raw", "tiff_lzw", "group4"):
        mode = "1" if compression == "group4" else "RGB"
        assert opened(encoded(image(mode), "TIFF", compression=compression)).rgb.shape == (17, 23, 3)


def test_large_profiles_are_kept_and_not_computed_with():
    """A curve of a million steps, for all three channels, would take hundreds of megabytes and seconds."""
    steps = np.linspace(0, 65535, 1_000_000).astype(">u2").tobytes()
    icc = with_curves(b"curv" + bytes(4) + struct.pack(">I", 1_000_000) + steps)
    picture = opened(encoded(image(), "TIFF", icc_profile=icc))
    assert picture.icc == icc
    assert picture.srgb() is picture.rgb


# Wrong clothes and odd places

FOREIGN = {
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "pdf": b"%PDF-1.7\n",
    "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
    "fits": b"SIMPLE  =                    T",
    "j2k": b"\0\0\0\x0cjP  \r\n\x87\n",
    "elf": b"\x7fELF\2\1\1",
    "html": b"<!DOCTYPE html><html>",
    "gif": b"GIF89a\1\0\1\0",
    "ico": b"\0\0\1\0\1\0\x10\x10",
    "psd": b"8BPS\0\1",
    "tga": b"\0\0\2\0\0\0\0\0",
    "script": b"#!/bin/sh\ntouch ran\n",
    "zip": b"PK\3\4",
    "fli": b"\0\0\0\0\x11\xaf",
}


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_other_formats_meet_no_decoder_whatever_they_are_called(kind, suffix, tmp_path, monkeypatch):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(FOREIGN[kind].ljust(600, b"\0"))
    monkeypatch.setattr(Image, "open", lambda *args, **kwargs: pytest.fail("a decoder ran"))
    with pytest.raises(ImageError, match="not a picture that unsmear reads"):
        open_picture(path)


def test_a_folder_of_odd_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = ["two\nlines.png", "\u732b" * 80 + ".png", " .png", "-o.png", "%s{0}$(touch ran).png", "a.PNG"]
    for name in good:
        Path(name).write_bytes(encoded(image(), "PNG"))
    for name in ("._a.png", "Thumbs.db", ".DS_Store", "desktop.ini", "notes.txt"):
        Path(name).write_bytes(b"litter")
    Path("empty.png").touch()
    Path("zero.png").symlink_to("/dev/zero")
    Path("self.png").symlink_to("self.png")
    Path("up").symlink_to(".")
    os.mkfifo("pipe.png")
    os.mkdir("folder.png")
    outcomes = []
    jobs = plan_jobs(["."], "out", recursive=True).jobs
    run_jobs(jobs, [lambda job, picture: Treated(picture)], max_megapixels=1, done=outcomes.append)
    assert {o.job.source.name for o in outcomes if o.error} == {"empty.png"}
    assert sorted(os.listdir("out")) == sorted(good)
    assert not Path("ran").exists()


def test_an_unreadable_file_is_told(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(image(), "PNG"))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(ImageError, match="cannot be read: Permission denied"):
        open_picture(path)


# Sizes, kinds and colors through the whole way


MULTIPLES = sorted({create_model(name).size_multiple for name in ("saphn-s", "dmphn", "deepdeblur", "srn", "nafnet")})


def check_size(multiple, height, width, memory):
    deblurrer = Deblurrer(StandIn(size_multiple=multiple), memory_gib=memory)
    picture = np.random.default_rng(height * 301 + width).integers(0, 256, (height, width, 3), np.uint8)
    np.testing.assert_array_equal(deblurrer.restore(picture), picture)


@pytest.mark.slow
@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.sampled_from(MULTIPLES), st.integers(1, 300), st.integers(1, 300), st.sampled_from([0.05, 1.0]))
def test_every_size_comes_back(multiple, height, width, memory):
    check_size(multiple, height, width, memory)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 4096), (4096, 1), (3, 5), (127, 131)])
def test_odd_shapes_come_back(width, height):
    check_size(16, height, width, 0.05)


@pytest.mark.slow
def test_a_picture_of_8k_comes_back():
    check_size(16, 4320, 7680, 1.0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measured there")
def test_a_hundred_megapixels_take_less_than_four_gigabytes(tmp_path, monkeypatch):
    Image.effect_noise((1250, 1000), 50).convert("RGB").resize((11_600, 8_700)).save(tmp_path / "a.jpg", quality=90)
    process = subprocess.Popen(
        [sys.executable, "-m", "unsmear", "deblur", "a.jpg", "-q", "--device", "cpu"], cwd=tmp_path
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert usage.ru_maxrss / 2**20 <= 4
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # of that many Pillow warns
    with Image.open(tmp_path / "a.deblurred.jpg") as after:
        assert after.size == (11_600, 8_700)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_every_network_takes_odd_sizes(name):
    deblurrer = Deblurrer(create_model(name), device="cpu")
    for height, width in ((1, 1), (3, 5), (37, 41)):
        picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        assert deblurrer.restore(picture).shape == picture.shape


@pytest.mark.parametrize("profile", [None, "sRGB", "Display P3", "Adobe RGB"])
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "BMP"])
def test_a_network_that_changes_nothing_changes_nothing(format, profile, tmp_path):
    icc = None if format == "BMP" else profile_called(profile)
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    options |= {"icc_profile": icc, "exif": exif_block(1)} if icc else {}
    source = image("RGB", (70, 50))
    path = tmp_path / f"a.{format.lower()}"
    path.write_bytes(encoded(source, format, **options))
    with Image.open(Deblurrer(StandIn(), device="cpu")(path)) as after:
        np.testing.assert_array_equal(np.asarray(after), np.asarray(source))
        assert after.info.get("icc_profile") == icc


def profile_called(name):
    if name == "sRGB":
        return fuzz.srgb_profile()
    return PROFILES[name] if name else None


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_all_levels_of_a_ramp_survive_the_whole_way(format, tmp_path):
    pytest.importorskip("pyvips")
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(4, 2)
    ramp[..., 3] = 65535
    path = tmp_path / f"a.{format.lower()}"
    path.write_bytes(fuzz.png_16(ramp) if format == "PNG" else tiff_of(ramp))
    after = open_picture(Deblurrer(StandIn(), device="cpu")(path))
    assert after.rgb.dtype == np.uint16
    assert len(np.unique(after.rgb)) >= 60_000
    np.testing.assert_array_equal(after.rgb, ramp[..., :3])


# The same again

REPEAT = """
import hashlib, sys
import numpy as np, torch
from unsmear.restore import Deblurrer
torch.set_num_threads(int(sys.argv[1]))
picture = np.random.default_rng(0).random((75, 93, 3), np.float32)
restored = Deblurrer(device="cpu").restore(picture)
np.save(sys.argv[2], restored)
print(hashlib.sha256(restored.tobytes()).hexdigest())
"""


@pytest.mark.parametrize("times", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_the_same_picture_gives_the_same_bits(times):
    picture = np.random.default_rng(0).random((45, 61, 3), np.float32)
    deblurrer = Deblurrer(device="cpu")
    before = torch.get_num_threads()
    results = {}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results[threads] = [deblurrer.restore(picture) for _ in range(times)]
    finally:
        torch.set_num_threads(before)
    for again in results.values():
        assert all(np.array_equal(other, again[0]) for other in again)
    np.testing.assert_allclose(results[1][0], results[2][0], atol=1e-5)


@pytest.mark.slow
def test_other_processes_and_threads_give_the_same(tmp_path):
    for n in (1, 2, 8):
        once, twice = (python("-c", REPEAT, str(n), str(tmp_path / f"{n}.npy"), seconds=600) for _ in range(2))
        assert once == twice
        assert once[0] == 0, once
        np.testing.assert_allclose(np.load(tmp_path / f"{n}.npy"), np.load(tmp_path / "1.npy"), atol=1e-5)


# Weights made to do harm


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    path = tmp_path_factory.mktemp("ours") / "w.safetensors"
    save_model(create_model("saphn", **fuzz.SMALL), path)
    return path.read_bytes()


@pytest.mark.parametrize("length", [2**60, 2**63, 2**64 - 1, 100_000_001, 0, 1])
def test_headers_that_lie_are_refused(length, ours, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", length) + ours[8:])
    with pytest.raises(ModelError, match="not a readable weights file"):
        load_model(path)


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.999])
def test_truncated_weights_are_refused(share, ours, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(ours[: int(len(ours) * share)])
    with pytest.raises(ModelError, match="not a readable weights file"):
        load_model(path)


def edited(ours, path, change):
    """A weights file with other metadata and tensors."""
    path.write_bytes(ours)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    config = json.loads(metadata["config"])
    change(config, tensors)
    save_file(tensors, path, metadata | {"config": json.dumps(config)})
    return path


HOSTILE = (None, -1, 0, 10**9, 10**30, 1.5, "x", [], {}, [10**9] * 3, [-1] * 4, [0] * 5)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("name", ["saphn", "dmphn", "srn", "svrnn", "deblurgan", "mprnet", "restormer", "nafnet"])
def test_configurations_build_nothing_that_the_file_cannot_fill(name, tmp_path):
    path, config = tmp_path / "w.safetensors", asdict(MODELS[name][1])
    for key, value in product(config, HOSTILE):
        metadata = {"format": "unsmear-1", "model": name, "config": json.dumps(config | {key: value})}
        save_file({"w": torch.zeros(1)}, path, metadata)
        with pytest.raises(ModelError) as caught:
            load_model(path)
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 500


def test_weights_that_do_not_belong_are_named(ours, tmp_path):
    def change(config, tensors):
        tensors |= {f"extra{i}": torch.zeros(1) for i in range(9)}

    with pytest.raises(ModelError, match=r"first wrong names: extra0, extra1, extra2$"):
        load_model(edited(ours, tmp_path / "w.safetensors", change))


def test_weights_that_are_no_numbers_write_nothing(ours, tmp_path):
    def change(config, tensors):
        tensors |= {name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()}

    deblurrer = Deblurrer(edited(ours, tmp_path / "w.safetensors", change), device="cpu")
    (tmp_path / "a.png").write_bytes(encoded(image(), "PNG"))
    with pytest.raises(ModelError, match="no finite numbers, nothing was written"):
        deblurrer(tmp_path / "a.png")
    assert sorted(os.listdir(tmp_path)) == ["a.png", "w.safetensors"]


@pytest.mark.parametrize("command", ["deblur", "convert"])
def test_no_code_in_weights_is_ever_run(command, tmp_path):
    """Through the command itself, with a pickle whatever it is called."""
    make = """
        import os, pickle, sys
        class Canary:
            def __reduce__(self):
                return (os.mkdir, ("ran",))
        for name in ("w.pt", "w.safetensors", "w.pth", "w"):
            open(name, "wb").write(pickle.dumps({"state_dict": Canary()}))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(make)], cwd=tmp_path, check=True)
    (tmp_path / "a.png").write_bytes(encoded(image(), "PNG"))
    for name in ("w.pt", "w.safetensors", "w.pth", "w"):
        if command == "deblur":
            with pytest.raises(ModelError, match="not a readable weights file"):
                load_model(tmp_path / name)
        else:
            assert fuzz.check_weights((tmp_path / name).read_bytes(), name) == "refused"
    assert not (tmp_path / "ran").exists()
    assert not (HERE / "ran").exists()
    assert not Path("ran").exists()
