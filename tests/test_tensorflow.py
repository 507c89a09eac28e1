"""Weights of TensorFlow 1 and Caffe: files written here by hand, whole, damaged, and hostile."""

import struct
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unsmear.convert.caffe import read_caffemodel
from unsmear.convert.tensorflow import read_checkpoint
from unsmear.errors import ModelError

CODES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | (crc << 17) & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF)


def varint(number):
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def fixed(number, four):
    return varint(number << 3 | 5) + four


def shape_message(shape):
    return b"".join(field(2, field(1, length)) for length in shape)


def entry(array, offset, data, **changes):
    values = {"kind": CODES[str(array.dtype)], "shape": array.shape, "size": len(data)} | changes
    message = field(1, values["kind"]) + field(2, shape_message(values["shape"]))
    return message + field(4, offset) + field(5, values["size"]) + fixed(6, masked(data))


def block(entries, restart_every=4):
    out, restarts, last = b"", [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % restart_every == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    return out + b"".join(struct.pack("<I", r) for r in restarts) + struct.pack("<I", len(restarts))


def table(entries, per_block=6, restart_every=4):
    """A sorted table of LevelDB."""
    out, handles = b"", []

    def add(content):
        nonlocal out
        handle = varint(len(out)) + varint(len(content))
        out += content + b"\0" + masked(content + b"\0")
        return handle

    for i in range(0, len(entries), per_block):
        part = entries[i : i + per_block]
        handles.append((part[-1][0] + b"~", add(block(part, restart_every))))
    unused = add(block([]))
    footer = unused + add(block(handles, 1))
    return out + footer + b"\0" * (40 - len(footer)) + struct.pack("<Q", 0xDB4775248B80FB57)


HEADER = field(1, 1) + field(2, 0) + field(3, field(1, 1))


def write(prefix, arrays, header=HEADER, change=lambda name, message: message, **layout):
    data, entries = b"", [(b"", header)]
    for name in sorted(arrays):
        content = arrays[name].tobytes()
        entries.append((name.encode(), change(name, entry(arrays[name], len(data), content))))
        data += content
    prefix.with_name(prefix.name + ".index").write_bytes(table(entries, **layout))
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(data)


def some_arrays():
    random = np.random.default_rng(0)
    names = [f"g_net/enc{i}_{j}/conv{k}/{kind}" for i in "123" for j in "12" for k in "12" for kind in ("w", "w/Adam")]
    arrays = {name: random.normal(size=(3, 2, 1 + i % 3)).astype("float32") for i, name in enumerate(names)}
    scalars = {"beta1_power": np.float32(0.9), "global_step": np.int32(523), "step64": np.int64(2**40)}
    return (
        arrays | {k: np.array(v) for k, v in scalars.items()} | {"half": np.ones(3, "float16"), "none": np.ones((0, 2))}
    )


def test_the_checksum_of_the_writer_is_the_published_one():
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize(("per_block", "restart_every"), [(1, 1), (6, 4), (1000, 16), (7, 1000)])
def test_reads_what_was_written(tmp_path, per_block, restart_every):
    arrays, prefix = some_arrays(), tmp_path / "deblur.model-523000"
    write(prefix, arrays, per_block=per_block, restart_every=restart_every)
    tensors = read_checkpoint(prefix)
    assert set(tensors) == set(arrays)
    for name, array in arrays.items():
        assert torch.equal(tensors[name], torch.from_numpy(array)), name
        assert tensors[name].dtype == torch.from_numpy(array).dtype


def test_several_data_files(tmp_path):
    a, b = np.arange(3, dtype="float32"), np.arange(4, dtype="float32")
    message = entry(b, 0, b.tobytes()) + field(3, 1)
    entries = [(b"", field(1, 2)), (b"a", entry(a, 0, a.tobytes())), (b"b", message)]
    (tmp_path / "m.index").write_bytes(table(entries))
    (tmp_path / "m.data-00000-of-00002").write_bytes(a.tobytes())
    (tmp_path / "m.data-00001-of-00002").write_bytes(b.tobytes())
    tensors = read_checkpoint(tmp_path / "m")
    assert tensors["a"].tolist() == a.tolist()
    assert tensors["b"].tolist() == b.tolist()


def test_text_is_left_out(tmp_path):
    arrays = {"graph": np.arange(2, dtype="float32"), "w": np.ones(2, "float32")}
    write(tmp_path / "m", arrays, change=lambda n, m: m.replace(field(1, 1), field(1, 7), 1) if n == "graph" else m)
    assert list(read_checkpoint(tmp_path / "m")) == ["w"]


def test_every_damage_is_noticed(tmp_path):
    arrays, prefix = some_arrays(), tmp_path / "m"
    write(prefix, arrays)
    expected = read_checkpoint(prefix)
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        broken = [whole[:cut] for cut in range(0, len(whole), 97)]
        broken += [whole[:i] + bytes([whole[i] ^ 0x10]) + whole[i + 1 :] for i in range(0, len(whole), 7)]
        for content in broken:
            path.write_bytes(content)
            try:
                tensors = read_checkpoint(prefix)
            except ModelError:
                continue
            # What is unused may change: the padding of the footer, and where the unused block is.
            assert path.suffix == ".index"
            assert all(torch.equal(tensors[k], expected[k]) for k in expected)
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 2**40, "shape": (2**20, 2**18)}, "lies outside"),
        ({"shape": (2**20, 2**20)}, "which is not its shape"),
        ({"shape": (2**63 - 1, 4)}, "negative or too large"),
        ({"kind": 14}, "unknown type 14"),
    ],
)
def test_entries_that_lie_are_refused(tmp_path, change, message):
    w = np.ones(3, "float32")
    (tmp_path / "m.index").write_bytes(table([(b"", HEADER), (b"w", entry(w, 0, w.tobytes(), **change))]))
    (tmp_path / "m.data-00000-of-00001").write_bytes(w.tobytes())
    with pytest.raises(ModelError, match=message):
        read_checkpoint(tmp_path / "m")


def test_hostile_tables_are_refused(tmp_path):
    w = np.ones(3, "float32")
    one = entry(w, 0, w.tobytes())
    (tmp_path / "m.data-00000-of-00001").write_bytes(w.tobytes())
    cases = {
        "overlaps another": [(b"", HEADER), (b"v", one), (b"w", one)],
        "out of order": [(b"", HEADER), (b"w", one), (b"v", one)],
        "longer than its block": [(b"", HEADER), (b"w" * 5000, one)],
        "stored in slices": [(b"", HEADER), (b"w", one + field(7, b""))],
        "does not exist": [(b"", HEADER), (b"w", one + field(3, 1))],
        "big-endian": [(b"", field(1, 1) + field(2, 1)), (b"w", one)],
        "0 data files": [(b"w", one)],
        "within a field": [(b"", HEADER), (b"w", b"\x12\x7f")],
        "is no number": [(b"", HEADER), (b"w", field(1, b"1"))],
    }
    for message, entries in cases.items():
        (tmp_path / "m.index").write_bytes(table(entries))
        with pytest.raises(ModelError, match=message):
            read_checkpoint(tmp_path / "m")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"m\.index: cannot be read"):
        read_checkpoint(tmp_path / "m")
    write(tmp_path / "m", {"w": np.ones(3, "float32")})
    (tmp_path / "m.data-00000-of-00001").unlink()
    with pytest.raises(ModelError, match=r"m\.data-00000-of-00001: cannot be read"):
        read_checkpoint(tmp_path / "m")


def blob(array, old=False):
    if old:
        shape = b"".join(field(i + 1, length) for i, length in enumerate(array.shape))
        return shape + b"".join(fixed(5, struct.pack("<f", value)) for value in array.flat)
    return field(7, field(1, b"".join(varint(n) for n in array.shape))) + field(5, array.astype("<f4").tobytes())


def caffemodel(layers):
    messages = [field(1, name.encode()) + b"".join(field(7, b) for b in blobs) for name, blobs in layers]
    return field(1, b"LRNN") + b"".join(field(100, field(2, b"") + message) for message in messages)


def test_reads_caffe_models(tmp_path):
    weight, bias = np.arange(24, dtype="float32").reshape(2, 3, 2, 2), np.array([1, -2], "float32")
    path = tmp_path / "m.caffemodel"
    path.write_bytes(
        caffemodel([("data", []), ("conv", [blob(weight), blob(bias)]), ("old", [blob(weight, old=True)])])
    )
    tensors = read_caffemodel(path)
    assert {k: v.tolist() for k, v in tensors.items()} == {
        "conv.0": weight.tolist(),
        "conv.1": bias.tolist(),
        "old.0": weight.tolist(),
    }


def test_damaged_caffe_models_are_refused(tmp_path):
    path, one = tmp_path / "m.caffemodel", np.ones(3, "float32")
    with pytest.raises(ModelError, match="cannot be read"):
        read_caffemodel(path)
    wrong = field(7, field(1, varint(2**69) + varint(0))) + field(5, b"")
    for content, message in (
        (b"", "no layer has weights"),
        (caffemodel([("a", [blob(one)])])[:-1], "the data end within a field"),
        (caffemodel([("a", [blob(one)]), ("a", [blob(one)])]), "two layers are called 'a'"),
        (caffemodel([("a", [field(7, field(1, varint(4))) + field(5, one.tobytes())])]), "do not have the shape"),
        (caffemodel([("a", [wrong])]), "not a readable Caffe model"),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=message):
            read_caffemodel(path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 100))
def test_random_caffe_models_never_crash(tmp_path_factory, noise, at):
    path = tmp_path_factory.mktemp("caffe") / "m.caffemodel"
    whole = caffemodel([("conv", [blob(np.ones((2, 3, 1, 1), "float32")), blob(np.ones(2, "float32"))])])
    path.write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    with suppress(ModelError):
        read_caffemodel(path)
