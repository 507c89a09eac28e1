"""SVRNN: its recurrence, literally; and its released weights, in pictures as Caffe saw them from MATLAB."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from unsmear import create_model
from unsmear.convert import svrnn
from unsmear.models.sampling import double
from unsmear.models.svrnn import scan


def literal(x, p, dim, reverse):
    """h_t = x_t + p_t * (h_(t-1) - x_t), one number at a time."""
    h = np.zeros_like(x)
    batch, channels, height, width = x.shape
    along = width if dim == 3 else height
    for b, c, other in np.ndindex(batch, channels, height if dim == 3 else width):
        before = 0.0
        for t in reversed(range(along)) if reverse else range(along):
            at = (b, c, other, t) if dim == 3 else (b, c, t, other)
            before = h[at] = x[at] + p[at] * (before - x[at])
    return h


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("size", [(5, 7), (1, 1)])
def test_scans_are_the_recurrence(dim, reverse, size):
    random = np.random.default_rng(0)
    x, p = random.normal(size=(2, 3, *size)), np.tanh(random.normal(size=(2, 3, *size)))
    expected = torch.from_numpy(literal(x, p, dim, reverse))
    x, p = torch.from_numpy(x), torch.from_numpy(p)
    torch.testing.assert_close(scan(x, p, dim, reverse), expected)
    last = x.to(memory_format=torch.channels_last), p.to(memory_format=torch.channels_last)
    torch.testing.assert_close(scan(*last, dim, reverse), expected)
    assert scan(x.bfloat16(), p.bfloat16(), dim, reverse).dtype == torch.float32


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
def test_gradients_of_scans(dim, reverse):
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    p = torch.randn(2, 2, 3, 4, dtype=torch.float64).tanh().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, p: scan(x, p, dim, reverse), (x, p))


def test_a_factor_of_one_carries_across_the_picture_and_a_factor_of_zero_nothing():
    x, p = torch.zeros(1, 1, 2, 900), torch.ones(1, 1, 2, 900)
    x[..., 0], p[..., 0] = 1, 0
    assert (scan(x, p, 3) == 1).all()
    torch.testing.assert_close(scan(x, torch.zeros_like(p), 3), x)


class Net:
    """The authors' network description: layers by their names, in pictures with rows and columns exchanged."""

    def __init__(self):
        self.random, self.layers = torch.Generator().manual_seed(0), {}

    def draw(self, *shape):
        return torch.randn(*shape, generator=self.random, dtype=torch.float64)

    def conv(self, x, name, channels, k, stride=1):
        weight = self.draw(channels, x.shape[1], k, k) / (x.shape[1] * k * k) ** 0.5
        self.layers |= {f"{name}.0": weight, f"{name}.1": 0.1 * self.draw(channels)}
        return functional.conv2d(x, weight, self.layers[f"{name}.1"], stride, k // 2)

    def relu(self, x, name, channels, slope=0.0):
        return functional.leaky_relu(self.conv(x, name, channels, 3), slope)

    def recurrent(self, x, gates, n):
        runs = []
        for i, (gate, dim, reverse) in enumerate(
            ((gates["x1"], 3, False), (gates["x2"], 3, True), (gates["y1"], 2, False), (gates["y2"], 2, True))
        ):
            self.layers |= {f"rnn{n}_{i + 1}.{j}": self.draw(1, 1, 32, 32) for j in range(3)}  # kept, but not used
            runs.append(torch.from_numpy(literal(x.numpy(), gate.numpy(), dim, reverse)))
        return self.relu(torch.cat(runs, 1), f"conv_rnn{n}", 32, 0.1)

    def forward(self, data):
        e1 = functional.leaky_relu(self.conv(data, "conve1_1", 16, 11), 0.1)
        e2 = self.conv(e1, "conve1_2", 32, 7, stride=2)
        g1 = self.relu(self.relu(data, "convg1_1", 64), "convg1_2", 64)
        g2 = self.relu(self.relu(functional.max_pool2d(g1, 2), "convg2_1", 128), "convg2_2", 128)
        g3 = self.relu(self.relu(functional.max_pool2d(g2, 2), "convg3_1", 256), "convg3_2", 256)
        g4 = functional.max_pool2d(self.relu(g3, "convg3_3", 256), 2)
        for i, channels in enumerate((512, 512, 256)):
            g4 = self.relu(g4, f"convg4_{i + 1}", channels)
        d1 = self.relu(torch.cat([g3, resize(g4)], 1), "convgd1", 128)
        d1 = self.relu(d1, "convgd1_2", 128)
        d2 = self.relu(torch.cat([g2, resize(d1)], 1), "convgd2", 256)
        gates = self.conv(d2, "convgd2_2", 512, 3).tanh().split(32, 1)
        x = e2
        for n in range(4):
            x = self.recurrent(x, dict(zip(("x1", "y1", "x2", "y2"), gates[4 * n : 4 * n + 4], strict=True)), n + 1)
        x = functional.leaky_relu(self.conv(torch.cat([e2, x], 1), "convd1_1", 16, 9), 0.1)
        return self.conv(torch.cat([e1, resize(x)], 1), "convd1_2", 3, 5)


def resize(x):
    """Twice the size; beyond the last row and column is nothing."""
    height, width = x.shape[2:]
    y = torch.zeros(*x.shape[:2], 2 * height, 2 * width, dtype=x.dtype)
    for i, j in np.ndindex(2 * height, 2 * width):
        for a, u in ((i // 2, 1 - i % 2 / 2), (i // 2 + 1, i % 2 / 2)):
            for b, v in ((j // 2, 1 - j % 2 / 2), (j // 2 + 1, j % 2 / 2)):
                if a < height and b < width:
                    y[..., i, j] += u * v * x[..., a, b]
    return y


def test_resizing_ends_in_nothing():
    x = torch.rand(1, 2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(double(x, "zero"), resize(x))


def test_released_weights_give_what_the_authors_network_gives():
    net, x = Net(), torch.rand(1, 3, 16, 24, dtype=torch.float64)
    expected = net.forward(x.transpose(2, 3)).transpose(2, 3)
    converted = svrnn.convert({"LRNN_iter_200000": net.layers})
    assert converted.model == "svrnn"
    assert len(converted.unused) == 4 * 4 * 3
    network = create_model(converted.model).double().eval()
    network.load_state_dict(converted.tensors)
    # What is recurrent comes in at least float32, and these are float64.
    with torch.no_grad():
        torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-6)


def test_weights_of_others_are_left_to_others():
    net = Net()
    net.forward(torch.rand(1, 3, 8, 8, dtype=torch.float64))
    assert svrnn.convert({}) is None
    assert svrnn.convert({"a": net.layers, "b": net.layers}) is None
    del net.layers["convd1_2.1"]
    assert svrnn.convert({"a": net.layers}) is None
