"""Training against critics, and by what VGG19 sees."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

pytest.importorskip("accelerate")

from accelerate import Accelerator
from test_train import TINY, assert_same_weights, source

from unsmear.errors import ModelError, UsageError
from unsmear.train import critics
from unsmear.train.adversarial import Adversary, gradient_penalty, relativistic_squares
from unsmear.train.command import configure
from unsmear.train.config import RECIPES
from unsmear.train.loop import train
from unsmear.train.perceptual import Features

WGAN = replace(
    TINY,
    frozen=(),
    model="deblurgan",
    overrides={"width": 4, "blocks": 1},
    steps=3,
    adversarial="wgan-gp",
    adversarial_weight=1.0,
    critic_steps=2,
)
RAGAN = replace(TINY, steps=3, adversarial="ragan-ls")


@pytest.fixture(autouse=True)
def thin_critics(monkeypatch):
    monkeypatch.setattr(critics, "_WIDTH", 8)
    monkeypatch.setattr(critics, "_WIDEST", 64)


@pytest.fixture(scope="module")
def vgg19(tmp_path_factory):
    """A file as torchvision published it, with small random weights and only some of the later layers."""
    generator = torch.Generator().manual_seed(0)
    widths = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)}
    tensors = {"classifier.6.bias": torch.zeros(1000)}
    for number, (channels, width) in widths.items():
        weight = torch.randn(width, channels, 3, 3, generator=generator) * (2 / 9 / channels) ** 0.5
        tensors |= {f"features.{number}.weight": weight, f"features.{number}.bias": torch.full((width,), 0.01)}
    path = tmp_path_factory.mktemp("vgg") / "vgg19-dcbb9e9d.pth"
    torch.save(tensors, path)
    return path


def newest(folder):
    return sorted((folder / "checkpoints").glob("step-*"))[-1]


def test_features_are_those_of_conv3_3(vgg19):
    given = torch.load(vgg19)
    x = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    y = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    for number in (0, 2, 5, 7, 10, 12, 14):
        if number in (5, 10):
            y = functional.max_pool2d(y, 2)
        y = functional.conv2d(y, given[f"features.{number}.weight"], given[f"features.{number}.bias"], padding=1)
        if number < 14:
            y = y.relu()
    torch.testing.assert_close(Features(vgg19)(x), y, rtol=1e-4, atol=1e-5)


def test_the_distance_teaches_the_estimate_only(vgg19):
    features = Features(vgg19)
    x, y = (torch.rand(1, 3, 8, 8).requires_grad_() for _ in range(2))
    assert features.distance(x, x).item() == 0
    features.distance(x, y).backward()
    assert x.grad.any()
    assert y.grad is None
    assert not [p for p in features.parameters() if p.requires_grad]


def test_files_that_hold_something_else_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        Features(tmp_path / "vgg19.pth")
    torch.save({"features.0.weight": torch.zeros(64, 3, 5, 5)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"holds no VGG19, as features\.0\.weight is missing or of another shape"):
        Features(tmp_path / "other.pth")


@pytest.mark.parametrize("recipe", ["deblurgan", "deblurgan-v2"])
def test_without_vgg19_one_line_says_what_to_do(tmp_path, recipe):
    config = replace(RECIPES[recipe](), overrides={}, model="saphn-s")
    with pytest.raises(
        UsageError, match=r"download https://\S+vgg19\S+pth .* pass --set vgg19=FILE, or train"
    ) as error:
        train(config, source(), tmp_path)
    settings = str(error.value).split("--set ")[2:]
    assert configure(recipe, [s.strip() for s in settings]).perceptual_weight == 0  # what it says works
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adversarial": "cgan"}, "adversarial must be one of none, wgan-gp, ragan-ls"),
        ({"critic_steps": 0}, "critic_steps must be at least 1"),
        ({"momentum": 1.0}, "momentum must be 0 or more and less than 1"),
        ({"perceptual_weight": -1.0}, "perceptual_weight must not be negative"),
        ({"pixel_weight": 0.0}, "pixel_weight and perceptual_weight are both 0"),
    ],
)
def test_wrong_configurations_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        replace(TINY, **changes)


def test_recipes_are_those_of_the_papers():
    first, second = RECIPES["deblurgan"](), RECIPES["deblurgan-v2"]()
    assert (first.adversarial, first.critic_steps, first.perceptual_weight) == ("wgan-gp", 5, 100)
    assert (second.adversarial, second.critic_steps, second.perceptual_weight) == ("ragan-ls", 1, 0.006)
    for config in (first, second):
        assert [config.rate(step) for step in (0, 149_999, 225_000)] == pytest.approx([1e-4, 1e-4, 5e-5])


def test_relativistic_squares_by_hand():
    higher, lower = torch.tensor([3.0, 1.0]), torch.tensor([0.0, 2.0])  # means 2 and 1
    by_hand = ((3 - 1 - 1) ** 2 + (1 - 1 - 1) ** 2) / 2 + ((0 - 2 + 1) ** 2 + (2 - 2 + 1) ** 2) / 2
    assert float(relativistic_squares(higher, lower)) == by_hand / 2
    assert float(relativistic_squares(torch.full((4,), 1.0), torch.zeros(4))) == 0


def test_gradient_penalty_of_a_linear_critic():
    critic = nn.Conv2d(3, 1, 1)
    nn.init.constant_(critic.weight, 2.0)
    penalty = gradient_penalty(critic, torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4))
    assert penalty.item() == pytest.approx((2 * 3**0.5 - 1) ** 2, rel=1e-5)
    penalty.backward()
    assert critic.weight.grad.any()


@pytest.mark.parametrize(("halvings", "patch"), [(3, 70), (5, 286)])
def test_critics_judge_patches(halvings, patch):
    """A verdict sees a patch and nothing else; without normalization, which sees all of the picture."""
    critic = critics.PatchCritic(halvings)
    for i, layer in enumerate(critic.layers):
        if isinstance(layer, nn.InstanceNorm2d):
            critic.layers[i] = nn.Identity()
    x = torch.zeros(1, 3, 576, 16).requires_grad_()
    verdicts = critic(x)
    verdicts[0, 0, verdicts.shape[2] // 2].sum().backward()
    assert int(x.grad.abs().sum((0, 1, 3)).count_nonzero()) == patch


@pytest.mark.parametrize(("kind", "momentum"), [("wgan-gp", 0.5), ("ragan-ls", 0.9)])
def test_critics_learn_to_tell(kind, momentum):
    torch.manual_seed(0)
    adversary = Adversary(kind, steps=8, momentum=momentum, accelerator=Accelerator(cpu=True))
    sharp = torch.rand(2, 3, 32, 32)
    blurred = functional.avg_pool2d(sharp, 3, 1, 1).requires_grad_()
    before = adversary.loss(blurred, sharp).item()
    adversary.train(blurred, sharp, 1e-4)
    loss = adversary.loss(blurred, sharp)
    assert loss.item() > before  # the network has a harder time
    assert blurred.grad is None  # critics learn alone,
    loss.backward()
    assert blurred.grad.any()  # and so does the network
    learned = adversary.state_dict()["critics"]
    adversary.train(blurred * float("nan"), sharp, 1e-4)
    assert all(t.isfinite().all() for t in learned.values())


@pytest.mark.parametrize("config", [WGAN, RAGAN], ids=["wgan-gp", "ragan-ls"])
def test_resuming_changes_no_bit_of_network_and_critics(tmp_path, vgg19, config):
    config = replace(config, perceptual_weight=0.1, vgg19=str(vgg19))
    whole, parts, rows = tmp_path / "whole", tmp_path / "parts", []
    train(config, source(), whole, log=rows.append)
    assert all({"pixels", "perceptual", "adversarial", "critics"} <= row.keys() for row in rows)
    terms = rows[0]
    summed = terms["pixels"] + 0.1 * terms["perceptual"] + config.adversarial_weight * terms["adversarial"]
    assert terms["loss"] == pytest.approx(summed, rel=1e-3, abs=1e-5)
    while train(config, source(), parts, minutes=0, resume=(parts / "checkpoints").exists()).step < config.steps:
        pass
    assert_same_weights(whole, parts)
    first, second = (torch.load(newest(run) / "custom_checkpoint_2.pkl") for run in (whole, parts))
    assert first["critics"].keys() == second["critics"].keys()
    assert all(torch.equal(t, second["critics"][name]) for name, t in first["critics"].items())
    moments = [state["optimizer"]["state"] for state in (first, second)]
    assert all(torch.equal(s["exp_avg"], moments[1][i]["exp_avg"]) for i, s in moments[0].items())


def test_a_plain_run_logs_and_saves_no_more_than_before(tmp_path):
    rows = []
    train(replace(TINY, steps=1), source(), tmp_path, log=rows.append)
    assert not {"pixels", "adversarial", "critics"} & rows[0].keys()
    assert not (newest(tmp_path) / "custom_checkpoint_2.pkl").exists()


PROCESS = """
import hashlib, sys
from pathlib import Path
import torch
from test_adversarial import RAGAN, source
from unsmear.train import critics, loop

critics._WIDTH = 8
made = []
class Kept(loop.Objective):
    def __init__(self, *given):
        super().__init__(*given)
        made.append(self.adversary)
loop.Objective = Kept
loop.train(RAGAN, source(), Path(sys.argv[1]))
whole = b"".join(t.numpy().tobytes() for t in made[0].critics.state_dict().values())
sys.stdout.write(hashlib.sha256(whole).hexdigest() + "\\n")  # in one piece: they share the output
sys.stdout.flush()
torch.distributed.destroy_process_group()
"""


def test_two_processes_keep_their_critics_alike(tmp_path):
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    run = subprocess.run([*command, tmp_path / "run"], capture_output=True, text=True, env=environment, timeout=600)
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.split()
    assert first == second
