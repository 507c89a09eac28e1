"""Training: schedules, losses, the optimizer, and runs that survive whatever happens to them."""

import math
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import awake, picture
from PIL import Image

pytest.importorskip("accelerate")

from safetensors.torch import load_file

from unsmear import create_model, load_model
from unsmear.data.batches import RealPairs
from unsmear.errors import TrainingError, UsageError
from unsmear.train.config import RECIPES, TrainConfig, finetune, paper
from unsmear.train.growth import grow
from unsmear.train.loop import train
from unsmear.train.loss import charbonnier, frequency_distance, mean_squared_error, negative_psnr, restoration_loss
from unsmear.train.muon import Muon, orthogonalize, split_parameters
from unsmear.train.validation import Validation

TINY = TrainConfig(
    overrides={"widths": [4, 4], "lower_widths": None, "levels": 2, "unshuffle": 1},
    steps=8,
    batch_size=2,
    crop=16,
    workers=0,
    log_every=1,
    validate_every=100,
    save_every=1000.0,
    warmup=2,
    frozen=("blind.near", "blind.mid", "blind.far"),  # nearly all weights, and with Muon 4/5 of a step's time
)
# The layers that read spectra lie behind others that begin at zero: their first gradients are as small as rounding, of
# which Muon makes updates of full size. So runs that are to be equal but for rounding go without.
PLAIN = replace(TINY, overrides={**TINY.overrides, "filter_basis": 0}, frozen=())


def source(seed=0):
    rng = np.random.default_rng(seed)
    sharp = [rng.integers(0, 256, (24, 24, 3), np.uint8) for _ in range(3)]
    return [(RealPairs([p // 2 + 60 for p in sharp], sharp), 1.0)]


def weights(folder):
    return load_file(folder / "weights.safetensors")


def assert_same_weights(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_complete(name):
    config = RECIPES[name]()
    assert create_model(config.model, **config.overrides).size_multiple <= config.crop
    assert config.crop % create_model(config.model, **config.overrides).size_multiple == 0


def test_paper_recipe_is_section_3_1():
    config = paper()
    assert (config.optimizer, config.learning_rate, config.batch_size, config.crop) == ("adam", 1e-4, 6, 256)
    assert config.rate(0) == config.rate(199_999) == 1e-4
    assert config.rate(200_000) == 5e-5
    assert config.rate(400_000) == 2.5e-5


def test_rates():
    constant = replace(TINY, steps=100, warmup=10, cooldown=0.5, learning_rate=1.0)
    assert [constant.rate(s) for s in (0, 9, 30, 50, 75)] == pytest.approx([0.1, 1, 1, 1, 0.5])
    cosine = replace(constant, schedule="cosine", warmup=0)
    assert [cosine.rate(s) for s in (0, 50, 100)] == pytest.approx([1, 0.5, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"ema": 1.5}, "ema must be 0 to 1"),
        ({"loss": "l7"}, "loss must be one of mse, charbonnier"),
        ({"learning_rate": -1.0}, "learning_rate must not be negative"),
        ({"precision": "fp16"}, "'muon' does not work with precision 'fp16'"),
    ],
)
def test_wrong_configurations_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        replace(TINY, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"skips": True},
        {"filter_basis": 4},
        {"encoder_blocks": 2, "decoder_blocks": 3},
        {"skips": True, "filter_basis": 2},
        {"filter_basis": 2, "blind_filters": 5},
    ],
    ids=str,
)
def test_a_network_grows_without_a_change_to_its_output(changes):
    small = awake(create_model("saphn", widths=(4, 6), encoder_blocks=1, decoder_blocks=1, unshuffle=2))
    grown = grow(small, changes)
    assert asdict(grown.config) == asdict(small.config) | changes
    x = picture(small)
    torch.testing.assert_close(grown(x), small(x), rtol=0, atol=1e-6)


def test_a_blind_deconvolution_grows_by_filters():
    small = create_model("saphn", widths=(4, 6), unshuffle=2, filter_basis=2, blind_filters=3).eval()
    for layer in (small.blind.near.mix, *small.blind.tell):
        torch.nn.init.normal_(layer.weight)  # begins at zero otherwise
    grown = grow(small, {"blind_filters": 5}).eval()
    x = torch.rand(1, 3, 64, 64)
    looks = [network.blind(x) for network in (small, grown)]
    before, after = ((look.correction, look.bank.responses(), *look.features) for look in looks)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
    assert small.blind(x).correction.abs().max() > 0.01
    small.blind.near.filters += 0.01
    with pytest.raises(UsageError, match="more blind_filters and blind_colors=true can be added"):
        grow(small, {"blind_filters": 5})


def test_a_blind_deconvolution_grows_by_colors():
    small = create_model("saphn", widths=(4, 6), unshuffle=2, filter_basis=2).eval()
    torch.nn.init.normal_(small.blind.mid.mix.bias)  # near sees light, too, from then on
    grown = grow(small, {"blind_colors": True}).eval()
    assert all(torch.equal(grown.state_dict()[name], weight) for name, weight in small.state_dict().items())
    squares = 0.1 * torch.rand(1, 1, 24, 24)
    gray = squares.repeat_interleave(8, 2).repeat_interleave(8, 3).expand(1, 3, -1, -1)
    assert (small(gray) - gray).abs().max() > 0.01
    torch.testing.assert_close(grown(gray), small(gray), rtol=0, atol=1e-5)


def test_a_network_does_not_grow_into_another():
    small = create_model("saphn", widths=(4, 6), filter_basis=4, blind_filters=6)
    assert grow(small, {"widths": [4, 6], "filter_basis": 4}) is small
    more = ({"filter_basis": 5}, {"blind_filters": 5}, {"encoder_blocks": 1}, {"colour": 1})
    for changes in ({"widths": (6, 8)}, *more):
        with pytest.raises(UsageError, match="of init cannot become one with"):
            grow(small, changes)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_frozen_weights_stay(tmp_path, optimizer):
    config = replace(TINY, optimizer=optimizer, frozen=("encoders.0.", "decoders.0.last.bias"))
    train(config, source(), tmp_path)
    torch.manual_seed(config.seed)
    begun = create_model(config.model, **config.overrides).state_dict()
    for name, weight in weights(tmp_path).items():
        if name.startswith(config.frozen):
            assert torch.equal(weight, begun[name].half())  # as files hold weights
    assert not torch.equal(weights(tmp_path)["decoders.0.last.weight"], begun["decoders.0.last.weight"])


def test_finetuning_leaves_what_reads_the_spectra(tmp_path):
    """Crops teach it little, and the recipe that trained it too made the shipped weights worse than they were."""
    config = replace(finetune(), steps=2, batch_size=1, crop=16, learning_rate=1e-2, warmup=0, workers=0)
    train(config, source(), tmp_path)
    begun, trained = load_model("saphn-s").state_dict(), load_model(tmp_path / "weights.safetensors").state_dict()
    changed = {name.split(".")[0] for name in begun if not torch.equal(begun[name], trained[name])}
    assert {"encoders", "decoders"} <= changed
    reads = [name for name in begun if name.startswith("blind.") and not name.startswith("blind.tell")]
    assert reads
    assert all(torch.equal(begun[name], trained[name]) for name in reads)


def test_only_what_there_is_can_be_frozen(tmp_path):
    with pytest.raises(UsageError, match=r"has no weights called blnid\.\.\."):
        train(replace(TINY, frozen=("blnid.",)), source(), tmp_path)
    with pytest.raises(UsageError, match="nothing is left to train"):
        train(replace(TINY, frozen=("",)), source(), tmp_path)


def test_losses_equal_their_definitions():
    x, y = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    pictures = (x - y).numpy()
    squares = [np.square(d).mean() for d in pictures]
    np.testing.assert_allclose(mean_squared_error(x, y), squares, rtol=1e-5)
    np.testing.assert_allclose(charbonnier(x, y), [np.hypot(d, 1e-3).mean() for d in pictures], rtol=1e-5)
    np.testing.assert_allclose(negative_psnr(x, y), [10 * np.log10(s + 1e-5) for s in squares], rtol=1e-5)
    spectrum = np.fft.rfft2(pictures, norm="ortho")
    expected = (np.abs(spectrum.real).mean() + np.abs(spectrum.imag).mean()) / 2
    assert float(frequency_distance(x, y)) == pytest.approx(expected, rel=1e-5)
    whole = restoration_loss([x, x, x], y, name="mse", lower_weight=0.5, frequency_weight=2.0)
    assert float(whole) == pytest.approx(2 * np.mean(squares) + 2 * expected, rel=1e-5)


def test_what_a_picture_loses_counts_more_than_what_another_gains():
    sharp = torch.rand(2, 3, 4, 4)
    blurred = sharp + 0.1
    estimate = sharp + torch.tensor([0.05, 0.2])[:, None, None, None]
    plain = restoration_loss([estimate], sharp, name="mse")
    weighed = restoration_loss([estimate], sharp, name="mse", blurred=blurred, harm_weight=3.0)
    harm = (0.2**2 - 0.1**2) / 2  # of the second picture alone
    assert float(weighed - plain) == pytest.approx(3 * harm, rel=1e-4)


def test_orthogonalize_equalizes_singular_values():
    x = torch.randn(3, 8, 20) * torch.logspace(-2, 0, 8)[:, None]
    values = torch.linalg.svdvals(orthogonalize(x))
    assert values.min() > 0.3
    assert values.max() < 1.3
    # The directions stay: the result is near U V^T.
    u, _, v = torch.linalg.svd(torch.randn(1, 8, 20), full_matrices=False)
    torch.testing.assert_close(orthogonalize(u @ v), u @ v, rtol=0, atol=0.35)


def test_muon_takes_any_shape_down():
    weights = [torch.nn.Parameter(torch.randn(s)) for s in ((4, 9), (9, 4), (6, 3, 3, 3), (6, 3, 3, 3))]
    start = sum(float(w.detach().square().sum()) for w in weights)
    optimizer = Muon(weights, lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        sum(w.square().sum() for w in weights).backward()
        optimizer.step()
    assert sum(float(w.detach().square().sum()) for w in weights) < 0.05 * start


def test_every_parameter_has_one_optimizer():
    network = create_model("saphn-s")
    matrices, others = split_parameters(network)
    assert len(matrices) + len(others) == len(list(network.parameters()))
    assert all(w.ndim >= 2 for w in matrices)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adam", "loss": "mse"},
        pytest.param({"checkpoint_activations": True}, marks=pytest.mark.slow),
    ],
)
def test_training_learns(tmp_path, changes):
    rows = []
    train(replace(TINY, steps=60, learning_rate=1e-2, **changes), source(), tmp_path, log=rows.append)
    losses = [row["loss"] for row in rows]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert load_model(tmp_path / "weights.safetensors").config.levels == 2


def test_recomputing_activations_changes_no_gradient():
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = create_model("saphn", **TINY.overrides)
        network.checkpoint_activations = recompute
        torch.nn.init.normal_(network.decoders[0].last.weight)
        network(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))).square().sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True) if a is not None)


@pytest.mark.parametrize(("workers", "frozen"), [(0, ()), (1, TINY.frozen)])
def test_resuming_changes_no_bit(tmp_path, workers, frozen):
    config = replace(TINY, workers=workers, frozen=frozen)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config, source(), whole)
    for _ in range(30):
        if train(config, source(), parts, minutes=0, resume=(parts / "checkpoints").exists()).step == config.steps:
            break
    assert_same_weights(whole, parts)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path):
    script = Path(__file__).with_name("train_slowly.py")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([sys.executable, script, killed])
    deadline = time.monotonic() + 600
    while len(list((killed / "checkpoints").glob("step-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    notices = []
    from train_slowly import CONFIG

    steps = train(replace(CONFIG, save_every=1000.0), source(), killed, resume=True, notice=notices.append).step
    assert steps == CONFIG.steps
    train(replace(CONFIG, save_every=1000.0), source(), whole)
    assert_same_weights(whole, killed)


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    train(TINY, source(), whole)
    train(replace(TINY, save_every=0.0), source(), damaged, minutes=0)
    train(replace(TINY, save_every=0.0), source(), damaged, minutes=0, resume=True)
    newest = sorted((damaged / "checkpoints").glob("step-*"))[-1]
    (newest / "model.safetensors").write_bytes(b"damaged")
    notices = []
    train(TINY, source(), damaged, resume=True, notice=notices.append)
    assert notices == [f"{newest}: this checkpoint is damaged, going back to the one before"]
    assert_same_weights(whole, damaged)


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path):
    with pytest.raises(UsageError, match="no intact checkpoint to resume from"):
        train(TINY, source(), tmp_path, resume=True)


def test_a_step_that_is_not_finite_changes_nothing(tmp_path):
    class OneBad(RealPairs):
        def draw(self, count, size, progress, rng):
            blurred, sharp = super().draw(count, size, progress, rng)
            return (blurred * math.nan if progress == 0.25 else blurred), sharp

    good = source()[0][0]
    train(TINY, [(OneBad(good.blurred, good.sharp), 1.0)], tmp_path)
    assert all(t.isfinite().all() for t in weights(tmp_path).values())


def test_too_many_of_them_stop_the_run(tmp_path):
    class Bad(RealPairs):
        def draw(self, count, size, progress, rng):
            blurred, sharp = super().draw(count, size, progress, rng)
            return blurred * math.nan, sharp

    good = source()[0][0]
    with pytest.raises(TrainingError, match="3 gradients in a row were not finite; lower the learning rate"):
        train(replace(TINY, max_bad_steps=2), [(Bad(good.blurred, good.sharp), 1.0)], tmp_path)


def test_validation_scores_the_average_and_keeps_training_bits(tmp_path):
    pictures = [np.random.default_rng(1).integers(0, 256, (40, 48, 3), np.uint8)]
    rows = []
    config = replace(TINY, validate_every=4)
    train(config, source(), tmp_path / "validated", validation=Validation(pictures), log=rows.append)
    scored = [row["validation"] for row in rows if "validation" in row]
    assert len(scored) == 2
    assert set(scored[0]) == {"mild", "medium", "strong", "sharp"}
    with Image.open(tmp_path / "validated" / "pictures" / "step-00000008.png") as sheet:
        assert sheet.size == (3 * 48, 40)
    train(TINY, source(), tmp_path / "plain")
    assert_same_weights(tmp_path / "validated", tmp_path / "plain")


def test_two_processes_train_one_network(tmp_path):
    script = Path(__file__).with_name("train_slowly.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run = subprocess.run([*launch, script, tmp_path, "quick"], check=True, timeout=600, capture_output=True)
    assert sorted(run.stdout.split()) == [b"0", b"12"]  # the log is the main process's
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "weights.safetensors"]
    assert load_model(tmp_path / "weights.safetensors").name == "saphn-s"
