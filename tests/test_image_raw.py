"""Camera raw files, which need an extra: a small DNG file made by hand."""

import io
import struct
import sys

import numpy as np
import pytest
from pictures import headline, opened, saved, survive, tiff_of

from unsmear.batch import plan_jobs
from unsmear.errors import ImageError, UsageError
from unsmear.formats import format_of, identify
from unsmear.image import default_output
from unsmear.image.color import parse_profile


@pytest.fixture
def rawpy():
    return pytest.importorskip("rawpy")


def dng(mosaic, orientation=1):
    """A DNG file of an RGGB sensor whose colors are those of sRGB."""
    height, width = mosaic.shape
    data = mosaic.astype("<u2").tobytes()
    xyz_to_camera = [3.2406, -1.5372, -0.4986, -0.9689, 1.8758, 0.0415, 0.0557, -0.2040, 1.0570]
    entries = {
        254: (4, [0]),
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [16]),
        259: (3, [1]),
        262: (3, [32803]),
        271: (2, b"Cam\0"),
        272: (2, b"One\0"),
        273: (4, [0]),
        274: (3, [orientation]),
        277: (3, [1]),
        278: (4, [height]),
        279: (4, [len(data)]),
        284: (3, [1]),
        33421: (3, [2, 2]),
        33422: (1, bytes([0, 1, 1, 2])),
        50706: (1, bytes([1, 4, 0, 0])),
        50708: (2, b"Cam One\0"),
        50714: (3, [0]),
        50717: (4, [65535]),
        50721: (10, xyz_to_camera),
        50728: (5, [1.0, 1.0, 1.0]),
        50778: (3, [21]),
    }
    formats = {3: "H", 4: "I"}
    body, tail = b"", b""
    start = 8 + 2 + 12 * len(entries) + 4
    for tag, (kind, values) in sorted(entries.items()):
        if kind in (5, 10):
            packed = b"".join(struct.pack("<ii", round(value * 10000), 10000) for value in values)
        elif isinstance(values, bytes):
            packed = values
        else:
            packed = struct.pack(f"<{len(values)}{formats[kind]}", *values)
        if tag == 273:
            packed = struct.pack("<I", start + 400)
        if len(packed) > 4:
            tail += packed
            packed = struct.pack("<I", start + len(tail) - len(packed))
        body += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    assert len(tail) <= 400
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4) + tail.ljust(400, b"\0") + data


def flat(red, green, blue, size=(64, 96)):
    mosaic = np.empty(size, np.uint16)
    mosaic[::2, ::2], mosaic[1::2, 1::2] = red, blue
    mosaic[::2, 1::2] = mosaic[1::2, ::2] = green
    return mosaic


def test_raw_is_developed_to_sixteen_bits(rawpy):
    data = dng(flat(20000, 20000, 20000))
    assert headline(io.BytesIO(data)) == (96, 64, "TIFF")
    picture = opened(data)
    assert (picture.rgb.dtype, picture.rgb.shape, picture.format) == (np.uint16, (64, 96, 3), "TIFF")
    middle = picture.rgb[16:48, 16:80] / 65535
    np.testing.assert_allclose(middle, (20000 / 65535) ** (1 / 2.2), atol=0.01)  # exposed as shot, gray stays gray
    np.testing.assert_allclose(picture.srgb()[16:48, 16:80], 0.5892, atol=0.01)


def test_developed_pictures_are_written_as_tiff_with_profile_and_exif(rawpy):
    pytest.importorskip("pyvips")
    picture = opened(dng(flat(20000, 20000, 20000)))
    result = opened(saved(picture))
    np.testing.assert_array_equal(result.rgb, picture.rgb)
    assert parse_profile(result.icc) is not None
    assert b"Cam" in result.exif


def test_colors_of_raw_files_are_right(rawpy):
    """A camera that sees as sRGB does: its red is the red of sRGB, in a wider space."""
    seen = opened(dng(flat(40000, 4000, 2000))).srgb()[16:48, 16:80].mean((0, 1))
    light = np.array([40000, 4000, 2000]) / 65535
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(seen, expected, atol=0.04)


@pytest.mark.parametrize(("orientation", "size"), [(1, (96, 64)), (3, (96, 64)), (6, (64, 96)), (8, (64, 96))])
def test_raw_is_turned_upright_once(orientation, size, rawpy):
    mosaic = flat(8000, 8000, 8000)
    mosaic[:32, :48] = 50000
    data = dng(mosaic, orientation)
    assert headline(io.BytesIO(data))[:2] == size
    picture = opened(data)
    assert picture.rgb.shape[1::-1] == size
    green = picture.rgb[..., 1]
    corners = [green[8, 8], green[8, -8], green[-8, -8], green[-8, 8]]
    assert int(np.argmax(corners)) == {1: 0, 6: 1, 3: 2, 8: 3}[orientation]


def test_damaged_raw_is_told(rawpy):
    data = dng(flat(1, 2, 3))
    for bad in (data[:300], data[:800], b"FUJIFILMCCD-RAW" + bytes(100), b"IIRO" + bytes(100)):
        with pytest.raises(ImageError, match=r"input: .*damaged") as caught:
            opened(bad)
        assert "\n" not in str(caught.value)


def test_without_the_extra_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    preview = tiff_of(np.zeros((3, 4, 3), np.uint8), t254=(4, 1, 1))
    for data in (dng(flat(1, 2, 3)), preview, b"II*\0\x10\0\0\0CR\2\0" + bytes(50), b"FUJIFILMCCD-RAW" + bytes(50)):
        with pytest.raises(ImageError, match=r"raw files of cameras need rawpy; pip install 'unsmear\[raw\]'$"):
            opened(data)


@pytest.mark.parametrize(
    "head", [b"II*\0\x10\0\0\0CR\2\0", b"IIU\0", b"IIRO", b"IIRS", b"FUJIFILMCCD-RAW", b"\0\0\0\x18ftypcrx "]
)
def test_raw_files_are_known_by_content(head):
    assert identify(head.ljust(64, b"\0")) == "RAW"


def test_results_of_raw_files_are_tiff_files(tmp_path):
    path = tmp_path / "photo.CR3"
    path.touch()
    assert default_output(path) == tmp_path / "photo.deblurred.tif"
    assert [job.target for job in plan_jobs([str(path)]).jobs] == [tmp_path / "photo.deblurred.tif"]
    with pytest.raises(UsageError, match="end the name of the output with one of"):
        format_of(path)


def test_damaged_raw_files_give_a_picture_or_our_own_error(rawpy):
    survive(dng(flat(1000, 2000, 3000)))
