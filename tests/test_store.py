"""Decoded pictures on disk: right, shared, renewed when files change, whole whatever happens meanwhile."""

import errno
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from unsmear.data import store as module
from unsmear.data.store import PictureStore, default_cache, list_pictures
from unsmear.errors import ImageError, UsageError


def save(path: Path, height: int = 5, width: int = 7, seed: int = 0, **options) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


@pytest.fixture
def photos(tmp_path):
    """Twenty pictures of several sizes, more than are decoded at a time, and what is in them."""
    pixels = [save(tmp_path / f"photos/{n:02}.png", 3 + n, 9 - n % 4, n) for n in range(20)]
    return list_pictures(tmp_path / "photos"), pixels


def assert_holds(store, pixels):
    assert len(store) == len(pixels)
    for got, expected in zip(store, pixels, strict=True):
        np.testing.assert_array_equal(got, expected)


# What is in it


def test_pictures_come_back_in_order(photos, tmp_path):
    files, pixels = photos
    store = PictureStore(files[::-1], tmp_path / "cache")
    assert_holds(store, pixels[::-1])
    np.testing.assert_array_equal(store[-1], pixels[0])
    assert [p.shape for p in store[1:3]] == [p.shape for p in pixels[-2:-4:-1]]
    with pytest.raises(IndexError):
        store[20]
    with pytest.raises(ValueError, match="read-only"):
        store[0][0] = 0


def test_gray_palette_and_alpha_become_rgb(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (4, 5, 4), np.uint8)
    for mode in ("L", "P", "RGBA", "1"):
        Image.fromarray(rgba).convert("RGB").convert(mode).save(tmp_path / f"{mode}.png")
    store = PictureStore(list_pictures(tmp_path), tmp_path / "cache")
    assert {p.shape for p in store} == {(4, 5, 3)}


def test_pictures_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = save(tmp_path / "a.png", exif=exif)
    store = PictureStore([tmp_path / "a.png"], tmp_path / "cache")
    np.testing.assert_array_equal(store[0], np.rot90(pixels, -1))


# When it is made anew


def cached(tmp_path, pattern: str = "*.p*") -> list[Path]:
    """What is in the cache besides its lock."""
    return list((tmp_path / "cache").glob(pattern))


def count_decoded(monkeypatch) -> list[Path]:
    decoded, read = [], module.read_picture
    monkeypatch.setattr(module, "read_picture", lambda path: decoded.append(path) or read(path))
    return decoded


def test_second_use_decodes_nothing(photos, tmp_path, monkeypatch):
    files, pixels = photos
    PictureStore(files, tmp_path / "cache")
    decoded = count_decoded(monkeypatch)
    assert_holds(PictureStore(files, tmp_path / "cache"), pixels)
    assert not decoded


def test_changed_files_and_other_selections_are_decoded(photos, tmp_path):
    files, pixels = photos
    PictureStore(files, tmp_path / "cache")
    assert_holds(PictureStore(files[:2], tmp_path / "cache"), pixels[:2])
    before = files[0].stat()
    pixels[0] = 255 - pixels[0]
    Image.fromarray(pixels[0]).save(files[0])
    os.utime(files[0], ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert_holds(PictureStore(files, tmp_path / "cache"), pixels)


@pytest.mark.parametrize("size", [0, 1, 100, -1, -8])
def test_damaged_cache_is_made_anew(photos, tmp_path, size):
    files, pixels = photos
    PictureStore(files, tmp_path / "cache")
    (file,) = cached(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:size])
    assert_holds(PictureStore(files, tmp_path / "cache"), pixels)
    assert file.read_bytes() == whole


# Several processes


class Sums(Dataset):
    def __init__(self, pictures):
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return int(self.pictures[index].sum())


def test_workers_map_the_same_file(photos, tmp_path):
    files, pixels = photos
    store = PictureStore(files, tmp_path / "cache")
    assert len(pickle.dumps(store)) < 5000
    workers = DataLoader(Sums(store), 10, num_workers=1, multiprocessing_context="spawn")
    assert [int(n) for batch in workers for n in batch] == [int(p.sum()) for p in pixels]


def test_sent_store_whose_cache_vanished_says_so(photos, tmp_path):
    data = pickle.dumps(PictureStore(photos[0], tmp_path / "cache"))
    for file in cached(tmp_path):
        file.unlink()
    with pytest.raises(UsageError, match="vanished"):
        pickle.loads(data)


def test_many_at_once_make_one_cache(photos, tmp_path):
    files, pixels = photos
    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(lambda _: PictureStore(files, tmp_path / "cache"), range(6)))
    for store in stores:
        assert_holds(store, pixels)
    assert len(cached(tmp_path)) == 1


def test_our_own_results_are_no_photos(tmp_path):
    for name in ("a.png", "a.deblurred.png", "a.png.compare.png", "a.explained.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert list_pictures(tmp_path) == [tmp_path / "a.png"]


AT_ONCE = """
import os, sys, time
from pathlib import Path
from unsmear.data import store
top, name, dies = Path(sys.argv[1]), sys.argv[2], "dies" in sys.argv
decoded, read = [], store.read_picture
def slowly(path):
    decoded.append(path)
    (top / "decoding").touch()
    deadline = time.monotonic() + 600
    while not (top / "waiting").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    if dies and path.name == "18.png":
        os._exit(9)
    return read(path)
store.read_picture = slowly
if name == "second":
    (top / "waiting").touch()
pictures = store.PictureStore(store.list_pictures(top / "photos"), top / "cache")
print(len(decoded), len(pictures))
"""


@pytest.mark.parametrize("first_ends", ["well", "dies"])
def test_one_process_decodes_and_another_waits_for_it(photos, tmp_path, first_ends):
    command = [sys.executable, "-c", AT_ONCE, str(tmp_path)]
    first = subprocess.Popen([*command, "first", first_ends], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600
    while not (tmp_path / "decoding").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    second = subprocess.run([*command, "second"], stdout=subprocess.PIPE, text=True, timeout=600, check=True)
    out, _ = first.communicate(timeout=600)
    if first_ends == "well":
        assert (out, second.stdout) == ("20 20\n", "0 20\n")
    else:
        assert (first.returncode, out, second.stdout) == (9, "", "20 20\n")
    assert len(cached(tmp_path, "*.pixels")) == 1


def test_a_disk_without_locks_will_do(photos, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", fail)
    files, pixels = photos
    assert_holds(PictureStore(files, tmp_path / "cache"), pixels)


def test_windows_locks_otherwise(photos, tmp_path, monkeypatch):
    tries: list[int] = []

    def locking(fd, mode, num_bytes):
        tries.append(mode)
        if len(tries) < 3:
            raise PermissionError(errno.EACCES, "another process has it")

    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    monkeypatch.setattr(sys, "platform", "win32")
    files, pixels = photos
    assert_holds(PictureStore(files, tmp_path / "cache"), pixels)
    assert tries == [2, 2, 2]


def test_killed_process_leaves_nothing_that_is_taken_for_a_cache(photos, tmp_path):
    files, pixels = photos
    code = (
        "import os, sys; from pathlib import Path; from unsmear.data import store\n"
        "read = store.read_picture\n"
        "store.read_picture = lambda path: os._exit(9) if path.name == '18.png' else read(path)\n"
        "store.PictureStore(store.list_pictures(sys.argv[1]), Path(sys.argv[2]))"
    )
    folders = [str(tmp_path / "photos"), str(tmp_path / "cache")]
    assert subprocess.run([sys.executable, "-c", code, *folders], check=False).returncode == 9
    (left,) = cached(tmp_path)
    assert left.suffix == ".part"
    assert_holds(PictureStore(files, tmp_path / "cache"), pixels)
    assert left.exists()  # another process could still be at work on it

    os.utime(left, (0, 0))
    PictureStore(files[1:], tmp_path / "cache")
    assert not left.exists()


# What can go wrong


def test_full_disk_leaves_nothing_and_says_so(photos, tmp_path, monkeypatch):
    def fail(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UsageError, match=r"cache: .*No space left on device; set UNSMEAR_CACHE"):
        PictureStore(photos[0], tmp_path / "cache")
    assert not cached(tmp_path)


def test_disk_too_small_is_known_before_decoding(photos, tmp_path, monkeypatch):
    decoded = count_decoded(monkeypatch)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UsageError, match=r"need 0\.0 GiB, 0\.0 GiB are free; set UNSMEAR_CACHE"):
        PictureStore(photos[0], tmp_path / "cache")
    assert not decoded


def test_much_to_decode_is_told(photos, tmp_path, monkeypatch):
    told: list[str] = []
    PictureStore(photos[0], tmp_path / "cache", notice=told.append)
    assert not told
    monkeypatch.setattr(module, "_LARGE", 1000)
    for _ in range(2):
        PictureStore(photos[0][1:], tmp_path / "cache", notice=told.append)
    assert told == [f"decoding 0.0 GiB of pictures into {tmp_path / 'cache'}, once for this and later runs"]


def test_cache_that_cannot_be_a_folder(photos, tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(UsageError, match="cannot cache decoded pictures"):
        PictureStore(photos[0], tmp_path / "cache")


@pytest.mark.parametrize("data", [b"", b"no picture", None])
def test_undecodable_file_is_named_and_nothing_is_left(tmp_path, data):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png", 40, 40)
    file = tmp_path / "b.png"
    file.write_bytes(file.read_bytes()[:2000] if data is None else data)
    with pytest.raises(ImageError, match=r"b\.png: cannot be decoded"):
        PictureStore(list_pictures(tmp_path), tmp_path / "cache")
    assert not cached(tmp_path)


def test_sixteen_bits_are_refused_rather_than_clipped(tmp_path):
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ImageError, match=r"deep\.png.*16-bit"):
        PictureStore([tmp_path / "deep.png"], tmp_path / "cache")


def test_files_that_are_gone_and_no_files(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png: cannot be read: No such file"):
        PictureStore([tmp_path / "gone.png"], tmp_path)
    with pytest.raises(UsageError, match="no pictures"):
        PictureStore([], tmp_path)


# Finding pictures


def test_only_visible_picture_files_are_listed(tmp_path):
    for name in ("b.JPG", "a.png", "c.webp"):
        save(tmp_path / name)
    for name in (".hidden.png", "notes.txt", "d.png.part"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in list_pictures(str(tmp_path))] == ["a.png", "b.JPG", "c.webp"]


def test_folders_without_pictures_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no pictures in this folder"):
        list_pictures(tmp_path)
    with pytest.raises(UsageError, match="nowhere: cannot be read: No such file"):
        list_pictures(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file: cannot be read"):
        list_pictures(tmp_path / "file")


def test_place_of_the_cache_can_be_chosen(tmp_path, monkeypatch):
    monkeypatch.delenv("UNSMEAR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "unsmear"
    monkeypatch.setenv("UNSMEAR_CACHE", str(tmp_path / "mine"))
    assert default_cache() == tmp_path / "mine"
    save(tmp_path / "a.png")
    PictureStore([tmp_path / "a.png"])
    assert len(list((tmp_path / "mine").glob("*.pixels"))) == 1
