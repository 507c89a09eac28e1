"""Pictures come back as they were: every mode and format, metadata, and everything that must be refused."""

import io
import os
import struct
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import (
    EXIF_IFD,
    GPS_IFD,
    ICC_GRAY,
    ICC_RGB,
    MAKER_NOTE,
    ORIENTATION,
    XMP,
    encoded,
    exif_block,
    headline,
    image,
    opened,
    png_with_header,
    reopened,
    resource,
)
from PIL import Image, PngImagePlugin

from unsmear.errors import ImageError, UnsmearError, UsageError
from unsmear.image import (
    MAX_MEGAPIXELS,
    Picture,
    check_image,
    default_output,
    from_pil,
    open_picture,
    probe,
    save_picture,
    to_pil,
)

# Modes and formats


@pytest.mark.parametrize(
    ("mode", "format"),
    [
        (mode, format)
        for format, modes in {
            "PNG": ["1", "L", "LA", "P", "RGB", "RGBA"],
            "TIFF": ["1", "L", "LA", "P", "PA", "RGB", "RGBA"],
            "WEBP": ["L", "LA", "P", "RGB", "RGBA"],
            "BMP": ["1", "L", "P", "RGB"],
        }.items()
        for mode in modes
    ],
)
def test_lossless_formats_come_back_bit_identical(mode, format):
    source = image(mode)
    data = encoded(source, format, **({"lossless": True, "exact": True} if format == "WEBP" else {}))
    before = Image.open(io.BytesIO(data))
    has_alpha = before.has_transparency_data
    mode_back = ("L" if before.mode in ("1", "L", "LA") else "RGB") + ("A" if has_alpha else "")

    after = reopened(opened(data))

    assert (after.format, after.mode, after.size) == (format, mode_back, source.size)
    np.testing.assert_array_equal(np.asarray(after), np.asarray(before.convert(mode_back)))


@pytest.mark.parametrize("format", ["WEBP", "AVIF"])
def test_alpha_survives_lossy_formats_bit_by_bit(format):
    picture = opened(encoded(image("RGBA"), format, quality=100))
    buffer = io.BytesIO()
    save_picture(picture, buffer)
    assert picture.alpha is not None
    if format == "WEBP":  # AVIF codes alpha with its own loss
        np.testing.assert_array_equal(opened(buffer.getvalue()).alpha, picture.alpha)
    else:
        assert np.abs(opened(buffer.getvalue()).alpha.astype(int) - picture.alpha).max() <= 8


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF"])
def test_lossy_formats_keep_mode_and_size_and_look_the_same(mode, format):
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)[None].repeat(48, 0)
    source = Image.fromarray(ramp).convert(mode)
    data = encoded(source, format, quality=90)
    before = Image.open(io.BytesIO(data))
    after = reopened(opened(data))
    assert (after.format, after.mode, after.size) == (format, before.mode, before.size)
    assert np.abs(np.asarray(after).astype(int) - np.asarray(before)).max() <= 8


def test_color_key_transparency_becomes_alpha():
    source = Image.new("RGB", (4, 3), (255, 0, 0))
    source.putpixel((0, 0), (1, 2, 3))
    picture = opened(encoded(source, "PNG", transparency=(1, 2, 3)))
    assert picture.alpha.min() == 0
    assert np.count_nonzero(picture.alpha == 0) == 1
    gray = opened(encoded(Image.new("L", (4, 3), 7), "PNG", transparency=7))
    assert gray.is_gray
    assert not gray.alpha.any()


def test_gray_is_weighted_when_restored_pixels_have_color():
    picture = from_pil(image("L")).with_srgb(np.full((17, 23, 3), (255, 0, 0), np.uint8))
    assert to_pil(picture).getpixel((0, 0)) == 76


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1)])
def test_smallest_pictures(size):
    picture = opened(encoded(image("RGB", size), "PNG"))
    assert picture.rgb.shape == (size[1], size[0], 3)
    assert reopened(picture).size == size


def test_content_decides_and_not_the_name(tmp_path):
    path = tmp_path / "photo.txt"
    path.write_bytes(encoded(image(), "PNG"))
    assert open_picture(path).format == "PNG"
    assert default_output(path).name == "photo.deblurred.png"
    assert default_output(Path("a.b/Photo.JPG")) == Path("a.b/Photo.deblurred.JPG")
    assert default_output(Path("missing")).name == "missing.deblurred"


def test_second_picture_in_a_jpeg_is_left_out():
    buffer = io.BytesIO()
    image().save(buffer, "MPO", save_all=True, append_images=[image()])
    assert Image.open(io.BytesIO(buffer.getvalue())).format == "MPO"
    picture = opened(buffer.getvalue())
    assert picture.format == "JPEG"
    assert getattr(reopened(picture), "n_frames", 1) == 1


# JPEG quality


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [1, 30, 75, 95, 100])
def test_jpeg_keeps_tables_subsampling_and_progression(quality, subsampling):
    data = encoded(image(), "JPEG", quality=quality, subsampling=subsampling, progressive=True, comment=b"hi")
    before, after = Image.open(io.BytesIO(data)), reopened(opened(data))
    assert after.quantization == before.quantization
    assert after.layer == before.layer
    assert after.info["progressive"]
    assert after.info["comment"] == b"hi"


IPTC = resource(0x0404, b"\x1c\x02\x78\0\x03abc")


@pytest.mark.parametrize("target", ["JPEG", "TIFF"])
@pytest.mark.parametrize("source", ["JPEG", "TIFF"])
def test_iptc_captions_are_kept_and_old_thumbnails_are_not(source, target):
    resources = IPTC + resource(1036, b"old look") + resource(1005, b"other")
    if source == "JPEG":
        caption = b"Photoshop 3.0\0" + resources
        data = encoded(image(), "JPEG", extra=struct.pack(">2sH", b"\xff\xed", len(caption) + 2) + caption)
    else:
        data = encoded(image(), "TIFF", tiffinfo={34377: resources})
    after = reopened(opened(data), target)
    found = after.applist[-1][1][14:] if target == "JPEG" else after.tag_v2[34377]
    assert found == IPTC + resource(1005, b"other")


# Metadata


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once_and_reset(orientation, format):
    upright = Image.new("L", (40, 24), 128)
    upright.paste(255, (0, 0, 20, 12))
    upright.paste(0, (20, 0, 40, 12))  # top left white, top right black: tells all eight apart
    turns = [None, None, 0, 3, 1, 5, 2, 6, 4]  # the inverse of what a viewer does
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(turns[orientation]))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[271] = "Cam"
    xmp = {} if format == "AVIF" else {"xmp": XMP % orientation}
    if format == "TIFF":
        exif[700] = xmp.pop("xmp")
    if format == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.pop("xmp"))
        xmp = {"pnginfo": info}
    data = encoded(stored.convert("RGB"), format, exif=exif, **xmp)

    assert headline(io.BytesIO(data)) == (40, 24, format)
    picture = opened(data)
    assert picture.rgb.shape == (24, 40, 3)
    corners = [picture.rgb[y, x, 1] for y, x in ((2, 2), (2, 37), (21, 2), (21, 37))]
    np.testing.assert_allclose(corners, [255, 0, 128, 128], atol=12)

    after = reopened(picture)
    assert after.size == (40, 24)
    assert after.getexif().get(ORIENTATION, 1) == 1
    assert after.getexif()[271] == "Cam"
    if format not in ("AVIF", "TIFF"):
        assert after.info["xmp"] == XMP % 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_is_patched_in_place(order):
    before = exif_block(order=order)
    after = reopened(opened(encoded(image(), "JPEG", exif=before)))
    block = after.info["exif"]
    assert len(block) == len(before)
    changed = [i for i in range(len(before)) if block[i] != before[i]]
    thumbnail = before.index(b"\xff\xd8thumb")
    assert b"thumbnail" not in block
    assert len([i for i in changed if i < thumbnail]) == 2  # the orientation, and the link to a thumbnail without room
    exif = after.getexif()
    assert exif.get_ifd(EXIF_IFD)[MAKER_NOTE] == b"maker\0note"
    assert exif.get_ifd(GPS_IFD)[1] == "N"
    assert exif[271] == "Cam"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_thumbnail_shows_the_new_picture(order, format):
    before = exif_block(order=order, thumbnail=b"\xff\xd8" + bytes(6000) + b"\xff\xd9")
    if format == "AVIF":  # whose files Pillow writes without the block as it was
        picture = replace(opened(encoded(image("RGB", (300, 200)), "JPEG", exif=before)), format="AVIF", encoding={})
    else:
        picture = opened(encoded(image("RGB", (300, 200)), format, exif=before))
    green = picture.with_srgb(np.full_like(picture.rgb, (0, 200, 0)))
    block = reopened(green).info["exif"].removeprefix(b"Exif\0\0")
    assert len(block) == len(before) - 6
    start = before.index(b"\xff\xd8") - 6
    (length,) = struct.unpack_from(order + "I", block, 98 + 2 + 2 * 12 + 8)
    assert block[140:150] == b"maker\0note"
    assert 100 < length < 6004
    small = Image.open(io.BytesIO(block[start : start + length]))
    assert small.size == (107, 160)  # upright
    assert np.abs(np.asarray(small).astype(int) - (0, 200, 0)).max() < 4
    assert block[start + length :] == bytes(len(block) - start - length)


def test_thumbnails_that_lie_are_not_written():
    block = bytearray(exif_block())
    struct.pack_into("<I", block, 6 + 98 + 2 + 12 + 8, 4)  # which would be the header of the block itself
    after = reopened(opened(encoded(image(), "JPEG", exif=bytes(block))))
    assert after.getexif()[271] == "Cam"
    assert after.getexif().get_ifd(GPS_IFD)[1] == "N"


@pytest.mark.parametrize("target", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_metadata_travels_between_formats(source, target):
    options = {"exif": exif_block(orientation=1), "icc_profile": ICC_RGB, "dpi": (300, 300)}
    img = image()
    if source == "AVIF":
        options["xmp"] = XMP
    after = reopened(opened(encoded(img, source, **options)), target)
    assert after.info["icc_profile"] == ICC_RGB
    assert after.getexif()[271] == "Cam"
    assert after.getexif().get_ifd(GPS_IFD)[1] == "N"
    assert after.getexif().get_ifd(EXIF_IFD)[MAKER_NOTE] == b"maker\0note"
    if {source, target} <= {"JPEG", "PNG", "TIFF"}:
        np.testing.assert_allclose([float(value) for value in after.info["dpi"]], 300, atol=0.01)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "TIFF"])
def test_resolution_is_the_same(format):
    data = encoded(image(), format, dpi=(240, 120))
    assert reopened(opened(data)).info["dpi"] == Image.open(io.BytesIO(data)).info["dpi"]


def test_paths_may_be_strings(tmp_path):
    image().save(tmp_path / "a.png")
    assert probe(str(tmp_path / "a.png")).format == "PNG"
    assert open_picture(str(tmp_path / "a.png")).rgb.shape == open_picture(tmp_path / "a.png").rgb.shape


def test_further_pictures_of_a_jpeg_are_told():
    data = io.BytesIO()
    image().save(data, "MPO", save_all=True, append_images=[image()])
    assert opened(data.getvalue()).left_out == "further pictures of the file, such as a gain map, are left out"
    assert opened(encoded(image(), "JPEG")).left_out == ""


@pytest.mark.parametrize("dots", [0.3, 70_000])
def test_resolution_that_a_jpeg_cannot_tell_is_left_out(dots):
    picture = opened(encoded(image(), "TIFF", dpi=(dots, dots)))
    assert picture.dpi is not None
    data = io.BytesIO()
    save_picture(picture, data, format="JPEG")
    assert "dpi" not in Image.open(data).info


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_profile_is_kept_only_for_the_channels_it_is_for(format):
    assert reopened(opened(encoded(image("L"), format, icc_profile=ICC_GRAY))).info["icc_profile"] == ICC_GRAY
    assert reopened(opened(encoded(image("L"), format, icc_profile=ICC_RGB))).info["icc_profile"] == ICC_RGB
    assert "icc_profile" not in reopened(opened(encoded(image("RGB"), format, icc_profile=ICC_GRAY))).info


def test_xmp_is_kept_by_tiff():
    tags = Image.Exif()
    tags[700] = XMP % 1
    assert reopened(opened(encoded(image(), "TIFF", exif=tags))).info["xmp"] == XMP % 1


def test_texts_and_color_chunks_of_a_png_are_kept():
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "A picture")
    info.add_itxt("Author", "J\u00fcrgen", "de", "Autor")
    info.add(b"gAMA", struct.pack(">I", 45455))
    info.add(b"sRGB", b"\0")
    info.add(b"cHRM", struct.pack(">8I", *range(31270, 31278)))
    before = encoded(image(), "PNG", pnginfo=info)
    first, second = Image.open(io.BytesIO(before)), reopened(opened(before))
    assert second.text == first.text
    for key in ("gamma", "srgb", "chromaticity"):
        assert second.info[key] == first.info[key]


@pytest.mark.parametrize("compression", ["raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
@pytest.mark.parametrize("exif", [{}, {"exif": exif_block(1)}])
def test_tiff_is_written_without_loss_and_compressed_if_it_was(compression, exif):
    data = encoded(image(), "TIFF", compression="raw" if exif else compression, **exif)
    after = reopened(opened(data))
    np.testing.assert_array_equal(np.asarray(after), np.asarray(Image.open(io.BytesIO(data))))
    assert after.info["compression"] == ("raw" if compression == "raw" or exif else "tiff_adobe_deflate")
    if exif:
        assert after.getexif().get_ifd(GPS_IFD)[1] == "N"


def test_exif_of_a_jpeg_lies_in_a_tiff_file_as_it_lay():
    """So that offsets inside the maker notes of cameras stay true."""
    block = exif_block(1)
    buffer = io.BytesIO()
    save_picture(opened(encoded(image(), "JPEG", exif=block)), buffer, format="TIFF")
    place = block.index(b"maker\0note") - 6
    assert buffer.getvalue()[place : place + 10] == b"maker\0note"


def test_small_versions_in_a_tiff_file_are_no_pages():
    data = encoded(image(), "TIFF", save_all=True, append_images=[image("RGB", (5, 5))])
    first = struct.unpack_from("<I", data, 4)[0]
    link = first + 2 + 12 * struct.unpack_from("<H", data, first)[0]
    second = struct.unpack_from("<I", data, link)[0]
    inserted = struct.unpack_from("<H", data, second)[0] + 1
    entries = struct.pack("<HHII", 254, 4, 1, 1) + data[second + 2 : second + 2 + 12 * (inserted - 1)]
    moved = data[:link] + struct.pack("<I", len(data)) + data[link + 4 :]
    picture = opened(moved + struct.pack("<H", inserted) + entries + bytes(4))
    assert picture.rgb.shape == (17, 23, 3)


def test_strip_leaves_nothing_but_pixels_and_colors():
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "A person")
    info.add_itxt("XML:com.adobe.xmp", "<x/>")
    info.add(b"gAMA", struct.pack(">I", 45455))
    caption = b"Photoshop 3.0\0" + IPTC
    segment = struct.pack(">2sH", b"\xff\xed", len(caption) + 2) + caption
    for format, options in {
        "PNG": {"pnginfo": info},
        "JPEG": {"comment": b"hi", "extra": segment, "xmp": XMP % 1},
        "TIFF": {},
        "WEBP": {"xmp": XMP % 1},
        "AVIF": {"xmp": XMP % 1},
    }.items():
        data = encoded(image(), format, exif=exif_block(), dpi=(300, 300), icc_profile=ICC_RGB, **options)
        after = reopened(opened(data).stripped())
        assert after.info["icc_profile"] == ICC_RGB
        left = {"xmp", "dpi", "exif", "comment", "photoshop", "Author", "XML:com.adobe.xmp"} & set(after.info)
        assert left <= ({"dpi"} if format == "TIFF" else set())  # which Pillow makes up
        assert dict(after.getexif()).keys() <= {*range(254, 318), 338, 339, 34675}
        assert 271 not in after.getexif()
    assert reopened(opened(encoded(image(), "PNG", pnginfo=info)).stripped()).info["gamma"] == pytest.approx(0.45455)


def test_pil_images_go_in_and_come_back_with_their_metadata():
    source = Image.open(io.BytesIO(encoded(image("RGBA"), "PNG", icc_profile=ICC_RGB, exif=exif_block(6))))
    after = to_pil(from_pil(source))
    assert (after.mode, after.size) == ("RGBA", (17, 23))
    np.testing.assert_array_equal(np.asarray(after), np.asarray(source.transpose(Image.Transpose.ROTATE_270)))
    assert after.info["icc_profile"] == ICC_RGB
    assert from_pil(image("L")).is_gray


# What is refused


def test_deep_modes_of_pil_are_refused():
    for mode in ("I", "F", "I;16", "HSV", "LAB", "YCbCr"):
        with pytest.raises(ImageError, match="not supported"):
            from_pil(Image.new(mode, (3, 3)))
    for mode in ("I", "F", "I;16"):
        with pytest.raises(ImageError, match="not supported; give an array of uint16, or of float32 from 0 to 1"):
            check_image(Image.new(mode, (3, 3)))


def test_animations_and_empty_pictures_of_pil_are_refused():
    file = io.BytesIO()
    image("RGB").save(file, "GIF", save_all=True, append_images=[Image.new("RGB", (23, 17))])
    animation = Image.open(file)
    with pytest.raises(ImageError, match=r"give one of them, as its copy\(\)"):
        check_image(animation)
    check_image(animation.copy())
    with pytest.raises(ImageError, match="no pixels"):
        check_image(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("flag", [0x40, 0x60])
def test_deep_avif_is_refused(flag):
    data = bytearray(encoded(image(), "AVIF"))
    data[data.index(b"av1C") + 6] |= flag
    with pytest.raises(ImageError, match="10-bit" if flag == 0x40 else "12-bit"):
        opened(bytes(data))


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_without_a_profile_is_refused(format):
    with pytest.raises(ImageError, match="CMYK picture without a usable color profile; convert it to RGB"):
        opened(encoded(Image.new("CMYK", (4, 4)), format))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "AVIF"])
def test_animations_are_refused(format):
    data = encoded(image(), format, save_all=True, append_images=[image(), image()])
    with pytest.raises(ImageError, match="animated"):
        opened(data)


@pytest.mark.parametrize("head", [b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"])
def test_jpeg_xl_is_refused_with_the_way_out(head):
    with pytest.raises(ImageError, match=r"JPEG XL is not read; convert it first: djxl"):
        opened(head + bytes(60))


def test_several_pages_are_refused():
    with pytest.raises(ImageError, match="several pages"):
        opened(encoded(image(), "TIFF", save_all=True, append_images=[image()]))


@pytest.mark.parametrize("data", [b"GIF89a" + bytes(60), b"%PDF-1.7", b"%!PS-Adobe", b"<svg/>", b"\x7fELF", b"P6 1 1"])
def test_other_formats_meet_no_decoder(data, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *args, **kwargs: pytest.fail("a decoder ran"))
    with pytest.raises(ImageError, match=r"not a picture that unsmear reads \(JPEG, PNG"):
        opened(data)


def webp_header(width, height):
    chunk = (
        struct.pack("<4sII", b"VP8X", 10, 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    )
    return struct.pack("<4sI4s", b"RIFF", 4 + len(chunk), b"WEBP") + chunk


@pytest.mark.parametrize("data", [png_with_header(20_000, 20_000), webp_header(16_000, 16_000)])
def test_bombs_are_refused_from_the_header(data):
    with pytest.raises(ImageError, match="larger than 200 megapixels"):
        opened(data)


def test_limit_of_megapixels_is_ours_and_not_pillows():
    """Pillow warns from 89 megapixels on and refuses above 179; warnings are errors here."""
    for pixels in (100, 199):
        assert headline(io.BytesIO(png_with_header(10_000, pixels * 100))) == (10_000, pixels * 100, "PNG")
    with pytest.raises(ImageError, match=r"larger than 0\.0003 megapixels"):
        open_picture(io.BytesIO(encoded(image(), "PNG")), max_megapixels=0.0003)
    bomb = png_with_header(20_000, 20_000)
    assert headline(io.BytesIO(bomb), max_megapixels=400)[:2] == (20_000, 20_000)
    assert Image.MAX_IMAGE_PIXELS == 1024**3 // 4 // 3
    assert MAX_MEGAPIXELS == 200


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_cut_off_files_are_refused(format, share, tmp_path):
    data = encoded(image("RGB", (64, 64)), format)
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=r"cut\.jpg: .*(damaged or cut off|not a picture)"):
        open_picture(path)


def test_what_is_no_picture_file_is_told_in_one_line(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    for name, kind, words in (
        ("empty.jpg", ImageError, "the file is empty"),
        ("text.jpg", ImageError, "not a picture"),
        ("missing.jpg", UsageError, "no such file"),
        ("text.jpg/inside.jpg", UsageError, "no such file"),
        ("loop.jpg", ImageError, "cannot be read"),
        ("pipe.jpg", UsageError, "a pipe or device"),
        ("", UsageError, "is a folder"),
    ):
        with pytest.raises(kind, match=words) as caught:
            open_picture(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_damaged_files_give_a_picture_or_our_own_error(format, data):
    options = {} if format == "BMP" else {"exif": exif_block(), "icc_profile": ICC_RGB}
    good = encoded(Image.new("RGB", (16, 16), (9, 8, 7)), format, **options)
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    with suppress(UnsmearError):
        save_picture(open_picture(io.BytesIO(bytes(bad)), max_megapixels=1), io.BytesIO())


# Writing


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".webp", ".tif", ".bmp", ".avif"])
def test_extension_of_the_output_decides_its_format(suffix, tmp_path):
    path = tmp_path / f"out{suffix}"
    save_picture(from_pil(image()), path)
    expected = {".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF"}.get(suffix.lower(), suffix[1:].upper())
    with Image.open(path) as img:
        assert img.format == expected
    assert os.listdir(tmp_path) == [path.name]


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    for name in ("a.jpg", "a.bmp"):
        with pytest.raises(ImageError, match="cannot hold transparency"):
            save_picture(from_pil(image("RGBA")), tmp_path / name)
    for name, side in (("a.webp", 16_384), ("a.jpg", 65_501)):
        with pytest.raises(ImageError, match=r"at most \d+ pixels a side"):
            save_picture(Picture(np.zeros((1, side, 3), np.uint8)), tmp_path / name)
    with pytest.raises(ImageError, match="metadata of this picture does not fit"):
        save_picture(Picture(np.zeros((1, 1, 3), np.uint8), xmp=bytes(65_501)), tmp_path / "a.jpg")
    with pytest.raises(UsageError, match=r"a\.xyz: end the name of the output with one of \.jpg"):
        save_picture(from_pil(image()), tmp_path / "a.xyz")
    assert os.listdir(tmp_path) == []


def test_new_files_have_normal_permissions_and_replaced_ones_keep_theirs(tmp_path):
    path = tmp_path / "a.png"
    before = os.umask(0o022)
    try:
        save_picture(from_pil(image()), path)
        assert path.stat().st_mode & 0o777 == 0o644
        path.chmod(0o600)
        save_picture(from_pil(image()), path)
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_links_stay_links(tmp_path):
    link, real = tmp_path / "link.png", tmp_path / "real.png"
    link.symlink_to(real)
    save_picture(from_pil(image()), link)
    assert link.is_symlink()
    assert open_picture(real).rgb.shape == (17, 23, 3)


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_behind_when_writing_fails(fault, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_picture(from_pil(image()), path)
    good = path.read_bytes()

    def fail(descriptor):
        raise fault

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ImageError if isinstance(fault, OSError) else KeyboardInterrupt) as caught:
        save_picture(from_pil(image()), path)
    if isinstance(fault, OSError):
        assert str(caught.value) == f"{path}: cannot be written: No space left on device"
    assert os.listdir(tmp_path) == ["a.png"]
    assert path.read_bytes() == good


def test_what_cannot_be_written_is_told(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("missing/a.png", "n" * 300 + ".png", "pipe.png", "folder.png"):
        with pytest.raises(ImageError, match="cannot be written"):
            save_picture(from_pil(image()), tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["folder.png", "pipe.png"]


def test_pictures_can_be_read_in_several_threads():
    data = encoded(image("RGB", (200, 200)), "TIFF", compression="tiff_lzw")
    found = []

    def read():
        found.extend(opened(data).rgb.sum() for _ in range(10))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    assert len(set(found)) == 1
