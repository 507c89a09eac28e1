"""More than 8 bits per channel: in and out at the same depth, or refused, never cut."""

import io
import struct
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
from pictures import RNG, encoded, exif_block, headline, image, opened, png_with_header, saved, survive, tiff_of
from PIL import Image

from unsmear.errors import ImageError
from unsmear.image import Picture, from_pil, open_picture, probe, tiff, to_pil
from unsmear.image.tiff import encode_tiff, read_tags

CHANNELS = {"gray": 1, "gray+alpha": 2, "RGB": 3, "RGBA": 4}


@pytest.fixture
def vips():
    return pytest.importorskip("pyvips")


def values(dtype, channels, size=(17, 23)):
    noise = RNG.random((*size, channels))
    return (noise * 65535).astype(dtype) if dtype == np.uint16 else noise.astype(dtype)


def png_of(samples):
    """A PNG file of 16 bits per channel, made by hand."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def seen(vips, data):
    """What libvips, which does not write our TIFF files, reads of a file."""
    img = vips.Image.new_from_buffer(data, "")
    return img.numpy().reshape(img.height, img.width, img.bands)


@pytest.mark.parametrize("mode", CHANNELS)
@pytest.mark.parametrize(
    ("format", "dtype"), [("PNG", np.uint16), ("TIFF", np.uint16), ("TIFF", np.float32), ("TIFF", np.float16)]
)
def test_depth_comes_back_bit_identical(format, dtype, mode, vips):
    source = values(dtype, CHANNELS[mode])
    data = png_of(source) if format == "PNG" else tiff_of(source)
    assert headline(io.BytesIO(data)) == (23, 17, format)
    picture = opened(data)
    assert picture.rgb.dtype == (np.uint16 if dtype == np.uint16 else np.float32)
    assert picture.is_gray == mode.startswith("gray")
    assert (picture.alpha is not None) == ("A" in mode or "alpha" in mode)
    result = saved(picture.with_srgb(picture.srgb().copy()))
    np.testing.assert_array_equal(seen(vips, result), source)
    again = opened(result)
    np.testing.assert_array_equal(again.rgb, picture.rgb)
    assert again.encoding == picture.encoding


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("dark", [False, True])
def test_all_levels_of_a_ramp_survive(format, dark, vips):
    """A dark picture holds no value above 255, so that its depth cannot be told by its values."""
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1) // (257 if dark else 1)
    data = png_of(ramp) if format == "PNG" else tiff_of(ramp)
    result = seen(vips, saved(opened(data)))
    assert result.dtype == np.uint16
    assert len(np.unique(result)) == (256 if dark else 65536)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_our_tiff_files_are_read_by_others(channels, dtype, compressed, order, vips):
    source = RNG.integers(0, 256, (70, 31, channels)).astype(dtype)
    exif = exif_block(1, order)
    data = encode_tiff(source, has_alpha=channels in (2, 4), compressed=compressed, exif=exif, dpi=(300, 200))
    np.testing.assert_array_equal(seen(vips, data), source)
    assert data[:2] == (b"II" if order == "<" else b"MM")
    if dtype == np.uint8:
        with Image.open(io.BytesIO(data)) as img:
            np.testing.assert_array_equal(np.asarray(img).reshape(source.shape), source)
            assert img.info["dpi"] == (300, 200)


def test_large_tiff_files_have_many_strips(vips):
    source = values(np.uint16, 3, (700, 900))
    np.testing.assert_array_equal(seen(vips, encode_tiff(source)), source)


def test_more_than_tiff_can_address_is_refused(monkeypatch):
    monkeypatch.setattr(tiff, "_MAX_BYTES", 1000)
    with pytest.raises(ImageError, match="larger than 4 GiB"):
        saved(from_pil(image()), "TIFF")


def test_values_beyond_black_and_white_stay(vips):
    source = values(np.float32, 3)
    source[:3] = -0.25
    source[3:6] = 7.5
    picture = opened(tiff_of(source))
    assert picture.srgb().min() == 0
    assert picture.srgb().max() == 1
    changed = picture.with_srgb(np.clip(picture.srgb() + np.float32(0.5), 0, 1))
    np.testing.assert_allclose(changed.rgb[:3], 0.25)
    np.testing.assert_array_equal(changed.rgb[3:6], 7.5)
    np.testing.assert_array_equal(seen(vips, saved(picture)), source)


def test_premultiplied_alpha_becomes_plain_alpha(vips):
    alpha = RNG.integers(1, 65536, (17, 23, 1))
    source = np.concatenate([alpha // 2, alpha // 3, alpha, alpha], axis=2).astype(np.uint16)
    result = saved(opened(tiff_of(source, t338=(3, 1, 1))))
    plain = opened(result)
    assert read_tags(io.BytesIO(result))[0][338] == (2,)
    np.testing.assert_array_equal(plain.alpha, alpha[..., 0])
    np.testing.assert_allclose(plain.rgb / 65535 * alpha, source[..., :3], atol=1.5)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_pictures_are_turned_upright_once(orientation, format, vips):
    upright = np.zeros((4, 6, 3), np.uint16)
    upright[:2, :3], upright[:2, 3:], upright[2:, :3] = 60000, 40000, 20000
    turns = [None, None, 0, 3, 1, 5, 2, 6, 4]  # the inverse of what a viewer does
    index = np.arange(24, dtype=np.uint8).reshape(4, 6)
    if orientation > 1:
        index = np.asarray(Image.fromarray(index).transpose(Image.Transpose(turns[orientation])))
    stored = upright.reshape(-1, 3)[index]
    if format == "TIFF":
        data = tiff_of(stored, t274=(3, 1, orientation))
    else:
        data = png_of(stored)
        block = exif_block(orientation)[6:]
        chunk = struct.pack(">I4s", len(block), b"eXIf") + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
        data = data[:33] + chunk + data[33:]
    assert headline(io.BytesIO(data))[:2] == (6, 4)
    result = saved(opened(data))
    np.testing.assert_array_equal(seen(vips, result), upright)
    assert Image.open(io.BytesIO(result)).getexif().get(274, 1) == 1


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_metadata_of_deep_pictures_is_kept(format, vips):
    rgb = values(np.uint16, 3)
    picture = Picture(rgb, format=format, exif=exif_block(1), icc=b"", xmp=b"<x:xmpmeta/>", dpi=(300, 300))
    picture = replace(picture, photoshop=b"8BIM\4\4\0\0\0\0\0\0")
    again = opened(saved(picture))
    assert again.xmp == b"<x:xmpmeta/>"
    np.testing.assert_allclose(again.dpi, 300, atol=0.01)
    assert b"maker\0note" in again.exif
    assert again.photoshop == (picture.photoshop if format == "TIFF" else b"")
    assert not again.stripped().exif


@pytest.mark.parametrize(("format", "dtype"), [("JPEG", np.uint8), ("PNG", np.uint16), ("TIFF", np.float32)])
def test_formats_of_less_depth_get_what_they_hold(format, dtype, vips):
    rgb = np.float32([[[0, 0.5, 1], [1, 1.5, -0.5]]]).repeat(8, 0).repeat(4, 1)
    result = seen(vips, saved(Picture(rgb), format))
    assert result.dtype == dtype
    if format != "JPEG":
        full = 65535 if dtype == np.uint16 else 1
        expected = rgb if dtype == np.float32 else np.rint(np.clip(rgb, 0, 1) * full)
        np.testing.assert_array_equal(result, expected)
    assert to_pil(Picture(rgb)).getpixel((0, 0)) == (0, 128, 255)


@pytest.mark.parametrize("limit", [0.0003, 200])
def test_size_of_deep_pictures_is_judged_by_the_header(limit, vips):
    side = 18 if limit < 1 else 20_000
    sides = {"t256": (4, 1, side), "t257": (4, 1, side)}
    for data in (png_with_header(side, side, depth=16), tiff_of(values(np.uint16, 3), **sides)):
        with pytest.raises(ImageError, match=f"larger than {limit:g} megapixels"):
            open_picture(io.BytesIO(data), max_megapixels=limit)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_cut_off_deep_files_are_refused(format, share, vips):
    source = values(np.uint16, 3, (64, 64))
    data = png_of(source) if format == "PNG" else saved(Picture(source), "TIFF")
    with pytest.raises(ImageError, match="damaged or cut off") as caught:
        opened(data[: int(len(data) * share)])
    assert "\n" not in str(caught.value)


def test_deep_kinds_that_cannot_be_kept_are_refused(vips):
    with pytest.raises(ImageError, match="this 32-bit kind"):
        opened(tiff_of(np.zeros((3, 4, 3), np.uint32)))
    with pytest.raises(ImageError, match="this 64-bit kind"):
        opened(tiff_of(np.zeros((3, 4, 3), np.float64)))
    with pytest.raises(ImageError, match="this 16-bit kind"):
        opened(tiff_of(np.zeros((3, 4, 3), np.uint16), t339=(3, 1, 2)))
    with pytest.raises(ImageError, match="neither gray nor RGB"):
        opened(tiff_of(np.zeros((3, 4, 4), np.uint16), t262=(3, 1, 5), t338=(3, 0, 0)))
    with pytest.raises(ImageError, match="no finite numbers"):
        opened(tiff_of(np.full((3, 4, 3), np.nan, np.float32)))
    with pytest.raises(ImageError, match=r"outside 0 .black. to 1 .white."):
        opened(tiff_of(np.full((3, 4, 3), 255, np.float32)))
    with pytest.raises(ImageError, match="of no use here"):
        open_picture(io.BytesIO(png_of(values(np.uint16, 3))), deep=False)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_without_libvips_deep_files_are_refused_and_never_cut(format, channels, dark, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvips", None)
    source = RNG.integers(0, 200 if dark else 65536, (8, 9, channels)).astype(np.uint16)
    data = png_of(source) if format == "PNG" else tiff_of(source)
    for read in (lambda: opened(data), lambda: probe(io.BytesIO(data))):
        with pytest.raises(ImageError, match=r"input: more than 8 bits .* pip install 'unsmear\[photo\]'$"):
            read()
    picture = Picture(source.repeat(3 // channels, 2))
    with pytest.raises(ImageError, match=r"unsmear\[photo\]"):
        saved(picture, "PNG")
    assert saved(picture, "TIFF").startswith(b"II*\0")  # which we write ourselves
    assert opened(encoded(image(), "PNG")).rgb.dtype == np.uint8


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "half", "float"])
def test_damaged_deep_files_give_a_picture_or_our_own_error(kind, vips):
    survive(
        {
            "PNG": png_of(values(np.uint16, 4)),
            "TIFF": saved(Picture(values(np.uint16, 3), exif=exif_block(1)), "TIFF"),
            "half": tiff_of(values(np.float16, 2)),
            "float": saved(Picture(values(np.float32, 3)), "TIFF"),
        }[kind]
    )
