"""Colors of a picture's own profile as the network wants them, sRGB, and what the network changed brought back.

Only matrix profiles (sRGB, Adobe RGB, Display P3, ProPhoto, Rec. 2020 and the like) and gray ones are computed
with; they are three curves and a matrix, which work on any number of bits and on values outside [0, 1].

Nothing is ever converted forth and back. The own values stay, and the *difference* that the network made in sRGB is
added to them: F(x + r) - F(x) for a picture x in sRGB, a residual r and the conversion F from sRGB to the profile.
Where r is 0 the picture stays bit by bit, and colors that sRGB cannot hold keep their excess over it.
"""

import io
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from PIL import Image, ImageCms

from unsmear.samples import white

Convert = Callable[[np.ndarray], np.ndarray]
"""Takes and returns pixels."""

_D50 = (0.9642, 1.0, 0.8249)  # the white of profiles
_SRGB_XYZ = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045, 0.0, 0.0)
_MAX_BYTES = 1 << 20  # of a profile that is computed with; one curve could take a hundred times its bytes
_STRIP = 1 << 18  # pixels that are converted at a time
_NOTHING = 1e-6  # the last bit of a power depends on where the numbers lie in memory
_PARAMETERS = {0: "g", 1: "gab", 2: "gabe", 3: "gabcd", 4: "gabcdef"}


@dataclass(frozen=True)
class Curve:
    """From encoded values to light. Negative values are mirrored, so that colors outside sRGB have a place.

    Attributes:
        parameters: g, a, b, c, d, e, f of (a x + b)^g + e from x = d on, and c x + f below; or None.
        table: Light at even steps from 0 to 1, if it is no formula.
    """

    parameters: tuple[float, ...] | None = None
    table: tuple[float, ...] = ()

    def light(self, values: np.ndarray) -> np.ndarray:
        """Light of encoded values, both about 0 to 1, float32."""
        size = np.abs(values)
        if self.parameters is None:
            table = np.array(self.table, np.float32)
            place = np.minimum(size, 1) * np.float32(len(table) - 1)
            index = np.minimum(place.astype(np.int32), len(table) - 2)
            low = table[index]
            return np.copysign(low + (place - index) * (table[index + 1] - low), values)
        g, a, b, c, d, e, f = self.parameters
        return np.copysign(np.where(size >= d, np.maximum(a * size + b, 0) ** g + e, c * size + f), values)

    def encode(self, light: np.ndarray) -> np.ndarray:
        """The values whose light this is; the inverse of `light`."""
        size = np.abs(light)
        if self.parameters is None:
            return np.copysign(
                np.interp(size, self.table, np.linspace(0, 1, len(self.table))).astype(np.float32), light
            )
        g, a, b, c, d, e, f = self.parameters
        upper = (np.maximum(size - e, 0) ** (1 / g) - b) / a
        lower = (size - f) / c if c else np.zeros_like(size)
        return np.copysign(np.where(size >= (a * d + b) ** g + e, upper, lower), light)


@dataclass(frozen=True)
class Profile:
    """A color space that a matrix profile describes.

    Attributes:
        curves: From encoded values to light, one for each of R, G and B; those of gray profiles are equal.
        to_srgb: From linear light to that of sRGB, as 3 rows of 3.
    """

    curves: tuple[Curve, Curve, Curve]
    to_srgb: tuple[tuple[float, float, float], ...]

    def srgb(self, values: np.ndarray) -> np.ndarray:
        """sRGB-encoded values, not limited to [0, 1], of own ones; float32 (3, N), as `values`."""
        light = [curve.light(plane) for curve, plane in zip(self.curves, values, strict=True)]
        return np.stack([_SRGB.encode(plane) for plane in _mixed(light, self.to_srgb)])

    def own(self, srgb: np.ndarray) -> np.ndarray:
        """The inverse of `srgb`."""
        light = _mixed([_SRGB.light(plane) for plane in srgb], np.linalg.inv(np.array(self.to_srgb)).tolist())
        return np.stack([curve.encode(plane) for curve, plane in zip(self.curves, light, strict=True)])


_SRGB = Curve(_SRGB_CURVE)


def parse_profile(icc: bytes) -> Profile | None:
    """What a profile means for a network that works in sRGB.

    Args:
        icc: An ICC profile, or empty.

    Returns:
        How to convert, or None where values are taken as they are: without a profile, with one of sRGB, a damaged one,
        one that is made of tables (scanners, printers), and one of more than a megabyte, which those are, too.
    """
    return _parse(icc) if len(icc) <= _MAX_BYTES else None


@lru_cache(maxsize=64)
def _parse(icc: bytes) -> Profile | None:
    try:
        tags = _tags(icc)
        if icc[16:20] == b"GRAY":
            curve = _curve(tags[b"kTRC"])
            profile = Profile((curve, curve, curve), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
        elif b"A2B0" in tags:
            return None
        else:
            red, green, blue = (_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC"))
            columns = [struct.unpack_from(">3i", tags[name], 8) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
            matrix = np.linalg.solve(_SRGB_XYZ, np.array(columns).T / 65536)
            profile = Profile((red, green, blue), tuple(tuple(row) for row in matrix.tolist()))
        grid = np.random.default_rng(0).random((3, 64), np.float32)  # any colors will do
        there = profile.srgb(grid)
        if not np.allclose(profile.own(there), grid, atol=2e-3):
            return None  # cannot be turned round
    except (KeyError, ValueError, ArithmeticError, struct.error, np.linalg.LinAlgError):
        return None
    return None if np.allclose(there, grid, atol=2e-3) else profile  # sRGB, as profiles round it


def srgb_values(values: np.ndarray, profile: Profile | None) -> np.ndarray:
    """What the network sees of a picture.

    Args:
        values: Own values (H, W, 3); uint8, uint16, or float32.
        profile: Their color space; None if it is that of the network.

    Returns:
        sRGB-encoded values (H, W, 3) cut to what sRGB holds: float32 in [0, 1], or the own ones if they are that.
    """
    if profile is None:
        return np.clip(values, 0, 1) if values.dtype == np.float32 else values
    flat = values.reshape(-1, 3)
    seen = np.empty(flat.shape, np.float32)
    full = np.float32(white(values.dtype))
    for rows in _strips(flat):
        seen[rows] = np.clip(profile.srgb(_planes(flat[rows]) / full), 0, 1).T
    return seen.reshape(values.shape)


def take_over(values: np.ndarray, profile: Profile | None, restored: np.ndarray) -> np.ndarray:
    """Own values with the change that the network made to `srgb_values`.

    Args:
        values: Own values (H, W, 3); uint8, uint16, or float32.
        profile: Their color space; None if it is that of the network.
        restored: What became of `srgb_values`, of the same shape and dtype.

    Returns:
        New own values of the same shape and dtype. Where nothing changed they are the old ones, bit by bit.
    """
    if profile is None:
        return values + (restored - np.clip(values, 0, 1)) if values.dtype == np.float32 else restored
    flat, after = values.reshape(-1, 3), restored.reshape(-1, 3)
    result = np.empty_like(flat)
    full = np.float32(white(values.dtype))
    for rows in _strips(flat):
        own = _planes(flat[rows])
        before = profile.srgb(own / full)
        residual = _planes(after[rows]) - np.clip(before, 0, 1)
        changed = (np.abs(residual) > _NOTHING).any(axis=0)
        own += full * np.where(changed, profile.own(before + residual) - profile.own(before), 0)
        result[rows] = own.T if values.dtype == np.float32 else np.clip(np.rint(own), 0, full).T
    return result.reshape(values.shape)


@lru_cache(maxsize=4)  # as they take a tenth of a second to build
def cmyk_converter(icc: bytes) -> tuple[Convert, Convert]:
    """Conversions of a CMYK profile: to sRGB, uint8 (H, W, 4) to (H, W, 3), and back.

    Raises:
        ImageCms.PyCMSError: If the profile is damaged, or for one direction only.
    """
    own, srgb = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    forth = ImageCms.buildTransform(own, srgb, "CMYK", "RGB", intent, flags)
    back = ImageCms.buildTransform(srgb, own, "RGB", "CMYK", intent, flags)

    def to_srgb(cmyk: np.ndarray) -> np.ndarray:
        return np.array(cast(Image.Image, ImageCms.applyTransform(Image.fromarray(cmyk, "CMYK"), forth)))

    def to_cmyk(rgb: np.ndarray) -> np.ndarray:
        return np.array(cast(Image.Image, ImageCms.applyTransform(Image.fromarray(rgb), back)))

    return to_srgb, to_cmyk


def matrix_profile(name: str, primaries: tuple[tuple[float, float], ...], gamma: float | None) -> bytes:
    """A matrix profile for a white of D65, ICC version 2.

    Args:
        name: What programs show, ASCII.
        primaries: CIE x and y of red, green and blue.
        gamma: Exponent of the curves; None for the curve of sRGB.
    """
    white = _xyz(0.3127, 0.3290)
    columns = np.stack([_xyz(x, y) for x, y in primaries], axis=1)
    columns = columns * np.linalg.solve(columns, white)
    cones = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])  # Bradford
    gains = (cones @ _D50) / (cones @ white)
    columns = np.linalg.solve(cones, np.diag(gains) @ cones @ columns)
    text = name.encode("ascii") + b"\0"
    description = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(4 + 4 + 2 + 1 + 67)
    if gamma is None:
        steps = np.rint(65535 * _SRGB.light(np.linspace(0, 1, 1024))).astype(">u2").tobytes()
        curve = b"curv" + bytes(4) + struct.pack(">I", 1024) + steps
    else:
        curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    tags = [(b"desc", description), (b"cprt", b"text" + bytes(4) + b"CC0\0"), (b"wtpt", _point(_D50))]
    tags += [(name, _point(column)) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns.T, strict=True)]
    tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    table, body = struct.pack(">I", len(tags)), b""
    for tag, data in tags:
        table += struct.pack(">4sII", tag, 132 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = bytes(4) + bytes(4) + b"\2\x20\0\0mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28) + _point(_D50)[8:]
    header += bytes(128 - len(header))
    profile = header + table + body
    return struct.pack(">I", len(profile)) + profile[4:]


def _planes(flat: np.ndarray) -> np.ndarray:
    """Pixels (N, 3) as float32 (3, N)."""
    return np.ascontiguousarray(flat.T, np.float32)


def _mixed(light: list[np.ndarray], matrix: Sequence[Sequence[float]]) -> list[np.ndarray]:
    """Linear light of other primaries. Far faster than `@` with so few columns."""
    red, green, blue = light
    rows = np.array(matrix, np.float32)
    return [r * red + g * green + b * blue for r, g, b in rows]


def _xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1, (1 - x - y) / y])


def _point(values: np.ndarray | tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(float(value) * 65536) for value in values))


def _strips(flat: np.ndarray) -> list[slice]:
    return [slice(start, start + _STRIP) for start in range(0, len(flat), _STRIP)]


def _tags(icc: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", icc, 128)
    entries = [struct.unpack_from(">4sII", icc, 132 + 12 * number) for number in range(min(count, 100))]
    return {name: icc[start : start + length] for name, start, length in entries}


def _curve(data: bytes) -> Curve:
    if data[:4] == b"para":
        (kind,) = struct.unpack_from(">H", data, 8)
        names = _PARAMETERS[kind]
        found = dict(
            zip(names, (value / 65536 for value in struct.unpack_from(f">{len(names)}i", data, 12)), strict=True)
        )
        if kind in (1, 2):
            found |= {"d": -found["b"] / found["a"], "f": found.get("e", 0.0)}
        return Curve(tuple(found.get(name, 1.0 if name == "a" else 0.0) for name in "gabcdef"))
    if data[:4] != b"curv":
        raise ValueError("unknown kind of curve")
    (count,) = struct.unpack_from(">I", data, 8)
    if count < 2:
        gamma = struct.unpack_from(">H", data, 12)[0] / 256 if count else 1.0
        return Curve((gamma, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    table = np.array(struct.unpack_from(f">{count}H", data, 12)) / 65535
    if (np.diff(table) < 0).any():
        raise ValueError("the curve falls")
    return Curve(None, tuple(table.tolist()))
