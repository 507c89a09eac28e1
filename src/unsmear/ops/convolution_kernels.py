"""Machine code of 3x3 convolutions for CPUs, by Winograd's minimal filtering, compiled by numba on first use.

The output is made in tiles of 4 x 4, each from 6 x 6 of the input (Lavin and Gray 2016, section 4.2, F(4 x 4, 3 x 3)):

    output tile = A^T [sum over channels (G weight G^T) * (B^T input B)] A

where * multiplies each of 36 values by its own: 36 multiplications for 16 values that take 144 one by one. B^T and A^T
are additions, doublings and fourfolds. Over all tiles and channels the middle is 36 matrix products.

The gradient of the weights is the same the other way round, with the gradient of the output:

    G^T [sum over tiles of (B^T input B) * (A gradient A^T)] G

All arrays are flat and hold (batch, row, column, channel), and the tiles of all pictures are counted row after row. A
kernel works on a range of tasks (first <= task < last), of `TILES` tiles each. Tasks are cut by shape alone and write
to disjoint memory, so that the result does not depend on how many threads share them.
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
SIDE = TILE + 2  # of input
TILES = 2 * PRODUCT_SUMS  # of a task: a whole number of times the rows of a `product`, and what fits near caches
ROOM = TILES + 1  # for them: 36 values a power of two apart would find few places in a cache


@compiled
def _weigh(column, numbers):
    """G times a column of three registers: the values of a filter at 0, 1, -1, 2, -2 and infinity, scaled."""
    g0, g1, g2 = column
    quarter, minus_sixth, twelfth = broadcast(numbers, 0), broadcast(numbers, 1), broadcast(numbers, 2)
    twenty_fourth, sixth = broadcast(numbers, 3), broadcast(numbers, 4)
    even, twice_even = multiply(minus_sixth, add(g0, g2)), multiply_add(twenty_fourth, g0, multiply(sixth, g2))
    odd, twice_odd = multiply(minus_sixth, g1), multiply(twelfth, g1)
    return (
        multiply(quarter, g0),
        add(even, odd),
        subtract(even, odd),
        add(twice_even, twice_odd),
        subtract(twice_even, twice_odd),
        g2,
    )


@compiled
def transform_weights(weight, taps, start, by_out, by_channel, down, right, channels, filled, outs, first, last):
    """G weight G^T for each input channel and output: taps (36, channels, filled).

    A tap lies at start + output * by_out + channel * by_channel + row * down + column * right in `weight`. Outputs are
    `filled` up to whole registers with zeros. A task is an input channel.
    """
    lanes = VECTOR_BYTES // weight.itemsize
    numbers = np.array([1 / 4, -1 / 6, 1 / 12, 1 / 24, 1 / 6]).astype(weight.dtype)
    given, halfway = aligned(9 * lanes, weight), aligned(3 * SIDE * lanes, weight)
    for channel in range(first, last):
        for c in range(0, filled, lanes):
            clear(given, 0, 9 * lanes)
            for n in range(min(lanes, outs - c)):
                at = start + (c + n) * by_out + channel * by_channel
                for i in range(3):
                    for j in range(3):
                        given[(3 * j + i) * lanes + n] = weight[at + i * down + j * right]
            for j in range(3):
                at = 3 * j * lanes
                column = load(given, at), load(given, at + lanes), load(given, at + 2 * lanes)
                _store_six(halfway, j * lanes, 3 * lanes, _weigh(column, numbers))
            for i in range(SIDE):
                at = 3 * i * lanes
                row = load(halfway, at), load(halfway, at + lanes), load(halfway, at + 2 * lanes)
                step = channels * filled
                _store_six(taps, i * SIDE * step + channel * filled + c, step, _weigh(row, numbers))


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
def sums_and_differences(column, two):
    """Of what a column of six registers has at 1 and -1, and at 2 and -2 (there twice the difference), for A^T."""
    _, m1, m2, m3, m4, _ = column
    return add(m1, m2), subtract(m1, m2), add(m3, m4), multiply(two, subtract(m3, m4))


@compiled
def _out_of(column, two, four):
    """A^T times a column of six registers."""
    m0, m5 = column[0], column[5]
    even, odd, twice_even, twice_odd = sums_and_differences(column, two)
    return (
        add(add(m0, even), twice_even),
        add(odd, twice_odd),
        multiply_add(four, twice_even, even),
        add(multiply_add(four, twice_odd, odd), m5),
    )


@compiled
def load_six(array, at, step):
    """Six registers, `step` apart."""
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
            _load_or_zero(x, here + row, below > 1),
            _load_or_zero(x, here + 2 * row, below > 2),
            _load_or_zero(x, here + 3 * row, below > 3),
            _load_or_zero(x, here + 4 * row, below > 4),
            _load_or_zero(x, here + 5 * row, below > 5),
        )
        _store_six(strip, at + n, strip_row, _into(column, two, four))


@compiled
def _transform_across(strip, at, channels, num, tile, v, v_at, step, two, four):
    """Along a row of the strip, B to the right of every tile: six values (value, tile, channel), `step` apart."""
    lanes = VECTOR_BYTES // strip.itemsize
    for t in range(num):
        for n in range(0, channels, lanes):
            here, there = at + tile * t * channels + n, v_at + t * channels + n
            _store_six(v, there, step, _into(load_six(strip, here, channels), two, four))


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
def transform(x, begin, end, tile, down, across, height, width, channels, strip, v, v_at, step, two, four):
    """B^T input B of tiles begin <= number < end: 36 values (value, number, channel) from v_at on, `step` apart.

    Of down x across tiles in each picture, `tile` pixels apart, which begin a pixel before it. Outside of it x is zero.
    """
    while begin < end:  # as many as lie in one row
        row, left = begin // across, begin % across
        num = min(end - begin, across - left)
        b, top = row // down, row % down * tile
        strip_row = (tile * (num - 1) + SIDE) * channels
        start, stop = max(tile * left - 1, 0), min(tile * (left + num - 1) + SIDE - 1, width)
        before, count = (start - tile * left + 1) * channels, (stop - start) * channels
        for i in range(SIDE):
            clear(strip, i * strip_row, before)
            clear(strip, i * strip_row + before + count, strip_row - before - count)
        start = ((b * height + top - 1) * width + start) * channels
        above, below = 1 - top, height - top + 1
        _transform_down(x, start, width * channels, count, above, below, strip, before, strip_row, two, four)
        for i in range(SIDE):
            _transform_across(strip, i * strip_row, channels, num, tile, v, v_at + i * SIDE * step, step, two, four)
        begin, v_at = begin + num, v_at + num * channels


@compiled
def winograd(x, weight, bias, onto, out, relu, adds, tiles, height, width, channels, filled, outs, first, last):
    """Convolution of x plus bias, no less than 0 if `relu`, plus `onto` if `adds`.

    `weight` is G weight G^T (36, channel, filled), where channels are whole registers and `filled` is `outs` in whole
    registers, of which one is filled at least. Outside the picture x is zero.
    """
    lanes = VECTOR_BYTES // x.itemsize
    numbers = np.array([2, 4, 0 if relu else -np.inf]).astype(x.dtype)
    two, four, floor = broadcast(numbers, 0), broadcast(numbers, 1), broadcast(numbers, 2)
    down, across = (height + TILE - 1) // TILE, (width + TILE - 1) // TILE
    strip = aligned(SIDE * (TILE * TILES + 2) * channels, x)
    v = aligned(SIDE**2 * ROOM * channels, x)
    m = aligned(SIDE**2 * ROOM * filled, x)
    halfway = aligned(SIDE * TILE * lanes, x)
    for task in range(first, last):
        begin, end = task * TILES, min((task + 1) * TILES, tiles)
        transform(x, begin, end, TILE, down, across, height, width, channels, strip, v, 0, ROOM * channels, two, four)
        for i in range(SIDE**2):
            at = i * ROOM * channels
            times(v, at, end - begin, channels, weight, i * channels * filled, filled, m[i * ROOM * filled :])
        for tile in range(begin, end):
            row, left = tile // across, tile % across * TILE
            b, top = row // down, row % down * TILE
            for c in range(0, outs, lanes):
                c = min(c, outs - lanes)  # the last register overlaps the one before
                step = ROOM * filled
                for i in range(SIDE):
                    values = _out_of(load_six(m, i * SIDE * step + (tile - begin) * filled + c, step), two, four)
                    store(halfway, TILE * i * lanes, values[0])
                    store(halfway, (TILE * i + 1) * lanes, values[1])
                    store(halfway, (TILE * i + 2) * lanes, values[2])
                    store(halfway, (TILE * i + 3) * lanes, values[3])
                low = load(bias, c)
                for j in range(min(TILE, width - left)):
                    values = _out_of(load_six(halfway, j * lanes, TILE * lanes), two, four)
                    at = ((b * height + top) * width + left + j) * outs + c
                    _finish(values, low, floor, onto, adds, out, at, width * outs, height - top)


@compiled
def transform_inputs(x, v, room, tiles, height, width, channels, first, last):
    """B^T input B of all tiles: v (36, room, channel), `room` for `tiles` at least, channels whole registers."""
    numbers = np.array([2, 4]).astype(x.dtype)
    two, four = broadcast(numbers, 0), broadcast(numbers, 1)
    down, across = (height + TILE - 1) // TILE, (width + TILE - 1) // TILE
    strip = aligned(SIDE * (TILE * TILES + 2) * channels, x)
    for task in range(first, last):
        begin, end = task * TILES, min((task + 1) * TILES, tiles)
        v_at, step = begin * channels, room * channels
        transform(x, begin, end, TILE, down, across, height, width, channels, strip, v, v_at, step, two, four)


@compiled
def _back(column, two, four):
    """A times a column of four registers."""
    d0, d1, d2, d3 = column
    even, odd = add(d0, d2), add(d1, d3)
    twice_even, twice_odd = multiply_add(four, d2, d0), multiply(two, multiply_add(four, d3, d1))
    return (
        d0,
        add(even, odd),
        subtract(even, odd),
        add(twice_even, twice_odd),
        subtract(twice_even, twice_odd),
        d3,
    )


@compiled
def transform_gradients(gradient, m, room, tiles, height, width, channels, first, last):
    """A gradient A^T of all tiles: m (36, room, channel), as `transform_inputs`; outside the picture it is zero."""
    lanes = VECTOR_BYTES // gradient.itemsize
    numbers = np.array([2, 4]).astype(gradient.dtype)
    two, four = broadcast(numbers, 0), broadcast(numbers, 1)
    down, across = (height + TILE - 1) // TILE, (width + TILE - 1) // TILE
    halfway = aligned(SIDE * TILE * lanes, gradient)
    for tile in range(first * TILES, min(last * TILES, tiles)):
        row, left = tile // across, tile % across * TILE
        b, top = row // down, row % down * TILE
        for c in range(0, channels, lanes):
            start = ((b * height + top) * width + left) * channels + c
            for j in range(TILE):
                here, there, below = start + j * channels, left + j < width, height - top
                column = (
                    _load_or_zero(gradient, here, there),
                    _load_or_zero(gradient, here + width * channels, there and below > 1),
                    _load_or_zero(gradient, here + 2 * width * channels, there and below > 2),
                    _load_or_zero(gradient, here + 3 * width * channels, there and below > 3),
                )
                _store_six(halfway, j * lanes, TILE * lanes, _back(column, two, four))
            for i in range(SIDE):
                at = i * TILE * lanes
                line = (
                    load(halfway, at),
                    load(halfway, at + lanes),
                    load(halfway, at + 2 * lanes),
                    load(halfway, at + 3 * lanes),
                )
                m_at = (i * SIDE * room + tile) * channels + c
                _store_six(m, m_at, room * channels, _back(line, two, four))
