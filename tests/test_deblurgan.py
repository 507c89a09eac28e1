"""DeblurGAN and DeblurGAN-v2: what is special about them, and the weights that their authors released."""

from functools import partial

import pytest
import torch
from networks import awake, picture
from torch import nn

from unsmear import create_model
from unsmear.convert import deblurgan, deblurgan_v2
from unsmear.errors import UsageError
from unsmear.models.inception_resnet_v2 import InceptionResNetV2, Unit
from unsmear.models.mobilenet_v2 import MobileNetV2

SMALL = {"width": 4, "blocks": 2}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("deblurgan", {"convolutions": 3}, "convolutions must be 1 or 2"),
        ("deblurgan", {"dropout": 1.0}, "dropout must be 0 or more and less than 1"),
        ("deblurgan", {"blocks": 0}, "must be at least 1"),
        ("deblurgan-v2", {"backbone": "vgg"}, "backbone must be"),
        ("deblurgan-v2", {"width": 7}, "width must be even"),
    ],
)
def test_wrong_configurations_are_refused(name, changes, message):
    with pytest.raises(UsageError, match=message):
        create_model(name, **changes)


@pytest.mark.parametrize("name", ["deblurgan", "deblurgan-v2-mobile"])
def test_output_stays_between_black_and_white(name):
    network = awake(create_model(name, width=8))
    with torch.no_grad():
        output = network(picture(network).round())
    assert output.min() >= 0
    assert output.max() <= 1


@pytest.mark.parametrize("name", ["deblurgan", "deblurgan-v2-mobile"])
def test_statistics_are_those_of_the_picture(name):
    """The authors normalize by the picture itself at inference: a darker corner changes pixels everywhere."""
    network = awake(create_model(name, width=8))
    x = picture(network, rows=8, columns=8)
    other = x.clone()
    other[..., :8, :8] *= 0.5
    with torch.no_grad():
        difference = network(other) - network(x)
    assert difference[..., -8:, -8:].abs().max() > 0
    assert not any(buffer.numel() for buffer in network.buffers())


def test_dropout_is_for_training_only():
    network = awake(create_model("deblurgan", **SMALL))
    x = picture(network)
    with torch.no_grad():
        assert torch.equal(network(x), network(x))
        network.train()
        assert not torch.equal(network(x), network(x))


def test_backbones_normalize_as_batches_of_one_do():
    unit = Unit(3, 8, 3)
    nn.init.normal_(unit.norm.weight)
    nn.init.normal_(unit.norm.bias)
    reference = nn.BatchNorm2d(8, eps=1e-3).train()
    reference.load_state_dict(unit.norm.state_dict(), strict=False)
    x = torch.randn(1, 3, 6, 7)
    torch.testing.assert_close(unit.eval()(x), reference(unit.conv(x)).relu(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(128, 160), (224, 192)])
def test_backbones_halve_five_times(size):
    x = torch.zeros(1, 3, *size, device="meta")
    with torch.device("meta"):
        small, large = MobileNetV2(), InceptionResNetV2()
    shapes = [f.shape for f in small(x)]
    assert [s[1] for s in shapes] == [16, 24, 32, 64, 160]
    assert [s[2:] for s in shapes] == [(size[0] >> i, size[1] >> i) for i in range(1, 6)]
    shapes = [f.shape for f in large(x)]
    assert [s[1] for s in shapes] == [32, 64, 192, 1088, 2080]
    # What is missing at the edges for want of padding is what the authors add again, reflected.
    assert [(size[0] >> i) - s[2] for i, s in enumerate(shapes, start=1)] == [1, 2, 3, 2, 2]


def authors_deblurgan(convolutions, dropout, width=4, blocks=2):
    """The authors' generator, layer by layer as they number them."""
    norm = partial(nn.InstanceNorm2d, track_running_stats=True)

    class Block(nn.Module):
        def __init__(self, c):
            super().__init__()
            layers = [nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), norm(c), nn.ReLU()]
            layers += [nn.Dropout(0.5)] if dropout else []
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), norm(c)] if convolutions == 2 else []
            self.conv_block = nn.Sequential(*layers)

        def forward(self, x):
            return x + self.conv_block(x)

    w = width
    down = [(w, 2 * w), (2 * w, 4 * w)]
    layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, w, 7), norm(w), nn.ReLU()]
    for a, b in down:
        layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), norm(b), nn.ReLU()]
    layers += [Block(4 * w) for _ in range(blocks)]
    for a, b in reversed(down):
        layers += [nn.ConvTranspose2d(b, a, 3, stride=2, padding=1, output_padding=1), norm(a), nn.ReLU()]
    layers += [nn.ReflectionPad2d(3), nn.Conv2d(w, 3, 7), nn.Tanh()]
    whole = nn.Module()
    whole.model = nn.Sequential(*layers)
    return whole


@pytest.mark.parametrize(
    ("convolutions", "dropout", "overrides"),
    [(2, True, {}), (2, False, {"dropout": 0.0}), (1, True, {"convolutions": 1})],
)
def test_deblurgan_as_released(convolutions, dropout, overrides):
    theirs = authors_deblurgan(convolutions, dropout)
    released = {"latest_net_D": {"model.0.weight": torch.zeros(1)}, "latest_net_G": theirs.state_dict()}
    converted = deblurgan.convert(released)
    assert converted.model == "deblurgan"
    assert converted.overrides == {"width": 4, "blocks": 2, **overrides}
    # Nothing is passed over but counters, and biases that the next layer takes out again.
    endings = {name.rpartition(".")[2] for name in converted.unused}
    assert endings == {"running_mean", "running_var", "num_batches_tracked", "bias"}
    ours = create_model(converted.model, **converted.overrides).eval()
    ours.load_state_dict(converted.tensors)
    for module in theirs.modules():  # as in training, all but dropout
        if isinstance(module, nn.Dropout):
            module.eval()
    x = picture(ours) * 2 - 1
    with torch.no_grad():
        expected = (x + theirs.model(x)).clamp(-1, 1)
        torch.testing.assert_close(ours.restore(x)[-1], expected, rtol=1e-4, atol=1e-5)


# DeblurGAN-v2's files as (name: shape). Its backbones are there twice, whole and as the stages enc0 to enc4.


def normalization(name, channels, affine=True):
    yield from {f"{name}.{n}": (channels,) for n in ("running_mean", "running_var")}.items()
    yield f"{name}.num_batches_tracked", ()
    if affine:
        yield from {f"{name}.{n}": (channels,) for n in ("weight", "bias")}.items()


def unit(name, channels, out, kernel=(1, 1)):
    yield f"{name}.conv.weight", (out, channels, *kernel)
    yield from normalization(f"{name}.bn", out)


def branch(name, channels, *units):
    for i, (out, *kernel) in enumerate(units):
        yield from unit(f"{name}.{i}", channels, out, kernel)
        channels = out


def block(name, channels, width, first, *branches):
    yield from unit(f"{name}.branch0", channels, first)
    for i, units in enumerate(branches, start=1):
        yield from branch(f"{name}.branch{i}", channels, *units)
    yield f"{name}.conv2d.weight", (channels, width, 1, 1)
    yield f"{name}.conv2d.bias", (channels,)


def mixed_5b(name):
    yield from unit(f"{name}.branch0", 192, 96)
    yield from branch(f"{name}.branch1", 192, (48, 1, 1), (64, 5, 5))
    yield from branch(f"{name}.branch2", 192, (64, 1, 1), (96, 3, 3), (96, 3, 3))
    yield from unit(f"{name}.branch3.1", 192, 64)


def repeat(name):
    for i in range(10):
        branches = ((32, 1, 1), (32, 3, 3)), ((32, 1, 1), (48, 3, 3), (64, 3, 3))
        yield from block(f"{name}.{i}", 320, 128, 32, *branches)


def mixed_6a(name):
    yield from unit(f"{name}.branch0", 320, 384, (3, 3))
    yield from branch(f"{name}.branch1", 320, (256, 1, 1), (256, 3, 3), (384, 3, 3))


def repeat_1(name):
    for i in range(20):
        yield from block(f"{name}.{i}", 1088, 384, 192, ((128, 1, 1), (160, 1, 7), (192, 7, 1)))


def mixed_7a(name):
    yield from branch(f"{name}.branch0", 1088, (256, 1, 1), (384, 3, 3))
    yield from branch(f"{name}.branch1", 1088, (256, 1, 1), (288, 3, 3))
    yield from branch(f"{name}.branch2", 1088, (256, 1, 1), (288, 3, 3), (320, 3, 3))


def classifier(name):
    for i in [*(f"repeat_2.{i}" for i in range(9)), "block8"]:
        yield from block(f"{name}.{i}", 2080, 448, 192, ((192, 1, 1), (224, 1, 3), (256, 3, 1)))
    yield from unit(f"{name}.conv2d_7b", 2080, 1536)
    yield f"{name}.last_linear.weight", (1000, 1536)
    yield f"{name}.last_linear.bias", (1000,)


def stem(channels, out, kernel):
    return partial(unit, channels=channels, out=out, kernel=(kernel, kernel))


INCEPTION = {
    "conv2d_1a": ("enc0", stem(3, 32, 3)),
    "conv2d_2a": ("enc1.0", stem(32, 32, 3)),
    "conv2d_2b": ("enc1.1", stem(32, 64, 3)),
    "conv2d_3b": ("enc2.0", stem(64, 80, 1)),
    "conv2d_4a": ("enc2.1", stem(80, 192, 3)),
    "mixed_5b": ("enc3.0", mixed_5b),
    "repeat": ("enc3.1", repeat),
    "mixed_6a": ("enc3.2", mixed_6a),
    "repeat_1": ("enc4.0", repeat_1),
    "mixed_7a": ("enc4.1", mixed_7a),
}


def inverted(name, channels, out, expansion):
    wide, at = channels * expansion, 0
    if expansion > 1:
        yield f"{name}.conv.0.weight", (wide, channels, 1, 1)
        yield from normalization(f"{name}.conv.1", wide)
        at = 3
    yield f"{name}.conv.{at}.weight", (wide, 1, 3, 3)
    yield from normalization(f"{name}.conv.{at + 1}", wide)
    yield f"{name}.conv.{at + 3}.weight", (out, wide, 1, 1)
    yield from normalization(f"{name}.conv.{at + 4}", out)


def pyramid(laterals, width):
    for i, channels in enumerate(laterals):
        yield f"fpn.lateral{i}.weight", (width if i == 0 else 2 * width, channels, 1, 1)
    smoothing = {f"fpn.td{i}": (2 * width, 2 * width) for i in (1, 2, 3)}
    for name, (channels, out) in (smoothing | {"smooth": (4 * width, width), "smooth2": (width, width // 2)}).items():
        yield f"{name}.0.weight", (out, channels, 3, 3)
        yield f"{name}.0.bias", (out,)
        yield from normalization(f"{name}.1", out, affine=False)
    for i in (1, 2, 3, 4):
        yield f"head{i}.block0.weight", (width, 2 * width, 3, 3)
        yield f"head{i}.block1.weight", (width, width, 3, 3)
    yield "final.weight", (3, width // 2, 3, 3)
    yield "final.bias", (3,)


def inception_names():
    once = dict(pyramid((32, 64, 192, 1088, 2080), 128)) | dict(classifier("fpn.inception"))
    twice = {}
    for name, (stage, layers) in INCEPTION.items():
        once |= layers(f"fpn.inception.{name}")
        twice |= layers(f"fpn.{stage}")
    return once, twice


def mobilenet_names():
    once, twice = dict(pyramid((16, 24, 32, 64, 160), 64)), {}
    widths = [32, 16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320]
    ends = {0: 2, 1: 4, 2: 7, 3: 11, 4: 16}
    for i in range(19):
        stage = next((s for s, end in ends.items() if i < end), None)
        places = [f"fpn.features.{i}"]
        if stage is not None:
            places.append(f"fpn.enc{stage}.{i - ends.get(stage - 1, 0)}")
        for place, names in zip(places, (once, twice), strict=False):
            if i in (0, 18):
                names[f"{place}.0.weight"] = (32, 3, 3, 3) if i == 0 else (1280, 320, 1, 1)
                names.update(normalization(f"{place}.1", 32 if i == 0 else 1280))
            else:
                names.update(inverted(place, widths[i - 1], widths[i], 1 if i == 1 else 6))
    return once, twice


@pytest.mark.parametrize(
    ("model", "names", "millions"),
    [("deblurgan-v2", inception_names, 60.9), ("deblurgan-v2-mobile", mobilenet_names, 3.31)],
)
def test_deblurgan_v2_as_released(model, names, millions):
    once, twice = names()
    trained = [torch.Size(shape).numel() for name, shape in once.items() if "running" not in name and shape]
    assert sum(trained) / 1e6 == pytest.approx(millions, rel=2e-3)
    numbered = {name: torch.full(shape, i) for i, (name, shape) in enumerate((once | twice).items())}
    converted = deblurgan_v2.convert({"fpn": numbered})
    assert converted.model == model
    with torch.device("meta"):
        expected = create_model(model, **converted.overrides).state_dict()
    assert {n: t.shape for n, t in converted.tensors.items()} == {n: t.shape for n, t in expected.items()}
    # Every tensor goes to one place, and what goes nowhere is known to be of no use.
    used = {int(t.flatten()[0]) for t in converted.tensors.values()}
    assert len(used) == len(converted.tensors)
    assert len(used) + len(converted.unused) == len(numbered)
    for name in converted.unused:
        assert name.startswith(("fpn.inception.", "fpn.features.")) or name.endswith(
            ("running_mean", "running_var", "num_batches_tracked", "0.bias")
        )
    # Laterals, merges and heads have shapes alike: these are told apart by their order only.
    for ours, theirs in {
        "merges.0.0": "fpn.td3.0",  # the finest
        "merges.2.0": "fpn.td1.0",
        "heads.0.conv1": "head1.block0",
        "heads.3.conv2": "head4.block1",
    }.items():
        assert torch.equal(converted.tensors[f"{ours}.weight"], numbered[f"{theirs}.weight"].float())


def test_other_weights_are_not_recognized():
    released = {"other": {"model.1.weight": torch.zeros(1), "features.0.weight": torch.zeros(1)}}
    assert deblurgan.convert(released) is None
    assert deblurgan_v2.convert(released) is None
