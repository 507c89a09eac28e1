"""A picture in memory: its own pixels at their own depth, and all that makes it come back as it was."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import ImageCms

from unsmear.errors import ImageError
from unsmear.image.color import Convert, Profile, cmyk_converter, parse_profile, srgb_values, take_over
from unsmear.samples import to_depth

_INK_ROUNDS = 3
_INK_ERROR = 4  # of 255, from which on the inks that the profile would take are better


@dataclass(frozen=True)
class Picture:
    """A picture and what it takes to write it back as it came.

    Values are uint8, uint16 (0 to 65535), or float32 (0 to 1, and beyond where the file goes beyond).

    Attributes:
        rgb: Upright values in the colors of `icc`, (H, W, 3). Of a gray picture all channels are equal. Of a CMYK
            picture its sRGB version.
        alpha: Opacity (H, W), of the dtype of `rgb`, or None.
        cmyk: Inks of a CMYK picture, uint8 (H, W, 4), or None.
        is_gray: Whether to write one channel of gray.
        format: Name of the file format to write it in by default, a key of `unsmear.formats.FORMATS`.
        exif: EXIF block with orientation 1 and a blank thumbnail, or empty.
        icc: ICC profile, or empty for sRGB.
        xmp: XMP packet, or empty.
        photoshop: Image resources of Photoshop, which hold the IPTC captions, or empty.
        dpi: Dots per inch across and down, or None.
        encoding: How it was encoded, in words of the module that writes `format`; holds for that format only.
        left_out: What a person should know that there was in the file and is not kept here, or empty.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    cmyk: np.ndarray | None = None
    is_gray: bool = False
    format: str = "PNG"
    exif: bytes = b""
    icc: bytes = b""
    xmp: bytes = b""
    photoshop: bytes = b""
    dpi: tuple[float, float] | None = None
    encoding: dict[str, Any] = field(default_factory=dict)
    left_out: str = ""

    def srgb(self) -> np.ndarray:
        """What a network sees: sRGB-encoded values (H, W, 3), cut to what sRGB holds.

        Returns:
            uint8 or uint16, or float32 in [0, 1], which pictures with a profile of other colors become. The caller may
            not change them, as they may be those of the picture.
        """
        return srgb_values(self.rgb, self._profile())

    def with_srgb(self, restored: np.ndarray) -> "Picture":
        """The same picture with what a network made of `srgb()` taken over.

        Where nothing was changed the picture stays as it was, bit by bit, and colors that sRGB cannot hold stay beyond
        it.

        Args:
            restored: Values of the shape and dtype of `srgb()`.
        """
        assert restored.shape == self.rgb.shape
        rgb = take_over(self.rgb, self._profile(), restored)
        if self.cmyk is None:
            return replace(self, rgb=rgb)
        to_rgb, to_cmyk = converters(self.icc)
        cmyk, goal = self.cmyk, to_cmyk(rgb).astype(np.int16)
        for _ in range(_INK_ROUNDS):  # many inks make one color: change those there are by as much as it takes
            cmyk = np.clip(cmyk + (goal - to_cmyk(to_rgb(cmyk))), 0, 255).astype(np.uint8)
        missed = np.abs(to_rgb(cmyk).astype(np.int16) - rgb).max(axis=2) > _INK_ERROR
        cmyk[missed] = goal[missed]
        return replace(self, rgb=rgb, cmyk=cmyk)

    def stripped(self) -> "Picture":
        """The same picture without EXIF, XMP, IPTC, comments, texts and resolution; its colors stay."""
        encoding = {key: value for key, value in self.encoding.items() if key not in ("comment", "texts")}
        return replace(self, exif=b"", xmp=b"", photoshop=b"", dpi=None, encoding=encoding)

    def samples(self, dtype: np.dtype | type) -> np.ndarray:
        """Values as a file holds them: (H, W, C) with C of 1 for gray, 3, or 4 for CMYK, and one more for alpha.

        Args:
            dtype: uint8, uint16, or float32; less than that of the picture rounds.
        """
        if self.cmyk is not None:
            return self.cmyk
        values = _gray(self.rgb) if self.is_gray else self.rgb
        if self.alpha is not None:
            values = np.concatenate([values, self.alpha[..., None]], axis=2)
        return to_depth(values, dtype)

    def _profile(self) -> Profile | None:
        return None if self.cmyk is not None else parse_profile(self.icc)


@dataclass(frozen=True)
class Header:
    """What is known of a file before any pixel is decoded.

    Attributes:
        format: Name of the format that the result is written in by default.
        width: Width in pixels, once upright.
        height: Height in pixels, once upright.
        decode: Reads the picture. Only while the file is open.
        bytes_per_value: Of the picture's values: 1, 2 or 4.
    """

    format: str
    width: int
    height: int
    decode: Callable[[], Picture]
    bytes_per_value: int = 1


def from_samples(
    samples: np.ndarray,
    *,
    has_alpha: bool = False,
    orientation: int = 1,
    xmp: bytes = b"",
    icc: bytes = b"",
    **fields: Any,
) -> Picture:
    """A picture of values as a file holds them.

    Args:
        samples: (H, W, C), as `Picture.samples` gives them.
        has_alpha: Whether the last channel is opacity.
        orientation: How the picture lies, as EXIF numbers it, 1 to 8; it is turned upright.
        xmp: XMP packet, in which the orientation is reset.
        icc: ICC profile; it is left out if it is for other channels, as that of a palette of grays may be.
        **fields: Other attributes of `Picture`.

    Raises:
        ImageError: If it is of CMYK without a usable profile.
    """
    samples = np.ascontiguousarray(_upright(samples, orientation))
    if orientation != 1:
        for tag in (b'tiff:Orientation="', b"<tiff:Orientation>"):
            xmp = xmp.replace(tag + b"%d" % orientation, tag + b"1")
    colors = samples.shape[2] - has_alpha
    fields |= {"alpha": samples[..., colors].copy() if has_alpha else None, "xmp": xmp}
    if colors == 4:
        to_srgb, _ = converters(icc)
        return Picture(to_srgb(samples), cmyk=samples, icc=icc, **fields)
    space = icc[16:20]
    fits = space == b"RGB " or (colors == 1 and space == b"GRAY")
    rgb = np.repeat(samples[..., :1], 3, axis=2) if colors == 1 else np.ascontiguousarray(samples[..., :3])
    return Picture(rgb, is_gray=colors == 1, icc=icc if fits else b"", **fields)


def converters(icc: bytes) -> tuple[Convert, Convert]:
    """Conversions of CMYK, as `cmyk_converter` makes them.

    Raises:
        ImageError: If the profile is not fit for it.
    """
    try:
        return cmyk_converter(icc)
    except (ImageCms.PyCMSError, OSError):
        hint = "convert it to RGB first, in a program that knows its inks"
        raise ImageError(f"a CMYK picture without a usable color profile; {hint}") from None


def _upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror a picture (H, W, C) as EXIF says that it is to be seen."""
    if orientation > 4:
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return samples[:, ::-1] if orientation in (2, 3, 6, 7) else samples


def _gray(rgb: np.ndarray) -> np.ndarray:
    """Gray (H, W, 1) of colors, exact where the channels are equal."""
    red = rgb[..., :1].astype(np.float32)
    gray = red + np.float32(0.587) * (rgb[..., 1:2] - red) + np.float32(0.114) * (rgb[..., 2:] - red)
    return gray if rgb.dtype == np.float32 else np.rint(gray).astype(rgb.dtype)
