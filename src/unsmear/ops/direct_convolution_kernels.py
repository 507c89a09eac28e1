"""Machine code of 3x3 convolutions for CPUs, tap by tap, compiled by numba on first use.

For what Winograd's filtering is not for: every second pixel, or few channels. Rows of a picture that lies channels-last
hold what a row of a filter sees one after the other, so that each row of the filter is a matrix product.

All arrays are flat and hold (batch, row, column, channel). A task is a row of the output, so that the result does not
depend on how many threads share them.
"""

import numpy as np

from unsmear.ops.products import PRODUCT_SUMS, product
from unsmear.ops.simd import VECTOR_BYTES, compiled, load, store

_TAPS = 3


@compiled
def _add_products(x, x_at, x_step, count, depth, weight, w_at, outs, out, out_at, one):
    """out[m, :] += x[m, :] @ weight for `count` pixels, `x_step` apart, of `depth` values, and weight (depth, outs)."""
    lanes = VECTOR_BYTES // x.itemsize
    wide = outs - outs % (2 * lanes)
    for c in range(0, wide, 2 * lanes):
        for m in range(0, count, PRODUCT_SUMS // 2):
            start, end = x_at + m * x_step, out_at + m * outs + c
            product(2, count - m, depth, x, start, x_step, 1, weight, w_at + c, outs, out, end, outs, one, 0, 0)
    for c in range(wide, outs, lanes):
        for m in range(0, count, PRODUCT_SUMS):
            start, end = x_at + m * x_step, out_at + m * outs + c
            product(1, count - m, depth, x, start, x_step, 1, weight, w_at + c, outs, out, end, outs, one, 0, 0)


@compiled
def _add_row(x, at, width, channels, stride, weight, w_at, outs, out, out_at, across, one):
    """Add what a row of x from `at` on gives to a row of the output. Pixels at the ends see less: x is zero outside."""
    n = 0
    while n < across:
        left = n * stride - 1
        start, stop = max(left, 0), min(left + _TAPS, width)
        whole = stop - start == _TAPS
        num = min(across, (width + 1 - _TAPS) // stride + 1) - n if whole else 1  # all others that see three pixels
        _add_products(
            x, at + start * channels, stride * channels, num, (stop - start) * channels,
            weight, w_at + (start - left) * channels * outs, outs, out, out_at + n * outs, one,
        )  # fmt: skip
        n += num


@compiled
def convolve(x, weight, bias, out, height, width, channels, stride, outs, first, last):
    """Convolution of x by weight (3, 3, channel, outs) plus bias, of every `stride`th pixel; outside x is zero.

    `outs` are whole registers.
    """
    lanes, one = VECTOR_BYTES // x.itemsize, np.ones(1, x.dtype)
    down, across = (height - 1) // stride + 1, (width - 1) // stride + 1
    for task in range(first, last):
        b, top = task // down, task % down * stride - 1
        at = task * across * outs
        for n in range(at, at + across * outs, outs):
            for c in range(0, outs, lanes):
                store(out, n + c, load(bias, c))
        for row in range(max(top, 0), min(top + _TAPS, height)):
            start, w_at = (b * height + row) * width * channels, (row - top) * _TAPS * channels * outs
            _add_row(x, start, width, channels, stride, weight, w_at, outs, out, at, across, one)
