"""Machine code of global attention (Eqs. 1, 2, 5 and 6) for CPUs, compiled by numba on first use.

A pixel's logits are made from its features, turned into weights and used up while they are in the first-level cache:
no map of the picture is ever stored, forward or backward. The softmax over the pixels (Eq. 1) is computed on the way,
as sums relative to the highest logit so far, which are scaled whenever a higher one comes.

All arrays are flat. Features are (batch, pixel, channel), weights of the maps (channel, map), and both channels and
maps fill whole registers; maps that only fill up have a bias so low that Eq. 5 gives them nothing.

Every kernel works on a range of tasks (first <= task < last), each a chunk of one picture's pixels. Tasks are cut by
shape alone and write to disjoint memory, so that the result does not depend on how many threads share them.
"""

import numpy as np

from unsmear.ops.products import PRODUCT_SUMS, add_outer, add_times, times
from unsmear.ops.simd import (
    VECTOR_BYTES,
    add,
    aligned,
    broadcast,
    compiled,
    copy,
    exp,
    highests,
    load,
    maximum,
    multiply,
    multiply_add,
    store,
    subtract,
    totals,
    zeros,
)

CHUNK = 2048  # pixels in one task
_BLOCK = 64  # pixels whose weights are held at a time
_ROOM = _BLOCK + PRODUCT_SUMS  # `product` fills up its last rows


@compiled
def _span(task, pixels):
    """The image of a task, and its first pixel and the one behind its last, counted over all images."""
    chunks = (pixels + CHUNK - 1) // CHUNK
    image, start = task // chunks, task // chunks * pixels + task % chunks * CHUNK
    return image, start, min(start + CHUNK, (image + 1) * pixels)


@compiled
def _exponentials(z, bias, num, maps, shares, folds):
    """z[m, :] = exp(z[m, :] + bias - their highest) and shares[m] = 1 / their sum, for m < num.

    `folds` is scratch memory of a register for each of `_ROOM` pixels: lanes are folded for as many pixels at once.
    """
    lanes = VECTOR_BYTES // z.itemsize
    for m in range(num):
        top = add(load(z, m * maps), load(bias, 0))
        store(z, m * maps, top)
        for n in range(lanes, maps, lanes):
            logit = add(load(z, m * maps + n), load(bias, n))
            store(z, m * maps + n, logit)
            top = maximum(logit, top)
        store(folds, m * lanes, top)
    for m in range(0, num, lanes):
        store(shares, m, highests(folds, m * lanes))
    for m in range(num):
        top = broadcast(shares, m)
        everything = zeros(z)
        for n in range(m * maps, (m + 1) * maps, lanes):
            part = exp(subtract(load(z, n), top))
            store(z, n, part)
            everything = add(everything, part)
        store(folds, m * lanes, everything)
    for m in range(0, num, lanes):
        store(shares, m, totals(folds, m * lanes))
    for m in range(num):
        shares[m] = 1 / shares[m]


@compiled
def gather(x, source, weight, bias, sums, tops, totals, pixels, channels, width, maps, first, last):
    """Eqs. 1 and 2: of every chunk and map the sum of exp(logit - top) * source, the highest logit, the sum of exp.

    `sums` (task, map, width) and `totals` (task, map) come as zeros, `tops` as numbers lower than any logit.
    """
    lanes = VECTOR_BYTES // x.itemsize
    z, scale, one = aligned(_ROOM * maps, x), aligned(maps, x), np.ones(1, x.dtype)
    for task in range(first, last):
        _, start, stop = _span(task, pixels)
        for i in range(start, stop, _BLOCK):
            num = min(_BLOCK, stop - i)
            times(x, i * channels, num, channels, weight, 0, maps, z)
            for n in range(0, maps, lanes):
                old = load(tops, task * maps + n)
                top = old
                for m in range(0, num * maps, maps):
                    logit = add(load(z, m + n), load(bias, n))
                    store(z, m + n, logit)
                    top = maximum(logit, top)
                factor = exp(subtract(old, top))
                everything = multiply(load(totals, task * maps + n), factor)
                for m in range(0, num * maps, maps):
                    part = exp(subtract(load(z, m + n), top))
                    store(z, m + n, part)
                    everything = add(everything, part)
                store(tops, task * maps + n, top)
                store(totals, task * maps + n, everything)
                store(scale, n, factor)
            for n in range(maps):
                for c in range((task * maps + n) * width, (task * maps + n + 1) * width, lanes):
                    store(sums, c, multiply(broadcast(scale, n), load(sums, c)))
            add_outer(z, num, maps, source, i * width, width, sums, task * maps * width, one)


@compiled
def distribute(x, weight, bias, descriptors, onto, out, in_place, pixels, channels, width, maps, first, last):
    """Eqs. 5 and 6: out = onto + softmax over the maps of the logits @ descriptors (batch, map, width)."""
    lanes = VECTOR_BYTES // x.itemsize
    z, shares, folds = aligned(_ROOM * maps, x), aligned(_ROOM, x), aligned(_ROOM * lanes, x)
    for task in range(first, last):
        b, start, stop = _span(task, pixels)
        for i in range(start, stop, _BLOCK):
            num = min(_BLOCK, stop - i)
            times(x, i * channels, num, channels, weight, 0, maps, z)
            _exponentials(z, bias, num, maps, shares, folds)
            if not in_place:
                copy(onto, i * width, out, i * width, num * width)
            add_times(z, num, maps, descriptors, b * maps * width, width, out, i * width, shares, 1)


@compiled
def gather_gradients(
    x, source, weight, turned, bias, shares, grad, grad_turned, means, grad_x, grad_source, grad_weight, grad_bias,
    pixels, channels, width, maps, first, last,
):  # fmt: skip
    """Gradients of `gather`, given those of the descriptors (batch, map, width).

    A weight is exp(logit + bias) * share, with biases (batch, map) that hold minus the highest logit and shares
    (batch, map) that hold one over the total. `means` (batch, map) are descriptors times their gradients; `turned` is
    the weight (map, channel) and `grad_turned` the gradient (batch, width, map). `grad_x` and `grad_source` may be the
    same memory; they come as zeros, as do the parts of every task (task, map, channel) and (task, map).
    """
    lanes = VECTOR_BYTES // x.itemsize
    q, slopes, one = aligned(_ROOM * maps, x), aligned(_ROOM * maps, x), np.ones(1, x.dtype)
    for task in range(first, last):
        b, start, stop = _span(task, pixels)
        for i in range(start, stop, _BLOCK):
            num = min(_BLOCK, stop - i)
            times(x, i * channels, num, channels, weight, 0, maps, q)
            times(source, i * width, num, width, grad_turned, b * width * maps, maps, slopes)
            for n in range(0, maps, lanes):
                low, share, mean = load(bias, b * maps + n), load(shares, b * maps + n), load(means, b * maps + n)
                everything = load(grad_bias, task * maps + n)
                for m in range(n, n + num * maps, maps):
                    part = multiply(exp(add(load(q, m), low)), share)
                    slope = multiply(part, subtract(load(slopes, m), mean))
                    store(q, m, part)
                    store(slopes, m, slope)
                    everything = add(everything, slope)
                store(grad_bias, task * maps + n, everything)
            add_times(q, num, maps, grad, b * maps * width, width, grad_source, i * width, one, 0)
            add_times(slopes, num, maps, turned, 0, channels, grad_x, i * channels, one, 0)
            add_outer(slopes, num, maps, x, i * channels, channels, grad_weight, task * maps * channels, one)


@compiled
def distribute_gradients(
    x, weight, turned, bias, descriptors_turned, grad, grad_x, grad_descriptors, grad_weight, grad_bias,
    pixels, channels, width, maps, first, last,
):  # fmt: skip
    """Gradients of `distribute`, given that of its output.

    `turned` is the weight (map, channel), `descriptors_turned` (batch, width, map). All gradients come as zeros, those
    of the descriptors (task, map, width), the weight (task, map, channel) and the bias (task, map) a part a task.
    """
    lanes = VECTOR_BYTES // x.itemsize
    p, slopes, one = aligned(_ROOM * maps, x), aligned(_ROOM * maps, x), np.ones(1, x.dtype)
    shares, means, folds = aligned(_ROOM, x), aligned(_ROOM, x), aligned(_ROOM * lanes, x)
    for task in range(first, last):
        b, start, stop = _span(task, pixels)
        for i in range(start, stop, _BLOCK):
            num = min(_BLOCK, stop - i)
            times(x, i * channels, num, channels, weight, 0, maps, p)
            _exponentials(p, bias, num, maps, shares, folds)
            times(grad, i * width, num, width, descriptors_turned, b * width * maps, maps, slopes)
            for m in range(num):
                share, mean = broadcast(shares, m), zeros(x)
                for n in range(m * maps, (m + 1) * maps, lanes):
                    part = multiply(load(p, n), share)
                    store(p, n, part)
                    mean = multiply_add(part, load(slopes, n), mean)
                store(folds, m * lanes, mean)
            for m in range(0, num, lanes):
                store(means, m, totals(folds, m * lanes))
            for m in range(num):
                mean = broadcast(means, m)
                for n in range(0, maps, lanes):
                    slope = multiply(load(p, m * maps + n), subtract(load(slopes, m * maps + n), mean))
                    store(slopes, m * maps + n, slope)
                    store(grad_bias, task * maps + n, add(slope, load(grad_bias, task * maps + n)))
            add_outer(p, num, maps, grad, i * width, width, grad_descriptors, task * maps * width, one)
            add_times(slopes, num, maps, turned, 0, channels, grad_x, i * channels, one, 0)
            add_outer(slopes, num, maps, x, i * channels, channels, grad_weight, task * maps * channels, one)
