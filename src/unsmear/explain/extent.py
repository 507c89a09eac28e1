"""How far a picture is smeared, place by place, judged from the picture alone.

An edge that was smoothed twice says how soft it was before (the re-blur measure of no-reference sharpness): of an edge
of width s, blurred by Gaussians of S1 and S2, the slopes compare as

    R^2 = (m1 / m2)^2 = (s^2 + S2^2) / (s^2 + S1^2),    so    s^2 = (S2^2 - R^2 S1^2) / (R^2 - 1).

Motion smears an edge only along its normal n: s^2 = n' M n, M being the covariance of what blurs there. In each
neighborhood M is fitted to all edges by least squares, weighted by their slopes. The length of the straight, even
motion of the same spread along its main axis is the extent, sqrt(12 lambda), since a box of length L has a variance of
L^2 / 12.

Nothing here knows the sharp scene: defocus, soft shadows and smooth textures count as blur, too, and what has no edges
is filled in from beside it.
"""

from dataclasses import dataclass

import numpy as np

from unsmear.samples import luma

CELL = 16
"""Side of the places that are measured, in pixels."""

LONGEST = 30.0
"""Longer extents cannot be told apart, and read as this, in pixels."""

_S1, _S2 = 1.0, 2.5
_LEAST_SLOPE = 0.008  # per pixel, of values in [0, 1]; below, noise and smooth shades pass for edges
_LEAST_EVIDENCE = 1e-3  # as of an edge along a cell with a slope of 0.03 per pixel
_REACH = 1.5  # cells, the sigma of what counts as beside
_EVENNESS = 0.02  # how strongly M is drawn to a round one, as a share of the weight of the edges


@dataclass(frozen=True)
class BlurExtent:
    """The blur of a picture in cells of `CELL` pixels.

    Attributes:
        length: Extent in pixels, (rows, cols), 0 to `LONGEST`.
        angle: Direction of the smear in radians, (rows, cols), from right (0) to down (pi / 2), modulo pi.
        roundness: The extent across that direction over the extent along it, (rows, cols), 0 to 1.
        evidence: Weight of the edges in a cell and beside it, (rows, cols): the sum of their squared slopes.
    """

    length: np.ndarray
    angle: np.ndarray
    roundness: np.ndarray
    evidence: np.ndarray

    @property
    def is_seen(self) -> np.ndarray:
        """Whether there are edges enough to judge by, in the cell or beside it, (rows, cols)."""
        return self.evidence > _LEAST_EVIDENCE

    @property
    def typical(self) -> float:
        """Median extent over the cells that can be judged, in pixels; NaN where none can."""
        return float(np.median(self.length[self.is_seen])) if self.is_seen.any() else float("nan")


def measure_extent(picture: np.ndarray) -> BlurExtent:
    """Estimate the extent of blur all over a picture.

    Args:
        picture: sRGB-encoded values in [0, 1], (H, W, 3), of any size.
    """
    gray = luma(picture)
    padded = np.pad(gray, 1, "edge")  # so that a picture of one pixel has slopes, too
    (y1, x1), (y2, x2) = ([d[1:-1, 1:-1] for d in np.gradient(smooth(padded, s))] for s in (_S1, _S2))
    slope = np.hypot(x1, y1)
    nx, ny = x1 / np.maximum(slope, 1e-9), y1 / np.maximum(slope, 1e-9)
    smoother = np.maximum(nx * x2 + ny * y2, 1e-9)  # the slope along the same normal
    squared = np.maximum((slope / smoother) ** 2, 1 + 1e-6)
    spread = np.clip((_S2**2 - squared * _S1**2) / (squared - 1), 0, LONGEST**2 / 12)
    weight = np.where(_is_crest(slope, nx, ny) & (slope > _LEAST_SLOPE), slope**2, 0)
    terms = np.stack([nx * nx, 2 * nx * ny, ny * ny])
    evidence = smooth(_cells(weight), _REACH)
    normal = np.stack([_beside(_cells(weight * a * b)) for a in terms for b in terms])
    target = np.stack([_beside(_cells(weight * a * spread)) for a in terms])
    return _solve(normal, target, evidence)


def smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of (H, W), mirrored at the borders."""
    radius = int(np.ceil(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        padding = [(radius, radius) if axis == a else (0, 0) for a in (0, 1)]
        padded = np.pad(image, padding, "symmetric")
        length = image.shape[axis]
        image = sum(
            (tap * np.take(padded, range(i, i + length), axis) for i, tap in enumerate(taps)), np.zeros_like(image)
        )
    return image


def _is_crest(slope: np.ndarray, nx: np.ndarray, ny: np.ndarray) -> np.ndarray:
    """Where the slope is highest along its own direction, to the nearest of eight neighbors."""
    height, width = slope.shape
    rows, cols = np.mgrid[:height, :width]
    dy, dx = np.rint(ny).astype(int), np.rint(nx).astype(int)
    ahead = slope[np.clip(rows + dy, 0, height - 1), np.clip(cols + dx, 0, width - 1)]
    behind = slope[np.clip(rows - dy, 0, height - 1), np.clip(cols - dx, 0, width - 1)]
    return (slope >= ahead) & (slope >= behind)


def _cells(values: np.ndarray) -> np.ndarray:
    """Sums over cells; those at the right and bottom may be cut off."""
    rows, cols = (range(0, length, CELL) for length in values.shape)
    return np.add.reduceat(np.add.reduceat(values.astype(np.float64), rows, 0), cols, 1)


def _beside(cells: np.ndarray) -> np.ndarray:
    """What lies around each cell; from further away only as much as is needed where there is nothing nearer."""
    return smooth(cells, _REACH) + 1e-3 * smooth(cells, 4 * _REACH) + 1e-9 * cells.mean()


def _solve(normal: np.ndarray, target: np.ndarray, evidence: np.ndarray) -> BlurExtent:
    """M of every cell by its normal equations, as lengths and a direction."""
    matrices = np.moveaxis(normal, 0, -1).reshape(*evidence.shape, 3, 3)
    weight = matrices[..., 0, 0] + matrices[..., 2, 2] + matrices[..., 1, 1]
    round_only = np.array([[1.0, 0, -1], [0, 4, 0], [-1, 0, 1]])  # (Mxx - Myy)^2 + (2 Mxy)^2
    matrices = matrices + _EVENNESS * weight[..., None, None] * round_only + 1e-12 * np.eye(3)
    xx, xy, yy = np.moveaxis(np.linalg.solve(matrices, np.moveaxis(target, 0, -1)[..., None])[..., 0], -1, 0)
    middle, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    long, short = (np.sqrt(12 * np.maximum(v, 0)) for v in (middle + half, middle - half))
    angle = np.mod(0.5 * np.arctan2(2 * xy, xx - yy), np.pi)
    return BlurExtent(np.minimum(long, LONGEST), angle, short / np.maximum(long, 1e-9), evidence)
