"""Reading weights that others released, without ever running what is in their files.

PyTorch checkpoints are pickles, which are programs. They are read by `torch.load` with `weights_only=True` alone, which
knows tensors and plain containers and refuses all else. Nor may a file take much more memory than its own size, be it
compressed, or full of tensors that all show the same few numbers.
"""

import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from unsmear.checkpoint import FORMAT
from unsmear.convert.caffe import read_caffemodel
from unsmear.convert.released import Released
from unsmear.convert.tensorflow import read_checkpoint
from unsmear.errors import ModelError, UsageError
from unsmear.paths import exists

SUFFIXES = (".pkl", ".pth", ".pt", ".ckpt", ".h5", ".safetensors", ".caffemodel")
"""What counts in a folder. A file that is given itself may be called anything."""

# What training programs wrap weights in, the more averaged and the more to the point first.
_WRAPPINGS = (
    "params_ema",
    "params",
    "state_dict",
    "model_state_dict",
    "model",
    "generator",
    "netG",
    "net_g",
    "G",
)
_NESTING = 4
_MAX_NAME = 1024  # characters
_MOST = 4  # times the size of a file that its tensors may have: half precision doubles, and names may share
_TENSORFLOW = re.compile(r"(.+)\.(index|meta|data-\d+-of-\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """Weights that lie together: one file, or the several ones of a TensorFlow checkpoint.

    Attributes:
        path: The file; of a TensorFlow checkpoint what the names of its files begin with.
        files: All of its files.
    """

    path: Path
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """What a converter knows it by: without folder, and without extension."""
        return self.path.stem if self.path in self.files else self.path.name

    def read(self) -> dict[str, Tensor]:
        """Its tensors by name, numbers with a fraction as float32.

        Raises:
            ModelError: If it is damaged, holds no tensors, or more than may be read safely.
        """
        if self.path not in self.files:
            return read_checkpoint(self.path)
        if self.path.suffix == ".caffemodel":
            return read_caffemodel(self.path)
        tensors = _unwrap(_read_safetensors(self.path) if _is_safetensors(self.path) else _read_torch(self.path))
        if not tensors:
            raise ModelError(f"{self.path}: holds no tensors by name")
        _check(tensors, self.path)
        while all(name.startswith("module.") for name in tensors):  # trained on several GPUs
            tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
        return {name: t.detach().float() if t.is_floating_point() else t.detach() for name, t in tensors.items()}


def find_checkpoints(given: Sequence[Path]) -> list[Checkpoint]:
    """What was given: files, folders of files, or TensorFlow checkpoints by their prefix or any of their files.

    Raises:
        UsageError: If something is missing, a folder holds no weights, or two files have the same name.
    """
    found: dict[Path, Checkpoint] = {}
    for path in given:
        exists(path)  # or tell why that cannot be told
        folder = (
            path.parent if path.name == "checkpoint" and path.is_file() else path
        )  # TensorFlow's note on its folder
        members = [p for p in _inside(folder) if p.suffix in (*SUFFIXES, ".index")] if folder.is_dir() else [path]
        if not members:
            raise UsageError(f"{path}: holds no weights, whose files end in {', '.join(SUFFIXES)} or .index")
        for checkpoint in map(_checkpoint, members):
            found[checkpoint.path] = checkpoint
    names = [checkpoint.name for checkpoint in found.values()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"two of the files are called {twice!r}: give the weights of one network only")
    return list(found.values())


def is_ours(path: Path) -> bool:
    """Whether a file is a weights file of `save_model`, readable or not."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (OSError, SafetensorError):
        return False


def read_all(checkpoints: Sequence[Checkpoint]) -> Released:
    """The tensors of all checkpoints.

    Raises:
        ModelError: If one is damaged, holds no tensors, or more than may be read safely.
    """
    return {checkpoint.name: checkpoint.read() for checkpoint in checkpoints}


def digests(checkpoints: Sequence[Checkpoint]) -> dict[str, str]:
    """SHA-256 of every file by its name, in hexadecimal digits.

    Raises:
        UsageError: If one cannot be read.
    """
    digest = {}
    for path in (file for checkpoint in checkpoints for file in checkpoint.files):
        try:
            with path.open("rb") as file:
                digest[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    return digest


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read: {error.strerror}") from None


def _checkpoint(path: Path) -> Checkpoint:
    part = _TENSORFLOW.fullmatch(path.name)
    prefix = path.with_name(part[1]) if part else path
    index = prefix.with_name(prefix.name + ".index")
    if not path.is_file() or part:
        if index.is_file():
            shards = sorted(p for p in prefix.parent.glob("*.data-*") if p.name.startswith(f"{prefix.name}.data-"))
            return Checkpoint(prefix, (index, *shards))
        if not path.is_file():
            raise UsageError(f"{path}: no such file or folder")
    return Checkpoint(path, (path,))


def _is_safetensors(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: not a readable weights file ({error})") from None


def _read_torch(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                    raise ModelError(f"{path}: is compressed; save it anew with torch.save")
        return torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        refused = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if refused:
            raise ModelError(
                f"{path}: not read, as it asks to call {refused[1]!r}, which could run code; only files of plain"
                " tensors are safe"
            ) from None
        raise ModelError(f"{path}: not a readable weights file, neither of PyTorch nor safetensors") from None


def _unwrap(content: Any) -> dict[str, Tensor]:
    """The weights among all that a training program saved beside them."""
    for _ in range(_NESTING):
        if not isinstance(content, Mapping):
            return {}
        inner = next((content[key] for key in _WRAPPINGS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _check(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse what is no plain array of numbers, or far larger than the file."""
    room = _MOST * path.stat().st_size
    for name, tensor in tensors.items():
        if not name.isprintable() or len(name) > _MAX_NAME:
            raise ModelError(f"{path}: the names of its tensors cannot be printed")
        is_plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_nested
        if not is_plain or tensor.is_quantized or tensor.is_complex():
            raise ModelError(f"{path}: {name} is no plain array of numbers")
        room -= 4 * tensor.numel()
        if room < 0:
            raise ModelError(f"{path}: its tensors would take more than {_MOST} times the size of the file")
