"""Compiled CPU kernels of the pixel-adaptive convolution."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model
from torch import Tensor
from torch.nn import functional as F

_BYTES, _TILE = 64, 16
_ROWS = 8
_GROUPS = 8
_SPAN = 64


class _Vector(types.Type):
    def __init__(self, dtype):
        self.dtype = dtype
        self.lanes = _BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Vector({dtype})")

    @property
    def ir(self):
        return ir.VectorType(ir.FloatType() if self.dtype == types.float32 else ir.DoubleType(), self.lanes)


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, fe_type.ir)


def _pointer(context, builder, array_type, array, index):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _load(builder, pointer, vector):
    return builder.load(builder.bitcast(pointer, vector.ir.as_pointer()), align=vector.dtype.bitwidth // 8)


def _store(builder, pointer, value, vector):
    builder.store(value, builder.bitcast(pointer, vector.ir.as_pointer()), align=vector.dtype.bitwidth // 8)


def _shuffle(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def _splat(builder, scalar, vector):
    undefined = ir.Constant(vector.ir, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return _shuffle(builder, one, undefined, [0] * vector.lanes)


def _multiply_add(builder, a, b, c):
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


@intrinsic
def load(typingctx, array, index):
    vector = _Vector(array.dtype)

    def codegen(context, builder, signature, args):
        return _load(builder, _pointer(context, builder, signature.args[0], *args), vector)

    return vector(array, types.intp), codegen


@intrinsic
def broadcast(typingctx, array, index):
    vector = _Vector(array.dtype)

    def codegen(context, builder, signature, args):
        return _splat(builder, builder.load(_pointer(context, builder, signature.args[0], *args)), vector)

    return vector(array, types.intp), codegen


@intrinsic
def store(typingctx, array, index, value):
    vector = _Vector(array.dtype)

    def codegen(context, builder, signature, args):
        _store(builder, _pointer(context, builder, signature.args[0], *args[:2]), args[2], vector)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


@intrinsic
def multiply(typingctx, a, b):
    def codegen(context, builder, signature, args):
        return builder.fmul(*args, flags=("contract",))

    return a(a, b), codegen


@intrinsic
def add(typingctx, a, b):
    def codegen(context, builder, signature, args):
        return builder.fadd(*args, flags=("contract",))

    return a(a, b), codegen


@intrinsic
def multiply_add(typingctx, a, b, c):
    def codegen(context, builder, signature, args):
        return _multiply_add(builder, *args)

    return a(a, b, c), codegen


@intrinsic
def totals(typingctx, array, index):
    """vector whose lane l is the sum of the l-th of `lanes` vectors from index"""
    vector = _Vector(array.dtype)

    def codegen(context, builder, signature, args):
        start = _pointer(context, builder, signature.args[0], *args)
        rest = [
            _load(builder, builder.gep(start, [ir.Constant(ir.IntType(64), n * vector.lanes)]), vector)
            for n in range(vector.lanes)
        ]
        segment = vector.lanes
        while segment > 1:
            half = segment // 2
            first = [s + l for s in range(0, 2 * vector.lanes, segment) for l in range(half)]
            second = [l + half for l in first]
            rest = [
                builder.fadd(_shuffle(builder, a, b, first), _shuffle(builder, a, b, second))
                for a, b in zip(rest[::2], rest[1::2])
            ]
            segment = half
        return rest[0]

    return vector(array, types.intp), codegen


@intrinsic(prefer_literal=True)
def product(
    typingctx,
    panels,
    out,
    out_start,
    out_row,
    factors,
    factor_start,
    factor_row,
    a,
    a_start,
    a_row,
    a_step,
    rows,
    b,
    b_start,
    b_step,
    count,
):
    """z[m, n] = sum_q a[a_start + m * a_row + q * a_step] * b[b_start + q * b_step + n]"""
    if not isinstance(panels, types.IntegerLiteral):
        return None
    vector = _Vector(b.dtype)
    num = panels.literal_value

    def codegen(context, builder, signature, args):
        (
            _,
            out,
            out_start,
            out_row,
            factors,
            factor_start,
            factor_row,
            a,
            a_start,
            a_row,
            a_step,
            rows,
            b,
            b_start,
            b_step,
            count,
        ) = args
        out_type, factors_type, a_type, b_type = (signature.args[n] for n in (1, 4, 7, 12))
        word = count.type
        const = lambda v: ir.Constant(word, v)
        last = builder.sub(rows, const(1))
        inside = [builder.icmp_signed("<=", const(m), last) for m in range(_TILE // num)]
        index = [builder.select(ok, const(m), last) for m, ok in enumerate(inside)]
        a_rows = [
            _pointer(context, builder, a_type, a, builder.add(a_start, builder.mul(a_row, m))) for m in index
        ]
        b_base = _pointer(context, builder, b_type, b, b_start)
        before, body, after = (
            builder.block,
            builder.append_basic_block("product"),
            builder.append_basic_block("done"),
        )
        builder.branch(body)
        builder.position_at_end(body)
        q = builder.phi(word)
        sums = [builder.phi(vector.ir) for _ in range(_TILE)]
        b_row = builder.gep(b_base, [builder.mul(q, b_step)])
        rights = [_load(builder, builder.gep(b_row, [const(n * vector.lanes)]), vector) for n in range(num)]
        step = builder.mul(q, a_step)
        z = []
        for pointer in a_rows:
            left = _splat(builder, builder.load(builder.gep(pointer, [step])), vector)
            z += [_multiply_add(builder, left, right, sums[len(z) + n]) for n, right in enumerate(rights)]
        following = builder.add(q, const(1))
        q.add_incoming(const(0), before)
        q.add_incoming(following, body)
        for phi, value in zip(sums, z):
            phi.add_incoming(ir.Constant(vector.ir, [0.0] * vector.lanes), before)
            phi.add_incoming(value, body)
        builder.cbranch(builder.icmp_signed("<", following, count), body, after)
        builder.position_at_end(after)
        for m in range(_TILE // num):
            if factors_type == types.none:
                target = builder.add(out_start, builder.mul(out_row, const(m)))
            else:
                target = builder.add(out_start, builder.mul(out_row, index[m]))
                factor = builder.load(
                    _pointer(
                        context,
                        builder,
                        factors_type,
                        factors,
                        builder.add(factor_start, builder.mul(factor_row, index[m])),
                    )
                )
                factor = _splat(
                    builder, builder.select(inside[m], factor, ir.Constant(factor.type, 0.0)), vector
                )
            target = _pointer(context, builder, out_type, out, target)
            for n in range(num):
                value = z[m * num + n]
                pointer = builder.gep(target, [const(n * vector.lanes)])
                if factors_type != types.none:
                    value = _multiply_add(builder, factor, value, _load(builder, pointer, vector))
                _store(builder, pointer, value, vector)
        return context.get_dummy_value()

    i = types.intp
    return types.void(panels, out, i, i, factors, i, i, a, i, i, i, i, b, i, i, i), codegen


OPT = {"nogil": True, "error_model": "numpy", "cache": True}


@njit(**OPT)
def _padded(source, b, row0, row1, r):
    """[row][column][channel] of rows row0-r..row1+r, columns -r .. wide - r zeros outside"""
    _, height, width, channels = source.shape
    out = np.zeros((row1 - row0 + 2 * r, width + 2 * r, channels), source.dtype)
    for row in range(max(0, row0 - r), min(height, row1 + r)):
        out[row - row0 + r, r : r + width] = source[b, row]
    return out


@njit(**OPT)
def _aligned(size, like):
    room = np.empty(size + _BYTES // like.itemsize, like.dtype)
    start = (-room.ctypes.data % _BYTES) // like.itemsize
    return room[start : start + size]


@njit(**OPT)
def _padded_chunks(source, b, row0, row1, r, out):
    """[chunk][row][column][lane] of rows row0-r..row1+r, zeros outside"""
    _, height, width, channels = source.shape
    lanes = _BYTES // source.itemsize
    chunks = channels // lanes
    rows = row1 - row0 + 2 * r
    wide = width + 2 * r
    for n in range(chunks):
        for i in range(rows):
            row = row0 - r + i
            at = (n * rows + i) * wide * lanes
            if row < 0 or row >= height:
                out[at : at + wide * lanes] = 0
            else:
                out[at : at + r * lanes] = 0
                out[at + (r + width) * lanes : at + wide * lanes] = 0
                at += r * lanes
                come = ((b * height + row) * width) * channels + n * lanes
                for j in range(width):
                    store(out, at + j * lanes, load(source, come + j * channels))


@cache
def depthwise(k, transposed):
    r = k // 2
    taps = k * k

    @njit(**OPT)
    def forward(source, kernel, weight, bias, out, blocks, first, last):
        _, height, width, channels = source.shape
        lanes = _BYTES // source.itemsize
        wide = width + 2 * r
        padded = _aligned((_ROWS + 2 * r) * wide * channels, source)
        for block in range(first, last):
            b, row0, row1 = blocks[block]
            _padded_chunks(source, b, row0, row1, r, padded)
            rows = row1 - row0 + 2 * r
            if transposed:
                factors = _padded(kernel, b, row0, row1, r)
            else:
                factors = kernel[b, row0:row1]
            for i in range(row1 - row0):
                for n in range(channels // lanes):
                    for j in range(width):
                        acc = load(bias, n * lanes)
                        for dy in range(k):
                            for dx in range(k):
                                t = dy * k + dx
                                at = (i + dy) * wide + j + dx
                                if transposed:
                                    a = broadcast(factors, at * taps + taps - 1 - t)
                                else:
                                    a = broadcast(factors, (i * width + j) * taps + t)
                                acc = multiply_add(
                                    multiply(a, load(weight, (n * taps + t) * lanes)),
                                    load(padded, (n * rows * wide + at) * lanes),
                                    acc,
                                )
                        store(out, ((b * height + row0 + i) * width + j) * channels + n * lanes, acc)

    return forward


@cache
def depthwise_grad(panels):
    @njit(**OPT)
    def grad_kw(grad, x, kernel, weight, grad_kernel, parts, k, blocks, first, last):
        _, height, width, channels = x.shape
        lanes = _BYTES // x.itemsize
        r = k // 2
        taps = k * k
        sums = _aligned(_SPAN * lanes, x)
        sums[:] = 0
        done = _aligned(_SPAN, x)
        flat = grad_kernel.ravel()
        for block in range(first, last):
            b, row0, row1 = blocks[block]
            parts[block] = 0
            for i in range(row0, row1):
                grad_kernel[b, i] = 0
                row = (b * height + i) * width
                for left in range(0, width, _SPAN):
                    right = min(width, left + _SPAN)
                    for t in range(taps):
                        dy = t // k - r
                        dx = t % k - r
                        if i + dy < 0 or i + dy >= height:
                            continue
                        lo = max(left, -dx)
                        num = min(right, width - dx) - lo
                        at = row + lo
                        shift = (dy * width + dx) * channels
                        for c in range(0, channels, lanes * panels):
                            w0 = load(weight, t * channels + c)
                            w1 = load(weight, t * channels + c + lanes * (panels - 1))
                            g0 = load(parts, (block * taps + t) * channels + c)
                            g1 = load(parts, (block * taps + t) * channels + c + lanes * (panels - 1))
                            for m in range(num):
                                a = broadcast(kernel, (at + m) * taps + t)
                                q = (at + m) * channels + c
                                p = multiply(load(grad, q), load(x, q + shift))
                                g0 = multiply_add(p, a, g0)
                                s = multiply(p, w0)
                                if panels == 2:
                                    p = multiply(load(grad, q + lanes), load(x, q + shift + lanes))
                                    g1 = multiply_add(p, a, g1)
                                    s = multiply_add(p, w1, s)
                                if c > 0:
                                    s = add(s, load(sums, m * lanes))
                                store(sums, m * lanes, s)
                            store(parts, (block * taps + t) * channels + c, g0)
                            if panels == 2:
                                store(parts, (block * taps + t) * channels + c + lanes, g1)
                        for m in range(0, num, lanes):
                            store(done, m, totals(sums, m * lanes))
                        for m in range(num):
                            flat[(at + m) * taps + t] = done[m]

    return grad_kw


@cache
def full(panels):
    tile = _TILE // panels

    @njit(**OPT)
    def forward(x, kernel, weight, bias, y, k, blocks, first, last):
        """weight [t][c][o]"""
        _, height, width, cin = x.shape
        cout = y.shape[3]
        lanes = _BYTES // x.itemsize
        r = k // 2
        taps = k * k
        panel = panels * lanes
        for block in range(first, last):
            b, row0, row1 = blocks[block]
            for i in range(row0, row1):
                y[b, i] = bias
                row = (b * height + i) * width
                for t in range(taps):
                    dy = t // k - r
                    dx = t % k - r
                    if i + dy < 0 or i + dy >= height:
                        continue
                    stop = min(width, width - dx)
                    for o in range(0, cout, panel):
                        for j in range(max(0, -dx), stop, tile):
                            at = row + j
                            product(
                                panels,
                                y,
                                at * cout + o,
                                cout,
                                kernel,
                                at * taps + t,
                                taps,
                                x,
                                (at + dy * width + dx) * cin,
                                cin,
                                1,
                                stop - j,
                                weight,
                                t * cin * cout + o,
                                cout,
                                cin,
                            )

    return forward


@cache
def full_grad_input(panels):
    tile = _TILE // panels

    @njit(**OPT)
    def grad_input(grad, x, kernel, weight, grad_x, grad_kernel, k, blocks, first, last):
        """weight [t][o][c]"""
        _, height, width, cin = x.shape
        cout = grad.shape[3]
        lanes = _BYTES // x.itemsize
        r = k // 2
        taps = k * k
        panel = panels * lanes
        room = max(tile, lanes)
        z = _aligned(tile * panel, x)
        sums = _aligned(room * lanes, x)
        done = _aligned(room, x)
        sums[:] = 0
        for block in range(first, last):
            b, row0, row1 = blocks[block]
            for i in range(row0, row1):
                grad_kernel[b, i] = 0
                row = (b * height + i) * width
                for t in range(taps):
                    dy = t // k - r
                    dx = t % k - r
                    if i + dy < 0 or i + dy >= height:
                        continue
                    stop = min(width, width - dx)
                    for c in range(0, cin, panel):
                        for j in range(max(0, -dx), stop, tile):
                            product(
                                panels,
                                z,
                                0,
                                panel,
                                None,
                                0,
                                0,
                                grad,
                                (row + j) * cout,
                                cout,
                                1,
                                stop - j,
                                weight,
                                t * cin * cout + c,
                                cin,
                                cout,
                            )
                            for m in range(min(tile, stop - j)):
                                a = broadcast(kernel, (row + j + m) * taps + t)
                                at = (row + j + m + dy * width + dx) * cin + c
                                s = multiply(load(z, m * panel), load(x, at))
                                store(grad_x, at, multiply_add(a, load(z, m * panel), load(grad_x, at)))
                                for n in range(lanes, panel, lanes):
                                    s = multiply_add(load(z, m * panel + n), load(x, at + n), s)
                                    store(
                                        grad_x,
                                        at + n,
                                        multiply_add(a, load(z, m * panel + n), load(grad_x, at + n)),
                                    )
                                store(sums, m * lanes, s)
                            for m in range(0, tile, lanes):
                                store(done, m, totals(sums, m * lanes))
                            for m in range(min(tile, stop - j)):
                                grad_kernel[b, i, j + m, t] += done[m]

    return grad_input


@cache
def full_grad_weight(panels):
    tile = _TILE // panels

    @njit(**OPT)
    def grad_weight(grad, x, kernel, parts, k, blocks, tasks, first, last):
        """parts[group][t][o][c]"""
        _, height, width, cin = x.shape
        cout = grad.shape[3]
        lanes = _BYTES // x.itemsize
        r = k // 2
        taps = k * k
        panel = panels * lanes
        scaled = _aligned(width * cin, x)
        one = np.ones(1, x.dtype)
        for task in range(first, last):
            group, dy = divmod(task, k)
            parts[group, dy * k : dy * k + k] = 0
            for block in range(tasks[group], tasks[group + 1]):
                b, row0, row1 = blocks[block]
                for i in range(max(row0, r - dy), min(row1, height + r - dy)):
                    row = (b * height + i) * width
                    for t in range(dy * k, dy * k + k):
                        dx = t - dy * k - r
                        start = max(0, -dx)
                        num = min(width, width - dx) - start
                        if num <= 0:
                            continue
                        source = (row + start + (dy - r) * width + dx) * cin
                        for j in range(num):
                            a = broadcast(kernel, (row + start + j) * taps + t)
                            for c in range(0, cin, lanes):
                                store(scaled, j * cin + c, multiply(a, load(x, source + j * cin + c)))
                        for c in range(0, cin, panel):
                            for o in range(0, cout, tile):
                                product(
                                    panels,
                                    parts,
                                    ((group * taps + t) * cout + o) * cin + c,
                                    cin,
                                    one,
                                    0,
                                    0,
                                    grad,
                                    (row + start) * cout + o,
                                    1,
                                    cout,
                                    cout - o,
                                    scaled,
                                    c,
                                    cin,
                                    num,
                                )

    return grad_weight


def _slices(count: int) -> list[tuple[int, int]]:
    parts = min(count, 4 * torch.get_num_threads())
    return [(n * count // parts, (n + 1) * count // parts) for n in range(parts)]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="unsmear")


os.register_at_fork(after_in_child=_pool.cache_clear)


def _run(kernel: Any, count: int, *args: Any) -> None:
    """Call kernel(*args, first, last) on slices that cover range(count), in threads."""
    args = tuple(arg.numpy() if isinstance(arg, Tensor) else arg for arg in args)
    slices = _slices(count)
    threads = torch.get_num_threads()
    if threads == 1 or len(slices) == 1:
        for first, last in slices:
            kernel(*args, first, last)
    else:
        list(_pool(threads).map(lambda part: kernel(*args, *part), slices))


def _lanes(tensor: Tensor) -> int:
    return _BYTES // tensor.element_size()


def _panels(channels: int, lanes: int) -> int:
    return 2 if channels % (2 * lanes) == 0 else 1


def _rows_last(tensor: Tensor, pad: int = 0) -> Tensor:
    """(B, C, H, W) in any layout to dense (B, H, W, C + pad)."""
    tensor = tensor.detach().permute(0, 2, 3, 1)
    return (F.pad(tensor, (0, pad)) if pad else tensor).contiguous()


def _image(rows: Tensor, channels: int) -> Tensor:
    """The reverse of `_rows_last`."""
    return rows[..., :channels].contiguous().permute(0, 3, 1, 2)


def _blocks(batch: int, height: int, rows: int) -> np.ndarray:
    starts = range(0, height, rows)
    return np.array([(b, i, min(i + rows, height)) for b in range(batch) for i in starts], np.int64).reshape(
        -1, 3
    )


def _chunked(weight: Tensor, lanes: int) -> Tensor:
    """(C, 1, k, k) to (chunks, k * k, lanes)."""
    weight = weight.detach().flatten(1)
    weight = F.pad(weight, (0, 0, 0, -len(weight) % lanes))
    return weight.unflatten(0, (-1, lanes)).transpose(1, 2).contiguous()


def _depthwise_forward(
    x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor | None, *, transposed: bool
) -> Tensor:
    k, channels, lanes = weight.shape[-1], x.shape[1], _lanes(x)
    pad = -channels % lanes
    taps = _chunked(weight.flip(2, 3) if transposed else weight, lanes)
    bias = x.new_zeros(channels + pad) if bias is None else F.pad(bias.detach(), (0, pad)).contiguous()
    source, factors = _rows_last(x, pad), _rows_last(kernel)
    out = torch.empty_like(source)
    blocks = _blocks(x.shape[0], x.shape[2], _ROWS)
    _run(depthwise(k, transposed), len(blocks), source, factors, taps, bias, out, blocks)
    return _image(out, channels)


def _depthwise_grad(grad: Tensor, x: Tensor, kernel: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    k, channels, lanes = weight.shape[-1], x.shape[1], _lanes(x)
    pad = -channels % lanes
    taps, factors = F.pad(weight.detach().flatten(1).t(), (0, pad)).contiguous(), _rows_last(kernel)
    blocks = _blocks(x.shape[0], x.shape[2], _ROWS)
    grad_kernel, parts = torch.empty_like(factors), taps.new_empty(len(blocks), *taps.shape)
    _run(
        depthwise_grad(_panels(channels + pad, lanes)),
        len(blocks),
        _rows_last(grad, pad),
        _rows_last(x, pad),
        factors,
        taps,
        grad_kernel,
        parts,
        k,
        blocks,
    )
    grad_weight = parts.sum(0)[:, :channels].t().reshape(weight.shape)
    return _image(grad_kernel, k * k), grad_weight


def forward(x, kernel, weight, bias, depthwise):
    if depthwise:
        return _depthwise_forward(x, kernel, weight, bias, transposed=False)
    cout, cin, k, _ = weight.shape
    lanes = _lanes(x)
    pad = -cout % lanes
    taps = F.pad(weight.detach().permute(2, 3, 1, 0), (0, pad)).reshape(k * k, cin, cout + pad).contiguous()
    bias = x.new_zeros(cout + pad) if bias is None else F.pad(bias.detach(), (0, pad)).contiguous()
    source = _rows_last(x)
    out = source.new_empty(*source.shape[:3], cout + pad)
    blocks = _blocks(x.shape[0], x.shape[2], _ROWS)
    _run(
        full(_panels(cout + pad, lanes)), len(blocks), source, _rows_last(kernel), taps, bias, out, k, blocks
    )
    return _image(out, cout)


def backward(grad, x, kernel, weight, wants, depthwise):
    grad_x = grad_kernel = grad_weight = None
    if depthwise:
        if wants[0]:
            grad_x = _depthwise_forward(grad, kernel, weight, None, transposed=True)
        if wants[1] or wants[2]:
            grad_kernel, grad_weight = _depthwise_grad(grad, x, kernel, weight)
        return grad_x, grad_kernel, grad_weight
    cout, cin, k, _ = weight.shape
    lanes = _lanes(x)
    pad = -cin % lanes
    panels = _panels(cin + pad, lanes)
    source, factors, slopes = _rows_last(x, pad), _rows_last(kernel), _rows_last(grad)
    if wants[0] or wants[1]:
        taps = (
            F.pad(weight.detach().permute(2, 3, 0, 1), (0, pad)).reshape(k * k, cout, cin + pad).contiguous()
        )
        grad_x, grad_kernel = torch.zeros_like(source), torch.empty_like(factors)
        blocks = _blocks(x.shape[0], x.shape[2], max(_ROWS, k - 1))
        odd = blocks[:, 1] // max(_ROWS, k - 1) % 2
        for turn in (blocks[odd == 0], blocks[odd == 1]):
            _run(
                full_grad_input(panels),
                len(turn),
                slopes,
                source,
                factors,
                taps,
                grad_x,
                grad_kernel,
                k,
                turn,
            )
        grad_x, grad_kernel = _image(grad_x, cin), _image(grad_kernel, k * k)
    if wants[2]:
        blocks = _blocks(x.shape[0], x.shape[2], _ROWS)
        groups = np.arange(_GROUPS + 1) * len(blocks) // _GROUPS
        parts = source.new_empty(_GROUPS, k * k, cout, cin + pad)
        _run(full_grad_weight(panels), _GROUPS * k, slopes, source, factors, parts, k, blocks, groups)
        grad_weight = parts.sum(0)[..., :cin].reshape(k, k, cout, cin).permute(2, 3, 0, 1)
    return grad_x, grad_kernel, grad_weight
