"""What stands between people and a network, tried with small networks whose answers are known."""

import copy
import doctest
import io
import math
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from unsmear import precision, restore
from unsmear.device import choose_device, default_budget, free_memory
from unsmear.errors import ImageError, ModelError, OutOfMemoryError, UsageError
from unsmear.models import create_model, save_model
from unsmear.restore import Deblurrer, deblur

TILED = 0.03  # GiB: with 1000 bytes a pixel, tiles of about 160 x 160 pixels that share 32


class StandIn(nn.Module):
    """A function in the place of a network; it checks what networks are promised."""

    def __init__(self, function=lambda x: x, *, size_multiple=8, peak_bytes_per_pixel=1000.0):
        super().__init__()
        self.name = "stand-in"
        self.size_multiple = size_multiple
        self.peak_bytes_per_pixel = peak_bytes_per_pixel
        self.function = function

    def forward(self, x):
        assert x.dtype == torch.float32
        assert x.shape[:2] == (1, 3)
        assert x.shape[2] % self.size_multiple == x.shape[3] % self.size_multiple == 0
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert x.min() >= 0
        assert x.max() <= 1
        assert torch.is_inference_mode_enabled()
        assert not self.training
        return self.function(x)


def invert(x):
    return 1 - x


def photo(height, width, *channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), np.uint8)


def as_uint8(values):
    return np.rint(values * 255).astype(np.uint8)


# Sizes


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 4, 16]))
@settings(deadline=None)
def test_any_size_comes_back_as_it_was(height, width, multiple):
    image = photo(height, width, 3)
    restored = Deblurrer(StandIn(size_multiple=multiple)).restore(image)
    assert restored.dtype == np.uint8
    assert restored is not image
    np.testing.assert_array_equal(restored, image)


@given(st.integers(240, 400), st.integers(240, 400), st.sampled_from([1, 4, 16]))
@settings(deadline=None, max_examples=20)
def test_any_size_in_tiles_comes_back_as_it_was(height, width, multiple):
    image = photo(height, width, 3)
    deblurrer = Deblurrer(StandIn(size_multiple=multiple), memory_gib=TILED)
    assert deblurrer.plan(height, width).num_tiles > 1
    np.testing.assert_array_equal(deblurrer.restore(image), image)


def test_a_pil_image_that_cannot_be_decoded_is_our_error():
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(data, "JPEG")
    cut = Image.open(io.BytesIO(data.getvalue()[:2000]))
    with pytest.raises(ImageError, match=r"the picture cannot be decoded \(.*truncated"):
        Deblurrer(StandIn())(cut)


def test_pixels_added_for_the_network_are_reflections():
    seen = []

    def watch(x):
        seen.append(x[0, 0].clone())
        return x

    Deblurrer(StandIn(watch)).restore(np.array([[0, 51, 102]], np.uint8))
    expected = torch.tensor([0, 51, 102, 51, 0, 51, 102, 51]) / 255
    torch.testing.assert_close(seen[0], expected.expand(8, 8))


# Kinds of values


def test_uint8_is_rounded_and_clipped():
    image = np.array([[[0, 100, 200]]], np.uint8)
    restored = Deblurrer(StandIn(lambda x: 1.5 * x - 10.4 / 255)).restore(image)
    np.testing.assert_array_equal(restored, [[[0, 140, 255]]])


def test_float32_is_clipped_and_not_rounded():
    image = np.random.default_rng(0).random((20, 30, 3), np.float32)
    restored = Deblurrer(StandIn(lambda x: 2 * x - 0.5)).restore(image)
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored, np.clip(2 * image - 0.5, 0, 1), atol=1e-6)


@pytest.mark.parametrize("shape", [(30, 20), (30, 20, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_gray_stays_gray(shape, dtype):
    image = photo(*shape) if dtype == np.uint8 else photo(*shape).astype(dtype) / dtype(255)
    restored = Deblurrer(StandIn(invert)).restore(image)
    assert restored.shape == shape
    assert restored.dtype == dtype
    np.testing.assert_allclose(restored, (255 if dtype == np.uint8 else 1) - image, atol=1e-6)


def test_gray_is_the_mean_of_what_the_channels_became():
    gains = torch.tensor([0.2, 0.4, 0.9]).reshape(3, 1, 1)
    restored = Deblurrer(StandIn(lambda x: x * gains)).restore(np.full((9, 9), 200, np.uint8))
    np.testing.assert_array_equal(restored, np.full((9, 9), 100))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.int32), "not int32"),
        (np.zeros((4, 4, 3), np.float64), "not float64"),
        (np.zeros((4, 4, 3), bool), "not bool"),
        (np.zeros((4, 4, 4), np.uint8), r"not \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"not \(0, 4, 3\)"),
        (np.zeros(4, np.uint8), r"not \(4,\)"),
        (np.full((4, 4), 255, np.float32), "in \\[0, 1\\]"),
        (np.full((4, 4), np.nan, np.float32), "in \\[0, 1\\]"),
        ([[0, 0], [0, 0]], "not list"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), "not torch.uint8"),
        (torch.zeros(4, 4, 3), r"\(4, 4, 3\)"),
        (torch.zeros(0, 3, 4, 4), r"\(0, 3, 4, 4\)"),
    ],
)
def test_other_kinds_are_refused_in_one_line(image, message):
    with pytest.raises(ImageError, match=message) as caught:
        Deblurrer(StandIn())(image)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("view", [np.s_[::-1], np.s_[:, ::2], np.s_[..., ::-1]])
def test_views_of_arrays_are_taken(view):
    image = photo(20, 30, 3)[view]
    np.testing.assert_array_equal(Deblurrer(StandIn(invert)).restore(image), 255 - image)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("memory_gib", [None, TILED])
def test_strength_goes_from_the_input_to_the_output(strength, memory_gib):
    image = photo(200, 300, 3)
    restored = Deblurrer(StandIn(invert), memory_gib=memory_gib).restore(image, strength=strength)
    expected = (1 - strength) * image + strength * (255.0 - image)
    np.testing.assert_allclose(restored, expected, atol=0.5 + 1e-3)


def test_strength_zero_is_exact_and_independent_of_the_input():
    image = photo(20, 30, 3)
    restored = Deblurrer(StandIn(invert)).restore(image, strength=0)
    np.testing.assert_array_equal(restored, image)
    assert not np.shares_memory(restored, image)


def test_16_bit_values_keep_their_depth():
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(Deblurrer(StandIn()).restore(ramp), ramp)
    np.testing.assert_array_equal(Deblurrer(StandIn(invert)).restore(ramp), 65535 - ramp)
    assert Deblurrer(StandIn()).restore(ramp).dtype == np.uint16


@pytest.mark.parametrize("memory_gib", [None, 0.13])
def test_best_quality_is_the_mean_over_all_turns_and_flips(memory_gib):
    def slanted(x):  # what it does depends on where things lie
        return 0.5 * x + 0.5 * torch.linspace(0, 1, x.shape[3]).expand_as(x)

    image = np.random.default_rng(0).random((256, 256, 3), np.float32)
    restored = Deblurrer(StandIn(slanted), memory_gib=memory_gib).restore(image, quality="best")
    np.testing.assert_allclose(restored, 0.5 * image + 0.25, atol=1e-6)  # each slant meets its mirror image
    identity = Deblurrer(StandIn(), memory_gib=memory_gib).restore(image, quality="best")
    np.testing.assert_allclose(identity, image, atol=1e-6)


def test_unknown_qualities_are_refused():
    with pytest.raises(UsageError, match="quality must be 'normal' or 'best', not 'good'"):
        Deblurrer(StandIn()).restore(photo(8, 8, 3), quality="good")


# Tiles


def conv_network():
    """Strided and transposed convolutions that reach 7 pixels, a quarter of the smallest overlap is 8."""
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1),
        nn.Conv2d(8, 3, 3, padding=1),
    )
    return StandIn(lambda x: x + layers(x))


def test_tiles_of_a_convolutional_network_equal_the_whole_picture():
    network = conv_network()
    image = photo(310, 407, 3).astype(np.float32) / np.float32(255)
    whole = Deblurrer(network, memory_gib=1)
    tiled = Deblurrer(network, memory_gib=TILED)
    assert (whole.plan(310, 407).num_tiles, tiled.plan(310, 407).num_tiles) == (1, 6)
    np.testing.assert_allclose(tiled.restore(image), whole.restore(image), atol=1e-5)


def test_tiles_judged_differently_meet_without_a_seam():
    """A network that adds 0.2 x the mean of what it sees makes a step of 0.2 x the difference of two means.

    Spread over half of the overlap as a raised cosine, its steepest slope is pi / overlap of that.
    """
    image = np.tile(np.linspace(0, 1, 600, dtype=np.float32)[None, :, None], (200, 1, 3))
    deblurrer = Deblurrer(StandIn(lambda x: 0.8 * x + 0.2 * x.mean((2, 3), keepdim=True)), memory_gib=TILED)
    plan = deblurrer.plan(*image.shape[:2])
    assert plan.cols > 4
    means = [image[0, left : left + plan.tile_width].mean() for left in plan.lefts]
    restored = deblurrer.restore(image)
    added = restored - 0.8 * image
    step = 0.2 * np.diff(means).max()
    assert np.abs(np.diff(added, axis=1)).max() <= 1.02 * np.pi / plan.overlap * step
    assert np.abs(np.diff(restored, axis=0)).max() < 1e-5


def test_progress_is_told_of_every_tile():
    told = []
    deblurrer = Deblurrer(StandIn(), memory_gib=TILED)
    deblurrer.restore(photo(300, 300, 3), progress=lambda done, total: told.append((done, total)))
    total = deblurrer.plan(300, 300).num_tiles
    assert told == [(done, total) for done in range(total + 1)]


def test_one_deblurrer_serves_many_threads():
    network = conv_network()
    deblurrer = Deblurrer(network, memory_gib=TILED)
    images = [photo(240 + 10 * i, 250, 3, seed=i) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(deblurrer.restore, images))
    for image, restored in zip(images, together, strict=True):
        np.testing.assert_array_equal(restored, deblurrer.restore(image))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_deblurrer_may_be_copied_and_pickled(dtype):
    deblurrer = Deblurrer("saphn-s", device="cpu", dtype=dtype, memory_gib=2)
    image = photo(64, 80, 3)
    expected = deblurrer(image)
    for twin in (pickle.loads(pickle.dumps(deblurrer)), copy.deepcopy(deblurrer)):
        assert twin.dtype == deblurrer.dtype
        assert twin.budget() == deblurrer.budget()
        np.testing.assert_array_equal(twin(image), expected)


# Memory


def hungry(allocate, limit):
    """The identity for tiles of at most `limit` pixels; a real allocation that cannot succeed for others."""

    def function(x):
        if x.shape[2] * x.shape[3] > limit:
            allocate()
        return x

    return StandIn(function)


def raise_cuda_error():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


ALLOCATORS = {
    "torch": lambda: torch.empty(2**55, dtype=torch.uint8),
    "numpy": lambda: np.empty(2**55, np.uint8),
    "cuda": raise_cuda_error,
}


@pytest.mark.parametrize("allocate", ALLOCATORS.values(), ids=ALLOCATORS)
@pytest.mark.parametrize("limit", [400**2, 250**2])
def test_tiles_shrink_when_memory_runs_out(allocate, limit):
    image = photo(900, 1000, 3)
    told = []
    deblurrer = Deblurrer(hungry(allocate, limit), memory_gib=1)
    restored = deblurrer.restore(image, progress=lambda done, total: told.append((done, total)))
    np.testing.assert_array_equal(restored, image)
    starts = [total for done, total in told if done == 0]
    assert starts == sorted(set(starts))  # ever more tiles
    assert starts[0] == 1
    assert told[-1] == (starts[-1], starts[-1])


@pytest.mark.parametrize("allocate", ALLOCATORS.values(), ids=ALLOCATORS)
@pytest.mark.parametrize("size", [(8, 8), (900, 1000), (2000, 3000)])
def test_giving_up_says_what_to_do(allocate, size):
    with pytest.raises(OutOfMemoryError, match="close other programs") as caught:
        Deblurrer(hungry(allocate, 0), memory_gib=8).restore(photo(*size, 3))
    assert "\n" not in str(caught.value)


def test_tiles_are_halved_three_times_at_most():
    told = []
    deblurrer = Deblurrer(hungry(raise_cuda_error, 0), memory_gib=8)
    with pytest.raises(OutOfMemoryError):
        deblurrer.restore(photo(2000, 3000, 3), progress=lambda done, total: told.append(total))
    assert len(told) == 4
    assert told[0] == 1
    assert told[-1] > 4**2


def test_other_faults_of_a_network_are_not_taken_for_lack_of_memory():
    def broken(x):
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        Deblurrer(StandIn(broken)).restore(photo(8, 8, 3))


def test_a_picture_of_24_megapixels_keeps_to_its_budget():
    """Working memory of 0.25 GiB, beside the result (69 MiB) and what libraries load on first use."""
    if not Path("/proc/self/status").exists():
        pytest.skip("no way to read the peak of memory here")
    program = """
import numpy as np
from torch import nn
from unsmear.restore import Deblurrer

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))

class Light(nn.Conv2d):
    name, size_multiple, peak_bytes_per_pixel = "light", 8, 4 * (3 + 3)

deblurrer = Deblurrer(Light(3, 3, 3, padding=1), memory_gib=0.25)
deblurrer.restore(np.zeros((64, 64, 3), np.uint8))
image = np.zeros((4000, 6000, 3), np.uint8)
image[:] = 100
before = peak()
deblurrer.restore(image)
print(peak() - before)
"""
    # Huge pages make the peak vary by tens of MiB from run to run: what is needed is the least of a few.
    command = [sys.executable, "-c", program]
    peaks = (float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3))
    assert any(peak < 256 + 69 + 20 for peak in peaks)


# Numbers that are none


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_output_that_is_not_finite_is_an_error_and_no_file(bad, tmp_path):
    def spoil(x):
        y = x.clone()
        y[..., -1, -1] = bad
        return y

    source = tmp_path / "photo.png"
    Image.fromarray(photo(300, 300, 3)).save(source)
    with pytest.raises(ModelError, match="'stand-in' gave values that are no finite numbers"):
        Deblurrer(StandIn(spoil), memory_gib=TILED)(source)
    assert list(tmp_path.iterdir()) == [source]


def test_output_of_another_shape_is_an_error():
    with pytest.raises(ModelError, match="shape must stay"):
        Deblurrer(StandIn(lambda x: x[..., 1:])).restore(photo(8, 8, 3))


# 16 bits


def spoiled_by_half(bad, *, where=lambda x: True):
    """The inverse, and `bad` instead where autocast is on."""

    def function(x):
        y = 1 - x
        return torch.full_like(y, bad) if torch.is_autocast_enabled("cpu") and where(x) else y

    return StandIn(function)


def test_networks_compute_in_float32_unless_told_otherwise():
    assert Deblurrer(StandIn(), device="cpu").dtype == torch.float32
    for name in ("float32", "bfloat16", "float16"):
        assert Deblurrer(StandIn(), device="cpu", dtype=name).dtype == getattr(torch, name)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits_leave_the_picture_its_precision(dtype):
    convolution = nn.Conv2d(3, 3, 1)
    seen = []

    def function(x):
        y = convolution(x)
        seen.append(y.dtype)
        return x + 0 * y

    image = np.random.default_rng(0).random((20, 30, 3), np.float32)
    np.testing.assert_array_equal(Deblurrer(StandIn(function), device="cpu", dtype=dtype).restore(image), image)
    assert seen == [getattr(torch, dtype)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0])
def test_what_16_bits_spoil_is_done_again_with_one_notice(bad, dtype, caplog):
    deblurrer = Deblurrer(spoiled_by_half(bad), device="cpu", dtype=dtype)
    for seed in range(3):
        image = photo(20, 30, 3, seed=seed)
        np.testing.assert_array_equal(deblurrer.restore(image), 255 - image)
    assert deblurrer.dtype == torch.float32
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    what = "a black picture" if bad == 0 else "values that are no finite numbers"
    assert record.getMessage() == f"{dtype} gave {what}: computing in float32 from now on"


def test_one_spoiled_tile_is_enough(caplog):
    image, told = photo(300, 300, 3), []
    image[290:, 290:] = 0  # only the last tile sees it
    network = spoiled_by_half(math.nan, where=lambda x: (x == 0).all(1).sum() > 50)
    deblurrer = Deblurrer(network, device="cpu", dtype="bfloat16", memory_gib=TILED)
    restored = deblurrer.restore(image, progress=lambda done, total: told.append(done))
    np.testing.assert_array_equal(restored, 255 - image)
    assert told.count(0) == 2
    assert len(caplog.records) == 1


def test_threads_share_the_notice(caplog):
    deblurrer = Deblurrer(spoiled_by_half(math.nan), device="cpu", dtype="bfloat16")
    image = photo(20, 30, 3)
    with ThreadPoolExecutor(4) as pool:
        for restored in pool.map(deblurrer.restore, [image] * 8):
            np.testing.assert_array_equal(restored, 255 - image)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("value", [0, 1, 3])
def test_black_pictures_may_stay_black(value, caplog):
    image = np.full((20, 30, 3), value, np.uint8)
    deblurrer = Deblurrer(StandIn(lambda x: x - 1e-3), device="cpu", dtype="bfloat16")
    assert deblurrer.restore(image).max() <= value
    assert deblurrer.dtype == torch.bfloat16
    assert not caplog.records


def test_numbers_that_are_none_in_float32_too_stay_an_error():
    deblurrer = Deblurrer(StandIn(lambda x: x * math.nan), device="cpu", dtype="float16")
    with pytest.raises(ModelError, match="no finite numbers"):
        deblurrer.restore(photo(20, 30, 3))


def test_16_bits_of_a_real_network_are_close(tmp_path):
    network = create_model("saphn-s", widths=(4, 8), lower_widths=(4, 8), levels=2)
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.1)
    save_model(network, tmp_path / "weights.safetensors", dtype=torch.float32)
    image = photo(40, 50, 3).astype(np.float32) / np.float32(255)
    exact, rounded = (
        Deblurrer(tmp_path / "weights.safetensors", device="cpu", dtype=dtype).restore(image)
        for dtype in ("float32", "bfloat16")
    )
    changed = np.abs(exact - image).mean()
    assert changed > 0.01
    assert 0 < np.abs(exact - rounded).mean() < 0.02 * changed


# Kinds of images


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_pil_images_keep_mode_alpha_and_info(mode):
    image = Image.fromarray(photo(30, 40, 4)).convert(mode)
    image.info["dpi"] = (300, 300)
    restored = Deblurrer(StandIn(invert))(image, guard=False)
    assert (restored.mode, restored.size, restored.info["dpi"]) == (mode, image.size, (300, 300))
    expected = 255 - np.asarray(image)
    if mode.endswith("A"):
        expected[..., -1] = np.asarray(image)[..., -1]
    np.testing.assert_array_equal(np.asarray(restored), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("shape", [(3, 20, 30), (2, 3, 20, 30)])
def test_tensors_keep_shape_and_dtype(shape, dtype):
    x = torch.rand(shape, requires_grad=True).to(dtype)
    y = Deblurrer(StandIn(invert))(x, guard=False)
    assert y.dtype == dtype
    torch.testing.assert_close(y, (1 - x).detach(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_gives_the_path_of_a_file_beside_it(kind, tmp_path):
    source = tmp_path / "photo.png"
    image = photo(30, 40, 3)
    Image.fromarray(image).save(source)
    written = Deblurrer(StandIn(invert))(kind(source), guard=False)
    assert written == tmp_path / "photo.deblurred.png"
    np.testing.assert_array_equal(np.asarray(Image.open(written)), 255 - image)
    np.testing.assert_array_equal(np.asarray(Image.open(source)), image)


def test_nothing_is_overwritten_unless_asked(tmp_path):
    source, target = tmp_path / "photo.png", tmp_path / "done.png"
    image = photo(30, 40, 3)
    Image.fromarray(image).save(source)
    target.write_text("precious")
    deblurrer = Deblurrer(StandIn(invert))
    with pytest.raises(UsageError, match="exists already"):
        deblurrer(source, output=target)
    with pytest.raises(UsageError, match="exists already"):
        deblurrer(source, output=source)
    assert target.read_text() == "precious"
    assert deblurrer(source, output=str(target), overwrite=True, guard=False) == target
    np.testing.assert_array_equal(np.asarray(Image.open(target)), 255 - image)


@pytest.mark.parametrize(
    "call",
    [
        lambda folder: Deblurrer(StandIn())(folder / "missing.png"),
        lambda folder: Deblurrer(StandIn())(folder),
        lambda folder: Deblurrer(StandIn())(photo(8, 8, 3), output=folder / "new.png"),
        lambda folder: Deblurrer(StandIn()).restore(photo(8, 8, 3), strength=1.1),
        lambda folder: Deblurrer(StandIn()).restore(photo(8, 8, 3), strength=float("nan")),
        lambda folder: Deblurrer(StandIn(), memory_gib=0),
        lambda folder: Deblurrer(StandIn(), memory_gib=float("nan")),
        lambda folder: Deblurrer(StandIn(), device="gpu"),
        lambda folder: Deblurrer(StandIn(), device="cuda:x"),
        lambda folder: Deblurrer(StandIn(), dtype="half"),
        lambda folder: Deblurrer(nn.Identity()),
        lambda folder: Deblurrer("no-such-model"),
    ],
)
def test_wrong_calls_are_told_in_one_line(call, tmp_path):
    with pytest.raises(UsageError) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)


def test_deblur_is_the_one_shot_form(tmp_path):
    image = photo(30, 40, 3)
    source = tmp_path / "photo.png"
    Image.fromarray(image).save(source)
    network = StandIn(invert)
    np.testing.assert_array_equal(deblur(image, model=network, guard=False), 255 - image)
    half = deblur(image, model=network, strength=0.5, device="cpu", guard=False)
    assert np.ptp(half) <= 1
    assert deblur(source, model=network) == tmp_path / "photo.deblurred.png"
    with pytest.raises(UsageError, match="exists already"):
        deblur(source, model=network)
    assert deblur(source, model=network, output=tmp_path / "b.jpg", overwrite=True) == tmp_path / "b.jpg"


# Devices


def test_auto_says_why():
    choice = choose_device()
    assert choice.reason
    assert Deblurrer(StandIn()).device == choice.device
    assert choose_device("cpu").device.type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_refused_with_the_reason():
    with pytest.raises(UsageError, match=r"'cuda' cannot be used: .*PyTorch.*; take cpu or auto"):
        choose_device("cuda")


def test_the_default_budget_is_a_share_of_free_memory():
    cpu = torch.device("cpu")
    assert 0 < free_memory(cpu) < 2**50
    assert 2**28 <= default_budget(cpu) <= 2**31
    assert Deblurrer(StandIn(), device="cpu").budget() <= 2**31
    assert Deblurrer(StandIn(), memory_gib=3).budget() == 3 * 2**30
    assert Deblurrer(StandIn(), memory_gib=float("inf")).plan(10_000, 10_000).num_tiles == 1


def test_the_examples_run():
    from unsmear.models import DEFAULT_MODEL, shipped_weights

    if shipped_weights(DEFAULT_MODEL) is None:
        pytest.skip("the default model has no weights yet")
    for module, count in ((restore, 8), (precision, 1)):
        result = doctest.testmod(module)
        assert (result.failed, result.attempted) == (0, count)
