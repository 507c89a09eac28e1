"""GPU code of global attention (Eqs. 1, 2, 5 and 6), compiled by Triton on first use.

A program goes through a stretch of a picture's pixels block by block. The logits of a block are made from its features,
turned into weights and used up in registers: no map of the picture is ever stored, forward or backward. The softmax
over the pixels (Eq. 1) is computed on the way, as sums relative to the highest logit so far, which are scaled whenever
a higher one comes; `merge` joins the stretches in the same manner.

Features are (batch, pixel, channel) in any type, everything else is float32: weights (map, channel), descriptors
(batch, map, channel). Channels and maps are filled up to powers of two by masks. No two programs write to the same
place, so that results repeat exactly.
"""

# pyright: reportAssignmentType=false, reportMissingImports=false
# Triton compiles its own language, which only looks like Python.

import triton
import triton.language as tl


@triton.jit
def _matrix(pointer, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The matrix (ROWS, COLUMNS) at a pointer, filled up with zeros."""
    at = rows[:, None] * COLUMNS + columns[None, :]
    return tl.load(pointer + at, mask=(rows < ROWS)[:, None] & (columns < COLUMNS)[None, :], other=0).to(tl.float32)


@triton.jit
def _keep(pointer, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, values):
    """Store what `_matrix` loads."""
    at = rows[:, None] * COLUMNS + columns[None, :]
    tl.store(pointer + at, values, mask=(rows < ROWS)[:, None] & (columns < COLUMNS)[None, :])


@triton.jit
def _features(pointer, m, there, channels, NUM: tl.constexpr, ROOM: tl.constexpr):
    """The features of a block of pixels (m, channel), zeros where there are none."""
    mask = there[:, None] if NUM == ROOM else there[:, None] & (channels < NUM)[None, :]
    return tl.load(pointer + m[:, None] * NUM + channels[None, :], mask=mask, other=0)


@triton.jit
def _put(pointer, m, there, channels, NUM: tl.constexpr, values):
    mask = there[:, None] & (channels < NUM)[None, :]
    tl.store(pointer + m[:, None] * NUM + channels[None, :], values.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _logits(values, weight, n, c, CHANNELS: tl.constexpr, MAPS: tl.constexpr, PRECISION: tl.constexpr):
    """Logits of the attention maps (pixel, map) but for their bias, from the features of the pixels."""
    rows = _matrix(weight, n, c, MAPS, CHANNELS).to(values.dtype)
    return tl.dot(values, tl.trans(rows), input_precision=PRECISION)


@triton.jit
def gather(
    x, source, weight, bias, sums, tops, totals, pixels, stretch,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, MAPS: tl.constexpr,
    ROOM_C: tl.constexpr, ROOM_W: tl.constexpr, ROOM_M: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Eqs. 1 and 2: of every stretch and map the sum of exp(logit - top) * source, the highest logit, the sum of exp.

    `source` is None where it is x. Sums are (batch, stretch, map, width), tops and totals (batch, stretch, map).
    """
    m, c, w, n = tl.arange(0, ROWS), tl.arange(0, ROOM_C), tl.arange(0, ROOM_W), tl.arange(0, ROOM_M)
    b, part = tl.program_id(1).to(tl.int64), tl.program_id(0)
    low = tl.load(bias + n, mask=n < MAPS, other=0)[None, :]
    top = tl.full([ROOM_M], float("-inf"), tl.float32)
    total = tl.zeros([ROOM_M], tl.float32)
    descriptors = tl.zeros([ROOM_M, ROOM_W], tl.float32)
    first = part * stretch
    for i in range(first, tl.minimum(first + stretch, pixels), ROWS):
        there = i + m < pixels
        start = b * pixels + i
        values = _features(x + start * CHANNELS, m, there, c, CHANNELS, ROOM_C)
        logits = _logits(values, weight, n, c, CHANNELS, MAPS, PRECISION) + low
        logits = tl.where(there[:, None], logits, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, 0))
        share = tl.exp(logits - higher[None, :]).to(x.dtype.element_ty)
        shrink = tl.exp(top - higher)
        total = total * shrink + tl.sum(share.to(tl.float32), 0)  # of what is used, so that the weights' sum is one
        if source is not None:
            values = _features(source + start * WIDTH, m, there, w, WIDTH, ROOM_W).to(share.dtype)
        descriptors = descriptors * shrink[:, None]
        descriptors = tl.dot(tl.trans(share), values, descriptors, input_precision=PRECISION)
        top = higher
    at = b * tl.num_programs(0) + part
    tl.store(tops + at * MAPS + n, top, mask=n < MAPS)
    tl.store(totals + at * MAPS + n, total, mask=n < MAPS)
    _keep(sums + at * MAPS * WIDTH, n, w, MAPS, WIDTH, descriptors)


@triton.jit
def merge(
    sums, tops, totals, descriptors, top, total, parts,
    MAPS: tl.constexpr, WIDTH: tl.constexpr, ROOM_W: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Descriptors, highest logits and sums of a map from those of its stretches; a program makes one map."""
    m, w = tl.arange(0, ROWS), tl.arange(0, ROOM_W)
    n, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    highest = float("-inf")
    everything = 0.0
    result = tl.zeros([ROOM_W], tl.float32)
    for i in range(0, parts, ROWS):
        there = i + m < parts
        at = (b * parts + i + m) * MAPS + n
        level = tl.load(tops + at, mask=there, other=float("-inf"))
        higher = tl.maximum(highest, tl.max(level, 0))
        shrink, share = tl.exp(highest - higher), tl.exp(level - higher)
        everything = everything * shrink + tl.sum(share * tl.load(totals + at, mask=there, other=0), 0)
        mask = there[:, None] & (w < WIDTH)[None, :]
        values = tl.load(sums + at[:, None] * WIDTH + w[None, :], mask=mask, other=0)
        result = result * shrink + tl.sum(share[:, None] * values, 0)
        highest = higher
    tl.store(top + b * MAPS + n, highest)
    tl.store(total + b * MAPS + n, everything)
    tl.store(descriptors + (b * MAPS + n) * WIDTH + w, result / everything, mask=w < WIDTH)


@triton.jit
def distribute(
    x, weight, bias, descriptors, onto, out, pixels,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, MAPS: tl.constexpr,
    ROOM_C: tl.constexpr, ROOM_W: tl.constexpr, ROOM_M: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Eqs. 5 and 6: out = onto (or None) + softmax over the maps of the logits @ descriptors."""
    m, c, w, n = tl.arange(0, ROWS), tl.arange(0, ROOM_C), tl.arange(0, ROOM_W), tl.arange(0, ROOM_M)
    b, i = tl.program_id(1).to(tl.int64), tl.program_id(0) * ROWS
    there = i + m < pixels
    start = b * pixels + i
    values = _features(x + start * CHANNELS, m, there, c, CHANNELS, ROOM_C)
    share = _softmax(values, weight, bias, n, c, CHANNELS, MAPS, PRECISION)
    given = _matrix(descriptors + b * MAPS * WIDTH, n, w, MAPS, WIDTH).to(x.dtype.element_ty)
    result = tl.dot(share.to(x.dtype.element_ty), given, input_precision=PRECISION)
    if onto is not None:
        result += _features(onto + start * WIDTH, m, there, w, WIDTH, ROOM_W).to(tl.float32)
    _put(out + start * WIDTH, m, there, w, WIDTH, result)


@triton.jit
def _softmax(values, weight, bias, n, c, CHANNELS: tl.constexpr, MAPS: tl.constexpr, PRECISION: tl.constexpr):
    """Eq. 5: the weights of the maps (pixel, map), from the features of the pixels."""
    low = tl.load(bias + n, mask=n < MAPS, other=float("-inf"))[None, :]
    logits = _logits(values, weight, n, c, CHANNELS, MAPS, PRECISION) + low
    share = tl.exp(logits - tl.max(logits, 1)[:, None])
    return share / tl.sum(share, 1)[:, None]


@triton.jit
def gather_gradients(
    x, source, weight, bias, descriptors, top, total, grad, grad_x, grad_source, grad_weight, grad_bias,
    pixels, stretch,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, MAPS: tl.constexpr,
    ROOM_C: tl.constexpr, ROOM_W: tl.constexpr, ROOM_M: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of `gather` and `merge`, given that of the descriptors.

    Where source is None `grad_x` holds the gradient of both. Those of the weight (batch, stretch, map, channel) and the
    bias (batch, stretch, map) are a part a stretch.
    """
    m, c, w, n = tl.arange(0, ROWS), tl.arange(0, ROOM_C), tl.arange(0, ROOM_W), tl.arange(0, ROOM_M)
    b, part = tl.program_id(1).to(tl.int64), tl.program_id(0)
    # The changes of 1e6 weights that sum to one are too small for float16.
    PART: tl.constexpr = tl.float32 if x.dtype.element_ty == tl.float32 else tl.bfloat16
    rows = _matrix(weight, n, c, MAPS, CHANNELS).to(PART)
    slope = _matrix(grad + b * MAPS * WIDTH, n, w, MAPS, WIDTH)
    mean = tl.sum(slope * _matrix(descriptors + b * MAPS * WIDTH, n, w, MAPS, WIDTH), 1)
    slope = slope.to(PART)
    low = tl.load(bias + n, mask=n < MAPS, other=0) - tl.load(top + b * MAPS + n, mask=n < MAPS, other=0)
    whole = tl.load(total + b * MAPS + n, mask=n < MAPS, other=1)
    weight_sum = tl.zeros([ROOM_M, ROOM_C], tl.float32)
    bias_sum = tl.zeros([ROOM_M], tl.float32)
    first = part * stretch
    for i in range(first, tl.minimum(first + stretch, pixels), ROWS):
        there = i + m < pixels
        start = b * pixels + i
        values = _features(x + start * CHANNELS, m, there, c, CHANNELS, ROOM_C)
        logits = _logits(values, weight, n, c, CHANNELS, MAPS, PRECISION) + low[None, :]
        share = tl.where(there[:, None], tl.exp(logits) / whole[None, :], 0)
        values = values.to(PART)
        gathered = values
        if source is not None:
            gathered = _features(source + start * WIDTH, m, there, w, WIDTH, ROOM_W).to(PART)
        change = share * (tl.dot(gathered, tl.trans(slope), input_precision=PRECISION) - mean[None, :])
        bias_sum += tl.sum(change, 0)
        share, change = share.to(PART), change.to(PART)
        to_x = tl.dot(change, rows, input_precision=PRECISION)
        if source is None:
            to_x = tl.dot(share, slope, to_x, input_precision=PRECISION)
        else:
            to_source = tl.dot(share, slope, input_precision=PRECISION)
            _put(grad_source + start * WIDTH, m, there, w, WIDTH, to_source)
        _put(grad_x + start * CHANNELS, m, there, c, CHANNELS, to_x)
        weight_sum = tl.dot(tl.trans(change), values, weight_sum, input_precision=PRECISION)
    at = b * tl.num_programs(0) + part
    tl.store(grad_bias + at * MAPS + n, bias_sum, mask=n < MAPS)
    _keep(grad_weight + at * MAPS * CHANNELS, n, c, MAPS, CHANNELS, weight_sum)


@triton.jit
def distribute_gradients(
    x, weight, bias, descriptors, grad, grad_x, grad_descriptors, grad_weight, grad_bias, pixels, stretch,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, MAPS: tl.constexpr,
    ROOM_C: tl.constexpr, ROOM_W: tl.constexpr, ROOM_M: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of `distribute`, given that of its output.

    Those of the descriptors (batch, stretch, map, width), the weight (batch, stretch, map, channel) and the bias
    (batch, stretch, map) are a part a stretch.
    """
    m, c, w, n = tl.arange(0, ROWS), tl.arange(0, ROOM_C), tl.arange(0, ROOM_W), tl.arange(0, ROOM_M)
    b, part = tl.program_id(1).to(tl.int64), tl.program_id(0)
    # The changes of 1e6 weights that sum to one are too small for float16.
    PART: tl.constexpr = tl.float32 if x.dtype.element_ty == tl.float32 else tl.bfloat16
    rows = _matrix(weight, n, c, MAPS, CHANNELS).to(PART)
    given = _matrix(descriptors + b * MAPS * WIDTH, n, w, MAPS, WIDTH).to(PART)
    weight_sum = tl.zeros([ROOM_M, ROOM_C], tl.float32)
    bias_sum = tl.zeros([ROOM_M], tl.float32)
    descriptor_sum = tl.zeros([ROOM_M, ROOM_W], tl.float32)
    first = part * stretch
    for i in range(first, tl.minimum(first + stretch, pixels), ROWS):
        there = i + m < pixels
        start = b * pixels + i
        values = _features(x + start * CHANNELS, m, there, c, CHANNELS, ROOM_C)
        share = _softmax(values, weight, bias, n, c, CHANNELS, MAPS, PRECISION)
        values = values.to(PART)
        slope = _features(grad + start * WIDTH, m, there, w, WIDTH, ROOM_W).to(PART)
        product = tl.dot(slope, tl.trans(given), input_precision=PRECISION)
        share = tl.where(there[:, None], share, 0)
        change = share * (product - tl.sum(share * product, 1)[:, None])
        bias_sum += tl.sum(change, 0)
        share, change = share.to(PART), change.to(PART)
        _put(grad_x + start * CHANNELS, m, there, c, CHANNELS, tl.dot(change, rows, input_precision=PRECISION))
        weight_sum = tl.dot(tl.trans(change), values, weight_sum, input_precision=PRECISION)
        descriptor_sum = tl.dot(tl.trans(share), slope, descriptor_sum, input_precision=PRECISION)
    at = b * tl.num_programs(0) + part
    tl.store(grad_bias + at * MAPS + n, bias_sum, mask=n < MAPS)
    _keep(grad_weight + at * MAPS * CHANNELS, n, c, MAPS, CHANNELS, weight_sum)
    _keep(grad_descriptors + at * MAPS * WIDTH, n, w, MAPS, WIDTH, descriptor_sum)
