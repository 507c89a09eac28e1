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
    divide,
    exp,
    highest,
    load,
    maximum,
    multiply,
    multiply_add,
    store,
    subtract,
    total,
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
def _softmax(z, bias, num, maps):
    """z[m, :] = softmax(z[m, :] + bias) for m < num, in place."""
    lanes = VECTOR_BYTES // z.itemsize
    for m in range(0, num * maps, maps):
        top = add(load(z, m), load(bias, 0))
        for n in range(lanes, maps, lanes):
            top = maximum(add(load(z, m + n), load(bias, n)), top)
        top = highest(top)
        everything = zeros(z)
        for n in range(0, maps, lanes):
            weight = exp(subtract(add(load(z, m + n), load(bias, n)), top))
            store(z, m + n, weight)
            everything = add(everything, weight)
        everything = total(everything)
        for n in range(0, maps, lanes):
            store(z, m + n, divide(load(z, m + n), everything))


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
def distribute(x, weight, bias, descriptors, onto, out, pixels, channels, width, maps, first, last):
    """Eqs. 5 and 6: out = onto + softmax over the maps of the logits @ descriptors (batch, map, width)."""
    z, one = aligned(_ROOM * maps, x), np.ones(1, x.dtype)
    for task in range(first, last):
        b, start, stop = _span(task, pixels)
        for i in range(start, stop, _BLOCK):
            num = min(_BLOCK, stop - i)
            times(x, i * channels, num, channels, weight, 0, maps, z)
            _softmax(z, bias, num, maps)
            copy(onto, i * width, out, i * width, num * width)
            add_times(z, num, maps, descriptors, b * maps * width, width, out, i * width, one)


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
            add_times(q, num, maps, grad, b * maps * width, width, grad_source, i * width, one)
            add_times(slopes, num, maps, turned, 0, channels, grad_x, i * channels, one)
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
    for task in range(first, last):
        b, start, stop = _span(task, pixels)
        for i in range(start, stop, _BLOCK):
            num = min(_BLOCK, stop - i)
            times(x, i * channels, num, channels, weight, 0, maps, p)
            _softmax(p, bias, num, maps)
            times(grad, i * width, num, width, descriptors_turned, b * width * maps, maps, slopes)
            for m in range(0, num * maps, maps):
                mean = zeros(x)
                for n in range(m, m + maps, lanes):
                    mean = multiply_add(load(p, n), load(slopes, n), mean)
                mean = total(mean)
                for n in range(0, maps, lanes):
                    slope = multiply(load(p, m + n), subtract(load(slopes, m + n), mean))
                    store(slopes, m + n, slope)
                    store(grad_bias, task * maps + n, add(slope, load(grad_bias, task * maps + n)))
            add_outer(p, num, maps, grad, i * width, width, grad_descriptors, task * maps * width, one)
            add_times(slopes, num, maps, turned, 0, channels, grad_x, i * channels, one)
            add_outer(slopes, num, maps, x, i * channels, channels, grad_weight, task * maps * channels, one)
