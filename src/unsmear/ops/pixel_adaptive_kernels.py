"""Machine code of the pixel-adaptive convolution (Eq. 7) for CPUs, compiled by numba on first use.

All arrays are flat and hold (batch, row, column, channel or tap), with channels that fill whole registers
where a kernel vectorizes over them. No kernel keeps the windows of all pixels (im2col): the depthwise form
reads a zero-padded block of rows, the full form does one small matrix product per tap and tile of pixels.

Every kernel works on a range of tasks (first <= task < last). Tasks are cut by shape alone and write to
disjoint memory, so that the result does not depend on how many threads share them.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from unsmear.ops.products import PRODUCT_SUMS, correlate, product, times, weigh
from unsmear.ops.simd import (
    VECTOR_BYTES,
    add,
    aligned,
    broadcast,
    clear,
    compiled,
    copy,
    load,
    multiply,
    multiply_add,
    sigmoid,
    store,
    totals,
)

BLOCK_ROWS = 8  # image rows in one task
_SPAN = 16  # pixels whose partial sums stay in the first-level cache; a multiple of the lanes


@compiled
def _pad(source, out, b, top, rows, height, width, channels, chunk, r):
    """out[n, i, j] = source[b, top + i, j - r, n * chunk : (n + 1) * chunk], zero outside the image."""
    wide = width + 2 * r
    for n in range(channels // chunk):
        for i in range(rows):
            at = (n * rows + i) * wide * chunk
            if top + i < 0 or top + i >= height:
                clear(out, at, wide * chunk)
                continue
            clear(out, at, r * chunk)
            clear(out, at + (r + width) * chunk, r * chunk)
            at += r * chunk
            start = (b * height + top + i) * width * channels + n * chunk
            if chunk == channels:
                copy(source, start, out, at, width * chunk)
            else:
                for j in range(width):
                    store(out, at + j * chunk, load(source, start + j * channels))


@cache
def depthwise(k: int, factors_are: str) -> Callable[..., None]:
    """Eq. 7 with one filter per channel; a task is a block of rows.

    The factors (the kernel of every pixel) are "given", or "made" on the way by a linear map of the pixel's features
    and twice a sigmoid: then `factors` is that map (channel, tap) with its bias below, taps filled to whole registers.
    "Turned", it is the gradient of the input: the same sum, with the filter turned by half a turn (the caller does
    that) and with the factors read where the gradient is read, in reverse order.

    The k * k taps are unrolled, which is why k is part of the compiled code.
    """
    r, taps = k // 2, k * k
    is_made, is_turned = factors_are == "made", factors_are == "turned"

    @compiled
    def kernel(source, factors, weight, bias, out, height, width, channels, first, last):
        lanes = VECTOR_BYTES // source.itemsize
        rows, wide = BLOCK_ROWS + 2 * r, width + 2 * r
        padded = aligned(rows * wide * channels, source)
        step = (taps + lanes - 1) // lanes * lanes if is_made else taps
        made = aligned((width + PRODUCT_SUMS) * step, source) if is_made else factors
        shifted = aligned(rows * wide * taps, source) if is_turned else factors
        blocks = (height + BLOCK_ROWS - 1) // BLOCK_ROWS
        for task in range(first, last):
            b, top = task // blocks, task % blocks * BLOCK_ROWS
            _pad(source, padded, b, top - r, rows, height, width, channels, lanes, r)
            if is_turned:
                _pad(factors, shifted, b, top - r, rows, height, width, taps, taps, r)
            for i in range(min(BLOCK_ROWS, height - top)):
                row = (b * height + top + i) * width
                if is_made:
                    times(source, row * channels, width, channels, factors, 0, step, made)
                    for n in range(0, step, lanes):
                        low = load(factors, channels * step + n)
                        for at in range(n, width * step, step):
                            store(made, at, sigmoid(add(load(made, at), low)))
                for n in range(channels // lanes):
                    there = (n * rows + i) * wide * lanes
                    if is_turned:
                        at, pixel, row_, tap = i * wide * taps + taps - 1, taps, wide * taps - k, taps - 1
                    elif is_made:
                        at, pixel, row_, tap = 0, step, k, 1
                    else:
                        at, pixel, row_, tap = row * taps, taps, k, 1
                    weigh(
                        k, width,
                        padded, there, wide * lanes,
                        shifted if is_turned else made, at, pixel, row_, tap,
                        weight, n * taps * lanes,
                        bias, n * lanes,
                        out, row * channels + n * lanes, channels,
                    )  # fmt: skip

    return kernel


@cache
def depthwise_gradients(k: int, panels: int) -> Callable[..., None]:
    """Gradients of the factors and, one part per task, of the filter; a task is a block of rows."""
    r, taps = k // 2, k * k

    @compiled
    def kernel(grad, x, factors, weight, grad_factors, parts, height, width, channels, first, last):
        lanes = VECTOR_BYTES // x.itemsize
        rows, wide, chunks = BLOCK_ROWS + 2 * r, width + 2 * r, channels // lanes
        padded = aligned(rows * wide * channels, x)
        sums = aligned(_SPAN * taps * lanes, x)
        done = aligned(_SPAN * taps, x)
        clear(sums, 0, _SPAN * taps * lanes)
        clear(parts, first * taps * channels, (last - first) * taps * channels)
        blocks = (height + BLOCK_ROWS - 1) // BLOCK_ROWS
        for task in range(first, last):
            b, top = task // blocks, task % blocks * BLOCK_ROWS
            _pad(x, padded, b, top - r, rows, height, width, channels, lanes, r)
            for i in range(min(BLOCK_ROWS, height - top)):
                for left in range(0, width, _SPAN):
                    pixel = (b * height + top + i) * width + left
                    num = min(_SPAN, width - left)
                    for dy in range(k):
                        for n in range(0, chunks, panels):
                            correlate(
                                k, panels, num,
                                grad, pixel * channels + n * lanes, channels,
                                padded, ((n * rows + i + dy) * wide + left) * lanes, rows * wide * lanes,
                                factors, pixel * taps + dy * k,
                                weight, (n * taps + dy * k) * lanes,
                                parts, ((task * chunks + n) * taps + dy * k) * lanes,
                                sums, dy * k * lanes, n == 0,
                            )  # fmt: skip
                    for m in range(0, num * taps, lanes):
                        store(done, m, totals(sums, m * lanes))
                    copy(done, 0, grad_factors, pixel * taps, num * taps)

    return kernel


@cache
def full(panels: int) -> Callable[..., None]:
    """Eq. 7 with a filter from every input to every output channel; a task is a row of the image.

    The weight is (k * k, in, out). The factor of a tap is common to all channels, so that it can be applied
    after the matrix product.
    """
    tile = PRODUCT_SUMS // panels

    @compiled
    def kernel(x, factors, weight, bias, out, height, width, c_in, c_out, k, first, last):
        panel = panels * (VECTOR_BYTES // x.itemsize)
        r, taps = k // 2, k * k
        for task in range(first, last):
            i, row = task % height, task * width
            for j in range(row, row + width):
                copy(bias, 0, out, j * c_out, c_out)
            for t in range(taps):
                dy, dx = t // k - r, t % k - r
                if i + dy < 0 or i + dy >= height:
                    continue
                stop = row + min(width, width - dx)
                for c in range(0, c_out, panel):
                    for j in range(row + max(0, -dx), stop, tile):
                        product(
                            panels, stop - j, c_in,
                            x, (j + dy * width + dx) * c_in, c_in, 1,
                            weight, t * c_in * c_out + c, c_out,
                            out, j * c_out + c, c_out,
                            factors, j * taps + t, taps,
                        )  # fmt: skip

    return kernel


@cache
def full_gradients(panels: int) -> Callable[..., None]:
    """Gradients of the input (added to `grad_x`) and of the factors; a task is a block of rows.

    The weight is (k * k, out, in). A block also adds to the k // 2 rows of `grad_x` above and below it. Hence
    the caller runs the even blocks of every image (turn 0) before the odd ones (turn 1), which do not touch.
    """
    tile = PRODUCT_SUMS // panels

    @compiled
    def kernel(grad, x, factors, weight, grad_x, grad_factors, height, width, c_in, c_out, k, turn, first, last):
        lanes = VECTOR_BYTES // x.itemsize
        panel, room = panels * lanes, (tile + lanes - 1) // lanes * lanes
        r, taps = k // 2, k * k
        rows = max(BLOCK_ROWS, k - 1)
        blocks = ((height + rows - 1) // rows + 1 - turn) // 2
        z = aligned(tile * panel, x)
        sums = aligned(room * lanes, x)
        done = aligned(room, x)
        clear(sums, 0, room * lanes)
        for task in range(first, last):
            b, top = task // blocks, (task % blocks * 2 + turn) * rows
            for i in range(top, min(top + rows, height)):
                row = (b * height + i) * width
                clear(grad_factors, row * taps, width * taps)
                for t in range(taps):
                    dy, dx = t // k - r, t % k - r
                    if i + dy < 0 or i + dy >= height:
                        continue
                    stop = row + min(width, width - dx)
                    for c in range(0, c_in, panel):
                        for j in range(row + max(0, -dx), stop, tile):
                            product(
                                panels, stop - j, c_out,
                                grad, j * c_out, c_out, 1,
                                weight, t * c_out * c_in + c, c_in,
                                z, 0, panel,
                                None, 0, 0,
                            )  # fmt: skip
                            num = min(tile, stop - j)
                            for m in range(num):
                                factor = broadcast(factors, (j + m) * taps + t)
                                there = (j + m + dy * width + dx) * c_in + c
                                for n in range(panels):
                                    value, at = load(z, m * panel + n * lanes), there + n * lanes
                                    store(grad_x, at, multiply_add(factor, value, load(grad_x, at)))
                                    total = multiply(value, load(x, at))
                                    if n > 0:
                                        total = add(total, load(sums, m * lanes))
                                    store(sums, m * lanes, total)
                            for m in range(0, num, lanes):
                                store(done, m, totals(sums, m * lanes))
                            for m in range(num):
                                grad_factors[(j + m) * taps + t] += done[m]

    return kernel


@cache
def full_gradient_weight(panels: int) -> Callable[..., None]:
    """Gradient of the weight as `groups` parts (k * k, out, in), each from its share of the rows.

    A task is one row of taps of one part.
    """
    tile = PRODUCT_SUMS // panels

    @compiled
    def kernel(grad, x, factors, parts, all_rows, height, width, c_in, c_out, k, groups, first, last):
        lanes = VECTOR_BYTES // x.itemsize
        panel, r, taps = panels * lanes, k // 2, k * k
        scaled = aligned(width * c_in, x)
        one = np.ones(1, x.dtype)
        clear(parts, first * k * c_out * c_in, (last - first) * k * c_out * c_in)
        for task in range(first, last):
            group, dy = task // k, task % k - r
            for row in range(group * all_rows // groups, (group + 1) * all_rows // groups):
                if row % height + dy < 0 or row % height + dy >= height:
                    continue
                for dx in range(-r, r + 1):
                    t = (dy + r) * k + dx + r
                    start = row * width + max(0, -dx)
                    num = width - abs(dx)
                    if num <= 0:
                        continue
                    there = (start + dy * width + dx) * c_in
                    for j in range(num):
                        factor = broadcast(factors, (start + j) * taps + t)
                        for c in range(j * c_in, (j + 1) * c_in, lanes):
                            store(scaled, c, multiply(factor, load(x, there + c)))
                    for c in range(0, c_in, panel):
                        for o in range(0, c_out, tile):
                            product(
                                panels, c_out - o, num,
                                grad, start * c_out + o, 1, c_out,
                                scaled, c, c_in,
                                parts, ((group * taps + t) * c_out + o) * c_in + c, c_in,
                                one, 0, 0,
                            )  # fmt: skip

    return kernel
