"""Videos and clips of frames: found, decoded in order and upright, kept in the store, or refused in one line."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unsmear.data import video as module
from unsmear.data.clips import list_clips
from unsmear.data.store import PictureStore
from unsmear.data.video import frames_size, is_video, read_frames
from unsmear.errors import ImageError, UsageError

HEIGHT, WIDTH = 48, 64


def moving(count: int, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
    """Frames that are told apart by their brightness, with the top left corner white."""
    frames = []
    for number in range(count):
        frame = np.full((height, width, 3), 20 + 5 * number, np.uint8)
        frame[: height // 3, : width // 3] = 255
        frames.append(frame)
    return frames


def write_video(path: Path, frames: list[np.ndarray], codec: str = "libx264", turned: int = 0, **options: str) -> Path:
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w", options=options) as container:
        stream = container.add_stream(codec, rate=240)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        if turned:
            stream.set_display_rotation(turned)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def assert_alike(pictures, frames):
    assert len(pictures) == len(frames)
    for picture, frame in zip(pictures, frames, strict=True):
        assert picture.shape == frame.shape
        assert picture.dtype == np.uint8
        assert np.abs(picture.astype(int) - frame).mean() < 4


# Decoding


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.MOV", "libx264"),
        ("a.mkv", "libx264"),
        ("a.avi", "mpeg4"),
        ("a.webm", "libvpx-vp9"),
    ],
)
def test_frames_come_in_order(tmp_path, name, codec):
    path = write_video(tmp_path / name, moving(30), codec)
    assert_alike(list(read_frames(path)), moving(30))
    assert frames_size(path) == 30 * HEIGHT * WIDTH * 3


@pytest.mark.parametrize("turned", [-90, 90, 180])
def test_frames_are_turned_as_the_file_asks(tmp_path, turned):
    path = write_video(tmp_path / "a.mp4", moving(3), turned=turned)
    # Counterclockwise, as NumPy: a phone held upright asks for -90.
    assert_alike(list(read_frames(path)), [np.rot90(frame, turned // 90) for frame in moving(3)])


def test_store_keeps_videos_and_pictures_in_order(tmp_path, monkeypatch):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "b.png")
    first, last = write_video(tmp_path / "a.mp4", moving(20)), write_video(tmp_path / "c.mp4", moving(4, 32, 32))
    files = [first, tmp_path / "b.png", last]
    store = PictureStore(files, tmp_path / "cache")
    assert (len(store), store.counts) == (25, [20, 1, 4])
    assert_alike(store[:20], moving(20))
    np.testing.assert_array_equal(store[20], picture)
    assert_alike(store[21:], moving(4, 32, 32))

    monkeypatch.setitem(sys.modules, "av", None)  # the second time nothing is decoded
    again = PictureStore(files, tmp_path / "cache")
    assert again.counts == store.counts
    np.testing.assert_array_equal(again[-1], store[-1])


def test_disk_too_small_is_known_before_decoding(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", moving(10))
    monkeypatch.setattr(module, "read_frames", None)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 9 * HEIGHT * WIDTH * 3}))
    with pytest.raises(UsageError, match=r"GiB are free; set UNSMEAR_CACHE .* or give .* shorter videos"):
        PictureStore([path], tmp_path / "cache")


# What can go wrong


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9")])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_truncated_videos_are_refused_and_nothing_is_left(tmp_path, name, codec, share):
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    path = write_video(tmp_path / name, [np.roll(noise, n, 1) for n in range(30)], codec, movflags="faststart")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=rf"{name}: cannot be decoded for training: ") as caught:
        PictureStore([path], tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert "Errno" not in str(caught.value)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["lock"]


def test_files_that_are_no_videos_are_named(tmp_path):
    av = pytest.importorskip("av")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ImageError, match=r"text\.mp4: cannot be decoded for training: Invalid data"):
        list(read_frames(tmp_path / "text.mp4"))
    with av.open(tmp_path / "sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(ImageError, match=r"sound\.mp4: .*there is no video in it"):
        frames_size(tmp_path / "sound.mp4")


def test_missing_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").touch()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r"a\.mp4: videos need the package av: pip install 'unsmear\[video\]'"):
        PictureStore([tmp_path / "a.mp4"], tmp_path / "cache")


# Clips


def touch(top: Path, *names: str) -> Path:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).touch()
    return top


def names(clips) -> dict[str, list[str]]:
    return {Path(name).name: [file.name for file in files] for name, files in clips.items()}


def test_a_video_and_a_folder_of_frames_are_a_clip_each(tmp_path):
    touch(tmp_path, "clip.MP4", "frames/10.png", "frames/9.png", "frames/100.png", "frames/.8.png", "frames/old/1.png")
    assert names(list_clips(tmp_path / "clip.MP4")) == {"clip.MP4": ["clip.MP4"]}
    assert names(list_clips(str(tmp_path / "frames"))) == {"frames": ["9.png", "10.png", "100.png"]}
    touch(tmp_path, "frames/b.mov", "frames/.hidden.mov", "frames/notes.txt")
    assert list(names(list_clips(tmp_path / "frames"))) == ["frames", "b.mov"]


def test_a_folder_of_folders_has_a_clip_for_each(tmp_path):
    touch(tmp_path, "train/GOPR0372_07_00/000001.png", "train/GOPR0372_07_01/000001.png", "train/b/c.mkv", "train/d/x")
    assert list(names(list_clips(tmp_path / "train"))) == ["GOPR0372_07_00", "GOPR0372_07_01", "c.mkv"]
    with pytest.raises(UsageError, match="no frames and no videos in this folder, nor in the folders in it"):
        list_clips(tmp_path)  # or test scenes would be trained on


def test_paths_without_clips_are_refused(tmp_path):
    touch(tmp_path, "a.gif")
    with pytest.raises(UsageError, match=r"a\.gif: not a video by its name; videos end with \.mp4 \.mov "):
        list_clips(tmp_path / "a.gif")
    with pytest.raises(UsageError, match="nowhere: cannot be read: No such file"):
        list_clips(tmp_path / "nowhere")
    assert not is_video(tmp_path / "nowhere.mp4")
