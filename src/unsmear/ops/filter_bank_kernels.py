"""Machine code of filter banks for CPUs, compiled by numba on first use.

A filter that is the same, or its negative, when it is flipped or transposed multiplies eight pixels by each of its
values or its negative. So their sums are made first, for all filters of the same signs at once, and what is left is a
matrix product with an eighth of the values, a few more for the axes.

All arrays are flat. The kernel works on a range of tasks (first <= task < last), each a row of pixel blocks. Tasks are
cut by shape alone and write to disjoint memory, so that the result does not depend on how many threads share them.
"""

import numpy as np

from unsmear.ops.products import PRODUCT_SUMS, product
from unsmear.ops.simd import VECTOR_BYTES, add, aligned, compiled, load, multiply_add, store, subtract, zeros

PIXELS = 64  # of a row at once, every `fold`-th: whole pairs of registers


@compiled
def _fold_rows(planes, start, row, reach, fold, high, wide, length, sums, differences):
    """Sums and differences (distance, plane, `length`) of the rows a distance above and below a row."""
    lanes = VECTOR_BYTES // planes.itemsize
    for distance in range(reach + 1):
        above, below = row + reach - distance, row + reach + distance
        for plane in range(fold):
            one = start + ((above % fold * fold + plane) * high + above // fold) * wide
            other = start + ((below % fold * fold + plane) * high + below // fold) * wide
            at = (distance * fold + plane) * length
            for n in range(0, length, lanes):
                store(sums, at + n, add(load(planes, one + n), load(planes, other + n)))
                store(differences, at + n, subtract(load(planes, one + n), load(planes, other + n)))


@compiled
def _even(x, one, two, terms, at):
    """A term: the sum of what lies left and right."""
    for n in range(0, PIXELS, VECTOR_BYTES // x.itemsize):
        store(terms, at * PIXELS + n, add(load(x, one + n), load(x, two + n)))


@compiled
def _odd(x, one, two, terms, at):
    """A term: the difference of what lies left and right."""
    for n in range(0, PIXELS, VECTOR_BYTES // x.itemsize):
        store(terms, at * PIXELS + n, subtract(load(x, one + n), load(x, two + n)))


@compiled
def _even_pair(x, one, two, three, four, terms, same, opposite):
    """As `_even`, and transposed: the sum of both, and their difference."""
    for n in range(0, PIXELS, VECTOR_BYTES // x.itemsize):
        here, turned = add(load(x, one + n), load(x, two + n)), add(load(x, three + n), load(x, four + n))
        store(terms, same * PIXELS + n, add(here, turned))
        store(terms, opposite * PIXELS + n, subtract(here, turned))


@compiled
def _odd_pair(x, one, two, three, four, terms, same, opposite):
    """As `_odd`, and transposed: the sum of both, and their difference."""
    for n in range(0, PIXELS, VECTOR_BYTES // x.itemsize):
        here, turned = subtract(load(x, one + n), load(x, two + n)), subtract(load(x, three + n), load(x, four + n))
        store(terms, same * PIXELS + n, add(here, turned))
        store(terms, opposite * PIXELS + n, subtract(here, turned))


@compiled
def _fold_columns(sums, differences, left, right, row, terms):
    """What filters multiply by their values (term, `PIXELS`), of rows that are folded.

    Terms of filters that flips and transpositions multiply by ++, +-, -+ and --, one kind after the other, each over
    distances down <= across; of +- and -- without equal ones, and of -+ and -- from 1 on. Columns lie `left` and
    `right` in a row, by their distance.
    """
    distances = len(left)
    even, even_turned = 0, distances * (distances + 1) // 2
    odd = even_turned + distances * (distances - 1) // 2
    odd_turned = odd + distances * (distances - 1) // 2
    for down in range(distances):
        for across in range(down, distances):
            one, two = down * row + left[across], down * row + right[across]
            three, four = across * row + left[down], across * row + right[down]
            if down == across:
                _even(sums, one, two, terms, even)
                if down > 0:
                    _odd(differences, one, two, terms, odd)
            else:
                _even_pair(sums, one, two, three, four, terms, even, even_turned)
                if down > 0:
                    _odd_pair(differences, one, two, three, four, terms, odd, odd_turned)
            even += 1
            even_turned += down < across
            odd += down > 0
            odd_turned += 0 < down < across


@compiled
def mix(
    planes, values, counts, sizes, order, weights, weights_step, onto, onto_step, out,
    side, fold, high, wide, height, width, count, colors, first, last,
):  # fmt: skip
    """Out (batch, row, column, color, pixel of the block) is `onto` plus the sum of weights * what filters give.

    `planes` (batch, fold, fold, high, wide) are every `fold`-th row and column of the picture, with a margin of half of
    the filters' side around it, and 2 * `PIXELS` columns more. `values` are those of the filters of each of the four
    kinds (filter, term), `counts` how many filters of a kind there are, `sizes` how many terms, and `order` which of
    all filters each of them is. From one pixel to the next, weights and `onto` are a step apart.
    """
    lanes = VECTOR_BYTES // planes.itemsize
    reach, block = side // 2, fold * fold
    length = PIXELS + (2 * reach + lanes - 1) // lanes * lanes
    sums = aligned((reach + 1) * fold * length, planes)
    differences = aligned((reach + 1) * fold * length, planes)
    left, right = np.empty(reach + 1, np.intp), np.empty(reach + 1, np.intp)
    terms = aligned(np.sum(sizes) * PIXELS, planes)
    gave = aligned((count + PRODUCT_SUMS) * PIXELS, planes)  # `product` fills up its last rows
    factors, mixed = aligned(count * PIXELS, planes), aligned(block * PIXELS, planes)
    for task in range(first, last):
        for start in range(0, width, PIXELS):
            corner = task // height * block * high * wide + start
            num, pixel = min(PIXELS, width - start), task * width + start
            for n in range(num):
                for k in range(count):
                    factors[k * PIXELS + n] = weights[(pixel + n) * weights_step + order[k]]
            for s in range(block):
                if s % fold == 0:
                    row = task % height * fold + s // fold
                    _fold_rows(planes, corner, row, reach, fold, high, wide, length, sums, differences)
                for distance in range(reach + 1):
                    before, behind = s % fold + reach - distance, s % fold + reach + distance
                    left[distance] = before % fold * length + before // fold
                    right[distance] = behind % fold * length + behind // fold
                _fold_columns(sums, differences, left, right, fold * length, terms)
                a_at, b_at, at = 0, 0, 0
                for kind in range(len(counts)):
                    for m in range(0, counts[kind], PRODUCT_SUMS // 2):
                        for n in range(0, PIXELS, 2 * lanes):
                            product(
                                2, counts[kind] - m, sizes[kind],
                                values, a_at + m * sizes[kind], sizes[kind], 1,
                                terms, b_at * PIXELS + n, PIXELS,
                                gave, (at + m) * PIXELS + n, PIXELS,
                                None, 0, 0,
                            )  # fmt: skip
                    a_at += counts[kind] * sizes[kind]
                    b_at += sizes[kind]
                    at += counts[kind]
                for n in range(0, PIXELS, lanes):
                    total = zeros(planes)
                    for k in range(n, n + count * PIXELS, PIXELS):
                        total = multiply_add(load(factors, k), load(gave, k), total)
                    store(mixed, s * PIXELS + n, total)
            for n in range(num):
                for color in range(colors):
                    for s in range(block):
                        there = color * block + s
                        value = onto[(pixel + n) * onto_step + there] + mixed[s * PIXELS + n]
                        out[(pixel + n) * block * colors + there] = value
