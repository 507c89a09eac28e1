"""Weights that others released: what they become, and what is refused."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import picture
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from unsmear.cli.convert import convert
from unsmear.convert import run
from unsmear.convert.read import find_checkpoints
from unsmear.convert.run import convert_files
from unsmear.errors import ModelError, UsageError
from unsmear.models import create_model, load_model, save_model

# The layers of DMPHN as its authors number them: channels in and out.
ENCODER = {"1": (3, 32), "5": (32, 64), "9": (64, 128)}
ENCODER |= {f"{n}.{i}": (w, w) for n, w in ((2, 32), (3, 32), (6, 64), (7, 64), (10, 128), (11, 128)) for i in (0, 2)}
DECODER = {"16": (128, 64), "20": (64, 32), "24": (32, 3)}
DECODER |= {
    f"{n}.{i}": (w, w) for n, w in ((13, 128), (14, 128), (17, 64), (18, 64), (21, 32), (22, 32)) for i in (0, 2)
}


def draw(shape):
    return torch.randn(shape) * (0.5 / max(1, torch.Size(shape[1:]).numel()) ** 0.5)


def released_dmphn(levels=3, stacks=0):
    """Random weights under the authors' names, file by file; `stacks=0` is the network that is not stacked."""
    files = {}
    for stack in range(1, max(1, stacks) + 1):
        for level in range(1, levels + 1):
            for kind, layers in (("encoder", ENCODER), ("decoder", DECODER)):
                tensors = {}
                for name, (c, w) in layers.items():
                    shape = (c, w, 4, 4) if name in ("16", "20") else (w, c, 3, 3)
                    tensors[f"layer{name}.weight"], tensors[f"layer{name}.bias"] = draw(shape), 0.1 * draw((w,))
                files[f"{kind}_s{stack}_lv{level}" if stacks else f"{kind}_lv{level}"] = tensors
    return files


def write(folder, files, **options):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        torch.save(content, folder / f"{name}.pkl", **options)
    return folder


def layer(tensors, name, x, **options):
    run = functional.conv_transpose2d if options.pop("up", False) else functional.conv2d
    return run(x, tensors[f"layer{name}.weight"], tensors[f"layer{name}.bias"], padding=1, **options)


def blocks(tensors, first, x):
    for n in (first, first + 1):
        x = layer(tensors, f"{n}.2", layer(tensors, f"{n}.0", x).relu()) + x
    return x


def encode(tensors, x):
    x = blocks(tensors, 2, layer(tensors, "1", x))
    x = blocks(tensors, 6, layer(tensors, "5", x, stride=2))
    return blocks(tensors, 10, layer(tensors, "9", x, stride=2))


def decode(tensors, x):
    x = layer(tensors, "16", blocks(tensors, 13, x), stride=2, up=True)
    x = layer(tensors, "20", blocks(tensors, 17, x), stride=2, up=True)
    return layer(tensors, "24", blocks(tensors, 21, x))


def halves(x, dim):
    return list(x.chunk(2, dim))


def dmphn_outputs(files, image, levels, stacks):
    """The paper's graph, patch by patch."""
    outputs, before = [], {}
    for s in range(1, max(1, stacks) + 1):
        part = {
            name.replace(f"_s{s}", ""): tensors for name, tensors in files.items() if f"_s{s}" in name or not stacks
        }
        source = outputs[-1] if outputs else image
        top_bottom = halves(source, 2)
        quadrants = [q for half in top_bottom for q in halves(half, 3)]
        below = residuals = None
        if levels == 4:
            eighths = [encode(part["encoder_lv4"], e) for q in quadrants for e in halves(q, 2)]
            below = [torch.cat(eighths[i : i + 2], 2) for i in range(0, 8, 2)]
            residuals = [decode(part["decoder_lv4"], f) for f in below]
        thirds = []
        for i, quadrant in enumerate(quadrants):
            f = encode(part["encoder_lv3"], quadrant + residuals[i] if residuals else quadrant)
            f = f + below[i] if below else f
            thirds.append(f + before[3][i] if outputs else f)
        below = [torch.cat(thirds[:2], 3), torch.cat(thirds[2:], 3)]
        residuals = [decode(part["decoder_lv3"], f) for f in below]
        seconds = []
        for i, half in enumerate(top_bottom):
            f = encode(part["encoder_lv2"], half + residuals[i]) + below[i]
            seconds.append(f + before[2][i] if outputs else f)
        whole = torch.cat(seconds, 2)
        residual = decode(part["decoder_lv2"], whole) + (outputs[0] if outputs else 0)
        first = encode(part["encoder_lv1"], source + residual) + whole
        first = first + before[1] if outputs else first
        outputs.append(decode(part["decoder_lv1"], first))
        before = {3: thirds, 2: seconds, 1: first}
    return outputs


@pytest.mark.parametrize(
    ("name", "levels", "stacks"),
    [("dmphn", 3, 0), ("dmphn-8", 4, 0), ("dmphn-stack2", 3, 2), ("dmphn-stack3", 3, 3)],
)
def test_a_converted_dmphn_computes_what_its_paper_says(tmp_path, name, levels, stacks):
    files = released_dmphn(levels, stacks)
    assert convert([write(tmp_path / "released", files)], tmp_path / "w.safetensors") == 0
    network = load_model(tmp_path / "w.safetensors")
    assert network.name == name
    x = picture(network, rows=2, columns=3)
    with torch.no_grad():
        expected = dmphn_outputs(files, x - 0.5, levels, stacks)
        estimates = network.estimates(x)
    assert len(estimates) == max(1, stacks)
    for estimate, output in zip(estimates, expected, strict=True):
        torch.testing.assert_close(estimate, output + 0.5, rtol=1e-4, atol=1e-4)


def test_a_stack_that_was_never_trained_is_left_out(tmp_path):
    files = released_dmphn(3, 2)
    for name, tensors in files.items():
        if "_s2_" in name:
            files[name] = {k: torch.zeros_like(v) if k.endswith("bias") else v for k, v in tensors.items()}
    network = convert_files([write(tmp_path / "released", files)], tmp_path / "w.safetensors")
    assert (network.config.levels, network.config.stacks) == (3, 1)


def released_deepdeblur(blocks=2, width=4, scales=3):
    def convolution(name, c, w):
        return {f"{name}.weight": draw((w, c, 5, 5)), f"{name}.bias": 0.1 * draw((w,))}

    tensors = {}
    for s in range(scales):
        tensors |= convolution(f"body_models.{s}.body.0", 3 if s == scales - 1 else 6, width)
        for b in range(blocks):
            for i in (0, 2):
                tensors |= convolution(f"body_models.{s}.body.{b + 1}.body.{i}", width, width)
        tensors |= convolution(f"body_models.{s}.body.{blocks + 1}", width, 3)
        if s > 0:
            tensors |= convolution(f"conv_end_models.{s}.uppath.0", 3, 12)
    return tensors


def test_a_converted_deepdeblur_computes_what_its_authors_do(tmp_path):
    transform = pytest.importorskip("skimage.transform")
    tensors = released_deepdeblur()
    torch.save({"G": tensors, "D": {"body.0.weight": torch.zeros(1)}}, tmp_path / "model-1000.pt")
    convert_files([tmp_path / "model-1000.pt"], tmp_path / "w.safetensors")
    network = load_model(tmp_path / "w.safetensors")
    assert (network.name, network.config.blocks, network.config.width) == ("deepdeblur", 2, 4)

    def apply(name, x):
        return functional.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], padding=2)

    x = torch.rand(1, 3, 24, 32)
    channels_last = (255 * x[0]).permute(1, 2, 0).numpy()
    pyramid = [
        torch.from_numpy(np.ascontiguousarray(level)).permute(2, 0, 1)[None].float() - 127.5
        for level in transform.pyramid_gaussian(channels_last, 2, channel_axis=2)
    ]
    seen, expected = pyramid[2], []
    for s in (2, 1, 0):
        y = apply(f"body_models.{s}.body.0", seen)
        for b in (1, 2):
            y = apply(f"body_models.{s}.body.{b}.body.2", apply(f"body_models.{s}.body.{b}.body.0", y).relu()) + y
        expected.append(apply(f"body_models.{s}.body.3", y))
        if s > 0:
            up = functional.pixel_shuffle(apply(f"conv_end_models.{s}.uppath.0", expected[-1]), 2)
            seen = torch.cat([pyramid[s - 1], up], 1)
    with torch.no_grad():
        estimates = network.estimates(x)
    for estimate, output in zip(estimates, expected, strict=True):
        torch.testing.assert_close(estimate, (output + 127.5) / 255, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif("UNSMEAR_PEERS" not in os.environ, reason="needs the folder of released weights")
def test_the_released_dmphn_gives_its_authors_picture(tmp_path):
    peers = Path(os.environ["UNSMEAR_PEERS"]) / "dmphn"
    convert_files([peers / "DMPHN_1_2_4"], tmp_path / "w.safetensors")
    network = load_model(tmp_path / "w.safetensors")
    blurred, theirs = (
        np.array(Image.open(peers / f"000005-{what}.png").convert("RGB")) for what in ("blurred", "authors-output")
    )
    with torch.inference_mode():
        ours = network(torch.from_numpy(blurred).permute(2, 0, 1)[None] / 255)[0].permute(1, 2, 0)
    levels = (255 * ours.clamp(0, 1)).to(torch.uint8).numpy()  # truncated, as theirs
    difference = np.abs(levels.astype(int) - theirs.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


# A SAPHN that starts from its base model


@pytest.mark.parametrize("levels", [1, 3, 4])
def test_a_warm_start_gives_the_same_bits(tmp_path, levels):
    released, base, start = tmp_path / "released", tmp_path / "base.safetensors", tmp_path / "start.safetensors"
    write(
        released, released_dmphn(levels) if levels > 2 else {k: v for k, v in released_dmphn(3).items() if "lv1" in k}
    )
    assert convert([released], base) == convert([released], start, warm_start="saphn") == 0
    network, saphn = load_model(base), load_model(start)
    assert saphn.name == "saphn"
    assert saphn.config.attention
    assert saphn.config.cross_attention
    assert saphn.config.filtering
    x = picture(network, batch=2)
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(saphn(x), network(x))
    assert (network(x) - x).std() > 0.01


def test_a_warm_start_from_our_own_file_is_the_same(tmp_path):
    released, ours = write(tmp_path / "released", released_dmphn()), tmp_path / "dmphn.safetensors"
    convert_files([released], ours)
    convert_files([released], tmp_path / "a.safetensors", start_saphn=True)
    convert_files([ours], tmp_path / "b.safetensors", start_saphn=True)
    a, b = (load_model(tmp_path / f"{name}.safetensors").state_dict() for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)
    with pytest.raises(UsageError, match="is a weights file of unsmear already"):
        convert_files([ours], tmp_path / "c.safetensors")


def test_only_a_dmphn_that_is_not_stacked_can_be_started_from(tmp_path):
    path = tmp_path / "w.safetensors"
    for network in (create_model("dmphn", levels=1, stacks=2), create_model("deepdeblur", blocks=1, width=4)):
        save_model(network, path)
        with pytest.raises(UsageError, match="can start from a DMPHN that is not stacked, not from"):
            convert_files([path], tmp_path / "start.safetensors", start_saphn=True)
    with pytest.raises(UsageError, match="--warm-start 'srn': only saphn"):
        convert([path], tmp_path / "start.safetensors", warm_start="srn")


# Files as people have them


@pytest.fixture
def small(tmp_path):
    """A released network that is small, its file, and where to convert it to."""
    tensors = released_deepdeblur(blocks=1, width=2, scales=1)
    torch.save(tensors, tmp_path / "net.pt")
    return tensors, tmp_path / "net.pt", tmp_path / "w.safetensors"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: {"state_dict": {f"module.{k}": v for k, v in t.items()}, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda t: {"params": {k: torch.zeros_like(v) for k, v in t.items()}, "params_ema": t},
        lambda t: {"model": {"generator": t}},
        lambda t: {k: v.double() for k, v in t.items()},
        lambda t: {k: torch.nn.Parameter(v) for k, v in t.items()},
    ],
    ids=["parallel", "averaged", "nested", "double", "parameters"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_found_in_what_surrounds_them(small, wrap, zipped):
    tensors, path, out = small
    torch.save(wrap(tensors), path, _use_new_zipfile_serialization=zipped)
    network = convert_files([path], out)
    assert torch.equal(network.state_dict()["scales.0.first.weight"], tensors["body_models.0.body.0.weight"])


def test_safetensors_are_read_whatever_they_are_called(small, tmp_path):
    tensors, path, out = small
    save_file(tensors, path)
    assert convert_files([path], out).name == "deepdeblur"


def test_a_tensorflow_checkpoint_is_found_by_any_of_its_names(tmp_path):
    for name in ("net-7.index", "net-7.meta", "net-7.data-00000-of-00001", "checkpoint"):
        (tmp_path / name).touch()
    for given in (".", "checkpoint", "net-7", "net-7.index", "net-7.meta", "net-7.data-00000-of-00001"):
        (found,) = find_checkpoints([tmp_path / given])
        assert found.name == "net-7"
        assert [path.name for path in found.files] == ["net-7.index", "net-7.data-00000-of-00001"]
        with pytest.raises(ModelError):  # it is empty
            found.read()


def test_a_converted_file_says_where_it_is_from(small):
    from hashlib import sha256
    from json import loads

    from safetensors import safe_open

    _, path, out = small
    convert_files([path], out)
    with safe_open(out, framework="pt") as file:
        notes = loads(file.metadata()["notes"])
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float32}  # noqa: SIM118
    assert notes["sources"] == {"net.pt": sha256(path.read_bytes()).hexdigest()}


def test_nothing_is_overwritten_unasked(small):
    _, path, out = small
    out.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        convert([path], out)
    assert out.read_text() == "mine"
    assert convert([path], out, overwrite=True) == 0
    assert load_model(out).name == "deepdeblur"
    with pytest.raises(UsageError, match="is to be read"):
        convert([path], path, overwrite=True)


def test_files_that_are_not_there_or_not_one_network_are_refused(small, tmp_path):
    _, path, out = small
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "net.pth").write_bytes(path.read_bytes())
    for given, message in (
        ([tmp_path / "nope.pt"], "no such file or folder"),
        ([tmp_path / "empty"], "holds no weights"),
        ([path, tmp_path / "other"], "two of the files are called 'net'"),
    ):
        with pytest.raises(UsageError, match=message):
            convert_files(given, out)
    assert not out.exists()


def test_every_converter_is_asked_and_lets_others_pass():
    folder = Path(run.__file__).parent
    written = {
        path.stem for path in folder.glob("*.py") if "\ndef convert(released" in path.read_text(encoding="utf-8")
    }
    assert {converter.__module__.rpartition(".")[2] for converter in run.CONVERTERS} == written
    for released in ({}, {"a": {}}, {"a": {"b": torch.zeros(1)}, "c": {}}):
        assert all(converter(released) is None for converter in run.CONVERTERS)


# Files that are damaged, of something else, or malicious


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_never_run(small, tmp_path, zipped):
    class Canary:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    tensors, path, out = small
    torch.save({"state_dict": tensors, "extra": Canary()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"net\.pt: not read, as it asks to call '\w+\.mkdir'"):
        convert_files([path], out)
    path.write_bytes(pickle.dumps(Canary()))
    with pytest.raises(ModelError, match=r"net\.pt: not "):
        convert_files([path], out)
    assert not (tmp_path / "ran").exists()
    assert not out.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_are_refused(small, zipped, tmp_path):
    tensors, path, out = small
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for broken in (b"", b"not weights", whole[:50], whole[: len(whole) // 2], b"12345678{" + whole, whole[40:]):
        path.write_bytes(broken)
        with pytest.raises(ModelError, match=r"net\.pt: not a readable weights file"):
            convert_files([path], out)
    assert [p.name for p in tmp_path.iterdir()] == ["net.pt"]


def test_what_is_recognized_but_wrong_names_the_first_wrong_tensors(small):
    tensors, path, out = small
    first = "body_models.0.body.0.weight"
    for wrong, message in (
        ({k: v for k, v in tensors.items() if k != first}, f"net: does not hold what it should: {first} is missing"),
        (tensors | {"body_models.0.extra": torch.zeros(1)}, "body_models.0.extra is not known"),
        (
            tensors | {first: torch.zeros(2, 3, 3, 3)},
            "do not fit 'deepdeblur'; first wrong names: scales.0.first.weight",
        ),
        (tensors | {first: torch.full((2, 3, 5, 5), torch.nan)}, "weights are not finite"),
        ({"conv1.weight": torch.zeros(1)}, "weights of no network known here; they begin with conv1.weight"),
        ({"step": 3}, "holds no tensors by name"),
        ([1, 2], "holds no tensors by name"),
    ):
        torch.save(wrong, path)
        with pytest.raises(ModelError, match=message.replace(".", r"\.")):
            convert_files([path], out)
    assert not out.exists()


def test_missing_files_of_a_dmphn_are_named(tmp_path):
    files = released_dmphn()
    folder, out = write(tmp_path / "released", files), tmp_path / "w.safetensors"
    (folder / "encoder_lv2.pkl").unlink()
    with pytest.raises(ModelError, match="these files of a DMPHN are missing: encoder_lv2"):
        convert_files([folder], out)
    del files["encoder_lv2"]["layer6.2.bias"]
    write(folder, files)
    with pytest.raises(ModelError, match=r"encoder_lv2: does not hold what it should: layer6\.2\.bias is missing"):
        convert_files([folder], out)
    assert not out.exists()
