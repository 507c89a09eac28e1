"""Global attention against a literal transcription of Eqs. 1-6, loop by loop, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unsmear.ops import attention, distribute_descriptors, gate_descriptors, gather_descriptors


@pytest.fixture(params=["compiled", "plain"], autouse=True)
def path(request, monkeypatch):
    """Both ways to compute: the compiled kernels, and PyTorch as it runs on other devices."""
    if request.param == "plain":
        monkeypatch.setattr(attention, "takes_kernels", lambda x: False)


def global_attention(x, source, gather_weight, gather_bias, weight, bias, gate_weight, gate_bias, onto=None):
    descriptors = gather_descriptors(x, source, gather_weight, gather_bias)
    descriptors = gate_descriptors(descriptors, gate_weight, gate_bias)
    return distribute_descriptors(descriptors, x, weight, bias, onto)


def equations_1_to_6(features, x, gather, distribute, gate_weight, gate_bias):
    """One picture; all are nested lists (channels, pixels), gather and distribute rows of weights and a bias.

    Written as the paper prints it, with x the paper's x_m1 and `features` what its maps are made from.
    """

    def make_maps(rows):
        return [
            [row[-1] + sum(w * features[c][i] for c, w in enumerate(row[:-1])) for i in range(len(x[0]))]
            for row in rows
        ]

    gather, distribute = make_maps(gather), make_maps(distribute)
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


def inputs(batch, channels, width, maps, height, wide, seed=0, dtype=torch.float64):
    """Arguments of `global_attention` for `width` channels of the source, and `onto`."""
    g = torch.Generator().manual_seed(seed)
    shapes = [
        (batch, channels, height, wide),
        (batch, width, height, wide),
        (maps, channels, 1, 1),
        (maps,),
        (maps, channels, 1, 1),
        (maps,),
        (width, width),
        (width,),
        (batch, width, height, wide),
    ]
    return [torch.randn(s, generator=g, dtype=dtype) for s in shapes]


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 2),
    channels=st.integers(1, 5),
    width=st.integers(1, 5),
    maps=st.integers(1, 4),
    height=st.integers(1, 6),
    wide=st.integers(1, 6),
    seed=st.integers(0, 10**6),
)
def test_equals_the_equations(batch, channels, width, maps, height, wide, seed):
    arguments = inputs(batch, channels, width, maps, height, wide, seed)[:-1]
    y = global_attention(*arguments)
    features, source, gather, gather_bias, distribute, distribute_bias, *gate = arguments
    rows = [torch.hstack([w.flatten(1), b[:, None]]) for w, b in ((gather, gather_bias), (distribute, distribute_bias))]
    for b in range(batch):
        pictures = (features[b].flatten(1), source[b].flatten(1))
        expected = equations_1_to_6(*(t.tolist() for t in (*pictures, *rows, *gate)))
        torch.testing.assert_close(y[b].flatten(1), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


SIZES = [  # below, at and above a register, a block of pixels and a chunk of them
    (2, 3, 5, 2, 3, 4),
    (1, 16, 16, 8, 9, 8),
    (1, 32, 48, 17, 46, 46),
]


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_paths_give_one_answer(shape, dtype, monkeypatch):
    results = []
    for plain in (False, True):
        arguments = [t.requires_grad_() for t in inputs(*shape, dtype=dtype)]
        with monkeypatch.context() as patch:
            if plain:
                patch.setattr(attention, "takes_kernels", lambda x: False)
            y = global_attention(*arguments)
        slope = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
        results.append([y, *torch.autograd.grad(y, arguments, slope)])
    for kernel, plain in zip(*results, strict=True):
        # The bias of the gather maps changes nothing (Eq. 1), so its gradient is rounding alone.
        torch.testing.assert_close(kernel, plain, rtol=1e-4, atol=1e-3 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("own", [True, False])
def test_gradients(own):
    x, source, *rest = (t.requires_grad_() for t in inputs(2, 3, 3 if own else 5, 2, 3, 4))
    if own:
        assert torch.autograd.gradcheck(lambda x, *rest: global_attention(x, x, *rest), [x, *rest])
    else:
        assert torch.autograd.gradcheck(global_attention, [x, source, *rest])


def test_gradients_over_several_chunks():
    # Sums over the parts of a picture, along one direction: a check of every entry would take minutes.
    arguments = [t.requires_grad_() for t in inputs(1, 2, 3, 2, 50, 50)]
    directions = [torch.randn(t.shape, generator=torch.Generator().manual_seed(2), dtype=t.dtype) for t in arguments]

    def along(step):
        return global_attention(*(t + step * d for t, d in zip(arguments, directions, strict=True))).square().sum()

    gradients = torch.autograd.grad(along(0), arguments)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    torch.testing.assert_close(slope, (along(1e-6) - along(-1e-6)) / 2e-6, rtol=1e-6, atol=0)


def test_result_does_not_depend_on_threads():
    arguments = inputs(2, 16, 16, 8, 60, 60, dtype=torch.float32)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(gather_descriptors(*arguments[:4]))
            results.append(distribute_descriptors(results[-1], arguments[0], *arguments[4:6], arguments[-1]))
    finally:
        torch.set_num_threads(threads)
    if attention.takes_kernels(arguments[0]):
        assert torch.equal(results[0], results[2])
        assert torch.equal(results[1], results[3])
    torch.testing.assert_close(results[0], results[2])


def test_two_passes_may_wait_for_their_gradients():
    arguments = [t.requires_grad_() for t in inputs(1, 16, 16, 16, 4, 4)]
    first, second = global_attention(*arguments), global_attention(*arguments)
    (first + second).sum().backward()  # nothing that the first has kept was written to


def test_overwriting_gives_the_same_and_never_costs_a_gradient():
    x, source, weight, bias, *_, onto = inputs(1, 16, 16, 8, 7, 5)
    descriptors, before = gather_descriptors(x, source, weight, bias), onto.clone()
    expected = distribute_descriptors(descriptors, x, weight, bias, onto)
    assert torch.equal(onto, before)
    onto.requires_grad_()
    assert torch.equal(distribute_descriptors(descriptors, x, weight, bias, onto, overwrite=True), expected)
    assert torch.equal(onto, before)
    with torch.no_grad():
        assert torch.equal(distribute_descriptors(descriptors, x, weight, bias, onto, overwrite=True), expected)


def test_source_may_have_another_size():
    _, source, weight, bias, *_ = inputs(1, 3, 3, 2, 3, 4)
    descriptors = gather_descriptors(source, source, weight, bias)
    x = torch.zeros(1, 3, 5, 6, dtype=torch.float64)
    assert distribute_descriptors(descriptors, x, weight, bias).shape == (1, 3, 5, 6)


def test_maps_may_see_their_surroundings():
    x, source, *_ = inputs(1, 3, 4, 2, 6, 5)
    weight, bias = torch.randn(2, 3, 3, 3, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    logits = torch.nn.functional.conv2d(x, weight, bias, padding=1).flatten(2)
    descriptors = gather_descriptors(x, source, weight, bias)
    torch.testing.assert_close(descriptors, logits.softmax(2) @ source.flatten(2).mT)
    y = distribute_descriptors(descriptors, x, weight, bias)
    torch.testing.assert_close(y.flatten(2), descriptors.mT @ logits.softmax(1) / 2)


def test_memory_format_does_not_matter():
    arguments = inputs(2, 8, 8, 4, 6, 5, dtype=torch.float32)
    last = [t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in arguments]
    torch.testing.assert_close(global_attention(*arguments), global_attention(*last))


def test_large_logits_do_not_overflow():
    x, source, weight, bias, *_ = inputs(1, 4, 4, 2, 60, 60, dtype=torch.float32)
    descriptors = gather_descriptors(x, source, 1e4 * weight, bias)
    best = torch.nn.functional.conv2d(x, weight).flatten(2).argmax(2)[0]
    torch.testing.assert_close(descriptors[0], source[0].flatten(1).T[best], rtol=1e-3, atol=1e-3)
    assert distribute_descriptors(descriptors, x, 1e4 * weight, bias).isfinite().all()


def test_nan_stays_visible():
    arguments = inputs(1, 4, 4, 2, 8, 8, dtype=torch.float32)
    arguments[0][0, 0, 3, 3] = torch.nan
    assert global_attention(*arguments).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_in_float32(dtype):
    # 2**18 equal weights are 3.8e-6 each, below float16's normal numbers: only float32 averages them right.
    x = torch.full((1, 1, 512, 512), 0.5, dtype=dtype)
    weight, bias = torch.zeros(2, 1, 1, 1, dtype=dtype), torch.zeros(2, dtype=dtype)
    descriptors = gather_descriptors(x, x, weight, bias)
    assert descriptors.dtype == torch.float32
    torch.testing.assert_close(descriptors, torch.full((1, 2, 1), 0.5), rtol=1e-5, atol=0)
    assert distribute_descriptors(descriptors, x, weight, bias, x).dtype == dtype


def test_autocast_does_not_lower_the_precision():
    arguments = inputs(1, 4, 4, 2, 64, 64, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = global_attention(*arguments)
    torch.testing.assert_close(y, global_attention(*arguments), rtol=0, atol=0)


def test_memory_is_linear_in_pixels():
    # An attention matrix over these pixels would take 256 GiB.
    assert global_attention(*inputs(1, 2, 2, 2, 512, 512, dtype=torch.float32)).shape == (1, 2, 512, 512)


def test_wrong_shapes_are_refused():
    x, source, weight, bias, _, _, gate_weight, gate_bias, onto = inputs(1, 3, 3, 2, 4, 4)
    with pytest.raises(ValueError, match="share batch, height and width"):
        gather_descriptors(x, source[..., :3], weight, bias)
    with pytest.raises(ValueError, match="cannot make maps"):
        gather_descriptors(x, source, weight[:, :2], bias)
    descriptors = gather_descriptors(x, source, weight, bias)
    with pytest.raises(ValueError, match="gate must map the 3 channels"):
        gate_descriptors(descriptors, gate_weight[:2], gate_bias)
    with pytest.raises(ValueError, match="1 images and 2 maps"):
        distribute_descriptors(descriptors[:, :1], x, weight, bias)
    with pytest.raises(ValueError, match="onto must be"):
        distribute_descriptors(descriptors, x, weight, bias, onto[:, :2])
