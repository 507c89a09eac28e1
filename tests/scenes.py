"""A scene, and what motion leaves of it."""

import numpy as np
import torch
from scipy import ndimage


def scene(size=96):
    """Edges and texture, (1, 3, size, size)."""
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.standard_normal((size, size)), 3)
    picture = 0.5 + 0.3 * np.sign(smooth) + 0.05 * rng.standard_normal((size, size))
    return torch.from_numpy(np.clip(picture, 0, 1)).float().expand(1, 3, size, size)


def smeared(x, length, axis):
    return torch.from_numpy(ndimage.uniform_filter1d(x.numpy(), length, axis=axis, mode="nearest"))
