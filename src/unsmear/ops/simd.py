"""SIMD registers for numba: a type for one register, operations on it, and a matrix product inside registers.

Numba's own loops over channels vectorize badly. With these operations a kernel says what it wants, and LLVM
maps a register of `VECTOR_BYTES` to what the processor has. All arrays are flat; nothing is bounds-checked.

Numba's cache on disk notices changes in the file of a kernel only: after a change here, delete `__pycache__`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

_FEATURES = binding.get_host_cpu_features()
# The width of a register, and how many of them `product` sums in, leaving room for its operands.
VECTOR_BYTES, PRODUCT_SUMS = (64, 16) if _FEATURES.get("avx512f") else (32, 12) if _FEATURES.get("avx2") else (16, 16)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Numba's njit, without the GIL, cached on disk where that is possible."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder in which numba could keep its cache
        return njit(**options)(function)


def _operation(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let kernels call `function`, which maps types of arguments to a signature and a generator of code."""
    return intrinsic(prefer_literal=True)(function)


class _Vector(types.Type):
    """One SIMD register of float32 or float64."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.lanes = VECTOR_BYTES * 8 // dtype.bitwidth
        self.align = dtype.bitwidth // 8
        self.ir = ir.VectorType(ir.FloatType() if dtype == types.float32 else ir.DoubleType(), self.lanes)
        super().__init__(name=f"Vector({dtype})")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: _Vector) -> None:
        super().__init__(manager, vector, vector.ir)


def _pointer(context, builder, array_type, array, index):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _load(builder, pointer, vector):
    return builder.load(builder.bitcast(pointer, vector.ir.as_pointer()), align=vector.align)


def _store(builder, pointer, value, vector):
    builder.store(value, builder.bitcast(pointer, vector.ir.as_pointer()), align=vector.align)


def _shuffle(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def _broadcast(builder, scalar, vector):
    nothing = ir.Constant(vector.ir, ir.Undefined)
    first = builder.insert_element(nothing, scalar, ir.Constant(ir.IntType(32), 0))
    return _shuffle(builder, first, nothing, [0] * vector.lanes)


def _multiply_add(builder, a, b, c):
    # "contract" lets the processor fuse the two; it never changes what NaN or infinity do.
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


def _loop(builder, count, starts, body):
    """Emit values = body(n, values) for n < count, which must not be 0, and return the last values."""
    before, inside, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(inside)
    builder.position_at_end(inside)
    n, *values = [builder.phi(kind) for kind in (count.type, *(start.type for start in starts))]
    results = body(n, values)
    following = builder.add(n, ir.Constant(count.type, 1))
    starts, results = [ir.Constant(count.type, 0), *starts], [following, *results]
    for phi, start, result in zip([n, *values], starts, results, strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(result, inside)
    builder.cbranch(builder.icmp_signed("<", following, count), inside, after)
    builder.position_at_end(after)
    return results[1:]


@_operation
def load(typing, array, index):
    """The register at array[index : index + lanes]."""
    vector = _Vector(array.dtype)

    def generate(context, builder, signature, args):
        return _load(builder, _pointer(context, builder, signature.args[0], *args), vector)

    return vector(array, types.intp), generate


@_operation
def broadcast(typing, array, index):
    """A register with array[index] in every lane."""
    vector = _Vector(array.dtype)

    def generate(context, builder, signature, args):
        scalar = builder.load(_pointer(context, builder, signature.args[0], *args))
        return _broadcast(builder, scalar, vector)

    return vector(array, types.intp), generate


@_operation
def store(typing, array, index, value):
    """array[index : index + lanes] = value."""

    def generate(context, builder, signature, args):
        _store(builder, _pointer(context, builder, signature.args[0], *args[:2]), args[2], value)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@_operation
def zeros(typing, array):
    """A register of zeros."""
    vector = _Vector(array.dtype)
    return vector(array), lambda context, builder, signature, args: ir.Constant(vector.ir, None)


@_operation
def add(typing, a, b):
    """The sum a + b."""
    return a(a, b), lambda context, builder, signature, args: builder.fadd(*args, flags=("contract",))


@_operation
def multiply(typing, a, b):
    """The product a * b."""
    return a(a, b), lambda context, builder, signature, args: builder.fmul(*args, flags=("contract",))


@_operation
def multiply_add(typing, a, b, c):
    """The sum a * b + c."""
    return a(a, b, c), lambda context, builder, signature, args: _multiply_add(builder, *args)


@_operation
def totals(typing, array, index):
    """A register whose lane n is the sum over the n-th of `lanes` registers, which start at array[index]."""
    vector = _Vector(array.dtype)

    def generate(context, builder, signature, args):
        start = _pointer(context, builder, signature.args[0], *args)
        offsets = [ir.Constant(ir.IntType(64), n * vector.lanes) for n in range(vector.lanes)]
        values = [_load(builder, builder.gep(start, [offset]), vector) for offset in offsets]
        segment = vector.lanes
        while segment > 1:  # fold pairs: twice as many segments per register, each half as long
            segment //= 2
            left = [s + n for s in range(0, 2 * vector.lanes, 2 * segment) for n in range(segment)]
            right = [n + segment for n in left]
            values = [
                builder.fadd(_shuffle(builder, a, b, left), _shuffle(builder, a, b, right))
                for a, b in zip(values[::2], values[1::2], strict=True)
            ]
        return values[0]

    return vector(array, types.intp), generate


@_operation
def product(typing, panels, rows, count, a, a_at, a_row, a_step, b, b_at, b_step, out, out_at, out_row, f, f_at, f_row):
    """Matrix product of `PRODUCT_SUMS / panels` rows by `panels` registers, with all sums in registers.

    z[m, :] = sum over q < count of a[a_at + m * a_row + q * a_step] * b[b_at + q * b_step :], then
    out[out_at + m * out_row :] += f[f_at + m * f_row] * z[m, :] for m < rows. If f is None, then
    out[...] = z[m, :] for all m, where those from `rows` on repeat the last.
    """
    if not isinstance(panels, types.IntegerLiteral):
        return None
    vector, width, height = _Vector(b.dtype), panels.literal_value, PRODUCT_SUMS // panels.literal_value
    i = types.intp

    def generate(context, builder, signature, args):
        _, rows, count, a, a_at, a_row, a_step, b, b_at, b_step, out, out_at, out_row, f, f_at, f_row = args
        a_type, b_type, out_type, f_type = (signature.args[n] for n in (3, 7, 10, 13))

        def number(value):
            return ir.Constant(count.type, value)

        def row(kind, array, at, stride, m):
            return _pointer(context, builder, kind, array, builder.add(at, builder.mul(stride, m)))

        def registers(pointer):
            return [builder.gep(pointer, [number(n * vector.lanes)]) for n in range(width)]

        valid = [builder.icmp_signed("<", number(m), rows) for m in range(height)]
        last = builder.sub(rows, number(1))
        index = [builder.select(ok, number(m), last) for m, ok in enumerate(valid)]
        a_rows = [row(a_type, a, a_at, a_row, m) for m in index]

        def step(q, sums):
            b_row = row(b_type, b, b_at, b_step, q)
            rights = [_load(builder, pointer, vector) for pointer in registers(b_row)]
            move = builder.mul(q, a_step)
            lefts = [builder.load(builder.gep(a_row, [move])) for a_row in a_rows]
            lefts = [_broadcast(builder, left, vector) for left in lefts]
            pairs = [(left, right) for left in lefts for right in rights]
            return [_multiply_add(builder, *pair, total) for pair, total in zip(pairs, sums, strict=True)]

        z = _loop(builder, count, [ir.Constant(vector.ir, None)] * (height * width), step)
        for m in range(height):
            values = z[m * width : (m + 1) * width]
            if f_type == types.none:
                pointers = registers(row(out_type, out, out_at, out_row, number(m)))
            else:
                pointers = registers(row(out_type, out, out_at, out_row, index[m]))
                factor = builder.load(row(f_type, f, f_at, f_row, index[m]))
                factor = builder.select(valid[m], factor, ir.Constant(factor.type, 0.0))
                factor = _broadcast(builder, factor, vector)
                olds = [_load(builder, pointer, vector) for pointer in pointers]
                values = [_multiply_add(builder, factor, *pair) for pair in zip(values, olds, strict=True)]
            for pointer, value in zip(pointers, values, strict=True):
                _store(builder, pointer, value, vector)
        return context.get_dummy_value()

    return types.void(panels, i, i, a, i, i, i, b, i, i, out, i, i, f, i, i), generate


@_operation
def correlate(typing, k, panels, count, g, g_at, g_step, x, x_at, x_step, f, f_at, w, w_at, p, p_at, s, s_at, fresh):
    """The gradients of k neighbors among k * k taps for a run of pixels, summed over pixels in registers.

    For pixel m < count, register n < panels and tap t < k, with taps = k * k, let
    both = g[g_at + m * g_step + n * lanes :] * x[x_at + n * x_step + (m + t) * lanes :]. Then
    p[p_at + (n * taps + t) * lanes :] += both * f[f_at + m * taps + t], for all m, and
    s[s_at + (m * taps + t) * lanes :] += both * w[w_at + (n * taps + t) * lanes :], for all n; = if fresh.
    """
    if not isinstance(k, types.IntegerLiteral) or not isinstance(panels, types.IntegerLiteral):
        return None
    vector, width, num = _Vector(x.dtype), k.literal_value, panels.literal_value
    taps = width * width
    pairs = [(n, t) for n in range(num) for t in range(width)]
    i = types.intp

    def generate(context, builder, signature, args):
        _, _, count, g, g_at, g_step, x, x_at, x_step, f, f_at, w, w_at, p, p_at, s, s_at, fresh = args
        g_type, x_type, f_type, w_type, p_type, s_type = (signature.args[n] for n in (3, 6, 9, 11, 13, 15))

        def place(kind, array, start, index, stride, more):
            stride = ir.Constant(count.type, stride) if isinstance(stride, int) else stride
            at = builder.add(builder.add(start, builder.mul(index, stride)), ir.Constant(count.type, more))
            return _pointer(context, builder, kind, array, at)

        def read(*where):
            return _load(builder, place(*where), vector)

        zero, lanes = ir.Constant(count.type, 0), vector.lanes
        filters = {(n, t): read(w_type, w, w_at, zero, 0, (n * taps + t) * lanes) for n, t in pairs}
        slots = [place(p_type, p, p_at, zero, 0, (n * taps + t) * lanes) for n, t in pairs]
        x_starts = [builder.add(x_at, builder.mul(x_step, ir.Constant(count.type, n))) for n in range(num)]

        def step(m, sums):
            lefts = [read(g_type, g, g_at, m, g_step, n * lanes) for n in range(num)]
            rights = [read(x_type, x, x_starts[n], m, lanes, t * lanes) for n, t in pairs]
            both = {(n, t): builder.fmul(lefts[n], right) for (n, t), right in zip(pairs, rights, strict=True)}
            factors = [builder.load(place(f_type, f, f_at, m, taps, t)) for t in range(width)]
            factors = [_broadcast(builder, factor, vector) for factor in factors]
            for t in range(width):
                slot = place(s_type, s, s_at, m, taps * lanes, t * lanes)
                total = builder.select(fresh, ir.Constant(vector.ir, None), _load(builder, slot, vector))
                for n in range(num):
                    total = _multiply_add(builder, both[n, t], filters[n, t], total)
                _store(builder, slot, total, vector)
            return [
                _multiply_add(builder, both[n, t], factors[t], total) for (n, t), total in zip(pairs, sums, strict=True)
            ]

        results = _loop(builder, count, [_load(builder, slot, vector) for slot in slots], step)
        for slot, result in zip(slots, results, strict=True):
            _store(builder, slot, result, vector)
        return context.get_dummy_value()

    return types.void(k, panels, i, g, i, i, x, i, i, f, i, w, i, p, i, s, i, types.boolean), generate


@compiled
def aligned(size, like):
    """Scratch memory that starts at a cache line: registers across two lines cost twice."""
    itemsize = like.itemsize
    room = np.empty(size + VECTOR_BYTES // itemsize, like.dtype)
    start = (-room.ctypes.data % VECTOR_BYTES) // itemsize
    return room[start : start + size]


@compiled
def clear(out, at, count):
    """out[at : at + count] = 0."""
    lanes = VECTOR_BYTES // out.itemsize
    if count < lanes:
        for n in range(at, at + count):
            out[n] = 0
    else:
        for n in range(0, count, lanes):
            store(out, at + min(n, count - lanes), zeros(out))


@compiled
def copy(source, start, out, at, count):
    """out[at : at + count] = source[start : start + count]."""
    lanes = VECTOR_BYTES // out.itemsize
    if count < lanes:
        for n in range(count):
            out[at + n] = source[start + n]
    else:
        for n in range(0, count, lanes):
            n = min(n, count - lanes)  # the last register overlaps the one before
            store(out, at + n, load(source, start + n))
