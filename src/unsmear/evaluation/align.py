"""Alignment of a picture to the sharp one, as the evaluation of the RealBlur data set does it with OpenCV.

RealBlur's blurred and sharp pictures come from two cameras, and their alignment leaves fractions of a pixel. A network
may not be blamed for them, so every output is moved onto the sharp picture before it is scored: brightness by one
factor, geometry by the homography W that maximizes the enhanced correlation coefficient of gray values (Evangelidis and
Psarakis, 2008, the forward additive form):

    rho(W) = <t, i(W)> / (|t| |i(W)|),   t, i zero-mean gray values of the sharp picture and of the output sampled at W

Differences from OpenCV, all of them small: positions are not rounded to 1/32 pixel; computed in float64; pixels outside
do not count at all; the search ends once the corners move by less than a thousandth of a pixel instead of after 100
steps; and it keeps the best homography it met, the identity included, where OpenCV fails with an error.
"""

import numpy as np
from scipy.ndimage import correlate1d, map_coordinates

from unsmear.samples import REC601

_STEPS = 100
_STILL = 1e-3  # pixels
_SMOOTH = np.array([1, 4, 6, 4, 1]) / 16  # OpenCV's Gaussian of 5 samples
_GRAY = np.array(REC601)


def align(output: np.ndarray, sharp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move a picture onto the sharp one.

    Args:
        output: The picture, uint8 (H, W, 3).
        sharp: What to align it to, likewise.

    Returns:
        The picture in the geometry and brightness of the sharp one, float64 (H, W, 3), unclipped; and where it covers
        it, bool (H, W). Values outside of that mean nothing.
    """
    x, z = sharp.astype(np.float64), output.astype(np.float64)
    energy = np.square(z).sum()
    z *= (x * z).sum() / energy if energy else 1.0
    cols, rows = _positions(find_homography(x @ _GRAY, z @ _GRAY), *sharp.shape[:2])
    return _bicubic(z, cols, rows), _inside(cols, rows, *sharp.shape[:2])


def find_homography(template: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Homography that takes pixels of one picture to where the other shows the same.

    Args:
        template: Gray values (H, W).
        image: Gray values (H, W) of about the same.

    Returns:
        (3, 3) for positions (column, row, 1) in pixels; the identity where no better one is found.
    """
    height, width = template.shape
    template, image = _smooth(template), _smooth(image)
    image_and_slopes = (image, *(correlate1d(image, [-0.5, 0, 0.5], axis, mode="mirror") for axis in (1, 0)))
    corners = np.array([[0, 0], [0, height - 1], [width - 1, 0], [width - 1, height - 1]], np.float64)
    matrix, best, best_rho = np.eye(3), np.eye(3), -np.inf
    for _ in range(_STEPS):
        cols, rows = _positions(matrix, height, width)
        inside = _inside(cols, rows, height, width)
        if 2 * inside.sum() < inside.size:
            break
        i, dx, dy = (
            map_coordinates(v, (rows[inside], cols[inside]), order=1, mode="nearest") for v in image_and_slopes
        )
        t = template[inside]
        t, i = t - t.mean(), i - i.mean()
        norms = np.linalg.norm(t) * np.linalg.norm(i)
        rho = t @ i / norms if norms else -np.inf
        if rho > best_rho:
            best, best_rho = matrix, rho
        change = _step(matrix, t, i, dx, dy, np.nonzero(inside))
        if change is None:
            break
        moved = np.abs(_apply(matrix + change, corners) - _apply(matrix, corners)).max()
        matrix = matrix + change
        if moved < _STILL:
            break
    return best


def _step(
    matrix: np.ndarray, t: np.ndarray, i: np.ndarray, dx: np.ndarray, dy: np.ndarray, where: tuple[np.ndarray, ...]
) -> np.ndarray | None:
    """The change of the homography that maximizes the linearized correlation; None where there is none.

    Args:
        matrix: The homography, (3, 3).
        t: Zero-mean values of the template, (N,).
        i: Zero-mean values of the warped image, likewise.
        dx: Slopes of the warped image along its rows, likewise.
        dy: Slopes down its columns, likewise.
        where: Row and column of each pixel.
    """
    y, x = (place.astype(np.float64) for place in where)
    u, v, w = matrix @ np.stack((x, y, np.ones_like(x)))
    dx, dy = dx / w, dy / w
    dw = -(u / w * dx + v / w * dy)
    jacobian = np.stack((dx * x, dx * y, dx, dy * x, dy * y, dy, dw * x, dw * y))  # by row of the matrix
    scale = np.linalg.norm(jacobian, axis=1)  # columns and squares of columns differ by a million
    if not scale.all():
        return None
    jacobian /= scale[:, None]
    try:
        solve = np.linalg.inv(jacobian @ jacobian.T)
    except np.linalg.LinAlgError:
        return None
    on_image, on_template = jacobian @ i, jacobian @ t
    gain = t @ i - on_template @ solve @ on_image
    if not gain > 0:
        return None
    error = (i @ i - on_image @ solve @ on_image) / gain * on_template - on_image
    return np.append(solve @ error / scale, 0).reshape(3, 3)


def _smooth(values: np.ndarray) -> np.ndarray:
    return correlate1d(correlate1d(values, _SMOOTH, 0, mode="mirror"), _SMOOTH, 1, mode="mirror")


def _positions(matrix: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows, (H, W) each, that the homography takes all pixels to."""
    rows, cols = np.mgrid[:height, :width].astype(np.float64)
    to = _apply(matrix, np.stack((cols, rows), axis=-1))
    return to[..., 0], to[..., 1]


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    to = points @ matrix[:, :2].T + matrix[:, 2]
    return to[..., :2] / to[..., 2:]


def _inside(cols: np.ndarray, rows: np.ndarray, height: int, width: int) -> np.ndarray:
    """Whether the nearest pixel is one of the picture."""
    return (np.abs(cols - (width - 1) / 2) <= width / 2) & (np.abs(rows - (height - 1) / 2) <= height / 2)


def _bicubic(image: np.ndarray, cols: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Values (H, W, C) between pixels, by the cubic of OpenCV (a = -0.75), mirrored at the borders."""
    (top, across), (left, along) = _split(rows), _split(cols)
    sampled = np.zeros((*cols.shape, image.shape[2]))
    for m, down in enumerate(across):
        row = _mirror(top + m - 1, image.shape[0])
        for n, right in enumerate(along):
            sampled += (down * right)[..., None] * image[row, _mirror(left + n - 1, image.shape[1])]
    return sampled


def _split(positions: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Whole part of positions, and the weights of the four samples around them."""
    whole = np.floor(positions)
    f, a = positions - whole, -0.75
    near = [(a + 2) * d**3 - (a + 3) * d**2 + 1 for d in (f, 1 - f)]
    far = [a * (d**3 - 5 * d**2 + 8 * d - 4) for d in (1 + f, 2 - f)]
    return whole.astype(np.intp), [far[0], near[0], near[1], far[1]]


def _mirror(indices: np.ndarray, length: int) -> np.ndarray:
    """Indices into the picture for those beyond its border: c b a | a b c | c b a."""
    indices = indices % (2 * length)
    return np.minimum(indices, 2 * length - 1 - indices)
