"""SIMD registers for numba: a type for one register, and operations on it.

Numba's own loops over channels vectorize badly. With these operations a kernel says what it wants, and LLVM
maps a register of `VECTOR_BYTES` to what the processor has. All arrays are flat; nothing is bounds-checked.

Numba's cache on disk notices changes in the file of a kernel only: after a change here, delete `__pycache__`.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

_FEATURES = binding.get_host_cpu_features()
VECTOR_BYTES = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx2") else 16


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Numba's njit, without the GIL, cached on disk where that is possible."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder in which numba could keep its cache
        return njit(**options)(function)


def operation(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let kernels call `function`, which maps types of arguments to a signature and a generator of code."""
    return intrinsic(prefer_literal=True)(function)


class Vector(types.Type):
    """One SIMD register of float32 or float64."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.lanes = VECTOR_BYTES * 8 // dtype.bitwidth
        self.align = dtype.bitwidth // 8
        self.ir = ir.VectorType(ir.FloatType() if dtype == types.float32 else ir.DoubleType(), self.lanes)
        super().__init__(name=f"Vector({dtype})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.ir)


def emit_pointer(context, builder, array_type, array, index):
    """Code: the address of array[index]."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def emit_load(builder, pointer, vector):
    """Code: the register at an address."""
    return builder.load(builder.bitcast(pointer, vector.ir.as_pointer()), align=vector.align)


def emit_store(builder, pointer, value, vector):
    """Code: put a register to an address."""
    builder.store(value, builder.bitcast(pointer, vector.ir.as_pointer()), align=vector.align)


def _shuffle(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def emit_broadcast(builder, scalar, vector):
    """Code: a register with a scalar in every lane."""
    nothing = ir.Constant(vector.ir, ir.Undefined)
    first = builder.insert_element(nothing, scalar, ir.Constant(ir.IntType(32), 0))
    return _shuffle(builder, first, nothing, [0] * vector.lanes)


def emit_multiply_add(builder, a, b, c):
    """Code: the sum a * b + c."""
    # "contract" lets the processor fuse the two; it never changes what NaN or infinity do.
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


def emit_loop(builder, count, starts, body):
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


@operation
def load(typing, array, index):
    """The register at array[index : index + lanes]."""
    vector = Vector(array.dtype)

    def generate(context, builder, signature, args):
        return emit_load(builder, emit_pointer(context, builder, signature.args[0], *args), vector)

    return vector(array, types.intp), generate


@operation
def broadcast(typing, array, index):
    """A register with array[index] in every lane."""
    vector = Vector(array.dtype)

    def generate(context, builder, signature, args):
        scalar = builder.load(emit_pointer(context, builder, signature.args[0], *args))
        return emit_broadcast(builder, scalar, vector)

    return vector(array, types.intp), generate


@operation
def store(typing, array, index, value):
    """array[index : index + lanes] = value."""

    def generate(context, builder, signature, args):
        emit_store(builder, emit_pointer(context, builder, signature.args[0], *args[:2]), args[2], value)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@operation
def prefetch(typing, array, index):
    """Ask for array[index] and the rest of its cache line, which may lie outside of the array."""

    def generate(context, builder, signature, args):
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        address = builder.bitcast(emit_pointer(context, builder, signature.args[0], *args), byte)
        builder.call(function, [address, number(0), number(3), number(1)])  # to read; into the first-level cache; data
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@operation
def zeros(typing, array):
    """A register of zeros."""
    vector = Vector(array.dtype)
    return vector(array), lambda context, builder, signature, args: ir.Constant(vector.ir, None)


@operation
def add(typing, a, b):
    """The sum a + b."""
    return a(a, b), lambda context, builder, signature, args: builder.fadd(*args, flags=("contract",))


@operation
def multiply(typing, a, b):
    """The product a * b."""
    return a(a, b), lambda context, builder, signature, args: builder.fmul(*args, flags=("contract",))


@operation
def multiply_add(typing, a, b, c):
    """The sum a * b + c."""
    return a(a, b, c), lambda context, builder, signature, args: emit_multiply_add(builder, *args)


@operation
def subtract(typing, a, b):
    """The difference a - b."""
    return a(a, b), lambda context, builder, signature, args: builder.fsub(*args, flags=("contract",))


def _larger(builder, a, b):
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@operation
def maximum(typing, a, b):
    """The larger of a and b, b where either is NaN."""

    def generate(context, builder, signature, args):
        return _larger(builder, *args)

    return a(a, b), generate


@operation
def exp(typing, x):
    """The exponential function, to one unit in the last place; 0 where it is below 1e-34 (float64: 1e-304).

    With x = n log(2) + r, n whole, it is 2**n exp(r), and a short Taylor series of exp(r) is exact enough. What is
    next to nothing is 0, because processors take a hundred times as long for numbers below the normal ones.
    """
    return x(x), lambda context, builder, signature, args: _exp(builder, args[0], x)


@operation
def sigmoid(typing, x):
    """The logistic function 1 / (1 + exp(-x))."""

    def generate(context, builder, signature, args):
        one, most = (ir.Constant(x.ir, [value] * x.lanes) for value in (1.0, 80.0))
        value = builder.fneg(args[0])
        value = builder.select(builder.fcmp_ordered(">", value, most), most, value)  # of more, exp would be infinite
        return builder.fdiv(one, builder.fadd(one, _exp(builder, value, x)))

    return x(x), generate


def _exp(builder, value, vector):
    bits, terms = (23, 7) if vector.dtype == types.float32 else (52, 13)
    whole = ir.VectorType(ir.IntType(vector.dtype.bitwidth), vector.lanes)
    lowest = -78.0 if bits == 23 else -700.0
    log2_high = 0.693359375 if bits == 23 else 0.6931471803691238  # few bits, so that n * log2_high is exact
    log2_low = math.log(2) - log2_high if bits == 23 else 1.9082149292705877e-10

    def number(value):
        return ir.Constant(vector.ir, [value] * vector.lanes)

    low = builder.fcmp_ordered("<", value, number(lowest))  # not where it is NaN
    value = builder.select(low, number(lowest), value)
    # Added to 1.5 * 2**bits a number is rounded to a whole one, which the lowest bits of the sum hold.
    magic = number(1.5 * 2.0**bits)
    shifted = builder.fadd(builder.fmul(value, number(1 / math.log(2))), magic)
    n = builder.fsub(magic, shifted)
    r = emit_multiply_add(builder, n, number(log2_low), emit_multiply_add(builder, n, number(log2_high), value))
    result = number(1 / math.factorial(terms))
    for term in reversed(range(terms)):
        result = emit_multiply_add(builder, result, r, number(1 / math.factorial(term)))
    exponent = builder.shl(builder.bitcast(shifted, whole), ir.Constant(whole, [bits] * vector.lanes))
    result = builder.bitcast(builder.add(builder.bitcast(result, whole), exponent), vector.ir)
    return builder.select(low, number(0.0), result)


def _fold_each(context, builder, signature, args, vector, combine):
    """A register whose lane n is combine(...) over the lanes of the n-th of `lanes` registers from array[index] on."""
    start = emit_pointer(context, builder, signature.args[0], *args)
    offsets = [ir.Constant(ir.IntType(64), n * vector.lanes) for n in range(vector.lanes)]
    values = [emit_load(builder, builder.gep(start, [offset]), vector) for offset in offsets]
    segment = vector.lanes
    while segment > 1:  # fold pairs: twice as many segments per register, each half as long
        segment //= 2
        left = [s + n for s in range(0, 2 * vector.lanes, 2 * segment) for n in range(segment)]
        right = [n + segment for n in left]
        values = [
            combine(builder, _shuffle(builder, a, b, left), _shuffle(builder, a, b, right))
            for a, b in zip(values[::2], values[1::2], strict=True)
        ]
    return values[0]


@operation
def totals(typing, array, index):
    """A register whose lane n is the sum over the n-th of `lanes` registers, which start at array[index]."""
    vector = Vector(array.dtype)

    def generate(context, builder, signature, args):
        return _fold_each(context, builder, signature, args, vector, ir.IRBuilder.fadd)

    return vector(array, types.intp), generate


@operation
def highests(typing, array, index):
    """A register whose lane n is the highest lane of the n-th of `lanes` registers, which start at array[index]."""
    vector = Vector(array.dtype)

    def generate(context, builder, signature, args):
        return _fold_each(context, builder, signature, args, vector, _larger)

    return vector(array, types.intp), generate


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
