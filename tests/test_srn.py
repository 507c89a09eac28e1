"""SRN and PSS-NSC against the graphs of their authors, with TensorFlow's conventions as it defines them."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from unsmear import create_model
from unsmear.convert import pss_nsc, srn
from unsmear.errors import UsageError
from unsmear.models.sampling import SameConv2d, double, halve


def same_conv(x, kernel, stride=1):
    """TensorFlow's conv2d with padding SAME, for (B, H, W, C) and (k, k, C, C'), one output pixel at a time."""
    batch, height, width, _ = x.shape
    k = len(kernel)
    out_height, out_width = -(-height // stride), -(-width // stride)
    total = [max((out - 1) * stride + k - size, 0) for out, size in ((out_height, height), (out_width, width))]
    x = np.pad(x, ((0, 0), *((t // 2, t - t // 2) for t in total), (0, 0)))
    out = np.empty((batch, out_height, out_width, kernel.shape[3]))
    for i in range(out_height):
        for j in range(out_width):
            window = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
            out[:, i, j] = np.einsum("bhwc,hwcd->bd", window, kernel)
    return out


def same_conv_transpose(x, kernel):
    """TensorFlow's conv2d_transpose with stride 2 and padding SAME: the gradient of `same_conv` by its input.

    For (B, H, W, C) and a kernel (4, 4, C', C): every pixel spreads the kernel, and the padding is cut off.
    """
    batch, height, width, _ = x.shape
    k = len(kernel)
    before = (k - 2) // 2
    out = np.zeros((batch, 2 * height + k - 2, 2 * width + k - 2, kernel.shape[2]))
    for i in range(height):
        for j in range(width):
            out[:, 2 * i : 2 * i + k, 2 * j : 2 * j + k] += np.einsum("bc,hwdc->bhwd", x[:, i, j], kernel)
    return out[:, before : before + 2 * height, before : before + 2 * width]


def resize(x, height, width):
    """TensorFlow 1's resize_images, bilinear: output pixel i lies at i * in / out, and the last is repeated."""

    def weights(size, new):
        at = np.arange(new) * size / new
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, size - 1), at - low

    top, bottom, dy = weights(x.shape[1], height)
    left, right, dx = weights(x.shape[2], width)
    dy, dx = dy[:, None, None], dx[:, None]
    upper = x[:, top][:, :, left] * (1 - dx) + x[:, top][:, :, right] * dx
    lower = x[:, bottom][:, :, left] * (1 - dx) + x[:, bottom][:, :, right] * dx
    return upper * (1 - dy) + lower * dy


def to_torch(x):
    return torch.from_numpy(np.moveaxis(x, 3, 1))


@pytest.mark.parametrize("size", [(6, 8), (2, 4)])
@pytest.mark.parametrize(("kernel", "stride"), [(5, 1), (3, 1), (5, 2), (3, 2)])
def test_convolutions_pad_as_tensorflow_does(size, kernel, stride):
    random = np.random.default_rng(0)
    x, weight = random.normal(size=(2, *size, 3)), random.normal(size=(kernel, kernel, 3, 4))
    conv = SameConv2d(3, 4, kernel, stride).double()
    conv.load_state_dict({"weight": torch.from_numpy(weight).permute(3, 2, 0, 1), "bias": torch.zeros(4)})
    with torch.no_grad():
        torch.testing.assert_close(conv(to_torch(x)), to_torch(same_conv(x, weight, stride)))


def test_transposed_convolutions_are_tensorflows():
    random = np.random.default_rng(0)
    x, weight = random.normal(size=(2, 3, 5, 4)), random.normal(size=(4, 4, 6, 4))
    ours = functional.conv_transpose2d(to_torch(x), torch.from_numpy(weight).permute(3, 2, 0, 1), stride=2, padding=1)
    torch.testing.assert_close(ours, to_torch(same_conv_transpose(x, weight)))


def test_resizing_is_tensorflows():
    x = np.random.default_rng(0).normal(size=(2, 8, 12, 3))
    torch.testing.assert_close(double(to_torch(x)), to_torch(resize(x, 16, 24)))
    for times in (0, 1, 2):
        torch.testing.assert_close(halve(to_torch(x), times), to_torch(resize(x, 8 >> times, 12 >> times)))


class Graph:
    """The authors' graphs in their words; draws a variable when it is first used, as TensorFlow does."""

    def __init__(self):
        self.random, self.variables = np.random.default_rng(0), {}

    def variable(self, name, *shape):
        if name not in self.variables:
            scale = 0.7 / np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else 0.1
            self.variables[name] = self.random.normal(size=shape) * scale
        value = self.variables[name]
        assert value.shape == shape
        return value

    def conv(self, x, channels, k, scope, stride=1, relu=True):
        # Fast, with TensorFlow's padding: tested above.
        weight = self.variable(f"g_net/{scope}/weights", k, k, x.shape[3], channels)
        bias = self.variable(f"g_net/{scope}/biases", channels)
        total = k - stride
        x = functional.pad(to_torch(x), (total // 2, total - total // 2) * 2)
        y = functional.conv2d(x, torch.from_numpy(weight).permute(3, 2, 0, 1), stride=stride)
        y = np.moveaxis(y.numpy(), 1, 3) + bias
        return np.maximum(y, 0) if relu else y

    def up(self, x, channels, scope):
        weight = self.variable(f"g_net/{scope}/weights", 4, 4, channels, x.shape[3])
        return np.maximum(same_conv_transpose(x, weight) + self.variable(f"g_net/{scope}/biases", channels), 0)

    def unit(self, x, dim, k, scope):
        return self.conv(self.conv(x, dim, k, f"{scope}/conv1"), dim, k, f"{scope}/conv2", relu=False)

    def lstm(self, x, state):
        memory, output = np.split(state, 2, 3)
        gates = self.conv(np.concatenate([x, output], 3), 512, 3, "convLSTM/LSTM_conv", relu=False)
        i, j, f, o = np.split(gates, 4, 3)
        memory = memory * sigmoid(f + 1) + sigmoid(i) * np.tanh(j)
        output = np.tanh(memory) * sigmoid(o)
        return output, np.concatenate([memory, output], 3)

    def srn(self, inputs, lstm):
        _, h, w, channels = inputs.shape
        estimate, outputs, state = inputs, [], np.zeros((len(inputs), h // 4, w // 4, 256))
        for n in (4, 2, 1):
            estimate = resize(estimate, h // n, w // n)
            x = np.concatenate([resize(inputs, h // n, w // n), estimate], 3)
            state = resize(state, h // n // 4, w // n // 4)
            skips = []
            for s, dim in ((1, 32), (2, 64), (3, 128)):
                x = self.conv(x, dim, 5, f"enc{s}_1", stride=1 if s == 1 else 2)
                for b in (2, 3, 4):
                    x = x + self.unit(x, dim, 5, f"enc{s}_{b}")
                skips.append(x)
            if lstm:
                x, state = self.lstm(x, state)
            for s, dim in ((3, 128), (2, 64), (1, 32)):
                for b in (3, 2, 1):
                    x = x + self.unit(x, dim, 5, f"dec{s}_{b}")
                if s > 1:
                    x = self.up(x, dim // 2, f"dec{s - 1}_4") + skips[s - 2]
            estimate = self.conv(x, channels, 5, "dec1_0", relu=False)
            outputs.append(estimate)
        return outputs

    def nested(self, x, dim, scope):
        for _ in range(2):
            total = x
            for d in (1, 2, 3, 4):
                total = total + self.unit(total, dim, 3, f"{scope}/d{d}")
            x = total
        return x

    def pss_nsc(self, inputs):
        _, h, w, _ = inputs.shape
        estimate, outputs = inputs, []
        for i, n in enumerate((4, 2, 1)):
            blurred, estimate = resize(inputs, h // n, w // n), resize(estimate, h // n, w // n)
            x, skips = np.concatenate([blurred, estimate], 3), []
            for s, dim in ((1, 32), (2, 64), (3, 128)):
                x = self.conv(x, dim, 3, f"enc{s}_1_{i}", stride=1 if s == 1 else 2)
                x = self.nested(x, dim, f"enc{s}_2")
                skips.append(x)
            for s, dim in ((3, 128), (2, 64), (1, 32)):
                x = self.nested(x, dim, f"dec{s}_2")
                if s > 1:
                    x = self.up(x, dim // 2, f"dec{s - 1}_3_{i}") + skips[s - 2]
            estimate = self.conv(x, 1, 3, f"dec1_0_{i}", relu=False) + blurred
            outputs.append(estimate)
        return outputs

    def checkpoint(self):
        tensors = {name: torch.from_numpy(value) for name, value in self.variables.items()}
        adam = {f"{name}/Adam{i}": torch.zeros_like(t) for name, t in tensors.items() for i in ("", "_1")}
        return {"deblur.model-523000": tensors | adam | {"beta1_power": torch.tensor(0.9)}}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def restored(converted, inputs):
    network = create_model(converted.model, **converted.overrides).double().eval()
    network.load_state_dict(converted.tensors)
    with torch.no_grad():
        return network.restore(to_torch(inputs))


@pytest.mark.parametrize(
    ("channels", "lstm", "model", "overrides"),
    [(1, True, "srn", {}), (1, False, "srn", {"lstm": False}), (3, False, "srn-color", {})],
)
def test_released_weights_of_srn_give_what_the_authors_graph_gives(channels, lstm, model, overrides):
    graph = Graph()
    inputs = np.random.default_rng(1).uniform(size=(2, 16, 32, channels))
    expected = graph.srn(inputs, lstm)
    converted = srn.convert(graph.checkpoint())
    assert (converted.model, converted.overrides) == (model, overrides)
    assert all(t.dtype == torch.float32 for t in converted.tensors.values())
    assert len(converted.unused) == 2 * len(graph.variables) + 1
    for ours, theirs in zip(restored(converted, inputs), expected, strict=True):
        torch.testing.assert_close(ours, to_torch(theirs), rtol=1e-5, atol=1e-6)


def test_released_weights_of_pss_nsc_give_what_the_authors_graph_gives():
    graph = Graph()
    inputs = np.random.default_rng(1).uniform(size=(2, 16, 32, 1))
    expected = graph.pss_nsc(inputs)
    converted = pss_nsc.convert(graph.checkpoint())
    assert converted.model == "pss-nsc"
    assert "beta1_power" in converted.unused
    for ours, theirs in zip(restored(converted, inputs), expected, strict=True):
        torch.testing.assert_close(ours, to_torch(theirs), rtol=1e-5, atol=1e-6)


def test_weights_of_others_are_left_to_others():
    graph = Graph()
    graph.srn(np.zeros((1, 16, 16, 1)), lstm=True)
    (tensors,) = graph.checkpoint().values()
    part = {k: v for k, v in tensors.items() if k != "g_net/dec1_0/biases"}
    assert srn.convert({"a": part}) is None
    for convert in (srn.convert, pss_nsc.convert):
        assert convert({}) is None
        assert convert({"a": {"conv.weight": torch.zeros(1)}}) is None
        assert convert({"a": tensors, "b": tensors}) is None
    assert pss_nsc.convert({"a": tensors}) is None


@pytest.mark.parametrize("name", ["srn", "srn-color", "pss-nsc"])
def test_estimates_go_from_coarse_to_fine_and_gradients_stop_between(name):
    network = create_model(name)
    assert [tuple(e.shape) for e in network.estimates(torch.rand(1, 3, 16, 32))] == [
        (1, 3, 4, 8),
        (1, 3, 8, 16),
        (1, 3, 16, 32),
    ]
    estimates = network.restore(torch.rand(2, 3, 16, 32) if name == "srn-color" else torch.rand(2, 1, 16, 32))
    for estimate in estimates:
        estimate.retain_grad()
    estimates[-1].sum().backward()
    assert [e.grad is None for e in estimates] == [True, True, False]


def test_channels_of_single_channel_networks_are_apart():
    network = create_model("srn").eval()
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        y, shuffled = network(x), network(x[:, [2, 0, 1]])
    torch.testing.assert_close(shuffled, y[:, [2, 0, 1]])


@pytest.mark.parametrize(
    ("model", "override", "message"),
    [
        ("srn", {"kernel": 4}, "kernel must be odd, not 4"),
        ("srn", {"widths": ()}, "at least one scale"),
        ("pss-nsc", {"units": 0}, "units and repeats be at least 1"),
        ("svrnn", {"guidance": (8, 8)}, "guidance must be four widths"),
        ("svrnn", {"layers": 0}, "layers at least 1"),
    ],
)
def test_configurations_that_cannot_be_built_are_refused(model, override, message):
    with pytest.raises(UsageError, match=message):
        create_model(model, **override)


@pytest.mark.parametrize(
    ("model", "override"),
    [
        ("srn", {"widths": (8,), "blocks": 1}),
        ("srn-color", {"widths": (4, 6, 8, 10), "kernel": 3, "lstm": True}),
        ("pss-nsc", {"widths": (4, 8), "units": 1, "repeats": 3}),
        ("svrnn", {"width": 6, "layers": 2, "guidance": (4, 6, 8, 10)}),
    ],
)
def test_other_configurations_work(model, override):
    network = create_model(model, **override).eval()
    x = torch.rand(1, 3, network.size_multiple, 2 * network.size_multiple)
    with torch.no_grad():
        assert network(x).shape == x.shape
