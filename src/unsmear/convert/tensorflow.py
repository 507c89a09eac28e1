"""Checkpoints of TensorFlow 1 (its second format, since 2016), read without TensorFlow.

`PREFIX.index` is a sorted table of names in the form of LevelDB: blocks of entries that share the beginnings of their
names, a block of where these blocks are, and 48 bytes at the end of where that one is. An entry says which bytes of
`PREFIX.data-00000-of-00001` are the tensor. Blocks and tensors have checksums, and all of them are checked.

A file may be hostile: nothing is read or allocated that the sizes of the files themselves do not allow.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unsmear.convert.protobuf import Value, read_fields, read_varint
from unsmear.errors import ModelError
from unsmear.ops.simd import compiled

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}
_TEXT = 7
_MAX_NAME, _MAX_TENSORS = 1024, 100_000  # shared beginnings make short files of long names


def read_checkpoint(prefix: Path) -> dict[str, Tensor]:
    """Read all numbers of a checkpoint.

    Args:
        prefix: The path that its files begin with, without `.index` or `.data-00000-of-00001`.

    Returns:
        Tensors by the names of their variables, in the types of the file; text is left out.

    Raises:
        ModelError: If a file is missing, damaged, or uses what no such checkpoint of a network needs.
    """
    path = Path(f"{prefix}.index")
    try:
        table = dict(_read_table(memoryview(path.read_bytes())))
        shards = _read_header(table.pop(b"", memoryview(b"")))
        entries = sorted((_read_entry(k.decode(), v, shards) for k, v in table.items()), key=lambda e: e.place)
        return {entry.name: tensor for entry, tensor in _read_tensors(prefix, entries, shards)}
    except OSError as error:
        raise ModelError(f"{error.filename or path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise ModelError(f"{path}: not a readable TensorFlow checkpoint ({error})") from None


def collect(tensors: Mapping[str, Tensor], layers: Mapping[str, str]) -> dict[str, Tensor] | None:
    """Take the weights and biases of layers out of a checkpoint.

    Args:
        tensors: The checkpoint.
        layers: Names of our convolutions, plain or transposed, and their scopes there.

    Returns:
        A state dict, float32; None if something is missing. Kernels of both kinds come as (H, W, one, other), and
        PyTorch has the channels in the other order first.
    """
    made = {}
    for ours, theirs in layers.items():
        weight, bias = tensors.get(f"{theirs}/weights"), tensors.get(f"{theirs}/biases")
        if weight is None or bias is None or weight.dim() != 4:
            return None
        made[f"{ours}.weight"] = weight.permute(3, 2, 0, 1).contiguous().float()
        made[f"{ours}.bias"] = bias.float()
    return made


def left_over(tensors: Mapping[str, Tensor], layers: Mapping[str, str]) -> tuple[str, ...]:
    """Names in a checkpoint that `collect` does not take, such as the optimizer's."""
    taken = {f"{theirs}/{kind}" for theirs in layers.values() for kind in ("weights", "biases")}
    return tuple(sorted(set(tensors) - taken))


@dataclass(frozen=True)
class _Entry:
    """Where a tensor is."""

    name: str
    shape: tuple[int, ...]
    type: int
    shard: int
    offset: int
    size: int
    checksum: int

    @property
    def place(self) -> tuple[int, int]:
        return self.shard, self.offset


def _read_table(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """All entries of the index, in the order of their names."""
    if len(data) < _FOOTER or int.from_bytes(data[-8:], "little") != _MAGIC:
        raise ValueError("it does not end as one")
    _, _, position = _read_handle(data, len(data) - _FOOTER)  # a block that is not used
    offset, size, _ = _read_handle(data, position)
    count, end, last = 0, 0, None
    for _, handle in _read_block(data, offset, size):
        offset, size, _ = _read_handle(handle, 0)
        if offset < end:  # else a file of a megabyte could hold the same block a hundred thousand times
            raise ValueError("blocks overlap")
        end = offset + size
        for name, value in _read_block(data, offset, size):
            count += 1
            if count > _MAX_TENSORS or (last is not None and name <= last):
                raise ValueError("too many names" if count > _MAX_TENSORS else "names are out of order")
            yield name, value
            last = name


def _read_handle(data: memoryview, position: int) -> tuple[int, int, int]:
    """Where a block begins, its size, and the position after that."""
    offset, position = read_varint(data, position)
    size, position = read_varint(data, position)
    return offset, size, position


def _read_block(data: memoryview, offset: int, size: int) -> Iterator[tuple[bytes, memoryview]]:
    """The entries of one block: names and values."""
    if offset + size + 5 > len(data):
        raise ValueError("a block lies outside of the file")
    if data[offset + size] != 0:
        raise ValueError("a block is compressed")
    stored = int.from_bytes(data[offset + size + 1 : offset + size + 5], "little")
    _check(np.frombuffer(data[offset : offset + size + 1], np.uint8), stored)
    block = data[offset : offset + size]
    # The names that share nothing are listed at the end, for binary search; reading all needs no list.
    end = size - 4 * (int.from_bytes(block[-4:], "little") + 1)
    if end < 0:
        raise ValueError("a block is too short")
    name, position = b"", 0
    while position < end:
        shared, position = read_varint(block, position)
        added, position = read_varint(block, position)
        length, position = read_varint(block, position)
        if shared > len(name) or shared + added > _MAX_NAME or position + added + length > end:
            raise ValueError("a name or value is longer than its block")
        name = name[:shared] + bytes(block[position : position + added])
        position += added
        yield name, block[position : position + length]
        position += length


def _read_header(message: memoryview) -> int:
    """Number of data files."""
    fields = dict(read_fields(message))
    shards = _number(fields.get(1, 0))
    if fields.get(2, 0) != 0:
        raise ValueError("it was written on a big-endian machine")
    if not 1 <= shards <= 99_999:
        raise ValueError(f"it names {shards} data files")
    return shards


def _read_entry(name: str, message: memoryview, shards: int) -> _Entry:
    fields: dict[int, Value] = {}
    for number, value in read_fields(message):
        if number == 7:
            raise ValueError(f"{name!r} is stored in slices")
        fields[number] = value
    shape = tuple(_read_shape(_bytes(fields.get(2, memoryview(b"")))))
    kind, shard, offset, size = (_number(fields.get(number, 0)) for number in (1, 3, 4, 5))
    checksum = int.from_bytes(_bytes(fields.get(6, memoryview(b""))), "little")
    if kind in _TYPES and math.prod(shape) * np.dtype(_TYPES[kind]).itemsize != size:
        raise ValueError(f"{name!r} has {size} bytes, which is not its shape {shape}")
    if kind not in _TYPES and kind != _TEXT:
        raise ValueError(f"{name!r} has the unknown type {kind}")
    if shard >= shards:
        raise ValueError(f"{name!r} is in a data file that does not exist")
    return _Entry(name, shape, kind, shard, offset, size, checksum)


def _read_shape(message: memoryview) -> Iterator[int]:
    for number, dimension in read_fields(message):
        if number == 2:
            length = _number(dict(read_fields(_bytes(dimension))).get(1, 0))
            if length >= 2**31:
                raise ValueError("a shape is negative or too large")
            yield length


def _read_tensors(prefix: Path, entries: list[_Entry], shards: int) -> Iterator[tuple[_Entry, Tensor]]:
    """Read tensors in the order of their places."""
    end, length, shard = 0, 0, -1
    for entry in entries:
        path = Path(f"{prefix}.data-{entry.shard:05d}-of-{shards:05d}")
        if entry.shard != shard:
            end, length, shard = 0, path.stat().st_size, entry.shard
        if entry.size and entry.offset < end:
            raise ValueError(f"{entry.name!r} overlaps another tensor")
        end = max(end, entry.offset + entry.size)
        if end > length:
            raise ValueError(f"{entry.name!r} lies outside of {path.name}")
        if entry.type != _TEXT:
            content = np.fromfile(path, np.uint8, entry.size, offset=entry.offset)
            _check(content, entry.checksum)
            yield entry, torch.from_numpy(content.view(_TYPES[entry.type]).reshape(entry.shape))


def _number(value: Value) -> int:
    if not isinstance(value, int):
        raise ValueError("a field is no number")
    return value


def _bytes(value: Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a field is a number")
    return value


def _check(data: np.ndarray[Any, np.dtype[np.uint8]], stored: int) -> None:
    """Compare with a checksum as it is stored: CRC-32C, turned by 15 bits, plus a constant."""
    crc = int(_crc(data, _REMAINDERS))
    if ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF != stored:
        raise ValueError("a checksum does not fit: the file is damaged")


def _remainders() -> np.ndarray[Any, np.dtype[np.uint32]]:
    """What each byte leaves when divided by the polynomial of CRC-32C, bits in reverse."""
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & 1, crc >> 1 ^ np.uint32(0x82F63B78), crc >> 1)
    return crc


_REMAINDERS = _remainders()


@compiled
def _crc(data, remainders):  # pragma: no cover - compiled
    crc = np.uint32(0xFFFFFFFF)
    for byte in data:
        crc = np.uint32(remainders[(crc ^ byte) & 0xFF] ^ (crc >> 8))
    return np.uint32(crc ^ 0xFFFFFFFF)
