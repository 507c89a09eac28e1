"""Global attention against a literal transcription of Eqs. 1-6, loop by loop, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unsmear.ops import gather_descriptors, global_attention


def equations_1_to_6(x, gather, distribute, gate_weight, gate_bias):
    """One picture; x and the maps are nested lists (channels, pixels). Written as the paper prints it."""
    channels, maps, pixels = len(x), len(gather), len(x[0])
    q = []
    for k in range(maps):  # sum over the pixels of q_k is 1 (Eq. 1)
        total = sum(math.exp(v) for v in gather[k])
        q.append([math.exp(v) / total for v in gather[k]])
    parts = [[[q[k][i] * x[c][i] for i in range(pixels)] for c in range(channels)] for k in range(maps)]  # Eq. 1
    pooled = [[sum(parts[k][c]) for c in range(channels)] for k in range(maps)]  # Eq. 2
    mean = [sum(pooled[k][c] for k in range(maps)) / maps for c in range(channels)]
    m2 = []
    for c in range(channels):  # Eq. 4
        z = gate_bias[c] + sum(gate_weight[c][d] * mean[d] for d in range(channels))
        m2.append(1 / (1 + math.exp(-z)))
    gated = [[m2[c] * pooled[k][c] for c in range(channels)] for k in range(maps)]  # Eq. 3
    out = [[0.0] * len(distribute[0]) for _ in range(channels)]
    for j in range(len(distribute[0])):
        total = sum(math.exp(distribute[k][j]) for k in range(maps))
        p = [math.exp(distribute[k][j]) / total for k in range(maps)]  # sum over the maps is 1 (Eq. 5)
        for c in range(channels):
            y = [p[k] * gated[k][c] for k in range(maps)]  # Eq. 5
            out[c][j] = sum(y) / maps  # Eq. 6
    return out


def inputs(batch, channels, maps, height, width, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    shapes = [
        (batch, channels, height, width),
        (batch, maps, height, width),
        (batch, maps, height, width),
        (channels, channels),
        (channels,),
    ]
    return [torch.randn(s, generator=g, dtype=dtype) for s in shapes]


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 2),
    channels=st.integers(1, 5),
    maps=st.integers(1, 4),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    seed=st.integers(0, 10**6),
)
def test_equals_the_equations(batch, channels, maps, height, width, seed):
    arguments = inputs(batch, channels, maps, height, width, seed)
    y = global_attention(*arguments)
    for b in range(batch):
        x, gather, distribute = (t[b].flatten(1).tolist() for t in arguments[:3])
        expected = equations_1_to_6(x, gather, distribute, arguments[3].tolist(), arguments[4].tolist())
        torch.testing.assert_close(y[b].flatten(1), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_gradients():
    arguments = [t.requires_grad_() for t in inputs(2, 3, 2, 3, 4)]
    assert torch.autograd.gradcheck(global_attention, arguments)


def test_source_may_have_another_size():
    x, gather, _, weight, bias = inputs(1, 3, 2, 3, 4)
    assert global_attention(x, gather, torch.zeros(1, 2, 5, 6), weight, bias).shape == (1, 3, 5, 6)


def test_memory_format_does_not_matter():
    arguments = inputs(2, 8, 4, 6, 5, dtype=torch.float32)
    last = [t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in arguments]
    torch.testing.assert_close(global_attention(*arguments), global_attention(*last))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_in_float32(dtype):
    # 2**18 equal weights are 3.8e-6 each, below float16's normal numbers: only float32 averages them right.
    x = torch.full((1, 1, 512, 512), 0.5, dtype=dtype)
    maps = torch.zeros(1, 2, 512, 512, dtype=dtype)
    descriptors = gather_descriptors(x, maps, torch.zeros(1, 1, dtype=dtype), torch.full((1,), 100.0, dtype=dtype))
    assert descriptors.dtype == torch.float32
    torch.testing.assert_close(descriptors, torch.full((1, 2, 1), 0.5), rtol=1e-5, atol=0)
    assert global_attention(x, maps, maps, torch.zeros(1, 1, dtype=dtype), torch.zeros(1, dtype=dtype)).dtype == dtype


def test_autocast_does_not_lower_the_precision():
    arguments = inputs(1, 4, 2, 64, 64, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = global_attention(*arguments)
    torch.testing.assert_close(y, global_attention(*arguments), rtol=0, atol=0)


def test_memory_is_linear_in_pixels():
    # An attention matrix over these pixels would take 256 GiB.
    arguments = inputs(1, 2, 2, 512, 512, dtype=torch.float32)
    assert global_attention(*arguments).shape == (1, 2, 512, 512)


def test_wrong_shapes_are_refused():
    x, gather, distribute, weight, bias = inputs(1, 3, 2, 4, 4)
    with pytest.raises(ValueError, match="share batch, height and width"):
        global_attention(x, gather[..., :3], distribute, weight, bias)
    with pytest.raises(ValueError, match="gate must map the 3 channels"):
        global_attention(x, gather, distribute, weight[:2], bias)
    with pytest.raises(ValueError, match="number of maps"):
        global_attention(x, gather, distribute[:, :1], weight, bias)
