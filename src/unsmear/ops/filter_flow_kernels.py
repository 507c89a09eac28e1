"""Machine code of filter flow for CPUs, compiled by numba on first use.

A filter that turned by half is itself multiplies two pixels by each of its values, so their sums are made first. From
row to row it is filters that are blended; along a row it is what two of them give, for which the same sums do.

All arrays are flat. The kernel works on a range of tasks (first <= task < last), each a row of a picture. Tasks are cut
by shape alone and write to disjoint memory, so that the result does not depend on how many threads share them.
"""

import numpy as np

from unsmear.ops.simd import (
    VECTOR_BYTES,
    add,
    aligned,
    broadcast,
    compiled,
    copy,
    load,
    multiply,
    multiply_add,
    store,
    subtract,
)

_AT_ONCE = 4  # registers of pixels: the sums of two filters then fill half of the registers that there are


@compiled
def _filter_twice(picture, at, offsets, filters, left, right, share, share_step, gave):
    """Filter four registers of pixels by a left and a right filter, and blend what these give."""
    lanes, middle = VECTOR_BYTES // picture.itemsize, len(offsets)
    a, b, c, d = at[0], at[1], at[2], at[3]
    factor = broadcast(filters, left + middle)
    left_a, left_b = multiply(factor, load(picture, a)), multiply(factor, load(picture, b))
    left_c, left_d = multiply(factor, load(picture, c)), multiply(factor, load(picture, d))
    factor = broadcast(filters, right + middle)
    right_a, right_b = multiply(factor, load(picture, a)), multiply(factor, load(picture, b))
    right_c, right_d = multiply(factor, load(picture, c)), multiply(factor, load(picture, d))
    for tap in range(middle):
        away = offsets[tap]
        both_a = add(load(picture, a + away), load(picture, a - away))
        both_b = add(load(picture, b + away), load(picture, b - away))
        both_c = add(load(picture, c + away), load(picture, c - away))
        both_d = add(load(picture, d + away), load(picture, d - away))
        factor = broadcast(filters, left + tap)
        left_a, left_b = multiply_add(factor, both_a, left_a), multiply_add(factor, both_b, left_b)
        left_c, left_d = multiply_add(factor, both_c, left_c), multiply_add(factor, both_d, left_d)
        factor = broadcast(filters, right + tap)
        right_a, right_b = multiply_add(factor, both_a, right_a), multiply_add(factor, both_b, right_b)
        right_c, right_d = multiply_add(factor, both_c, right_c), multiply_add(factor, both_d, right_d)
    store(gave, 0, multiply_add(load(share, share_step[0]), subtract(right_a, left_a), left_a))
    store(gave, lanes, multiply_add(load(share, share_step[1]), subtract(right_b, left_b), left_b))
    store(gave, 2 * lanes, multiply_add(load(share, share_step[2]), subtract(right_c, left_c), left_c))
    store(gave, 3 * lanes, multiply_add(load(share, share_step[3]), subtract(right_d, left_d), left_d))


@compiled
def flow(
    picture, offsets, filters, shares, out,
    reach, spacing, rows, columns, room, channels, height, width, high, wide, first, last,
):  # fmt: skip
    """Out (batch, channel, height, width) is the picture, filtered at every pixel as the four places around it say.

    `picture` (batch, channel, high, wide) has a margin of `reach` around it, and a register more columns. Of the filter
    of every place (batch, row, column, `room`) there is the first half and the middle; `offsets` are where the pixels
    of that half lie. `shares` tell how much a place counts at each of the `spacing` pixels on the way to it, and are a
    register longer.
    """
    lanes = VECTOR_BYTES // picture.itemsize
    filters_of_row, lead = columns * room, spacing // 2
    between, gave = aligned(filters_of_row, picture), aligned(_AT_ONCE * lanes, picture)
    at, on_the_way = np.empty(_AT_ONCE, np.intp), np.empty(_AT_ONCE, np.intp)
    to, count = np.empty(_AT_ONCE, np.intp), np.empty(_AT_ONCE, np.intp)
    for task in range(first, last):
        batch, row = task // height, task % height
        below = (row + lead) // spacing
        share = broadcast(shares, (row + lead) % spacing)
        upper = (batch * rows + min(max(below - 1, 0), rows - 1)) * filters_of_row
        lower = (batch * rows + min(below, rows - 1)) * filters_of_row
        for n in range(0, filters_of_row, lanes):
            above = load(filters, upper + n)
            store(between, n, multiply_add(share, subtract(load(filters, lower + n), above), above))
        for cell in range((width - 1 + lead) // spacing + 1):  # from one place to the next
            begin = max(0, cell * spacing - lead)
            end = min(width, (cell + 1) * spacing - lead)
            left, right = min(max(cell - 1, 0), columns - 1) * room, min(cell, columns - 1) * room
            registers = (end - begin + lanes - 1) // lanes
            for piece in range(0, channels * registers, _AT_ONCE):
                for n in range(_AT_ONCE):
                    some = min(piece + n, channels * registers - 1)  # the last is made again, to fill up
                    plane, column = batch * channels + some // registers, begin + some % registers * lanes
                    at[n] = (plane * high + row + reach) * wide + column + reach
                    on_the_way[n] = (column + lead) % spacing
                    to[n] = (plane * height + row) * width + column
                    count[n] = min(lanes, end - column)
                _filter_twice(picture, at, offsets, between, left, right, shares, on_the_way, gave)
                for n in range(_AT_ONCE):
                    copy(gave, n * lanes, out, to[n], count[n])
