"""GPU code of the pixel-adaptive convolution (Eq. 7), compiled by Triton on first use.

A program makes a tile of HIGH x WIDE pixels, all channels. It goes through the taps of the window one by one: the
features of the neighbors, times the filter's tap, times the tap's factor of every pixel, summed up in float32. Nothing
of the size of a window is ever stored.

Features are (batch, row, column, channel), factors planar (batch, tap, row, column), so that neighbors in a row read
their factors of a tap together. Channels are filled up by masks to a power of two, their ROOM. No two programs write to
the same place, so that results repeat exactly. Only the first pixel of a tile needs 64 bits to be counted.
"""

# pyright: reportGeneralTypeIssues=false, reportMissingImports=false, reportOperatorIssue=false
# Triton compiles its own language, which only looks like Python.

import triton
import triton.language as tl


@triton.jit
def _tile(number, height, width, HIGH: tl.constexpr, WIDE: tl.constexpr):
    """A tile: its picture, the picture's first pixel of it, and its pixels' rows, columns and distances from that."""
    across = tl.cdiv(width, WIDE)
    tiles = tl.cdiv(height, HIGH) * across
    top, left = number % tiles // across * HIGH, number % tiles % across * WIDE
    m = tl.arange(0, HIGH * WIDE)
    i, j = m // WIDE, m % WIDE
    return tl.cast(number // tiles, tl.int64), tl.cast(top, tl.int64) * width + left, top + i, left + j, i * width + j


@triton.jit
def _reaches(row, column, dy, dx, height, width):
    """Whether pixels and their neighbors at an offset are both in the picture."""
    inside = (row < height) & (column < width)
    return inside & (row >= -dy) & (row < height - dy) & (column >= -dx) & (column < width - dx)


@triton.jit
def _and_channel(mask, channel, NUM: tl.constexpr, ROOM: tl.constexpr):
    """The mask without channels that only fill up, and untouched where there are none."""
    return mask if NUM == ROOM else mask & (channel < NUM)


@triton.jit
def convolve(
    source, factors, weight, bias, own, out, grad_factors, parts, height, width,
    C_IN: tl.constexpr, C_OUT: tl.constexpr, ROOM_IN: tl.constexpr, ROOM_OUT: tl.constexpr, SIDE: tl.constexpr,
    HIGH: tl.constexpr, WIDE: tl.constexpr, DEPTHWISE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Eq. 7, with weight (tap, in, out) or depthwise (tap, channel), and bias or None.

    With `own`, the input, it is the input's gradient, given that of the output as source, with the filter turned by
    half a turn and its channels exchanged: then factors are read where the gradient is read, in reverse order. What the
    filter makes also gives the gradient of the factors, which come as zeros, and in the depthwise form that of the
    filter, a part from every program (program, tap, channel).
    """
    RADIUS: tl.constexpr = SIDE // 2
    TAPS: tl.constexpr = SIDE * SIDE
    b, origin, row, column, near = _tile(tl.program_id(0), height, width, HIGH, WIDE)
    plane = tl.cast(height, tl.int64) * width
    c, o = tl.arange(0, ROOM_IN)[None, :], tl.arange(0, ROOM_OUT)[None, :]
    is_out = _and_channel(_reaches(row, column, 0, 0, height, width)[:, None], o, C_OUT, ROOM_OUT)
    is_tap = _and_channel(_and_channel(tl.arange(0, ROOM_IN)[:, None] >= 0, c.T, C_IN, ROOM_IN), o, C_OUT, ROOM_OUT)
    first_in, first_out = (b * plane + origin) * C_IN, (b * plane + origin) * C_OUT
    place = near[:, None] * C_OUT + o
    features = None if own is None else tl.load(own + first_out + place, mask=is_out, other=0)
    total = tl.zeros([HIGH * WIDE, ROOM_OUT], tl.float32)
    for t in range(TAPS):
        dy, dx = t // SIDE - RADIUS, t % SIDE - RADIUS
        there = _reaches(row, column, dy, dx, height, width)
        is_in = _and_channel(there[:, None], c, C_IN, ROOM_IN)
        shifted = near + dy * width + dx
        values = tl.load(source + first_in + shifted[:, None] * C_IN + c, mask=is_in, other=0)
        if own is None:
            at = (b * TAPS + t) * plane + origin + near
        else:
            at = (b * TAPS + TAPS - 1 - t) * plane + origin + shifted
        factor = tl.load(factors + at, mask=there, other=0).to(tl.float32)[:, None]
        if DEPTHWISE:
            product = values.to(tl.float32) * tl.load(weight + t * C_OUT + o, mask=o < C_OUT, other=0).to(tl.float32)
        else:
            taps = tl.load(weight + (t * C_IN + c.T) * C_OUT + o, mask=is_tap, other=0)
            product = tl.dot(values, taps, input_precision=PRECISION)
        total += factor * product
        if own is not None:
            slope = tl.sum(product * features.to(tl.float32), 1)
            tl.store(grad_factors + at, slope.to(grad_factors.dtype.element_ty), mask=there)
            if DEPTHWISE:
                sums = tl.sum(factor * values.to(tl.float32) * features.to(tl.float32), 0)[None, :]
                part = tl.cast(tl.program_id(0), tl.int64) * TAPS + TAPS - 1 - t
                tl.store(parts + part * C_OUT + o, sums, mask=o < C_OUT)
    if bias is not None:
        total += tl.load(bias + o, mask=o < C_OUT, other=0).to(tl.float32)
    tl.store(out + first_out + place, total.to(out.dtype.element_ty), mask=is_out)


@triton.jit
def weight_gradient(
    grad, x, factors, parts, height, width, tiles, tiles_in_part,
    C_IN: tl.constexpr, C_OUT: tl.constexpr, ROOM_IN: tl.constexpr, ROOM_OUT: tl.constexpr, SIDE: tl.constexpr,
    GROUP: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of a full filter: a part (part, tap, in, out) from every `tiles_in_part` tiles.

    A program makes GROUP taps of a part by one product, whose left side is high enough for the matrix units only so.
    """
    RADIUS: tl.constexpr = SIDE // 2
    TAPS: tl.constexpr = SIDE * SIDE
    c, o = tl.arange(0, ROOM_IN)[None, None, :], tl.arange(0, ROOM_OUT)[None, :]
    t = tl.program_id(0) * GROUP + tl.arange(0, GROUP)[None, :]
    dy, dx = t // SIDE - RADIUS, t % SIDE - RADIUS
    plane = tl.cast(height, tl.int64) * width
    total = tl.zeros([GROUP * ROOM_IN, ROOM_OUT], tl.float32)
    first = tl.program_id(1) * tiles_in_part
    for number in range(first, tl.minimum(first + tiles_in_part, tiles)):
        b, origin, row, column, near = _tile(number, height, width, HIGH, WIDE)
        row, column, near = row[:, None], column[:, None], near[:, None]
        there = _reaches(row, column, dy, dx, height, width) & (t < TAPS)
        shifted = (near + dy * width + dx)[:, :, None]
        is_in = _and_channel(there[:, :, None], c, C_IN, ROOM_IN)
        values = tl.load(x + (b * plane + origin) * C_IN + shifted * C_IN + c, mask=is_in, other=0)
        factor = tl.load(factors + (b * TAPS + t) * plane + origin + near, mask=there, other=0)
        scaled = (values.to(tl.float32) * factor.to(tl.float32)[:, :, None]).to(x.dtype.element_ty)
        is_out = _and_channel(_reaches(row, column, 0, 0, height, width), o, C_OUT, ROOM_OUT)
        slopes = tl.load(grad + (b * plane + origin) * C_OUT + near * C_OUT + o, mask=is_out, other=0)
        columns = tl.trans(tl.reshape(scaled, [HIGH * WIDE, GROUP * ROOM_IN]))
        total = tl.dot(columns, slopes, total, input_precision=PRECISION)
    n = tl.arange(0, GROUP * ROOM_IN)[:, None]
    tap, channel = tl.program_id(0) * GROUP + n // ROOM_IN, n % ROOM_IN
    part = parts + tl.cast(tl.program_id(1), tl.int64) * (TAPS * C_IN * C_OUT)
    tl.store(part + (tap * C_IN + channel) * C_OUT + o, total, mask=(tap < TAPS) & (channel < C_IN) & (o < C_OUT))


@triton.jit
def generate(
    x, weight, bias, out, height, width,
    C_IN: tl.constexpr, ROOM_IN: tl.constexpr, TAPS: tl.constexpr, ROOM_TAPS: tl.constexpr, SIDE: tl.constexpr,
    HIGH: tl.constexpr, WIDE: tl.constexpr, BOUNDED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Factors for `convolve`: a SIDE x SIDE convolution with weight (place, in, tap), or the sigmoid of that."""
    RADIUS: tl.constexpr = SIDE // 2
    b, origin, row, column, near = _tile(tl.program_id(0), height, width, HIGH, WIDE)
    plane = tl.cast(height, tl.int64) * width
    c, t = tl.arange(0, ROOM_IN)[None, :], tl.arange(0, ROOM_TAPS)[None, :]
    total = tl.zeros([HIGH * WIDE, ROOM_TAPS], tl.float32)
    for n in range(SIDE * SIDE):
        dy, dx = n // SIDE - RADIUS, n % SIDE - RADIUS
        is_in = _and_channel(_reaches(row, column, dy, dx, height, width)[:, None], c, C_IN, ROOM_IN)
        shifted = (near + dy * width + dx)[:, None]
        values = tl.load(x + (b * plane + origin) * C_IN + shifted * C_IN + c, mask=is_in, other=0)
        taps = tl.load(weight + (n * C_IN + c.T) * TAPS + t, mask=(c.T < C_IN) & (t < TAPS), other=0)
        total = tl.dot(values, taps, total, input_precision=PRECISION)
    total += tl.load(bias + t, mask=t < TAPS, other=0).to(tl.float32)
    if BOUNDED:
        total = tl.sigmoid(total)
    is_out = _reaches(row, column, 0, 0, height, width)[:, None] & (t < TAPS)
    tl.store(out + (b * TAPS + t) * plane + origin + near[:, None], total.to(out.dtype.element_ty), mask=is_out)
