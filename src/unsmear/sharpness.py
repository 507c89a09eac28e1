"""How blurred a picture is, told from nothing but the picture.

Blur makes neighboring slopes alike. Where light changes in one step, slopes next to each other have nothing in common;
smeared over L pixels, the step becomes a ramp, and slopes at a distance of k pixels along it correlate by 1 - k / L.
So the distance at which the correlation has fallen to a half is L / 2, and twice that is the extent of the blur:

    C(k) = sum_f P(f) (2 sin(pi f.u))^2 cos(2 pi k f.u),   C(L / 2) = C(0) / 2

C is the autocorrelation of the slopes along a direction u, by the theorem of Wiener and Khinchin; P is the power
spectrum, the mean over all tiles of the picture, so that strong edges count most. Sensors add power of their own, the
same to every tile: that of the highest frequencies in a median tile is taken away everywhere, as these hold nothing
else in a blurred picture. A sharp one loses some of its details, too, but no edges.

Moving things and shaken cameras smear one direction more than others, soft lenses all of them: the extent is the mean
over eight directions, and the largest counts as much as all of them together. Photographs are no steps of light, but
full of finer and coarser things, so the number grows with the blur without being the length of a motion: straight
motion over 5 pixels makes sharp pictures read 3, over 20 pixels 5. docs/sharpness.md has more of that, compares it with
other measures, and tells how often it is wrong.
"""

from functools import lru_cache

import numpy as np

from unsmear.errors import ImageError
from unsmear.samples import luma

THRESHOLD = 2.0
"""Extent in pixels from which on a picture counts as blurred; docs/sharpness.md tells what that finds and misses."""

_TILE = 64  # pixels a side
_SMALLEST = 16  # sides with fewer pixels hold no spectrum to speak of
_FEW = 16  # tiles a side; fewer overlap by half
_DIRECTIONS = 8
_HARDLY = 0.05  # of the power of the strongest direction; stripes say nothing about blur along them
_FINE = 0.4  # cycles per pixel; details beyond are taken for noise


def blur_extent(image: np.ndarray) -> float:
    """Estimate how far edges are smeared, in pixels of the picture as it is.

    It does not tell why: motion, a lens out of focus and enlarging smear alike. A picture that is sharp in parts, as
    portraits before a soft background are, is mostly judged by these parts.

    Args:
        image: Pixels (H, W), (H, W, 1) or (H, W, 3), or with alpha, which does not count; integers or floating point
            of any range, since nothing depends on brightness or contrast. Any size.

    Returns:
        Below 1.5 for edges as sharp as pixels allow, 1 to 2 for most sharp photographs that were made smaller, 3 for
        frames as soft as those of GoPro's cameras, 9 for their blur; never more than 48. 0 where there is nothing to
        go by: no edges, or a side below 16 pixels.

    Raises:
        ImageError: If the array is no picture, or has values that are not finite.

    >>> squares = np.random.default_rng(0).random((16, 16)).repeat(8, axis=0).repeat(8, axis=1)
    >>> round(blur_extent(squares), 1)
    1.4
    """
    _check(image)
    height, width = image.shape[:2]
    if min(height, width) < _SMALLEST:
        return 0.0
    tile_height, tile_width = min(height, _TILE), min(width, _TILE)
    window = np.outer(_hann(tile_height), _hann(tile_width))
    fine = _fine(tile_height, tile_width)
    total, noise, count = np.zeros(fine.shape), [], 0
    lefts = _starts(width, tile_width)
    for top in _starts(height, tile_height):
        strip = _gray(image[top : top + tile_height])
        tiles = np.stack([strip[:, left : left + tile_width] for left in lefts])
        tiles = (tiles - tiles.mean((1, 2), keepdims=True)) * window
        spectrum = np.fft.rfft2(tiles)
        power = spectrum.real**2 + spectrum.imag**2
        noise.append(power[:, fine].mean(1))
        total += power.sum(0)
        count += len(tiles)
    power = np.maximum(total / count - np.median(np.concatenate(noise)), 0)
    return _extent(power, tile_height, tile_width)


def is_blurry(image: np.ndarray, threshold: float = THRESHOLD) -> bool:
    """Whether a picture is blurred, motion or not.

    Args:
        image: As for `blur_extent`.
        threshold: Extent in pixels from which on it counts as blurred.

    Raises:
        ImageError: If the array is no picture, or has values that are not finite.
    """
    return blur_extent(image) >= threshold


def _check(image: np.ndarray) -> None:
    shape = getattr(image, "shape", ())
    if len(shape) not in (2, 3) or 0 in shape or (len(shape) == 3 and shape[2] > 4):
        raise ImageError(f"an array must be (H, W) or (H, W, channels) with up to 4 channels, not {shape}")
    if image.dtype.kind not in "buif":
        raise ImageError(f"an array must hold integers or floating point, not {image.dtype}")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ImageError("an array must hold finite values only")


def _gray(image: np.ndarray) -> np.ndarray:
    """Luma as float32 (H, W); alpha is left out."""
    if image.ndim == 3 and image.shape[2] < 3:
        image = image[..., 0]
    return luma(image[..., :3]) if image.ndim == 3 else image.astype(np.float32)


def _starts(length: int, tile: int) -> np.ndarray:
    """Where tiles begin that cover a length, evenly spread. Windows are dark at the rim: few tiles overlap by half."""
    pitch = tile // 2 if length < _FEW * tile else tile
    return np.linspace(0, length - tile, -(-(length - tile) // pitch) + 1).astype(int)


def _hann(length: int) -> np.ndarray:
    return (np.sin(np.pi * (np.arange(length, dtype=np.float32) + 0.5) / length) ** 2).astype(np.float32)


def _frequencies(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Cycles per pixel down and across, in the layout of `rfft2`."""
    return np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]


def _fine(height: int, width: int) -> np.ndarray:
    """Which frequencies belong to the finest details, (height, width // 2 + 1) bool."""
    return np.hypot(*_frequencies(height, width)) > _FINE


@lru_cache(maxsize=8)
def _correlations(height: int, width: int) -> np.ndarray:
    """What a power spectrum is multiplied by for C(k), (directions, lags, frequencies)."""
    down, across = _frequencies(height, width)
    twice = np.where((across == 0) | (across == 0.5), 1, 2)  # `rfft2` leaves out the mirrored half
    lags = np.arange(3 * min(height, width) // 8 + 1)[:, None, None]
    rows = []
    for angle in np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS:
        along = across * np.cos(angle) + down * np.sin(angle)
        rows.append(twice * np.sin(np.pi * along) ** 2 * np.cos(2 * np.pi * lags * along))
    return np.stack(rows).reshape(_DIRECTIONS, len(lags), -1)


def _extent(power: np.ndarray, height: int, width: int) -> float:
    """Extent from the power spectrum of tiles."""
    correlations = _correlations(height, width) @ power.ravel()
    most = correlations[:, 0].max()
    if most <= 0:
        return 0.0
    extents = []
    for correlation in correlations[correlations[:, 0] > _HARDLY * most]:
        relative = correlation / correlation[0]
        fallen = np.flatnonzero(relative < 0.5)
        if len(fallen):
            k = int(fallen[0])
            extents.append(2 * (k - 1 + (relative[k - 1] - 0.5) / (relative[k - 1] - relative[k])))
        else:
            extents.append(2.0 * (len(relative) - 1))
    return float((np.mean(extents) + np.max(extents)) / 2)
