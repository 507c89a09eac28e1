"""Matrix products inside SIMD registers, for numba: the inner loops of the CPU operators."""

from functools import reduce

from llvmlite import ir
from numba import types

from unsmear.ops.simd import (
    VECTOR_BYTES,
    Vector,
    compiled,
    emit_broadcast,
    emit_load,
    emit_loop,
    emit_multiply_add,
    emit_pointer,
    emit_store,
    operation,
    prefetch,
)

# How many registers `product` sums in: all but those for its operands.
PRODUCT_SUMS = {64: 16, 32: 12, 16: 16}[VECTOR_BYTES]
_AHEAD = 32  # rows to have in the cache beforehand
_LINE_BYTES = 64  # of the cache


@operation
def product(typing, panels, rows, count, a, a_at, a_row, a_step, b, b_at, b_step, out, out_at, out_row, f, f_at, f_row):
    """Matrix product of `PRODUCT_SUMS / panels` rows by `panels` registers, with all sums in registers.

    z[m, :] = sum over q < count of a[a_at + m * a_row + q * a_step] * b[b_at + q * b_step :], then
    out[out_at + m * out_row :] += f[f_at + m * f_row] * z[m, :] for m < rows. If f is None, then
    out[...] = z[m, :] for all m, where those from `rows` on repeat the last.
    """
    if not isinstance(panels, types.IntegerLiteral):
        return None
    vector, width, height = Vector(b.dtype), panels.literal_value, PRODUCT_SUMS // panels.literal_value
    i = types.intp

    def generate(context, builder, signature, args):
        _, rows, count, a, a_at, a_row, a_step, b, b_at, b_step, out, out_at, out_row, f, f_at, f_row = args
        a_type, b_type, out_type, f_type = (signature.args[n] for n in (3, 7, 10, 13))

        def number(value):
            return ir.Constant(count.type, value)

        def row(kind, array, at, stride, m):
            return emit_pointer(context, builder, kind, array, builder.add(at, builder.mul(stride, m)))

        def registers(pointer):
            return [builder.gep(pointer, [number(n * vector.lanes)]) for n in range(width)]

        valid = [builder.icmp_signed("<", number(m), rows) for m in range(height)]
        last = builder.sub(rows, number(1))
        index = [builder.select(ok, number(m), last) for m, ok in enumerate(valid)]
        a_rows = [row(a_type, a, a_at, a_row, m) for m in index]

        def step(q, sums):
            b_row = row(b_type, b, b_at, b_step, q)
            rights = [emit_load(builder, pointer, vector) for pointer in registers(b_row)]
            move = builder.mul(q, a_step)
            lefts = [builder.load(builder.gep(a_row, [move])) for a_row in a_rows]
            lefts = [emit_broadcast(builder, left, vector) for left in lefts]
            pairs = [(left, right) for left in lefts for right in rights]
            return [emit_multiply_add(builder, *pair, total) for pair, total in zip(pairs, sums, strict=True)]

        z = emit_loop(builder, count, [ir.Constant(vector.ir, None)] * (height * width), step)
        for m in range(height):
            values = z[m * width : (m + 1) * width]
            if f_type == types.none:
                pointers = registers(row(out_type, out, out_at, out_row, number(m)))
            else:
                pointers = registers(row(out_type, out, out_at, out_row, index[m]))
                factor = builder.load(row(f_type, f, f_at, f_row, index[m]))
                factor = builder.select(valid[m], factor, ir.Constant(factor.type, 0.0))
                factor = emit_broadcast(builder, factor, vector)
                olds = [emit_load(builder, pointer, vector) for pointer in pointers]
                values = [emit_multiply_add(builder, factor, *pair) for pair in zip(values, olds, strict=True)]
            for pointer, value in zip(pointers, values, strict=True):
                emit_store(builder, pointer, value, vector)
        return context.get_dummy_value()

    return types.void(panels, i, i, a, i, i, i, b, i, i, out, i, i, f, i, i), generate


@operation
def correlate(typing, k, panels, count, g, g_at, g_step, x, x_at, x_step, f, f_at, w, w_at, p, p_at, s, s_at, fresh):
    """The gradients of k neighbors among k * k taps for a run of pixels, summed over pixels in registers.

    For pixel m < count, register n < panels and tap t < k, with taps = k * k, let
    both = g[g_at + m * g_step + n * lanes :] * x[x_at + n * x_step + (m + t) * lanes :]. Then
    p[p_at + (n * taps + t) * lanes :] += both * f[f_at + m * taps + t], for all m, and
    s[s_at + (m * taps + t) * lanes :] += both * w[w_at + (n * taps + t) * lanes :], for all n; = if fresh.
    """
    if not isinstance(k, types.IntegerLiteral) or not isinstance(panels, types.IntegerLiteral):
        return None
    vector, width, num = Vector(x.dtype), k.literal_value, panels.literal_value
    taps = width * width
    pairs = [(n, t) for n in range(num) for t in range(width)]
    i = types.intp

    def generate(context, builder, signature, args):
        _, _, count, g, g_at, g_step, x, x_at, x_step, f, f_at, w, w_at, p, p_at, s, s_at, fresh = args
        g_type, x_type, f_type, w_type, p_type, s_type = (signature.args[n] for n in (3, 6, 9, 11, 13, 15))

        def place(kind, array, start, index, stride, more):
            stride = ir.Constant(count.type, stride) if isinstance(stride, int) else stride
            at = builder.add(builder.add(start, builder.mul(index, stride)), ir.Constant(count.type, more))
            return emit_pointer(context, builder, kind, array, at)

        def read(*where):
            return emit_load(builder, place(*where), vector)

        zero, lanes = ir.Constant(count.type, 0), vector.lanes
        filters = {(n, t): read(w_type, w, w_at, zero, 0, (n * taps + t) * lanes) for n, t in pairs}
        slots = [place(p_type, p, p_at, zero, 0, (n * taps + t) * lanes) for n, t in pairs]
        x_starts = [builder.add(x_at, builder.mul(x_step, ir.Constant(count.type, n))) for n in range(num)]

        def step(m, sums):
            lefts = [read(g_type, g, g_at, m, g_step, n * lanes) for n in range(num)]
            rights = [read(x_type, x, x_starts[n], m, lanes, t * lanes) for n, t in pairs]
            both = {(n, t): builder.fmul(lefts[n], right) for (n, t), right in zip(pairs, rights, strict=True)}
            factors = [builder.load(place(f_type, f, f_at, m, taps, t)) for t in range(width)]
            factors = [emit_broadcast(builder, factor, vector) for factor in factors]
            for t in range(width):
                slot = place(s_type, s, s_at, m, taps * lanes, t * lanes)
                total = builder.select(fresh, ir.Constant(vector.ir, None), emit_load(builder, slot, vector))
                for n in range(num):
                    total = emit_multiply_add(builder, both[n, t], filters[n, t], total)
                emit_store(builder, slot, total, vector)
            return [
                emit_multiply_add(builder, both[n, t], factors[t], total)
                for (n, t), total in zip(pairs, sums, strict=True)
            ]

        results = emit_loop(builder, count, [emit_load(builder, slot, vector) for slot in slots], step)
        for slot, result in zip(slots, results, strict=True):
            emit_store(builder, slot, result, vector)
        return context.get_dummy_value()

    return types.void(k, panels, i, g, i, i, x, i, i, f, i, w, i, p, i, s, i, types.boolean), generate


@operation
def weigh(typing, k, count, x, x_at, x_row, f, f_at, f_pixel, f_row, f_tap, w, w_at, b, b_at, out, out_at, out_pixel):
    """The sum over k * k neighbors, weighed by a factor each and by lane; weights stay in registers.

    For pixel m < count, out[out_at + m * out_pixel :] = b[b_at :] + the sum over dy < k and dx < k of
    f[f_at + m * f_pixel + dy * f_row + dx * f_tap] * w[w_at + (dy * k + dx) * lanes :]
    * x[x_at + dy * x_row + (m + dx) * lanes :].
    """
    if not isinstance(k, types.IntegerLiteral):
        return None
    vector, width = Vector(x.dtype), k.literal_value
    taps = [(dy, dx) for dy in range(width) for dx in range(width)]
    i = types.intp

    def generate(context, builder, signature, args):
        _, count, x, x_at, x_row, f, f_at, f_pixel, f_row, f_tap, w, w_at, b, b_at, out, out_at, out_pixel = args
        x_type, f_type, w_type, b_type, out_type = (signature.args[n] for n in (2, 5, 10, 12, 14))

        def place(kind, array, start, *steps):
            for step, times in steps:
                step = ir.Constant(count.type, step) if isinstance(step, int) else step
                times = ir.Constant(count.type, times) if isinstance(times, int) else times
                start = builder.add(start, builder.mul(step, times))
            return emit_pointer(context, builder, kind, array, start)

        lanes = vector.lanes
        weights = [
            emit_load(builder, place(w_type, w, w_at, ((dy * width + dx) * lanes, 1)), vector) for dy, dx in taps
        ]
        bias = emit_load(builder, place(b_type, b, b_at), vector)

        def step(m, _):
            sums = [bias, *[ir.Constant(vector.ir, None)] * (width - 1)]  # one a row: they do not wait for each other
            for (dy, dx), weight in zip(taps, weights, strict=True):
                factor = builder.load(place(f_type, f, f_at, (f_pixel, m), (f_row, dy), (f_tap, dx)))
                weight = builder.fmul(emit_broadcast(builder, factor, vector), weight, flags=("contract",))
                neighbor = emit_load(builder, place(x_type, x, x_at, (lanes, m), (x_row, dy), (lanes, dx)), vector)
                sums[dy] = emit_multiply_add(builder, weight, neighbor, sums[dy])
            sum_ = reduce(builder.fadd, sums)
            emit_store(builder, place(out_type, out, out_at, (out_pixel, m)), sum_, vector)
            return []

        emit_loop(builder, count, [], step)
        return context.get_dummy_value()

    return types.void(k, i, x, i, i, f, i, i, i, i, w, i, b, i, out, i, i), generate


# Two registers wide, `product` reads less for the same work; where only one fits, it is one.


@compiled
def times(a, a_at, num, depth, b, b_at, width, out):
    """out[m, :] = a[m, :] @ b for num rows of a (depth) and b (depth, width); writes `PRODUCT_SUMS` rows at a time."""
    lanes = VECTOR_BYTES // a.itemsize
    if width % (2 * lanes) == 0:
        for c in range(0, width, 2 * lanes):
            for m in range(0, num, PRODUCT_SUMS // 2):
                start, end = a_at + m * depth, m * width + c
                if c == 0:
                    _foresee(a, start, PRODUCT_SUMS // 2, depth)
                product(2, num - m, depth, a, start, depth, 1, b, b_at + c, width, out, end, width, None, 0, 0)
    else:
        for c in range(0, width, lanes):
            for m in range(0, num, PRODUCT_SUMS):
                start, end = a_at + m * depth, m * width + c
                if c == 0:
                    _foresee(a, start, PRODUCT_SUMS, depth)
                product(1, num - m, depth, a, start, depth, 1, b, b_at + c, width, out, end, width, None, 0, 0)


@compiled
def add_times(a, num, depth, b, b_at, width, out, out_at, factors, step):
    """out[m, :] += factors[m * step] * a[m, :] @ b for num rows of a (depth) and b (depth, width)."""
    lanes = VECTOR_BYTES // a.itemsize
    if width % (2 * lanes) == 0:
        for c in range(0, width, 2 * lanes):
            for m in range(0, num, PRODUCT_SUMS // 2):
                end, start, f = out_at + m * width + c, m * depth, m * step
                if c == 0:
                    _foresee(out, end, PRODUCT_SUMS // 2, width)
                product(2, num - m, depth, a, start, depth, 1, b, b_at + c, width, out, end, width, factors, f, step)
    else:
        for c in range(0, width, lanes):
            for m in range(0, num, PRODUCT_SUMS):
                end, start, f = out_at + m * width + c, m * depth, m * step
                if c == 0:
                    _foresee(out, end, PRODUCT_SUMS, width)
                product(1, num - m, depth, a, start, depth, 1, b, b_at + c, width, out, end, width, factors, f, step)


@compiled
def _foresee(array, at, rows, width):
    """Have rows in the cache that come soon: processors foresee one stream, not as many as `product` reads at once."""
    start = at + _AHEAD * width
    for n in range(start, start + rows * width, _LINE_BYTES // array.itemsize):
        prefetch(array, n)


@compiled
def add_outer(a, num, height, b, b_at, width, out, out_at, one):
    """out[n, :] += sum over m < num of a[m, n] * b[m, :], for a (num, height), b (num, width); one holds 1."""
    lanes = VECTOR_BYTES // a.itemsize
    if width % (2 * lanes) == 0:
        for c in range(0, width, 2 * lanes):
            for n in range(0, height, PRODUCT_SUMS // 2):
                end = out_at + n * width + c
                product(2, height - n, num, a, n, 1, height, b, b_at + c, width, out, end, width, one, 0, 0)
    else:
        for c in range(0, width, lanes):
            for n in range(0, height, PRODUCT_SUMS):
                end = out_at + n * width + c
                product(1, height - n, num, a, n, 1, height, b, b_at + c, width, out, end, width, one, 0, 0)
