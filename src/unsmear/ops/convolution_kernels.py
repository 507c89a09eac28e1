"""Machine code of 3x3 convolutions for CPUs, by Winograd's minimal filtering, compiled by numba on first use.

The output is made in tiles of 4 x 4, each from 6 x 6 of the input (Lavin and Gray 2016, section 4.2, F(4 x 4, 3 x 3)):

    output tile = A^T [sum over channels (G weight G^T) * (B^T input B)] A

where * multiplies each of 36 values by its own: 36 multiplications for 16 values that take 144 one by one. B^T and A^T
are additions, doublings and fourfolds. Over all tiles and channels the middle is 36 matrix products.

All arrays are flat and hold (batch, row, column, channel). The kernel works on a range of tasks (first <= task < last),
each a row of tiles. Tasks are cut by shape alone and write to disjoint memory, so that the result does not depend on
how many threads share them.
"""

import numpy as np

from unsmear.ops.products import PRODUCT_SUMS, times
from unsmear.ops.simd import (
    VECTOR_BYTES,
    add,
    aligned,
    broadcast,
    clear,
    compiled,
    load,
    maximum,
    multiply,
    multiply_add,
    store,
    subtract,
    zeros,
)

TILE = 4  # pixels of output along each side
_SIDE = TILE + 2  # of input
_TILES = PRODUCT_SUMS  # at once: a whole number of times the rows of a `product`, and what fits the second-level cache


@compiled
def _into(column, two, four):
    """B^T times a column of six registers."""
    d0, d1, d2, d3, d4, d5 = column
    even, twice_even = subtract(d4, multiply(four, d2)), subtract(d4, d2)
    odd, twice_odd = subtract(d3, multiply(four, d1)), multiply(two, subtract(d3, d1))
    first = multiply_add(four, subtract(d0, d2), twice_even)
    last = multiply_add(four, subtract(d1, d3), subtract(d5, d3))
    return (
        first,
        add(even, odd),
        subtract(even, odd),
        add(twice_even, twice_odd),
        subtract(twice_even, twice_odd),
        last,
    )


@compiled
def _out_of(column, two, four):
    """A^T times a column of six registers."""
    m0, m1, m2, m3, m4, m5 = column
    even, odd = add(m1, m2), subtract(m1, m2)
    twice_even, twice_odd = add(m3, m4), multiply(two, subtract(m3, m4))
    return (
        add(add(m0, even), twice_even),
        add(odd, twice_odd),
        multiply_add(four, twice_even, even),
        add(multiply_add(four, twice_odd, odd), m5),
    )


@compiled
def _load_six(array, at, step):
    return (
        load(array, at),
        load(array, at + step),
        load(array, at + 2 * step),
        load(array, at + 3 * step),
        load(array, at + 4 * step),
        load(array, at + 5 * step),
    )


@compiled
def _store_six(array, at, step, values):
    store(array, at, values[0])
    store(array, at + step, values[1])
    store(array, at + 2 * step, values[2])
    store(array, at + 3 * step, values[3])
    store(array, at + 4 * step, values[4])
    store(array, at + 5 * step, values[5])


@compiled
def _load_or_zero(array, index, there):
    return load(array, index) if there else zeros(array)


@compiled
def _transform_down(x, start, row, count, above, below, strip, at, strip_row, two, four):
    """B^T down six rows of the picture, of which `above` at the top and those from `below` on lie outside it."""
    lanes = VECTOR_BYTES // x.itemsize
    for n in range(0, count, lanes):
        here = start + n
        column = (
            _load_or_zero(x, here, above < 1),
            load(x, here + row),
            _load_or_zero(x, here + 2 * row, below > 2),
            _load_or_zero(x, here + 3 * row, below > 3),
            _load_or_zero(x, here + 4 * row, below > 4),
            _load_or_zero(x, here + 5 * row, below > 5),
        )
        _store_six(strip, at + n, strip_row, _into(column, two, four))


@compiled
def _transform_across(strip, at, channels, num, v, v_at, step, two, four):
    """Along a row of the strip, B to the right of every tile: six values (value, tile, channel), `step` apart."""
    lanes = VECTOR_BYTES // strip.itemsize
    for t in range(num):
        for n in range(0, channels, lanes):
            here, there = at + TILE * t * channels + n, v_at + t * channels + n
            _store_six(v, there, step, _into(_load_six(strip, here, channels), two, four))


@compiled
def _finish(values, low, floor, onto, adds, out, at, row, rows):
    """Store a column of four registers, the first `rows` of them, no less than `floor`, with what is added."""
    a, b, c, d = values
    a, b = maximum(floor, add(a, low)), maximum(floor, add(b, low))
    c, d = maximum(floor, add(c, low)), maximum(floor, add(d, low))
    if adds:
        store(out, at, add(a, load(onto, at)))
        if rows > 1:
            store(out, at + row, add(b, load(onto, at + row)))
        if rows > 2:
            store(out, at + 2 * row, add(c, load(onto, at + 2 * row)))
        if rows > 3:
            store(out, at + 3 * row, add(d, load(onto, at + 3 * row)))
    else:
        store(out, at, a)
        if rows > 1:
            store(out, at + row, b)
        if rows > 2:
            store(out, at + 2 * row, c)
        if rows > 3:
            store(out, at + 3 * row, d)


@compiled
def winograd(x, weight, bias, onto, out, relu, adds, height, width, channels, filled, outs, first, last):
    """Convolution of x plus bias, no less than 0 if `relu`, plus `onto` if `adds`.

    `weight` is G weight G^T (36, channel, filled), where channels are whole registers and `filled` is `outs` in whole
    registers, of which one is filled at least. Outside the picture x is zero.
    """
    lanes = VECTOR_BYTES // x.itemsize
    numbers = np.array([2, 4, 0 if relu else -np.inf]).astype(x.dtype)
    two, four, floor = broadcast(numbers, 0), broadcast(numbers, 1), broadcast(numbers, 2)
    down, across = (height + TILE - 1) // TILE, (width + TILE - 1) // TILE
    strip_row = (TILE * _TILES + 2) * channels
    strip = aligned(_SIDE * strip_row, x)
    v = aligned(_SIDE**2 * _TILES * channels, x)
    m = aligned(_SIDE**2 * _TILES * filled, x)
    rows = aligned(_SIDE * TILE * lanes, x)
    for task in range(first, last):
        b, top = task // down, task % down * TILE
        for left in range(0, across, _TILES):
            num = min(_TILES, across - left)
            begin, end = max(TILE * left - 1, 0), min(TILE * (left + num) + 1, width)
            before = (begin - TILE * left + 1) * channels
            count = (end - begin) * channels
            for i in range(_SIDE):
                clear(strip, i * strip_row, before)
                clear(strip, i * strip_row + before + count, (TILE * num + 2) * channels - before - count)
            start = ((b * height + top - 1) * width + begin) * channels
            _transform_down(
                x, start, width * channels, count, 1 - top, height - top + 1, strip, before, strip_row, two, four
            )
            for i in range(_SIDE):
                step = _TILES * channels
                _transform_across(strip, i * strip_row, channels, num, v, i * _SIDE * step, step, two, four)
            for i in range(_SIDE**2):
                at = i * _TILES * channels
                times(v, at, num, channels, weight, i * channels * filled, filled, m[i * _TILES * filled :])
            for t in range(num):
                for c in range(0, outs, lanes):
                    c = min(c, outs - lanes)  # the last register overlaps the one before
                    step = _TILES * filled
                    for i in range(_SIDE):
                        values = _out_of(_load_six(m, i * _SIDE * step + t * filled + c, step), two, four)
                        store(rows, TILE * i * lanes, values[0])
                        store(rows, (TILE * i + 1) * lanes, values[1])
                        store(rows, (TILE * i + 2) * lanes, values[2])
                        store(rows, (TILE * i + 3) * lanes, values[3])
                    low = load(bias, c)
                    for j in range(min(TILE, width - TILE * (left + t))):
                        values = _out_of(_load_six(rows, j * lanes, TILE * lanes), two, four)
                        at, row = ((b * height + top) * width + TILE * (left + t) + j) * outs + c, width * outs
                        _finish(values, low, floor, onto, adds, out, at, row, height - top)
