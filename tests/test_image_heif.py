"""HEIC pictures, which need an extra."""

import io
import sys

import numpy as np
import pytest
from pictures import ICC_RGB, RNG, exif_block, headline, image, opened, saved, survive
from PIL import Image

from unsmear.errors import ImageError
from unsmear.image import Picture, from_pil
from unsmear.image.color import parse_profile


@pytest.fixture
def heif():
    return pytest.importorskip("pillow_heif")


def smooth(channels, full):
    """A picture that survives lossy compression."""
    y, x = np.mgrid[0:48, 0:64] / 64
    planes = [x, y, (x + y) / 2, 1 - x][:channels]
    return np.rint(np.stack(planes, axis=2) * full).astype(np.uint8 if full == 255 else np.uint16)


def heic(library, samples, **options):
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[samples.shape[2]]
    if samples.dtype == np.uint16:
        mode = "I;16" if mode == "L" else mode + ";16"
    buffer = io.BytesIO()
    img = library.from_bytes(mode, (samples.shape[1], samples.shape[0]), samples.tobytes())
    img.save(buffer, **{"quality": 95, "chroma": 444, **options})
    return buffer.getvalue()


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_depth_and_channels_come_back(channels, bits, heif, monkeypatch):
    monkeypatch.setattr(heif.options, "SAVE_HDR_TO_12_BIT", bits == 12)
    full = 255 if bits == 8 else 65535
    source = smooth(channels, full)
    data = heic(heif, source)
    assert headline(io.BytesIO(data)) == (64, 48, "HEIF")
    picture = opened(data)
    assert picture.rgb.dtype == source.dtype
    assert picture.is_gray == (channels == 1)
    assert (picture.alpha is not None) == (channels == 4)
    result = saved(picture.with_srgb(picture.srgb().copy()))
    assert heif.open_heif(io.BytesIO(result), convert_hdr_to_8bit=False).info["bit_depth"] == bits
    again = opened(result)
    for a, b in ((picture.samples(source.dtype), source), (again.samples(source.dtype), picture.samples(source.dtype))):
        assert np.abs(a.astype(float) - b).max() <= 0.03 * full
        assert np.abs(a.astype(float) - b).mean() <= 0.006 * full


def test_white_of_ten_bits_is_white(heif):
    white = np.full((16, 16, 3), 65535, np.uint16)
    assert opened(heic(heif, white)).rgb.min() > 65535 * 0.995


def test_metadata_is_kept_and_the_picture_lies_right(heif):
    rgb = np.zeros((32, 48, 3), np.uint8)
    rgb[:16, :24] = 255
    data = heic(heif, rgb, exif=exif_block(6), xmp=b"<x:xmpmeta/>", icc_profile=ICC_RGB)
    seen = np.asarray(heif.open_heif(io.BytesIO(data)))
    picture = opened(data)
    np.testing.assert_array_equal(picture.rgb, seen)  # the container tells how it lies, and not EXIF
    assert headline(io.BytesIO(data)) == (seen.shape[1], seen.shape[0], "HEIF")
    again = opened(saved(picture))
    assert (again.xmp, again.icc) == (b"<x:xmpmeta/>", ICC_RGB)
    assert again.rgb.shape == picture.rgb.shape
    assert len(again.exif) == len(exif_block())
    assert b"maker\0note" in again.exif
    stripped = opened(saved(picture.stripped()))
    assert (stripped.exif, stripped.xmp, stripped.icc) == (b"", b"", ICC_RGB)


def test_colors_told_by_numbers_become_a_profile(heif):
    data = heic(heif, smooth(3, 255), color_primaries=12, transfer_characteristics=13, matrix_coefficients=1)
    red = parse_profile(opened(data).icc).srgb(np.float32([[1], [0], [0]]))
    np.testing.assert_allclose(red.ravel(), [1.093, -0.2266, -0.150], atol=3e-3)


@pytest.mark.parametrize("curve", [16, 18])
def test_hdr_is_refused(curve, heif):
    data = heic(heif, smooth(3, 65535), color_primaries=9, transfer_characteristics=curve, matrix_coefficients=9)
    with pytest.raises(ImageError, match="an HDR picture"):
        opened(data)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_other_pictures_can_become_heic(mode, heif):
    picture = from_pil(image(mode))
    again = opened(saved(picture, "HEIF"))
    assert again.rgb.shape == (17, 23, 3)
    assert (again.alpha is None) == ("A" not in mode)
    deep = Picture(RNG.integers(0, 65536, (16, 16, 3), dtype=np.uint16))
    assert opened(saved(deep, "HEIF")).rgb.dtype == np.uint16


def test_damaged_files_are_told(heif):
    data = heic(heif, smooth(3, 255))
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(ImageError, match="damaged or cut off"):
            opened(data[: int(len(data) * share)])


def test_without_the_extra_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"HEIC pictures need pillow-heif; pip install 'unsmear\[heif\]'$"):
        opened(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    with pytest.raises(ImageError, match=r"unsmear\[heif\]"):
        saved(from_pil(Image.new("RGB", (4, 4))), "HEIF")


@pytest.mark.parametrize("full", [255, 65535])
def test_damaged_files_give_a_picture_or_our_own_error(full, heif):
    survive(heic(heif, smooth(4, full), exif=exif_block(6)))
