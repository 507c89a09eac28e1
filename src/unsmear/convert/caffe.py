"""Weights of Caffe (`*.caffemodel`, one protocol buffer), read without Caffe."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unsmear.convert.protobuf import read_fields, read_varint
from unsmear.errors import ModelError


def read_caffemodel(path: Path) -> dict[str, Tensor]:
    """Read the weights of every layer.

    Args:
        path: The file.

    Returns:
        Tensors by `layer.0` (of convolutions the weights) and `layer.1` (their biases), float32.

    Raises:
        ModelError: If the file is missing, damaged, or older than 2015.
    """
    tensors: dict[str, Tensor] = {}
    try:
        with path.open("rb") as file:
            network = memoryview(file.read())
        for number, layer in read_fields(network):
            if number == 100 and isinstance(layer, memoryview):
                _read_layer(layer, tensors)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, OverflowError) as error:
        raise ModelError(f"{path}: not a readable Caffe model ({error})") from None
    if not tensors:
        raise ModelError(f"{path}: not a readable Caffe model (no layer has weights)")
    return tensors


def _read_layer(layer: memoryview, tensors: dict[str, Tensor]) -> None:
    """Add the tensors of a layer."""
    name, blobs = "", []
    for number, value in read_fields(layer):
        if number == 1 and isinstance(value, memoryview):
            name = bytes(value).decode()
        elif number == 7 and isinstance(value, memoryview):
            blobs.append(_read_blob(value))
    for index, blob in enumerate(blobs):
        if f"{name}.{index}" in tensors:
            raise ValueError(f"two layers are called {name!r}")
        tensors[f"{name}.{index}"] = blob


def _read_blob(blob: memoryview) -> Tensor:
    shape: list[int] = []
    old_shape = [0, 0, 0, 0]
    parts: list[memoryview] = []
    for number, value in read_fields(blob):
        if isinstance(value, int):
            if 1 <= number <= 4:
                old_shape[number - 1] = value
        elif number == 5:
            parts.append(value)
        elif number == 7:
            shape = [length for field in read_fields(value) for length in _lengths(field[1])]
    shape = shape or old_shape
    values = np.frombuffer(bytearray().join(parts), "<f4")
    if math.prod(shape) != values.size:
        raise ValueError(f"{values.size} values do not have the shape {tuple(shape)}")
    return torch.from_numpy(values.reshape(shape))


def _lengths(packed: int | memoryview) -> list[int]:
    """The numbers of a repeated field, which are packed into one or stand alone."""
    if isinstance(packed, int):
        return [packed]
    lengths, position = [], 0
    while position < len(packed):
        length, position = read_varint(packed, position)
        lengths.append(length)
    return lengths
