"""Colors: what a network sees of other profiles, and what comes back; CMYK."""

import io
from dataclasses import replace

import numpy as np
import pytest
from pictures import RNG, encoded, opened, reopened, saved
from PIL import Image, ImageCms

from unsmear.errors import ImageError
from unsmear.image import Picture
from unsmear.image.color import Curve, matrix_profile, parse_profile
from unsmear.image.heif import DISPLAY_P3
from unsmear.image.raw import REC_2020

SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
PROFILES = {
    "Display P3": matrix_profile("Display P3", DISPLAY_P3, None),
    "Adobe RGB": matrix_profile("Adobe RGB", ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), 2.2),
    "ProPhoto": matrix_profile("ProPhoto", ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), 1.8),
    "Rec. 2020": matrix_profile("Rec. 2020", REC_2020, 2.2),
    "linear": matrix_profile("linear", SRGB, 1.0),
}


def with_curves(curve, profile=None, gray=False):
    """A profile with another tone curve, as the bytes of its tag."""
    profile = PROFILES["Display P3"] if profile is None else profile
    start = len(profile) + -len(profile) % 4
    data = bytearray(profile.ljust(start, b"\0") + curve)
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        at = data.index(name)
        data[at : at + 12] = (b"kTRC" if gray else name) + start.to_bytes(4, "big") + len(curve).to_bytes(4, "big")
    if gray:
        data[16:20] = b"GRAY"
    data[:4] = len(data).to_bytes(4, "big")
    return bytes(data)


def parametric(kind, *numbers):
    values = b"".join(round(number * 65536).to_bytes(4, "big", signed=True) for number in numbers)
    return b"para" + bytes(4) + kind.to_bytes(2, "big") + bytes(2) + values


SRGB_CURVE = parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


@pytest.mark.parametrize("profile", PROFILES)
def test_conversion_agrees_with_lcms(profile):
    icc = PROFILES[profile]
    rgb = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB"), "RGB", "RGB", renderingIntent=1
    )
    expected = np.asarray(ImageCms.applyTransform(Image.fromarray(rgb), transform))
    found = Picture(rgb, icc=icc).srgb()
    assert found.dtype == np.float32
    # lcms rounds steep curves of 8 bits on the way; what is left are single steps.
    assert np.abs(found * 255 - expected).mean() < 0.5
    assert np.quantile(np.abs(found * 255 - expected), 0.99) < 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_changes_where_the_network_changes_nothing(profile, dtype):
    full = 1 if dtype == np.float32 else np.iinfo(dtype).max
    rgb = (RNG.random((40, 50, 3)) * full).astype(dtype)
    picture = Picture(rgb, icc=PROFILES[profile])
    np.testing.assert_array_equal(picture.with_srgb(picture.srgb()).rgb, rgb)
    restored = picture.srgb().copy()
    restored[:20] = np.clip(restored[:20] + np.float32(0.1), 0, 1)
    after = picture.with_srgb(restored)
    assert after.rgb.dtype == dtype
    np.testing.assert_array_equal(after.rgb[20:], rgb[20:])
    assert (after.rgb[:20] >= rgb[:20]).mean() > 0.9


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("profile", PROFILES)
def test_colors_inside_srgb_become_what_the_network_says(profile, dtype):
    parsed = parse_profile(PROFILES[profile])
    goal = RNG.random((20, 30, 3), np.float32) * np.float32(0.6) + np.float32(0.2)
    before = RNG.random((20, 30, 3), np.float32) * np.float32(0.6) + np.float32(0.2)
    own = np.clip(parsed.own(before.reshape(-1, 3).T), 0, 1).T.reshape(before.shape)
    rgb = np.rint(own * 65535).astype(np.uint16) if dtype == np.uint16 else own
    after = Picture(rgb, icc=PROFILES[profile]).with_srgb(goal)
    np.testing.assert_allclose(after.srgb(), goal, atol=2e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colors_outside_srgb_are_not_clipped(dtype):
    full = np.iinfo(dtype).max
    rgb = np.zeros((8, 8, 3), dtype)
    rgb[:4, :, 0] = full  # the reddest red of P3
    rgb[4:, :, 1] = full
    picture = Picture(rgb, icc=PROFILES["Display P3"])
    assert picture.srgb()[0, 0].tolist() == [1, 0, 0]  # all that a network can see of it
    np.testing.assert_array_equal(picture.with_srgb(picture.srgb()).rgb, rgb)
    darker = picture.with_srgb(picture.srgb() * np.float32(0.95))
    excess = darker.rgb[0, 0] / full
    assert 0.93 < excess[0] < 1
    assert darker.srgb()[0, 0, 1] == 0
    assert parse_profile(picture.icc).srgb(excess.astype(np.float32)[:, None])[1] < -0.1  # still beyond sRGB


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_pictures_keep_their_profile_and_look(format):
    icc = PROFILES["Display P3"]
    rgb = np.full((32, 32, 3), (250, 20, 20), np.uint8)
    after = reopened(opened(encoded(Image.fromarray(rgb), format, icc_profile=icc)))
    assert after.info["icc_profile"] == icc
    assert np.abs(np.asarray(after).astype(int) - rgb).max() <= 4


def test_profiles_of_srgb_are_no_detour():
    pillow = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rgb = RNG.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    for icc in (
        b"",
        pillow,
        matrix_profile("sRGB", SRGB, None),
        with_curves(SRGB_CURVE, matrix_profile("s", SRGB, 1.0)),
    ):
        assert parse_profile(icc) is None
        assert Picture(rgb, icc=icc).srgb() is rgb
        assert Picture(rgb, icc=icc).with_srgb(rgb + 1).rgb.tolist() == (rgb + 1).tolist()


@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_gray_profiles_are_honored(dtype, gamma):
    icc = with_curves(parametric(0, gamma), gray=True)
    ramp = np.linspace(0, np.iinfo(dtype).max, 256).astype(dtype)[None, :, None].repeat(3, 2)
    picture = Picture(ramp, icc=icc, is_gray=True, format="TIFF")
    light = (ramp / np.iinfo(dtype).max) ** gamma
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(picture.srgb(), expected, atol=1e-3)
    assert np.ptp(picture.srgb(), axis=2).max() < 1e-6
    np.testing.assert_array_equal(picture.with_srgb(picture.srgb()).rgb, ramp)
    if dtype == np.uint8:
        assert reopened(picture).info["icc_profile"] == icc


@pytest.mark.parametrize(
    "curve",
    [
        parametric(0, 2.2),
        parametric(1, 2.2, 0.9, 0.1),
        parametric(2, 2.2, 0.9, 0.05, 0.01),
        SRGB_CURVE,
        parametric(4, 2.2, 0.9, 0.1, 0.1, 0.1, 0.005, 0.0),
        b"curv" + bytes(4) + (0).to_bytes(4, "big"),
        b"curv" + bytes(4) + (1).to_bytes(4, "big") + (512).to_bytes(2, "big"),
        b"curv" + bytes(4) + (3).to_bytes(4, "big") + b"\0\0\x20\0\xff\xff",
    ],
)
def test_every_kind_of_curve_can_be_turned_round(curve):
    profile = parse_profile(with_curves(curve))
    values = RNG.random((3, 500), np.float32) * np.float32(0.8) + np.float32(0.2)
    np.testing.assert_allclose(profile.own(profile.srgb(values)), values, atol=1e-4)


def test_curves_go_on_below_black():
    for curve in (Curve((2.2, 1, 0, 0, 0, 0, 0)), Curve(None, (0.0, 0.3, 1.0))):
        values = np.linspace(-1, 1, 21, dtype=np.float32)
        np.testing.assert_allclose(curve.encode(curve.light(values)), values, atol=1e-6)


def test_profiles_that_cannot_be_computed_with_leave_values_as_they_are():
    good = PROFILES["Display P3"]
    table = good.replace(b"cprt", b"A2B0")
    falling = with_curves(b"curv" + bytes(4) + (2).to_bytes(4, "big") + b"\xff\xff\0\0")
    flat = with_curves(b"curv" + bytes(4) + (2).to_bytes(4, "big") + bytes(4))
    rgb = RNG.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    for icc in (table, falling, flat, good[:150], b"junk", with_curves(parametric(7, 1.0)), with_curves(b"odd")):
        picture = Picture(rgb, icc=icc)
        assert picture.srgb() is rgb
        assert picture.with_srgb(rgb).icc == icc


# CMYK


@pytest.fixture(scope="module")
def inks():
    """The CMYK profile that comes with libvips."""
    vips = pytest.importorskip("pyvips")
    return bytes(vips.Operation.call("profile_load", "cmyk"))


@pytest.mark.parametrize(("format", "options"), [("TIFF", {}), ("JPEG", {"quality": 95})])
def test_cmyk_comes_back_as_cmyk(format, options, inks):
    source = Image.fromarray(RNG.integers(0, 200, (40, 56, 4), dtype=np.uint8), "CMYK").resize((112, 80))
    data = encoded(source, format, icc_profile=inks, **options)
    before = np.asarray(Image.open(io.BytesIO(data)))
    picture = opened(data)
    assert picture.rgb.shape == (80, 112, 3)
    unchanged = picture.with_srgb(picture.srgb().copy())
    np.testing.assert_array_equal(unchanged.cmyk, before)
    after = reopened(unchanged)
    assert (after.mode, after.info["icc_profile"]) == ("CMYK", inks)
    assert np.abs(np.asarray(after).astype(int) - before).mean() < (0.01 if format == "TIFF" else 4)


@pytest.mark.parametrize("black", [10, 60])
def test_cmyk_takes_over_what_the_network_did(black, inks):
    cmyk = np.zeros((16, 16, 4), np.uint8)
    cmyk[:, :8] = (20, 120, 120, black)
    picture = opened(encoded(Image.fromarray(cmyk, "CMYK"), "TIFF", icc_profile=inks))
    restored = picture.srgb().copy()
    restored[:, :8] += 25
    again = opened(saved(picture.with_srgb(restored)))
    assert np.abs(again.rgb.astype(int) - restored).max() <= 4
    np.testing.assert_array_equal(again.cmyk[:, 8:], 0)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "AVIF"])
def test_formats_without_cmyk_refuse_it(format, inks):
    picture = opened(encoded(Image.new("CMYK", (4, 4)), "TIFF", icc_profile=inks))
    with pytest.raises(ImageError, match=f"{format} cannot hold CMYK, which the picture is; write .tif or .jpg"):
        saved(picture, format)


def test_cmyk_profile_that_is_none_is_refused():
    for icc in (b"", b"junk", PROFILES["Adobe RGB"]):
        with pytest.raises(ImageError, match="CMYK picture without a usable color profile"):
            opened(encoded(Image.new("CMYK", (4, 4)), "TIFF", icc_profile=icc))


def test_gray_pictures_with_a_profile_of_color_are_honored():
    picture = Picture(np.full((4, 4, 3), 100, np.uint8), icc=PROFILES["linear"], is_gray=True)
    np.testing.assert_allclose(picture.srgb(), 0.6592, atol=1e-3)
    assert replace(picture, icc=b"").srgb() is picture.rgb
