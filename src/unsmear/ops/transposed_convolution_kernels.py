"""Machine code of transposed convolutions for CPUs, 4 x 4 taps 2 pixels apart, compiled by numba on first use.

Every pixel of the output sees 2 x 2 pixels of the input, by one of four filters: for even and odd rows and columns.
Each of the four is made in tiles of 5 x 5, from the same 6 x 6 of the input, by Winograd's minimal filtering as in
`convolution_kernels`, F(5 x 5, 2 x 2): 36 multiplications for 25 values that take 100 one by one. The values are taken
at the same places, so B^T is the same, and

    G = [1/4 0, -1/6 -1/6, -1/6 1/6, 1/24 1/12, 1/24 -1/12, 0 1]
    A^T = [1 1 1 1 1 0, 0 1 -1 2 -2 0, 0 1 1 4 4 0, 0 1 -1 8 -8 0, 0 1 1 16 16 1]

All arrays are flat and hold (batch, row, column, channel). A task is a number of tiles, cut by shape alone, so that the
result does not depend on how many threads share them.
"""

import numpy as np

from unsmear.ops.convolution_kernels import ROOM, SIDE, TILES, load_six, sums_and_differences, transform
from unsmear.ops.products import times
from unsmear.ops.simd import (
    VECTOR_BYTES,
    add,
    aligned,
    broadcast,
    compiled,
    load,
    multiply,
    multiply_add,
    store,
)

TILE = SIDE - 1  # pixels of each filter's output along each side


@compiled
def _out_of(column, two, four):
    """A^T times a column of six registers."""
    m0, m5 = column[0], column[5]
    even, odd, twice_even, twice_odd = sums_and_differences(column, two)
    return (
        add(add(m0, even), twice_even),
        add(odd, twice_odd),
        multiply_add(four, twice_even, even),
        multiply_add(four, twice_odd, odd),
        add(multiply_add(four, multiply(four, twice_even), even), m5),
    )


@compiled
def _finish(m, m_at, step, halfway, low, out, outs, c, b, top, left, high, wide, two, four):
    """A^T [...] A of one tile and register of one filter, to every second pixel of the output from top and left on."""
    lanes = VECTOR_BYTES // m.itemsize
    for i in range(SIDE):
        values = _out_of(load_six(m, m_at + i * SIDE * step, step), two, four)
        at = TILE * i * lanes
        store(halfway, at, values[0])
        store(halfway, at + lanes, values[1])
        store(halfway, at + 2 * lanes, values[2])
        store(halfway, at + 3 * lanes, values[3])
        store(halfway, at + 4 * lanes, values[4])
    for j in range(TILE):
        column = left + 2 * j
        if 0 <= column < wide:
            values = _out_of(load_six(halfway, j * lanes, TILE * lanes), two, four)
            at, row = ((b * high + top) * wide + column) * outs + c, 2 * wide * outs
            if 0 <= top < high:
                store(out, at, add(values[0], low))
            if top + 2 < high:
                store(out, at + row, add(values[1], low))
            if top + 4 < high:
                store(out, at + 2 * row, add(values[2], low))
            if top + 6 < high:
                store(out, at + 3 * row, add(values[3], low))
            if top + 8 < high:
                store(out, at + 4 * row, add(values[4], low))


@compiled
def double(x, weight, bias, out, tiles, down, across, height, width, channels, outs, first, last):
    """Transposed convolution of x plus bias: twice as high and wide, of down x across tiles for each picture.

    `weight` is G weight G^T (2, 2, 36, channel, outs), of pixels of even and odd rows and columns of the output, where
    channels and outs are whole registers. Outside the picture x is zero.
    """
    lanes = VECTOR_BYTES // x.itemsize
    numbers = np.array([2, 4]).astype(x.dtype)
    two, four = broadcast(numbers, 0), broadcast(numbers, 1)
    strip = aligned(SIDE * (TILE * (TILES - 1) + SIDE) * channels, x)
    v = aligned(SIDE**2 * ROOM * channels, x)
    m = aligned(SIDE**2 * ROOM * outs, x)
    halfway = aligned(SIDE * TILE * lanes, x)
    for task in range(first, last):
        begin, end = task * TILES, min((task + 1) * TILES, tiles)
        transform(x, begin, end, TILE, down, across, height, width, channels, strip, v, 0, ROOM * channels, two, four)
        for odd in range(2):
            for right in range(2):
                w_at = (2 * odd + right) * SIDE**2 * channels * outs
                for i in range(SIDE**2):
                    b_at = w_at + i * channels * outs
                    times(v, i * ROOM * channels, end - begin, channels, weight, b_at, outs, m[i * ROOM * outs :])
                for tile in range(begin, end):
                    row, left = tile // across, tile % across * 2 * TILE - right
                    b, top = row // down, row % down * 2 * TILE - odd
                    for c in range(0, outs, lanes):
                        _finish(
                            m, (tile - begin) * outs + c, ROOM * outs, halfway, load(bias, c), out, outs, c,
                            b, top, left, 2 * height, 2 * width, two, four,
                        )  # fmt: skip
