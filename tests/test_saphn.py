"""The paper's network: its parts, its variants, and what it tells of itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import awake, picture, without_gradient

from unsmear import create_model, load_model
from unsmear.cost import count_macs
from unsmear.explain.maps import explain
from unsmear.models import count_parameters, saphn, save_model
from unsmear.models.saphn import Attention

SMALL = {"widths": (6, 8, 8), "lower_widths": None, "encoder_blocks": 1, "decoder_blocks": 1}
VARIANTS = [
    {},
    {"levels": 1},
    {"levels": 2},
    {"levels": 4},
    {"lower_widths": (6, 6, 6)},
    {"widths": (4, 6)},
    {"encoder_blocks": 2},
    {"decoder_blocks": 2},
    {"attention": False},
    {"cross_attention": False},
    {"filtering": False},
    {"attention": False, "cross_attention": False, "filtering": False},
    {"filters": "depthwise"},
    {"filters": "full"},
    {"kernel_size": 3},
    {"channels_per_map": 1},
    {"attention_kernel": 3},
    {"bounded_kernels": False},
    {"merge": "add+attention"},
    {"residual": False},
    {"skips": True},
    {"filter_basis": 5},
    {"filter_basis": 5, "levels": 1, "unshuffle": 2},
    {"filter_basis": 3, "blind_filters": 7},
    {"filter_basis": 3, "blind_colors": True},
    {"unshuffle": 1},
    {"unshuffle": 2},
]


@pytest.fixture(params=["saphn", "saphn-s"])
def name(request):
    return request.param


@pytest.fixture(params=VARIANTS, ids=str)
def variant(request):
    return create_model("saphn", **SMALL | request.param)


def test_starts_as_the_identity(name):
    network = create_model(name)
    x = picture(network)
    with torch.no_grad():
        for estimate in network.estimates(x):
            torch.testing.assert_close(estimate, x, rtol=0, atol=1e-6)


def test_keeps_the_shape(variant):
    network, x = awake(variant), picture(variant, batch=2)
    with torch.no_grad():
        estimates = network.estimates(x)
    assert [e.shape for e in estimates] == [x.shape] * (network.config.levels + (network.blind is not None))
    assert all(e.isfinite().all() for e in estimates)


def test_every_parameter_gets_a_gradient(variant):
    network = awake(variant).train()
    assert not without_gradient(network, network(picture(network, rows=None)).square().sum())


def test_batch_equals_singles(variant):
    network, x = awake(variant), picture(variant, batch=3)
    with torch.no_grad():
        together, singles = network(x), torch.cat([network(one) for one in x.split(1)])
    torch.testing.assert_close(together, singles, rtol=1e-4, atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(rows=st.integers(1, 5), columns=st.integers(1, 5), levels=st.integers(1, 4))
def test_any_multiple_of_the_size(rows, columns, levels):
    network = awake(create_model("saphn", **SMALL | {"levels": levels}))
    x = picture(network, rows=rows, columns=columns)
    with torch.no_grad():
        assert network(x).shape == x.shape


def test_sides_fit_what_estimates_the_blur():
    """It makes pictures up to four times smaller, whatever the rest asks for."""
    network = create_model("saphn-s", widths=(32,), lower_widths=None, unshuffle=1, levels=1, filter_basis=3)
    assert network.size_multiple == 4
    with torch.no_grad():
        assert network(torch.rand(1, 3, 396, 388)).shape == (1, 3, 396, 388)


def test_levels_see_their_patches_only():
    # Level 3 alone works on quarters: what happens in one quarter must not reach its encoder elsewhere.
    network = awake(create_model("saphn", **SMALL))
    x = picture(network, rows=4, columns=4)
    changed = x.clone()
    h, w = x.shape[2] // 2, x.shape[3] // 2
    changed[..., :h, :w] += 0.1
    with torch.no_grad():
        from unsmear.models.patches import stitch, to_patches

        first, second = (network.encoders[2](to_patches(t, 3))[-1] for t in (x, changed))
    assert [torch.equal(a, b) for a, b in zip(first, second, strict=True)] == [False, True, True, True]
    torch.testing.assert_close(stitch(stitch(to_patches(x, 3), 3), 2), x, rtol=0, atol=0)


def test_paper_preset_has_the_counted_size():
    # The literal reading of the paper counts 13.3 M and 1.78 TMAC; ours adds the projection of the attention.
    network = create_model("saphn")
    assert count_parameters(network) == 13_752_077
    assert count_macs(network, 720, 1280) == 1_796_996_825_088


def test_macs_count_the_operators():
    plain = {"levels": 1, "attention": False, "cross_attention": False, "filtering": False}
    pixels = 64 * 64 * (1 + 1 / 4 + 1 / 16)  # all scales
    without = count_macs(create_model("saphn", **plain), 64, 64)
    one = {"widths": (32, 32, 32)}
    base = count_macs(create_model("saphn", **plain, **one), 64, 64)
    full = count_macs(create_model("saphn", **plain | one | {"filtering": True}), 64, 64)
    assert full - base == 4 * pixels * (25 * 32 * 32 + 25 * 32 + 9 * 32 * 25)
    depthwise = {"filtering": True, "filters": "depthwise"}
    assert count_macs(create_model("saphn", **plain | one | depthwise), 64, 64) - base == 4 * pixels * (
        25 * 32 + 25 * 32 + 9 * 32 * 25
    )
    assert without > base
    basis = count_macs(create_model("saphn", **plain, filter_basis=8), 64, 64) - without
    convolutions = 36 * 21 * 54 * 16 + 16 * 9 * 400 * 32 + 16 * 9 * 32 * 128
    layers = 3264 * 64 + convolutions + (192 + 2 * 256 + 8) * 256 + (256 + 8) * 128
    layers *= 2 * 2  # of 3 x 3 windows 2 x 2 are read
    gates = 2 * 2 * (14 * 32 + 32 * 32 + 32 * 3)  # of as many cells
    flow = 8 * 289 // 32**2 + 289  # filters are mixed every 32 pixels; two, of half as many values, for every pixel
    last = 64 * 64 * 9 * 32 * 8  # channels more of the last convolution
    assert basis == 64 * 64 * (8 * 289 + 40 + flow + 8) + layers + gates + last
    more = count_macs(create_model("saphn", **plain, filter_basis=8, blind_filters=20), 64, 64) - without - basis
    assert more == 64 * 64 * (20 * 289 // 32**2 - 8 * 289 // 32**2) + 2 * 2 * (256 + 128) * 12
    colors = count_macs(create_model("saphn", **plain, filter_basis=8, blind_colors=True), 64, 64) - without - basis
    assert colors == 64 * 64 * 2 * 289 + 2 * 2 * (8 * 32 + 32 * 32 + 32)  # two more, filtered alike


def test_weights_survive_a_round_trip(tmp_path, variant):
    network = awake(variant)
    save_model(network, tmp_path / "w.safetensors", dtype=torch.float32)
    again = load_model(tmp_path / "w.safetensors")
    assert again.config == network.config
    x = picture(network)
    with torch.no_grad():
        torch.testing.assert_close(again(x), network(x), rtol=1e-4, atol=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.safetensors"]


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_the_network_explains_itself(levels):
    network = awake(create_model("saphn", **SMALL | {"levels": levels}))
    x = picture(network, batch=2, rows=2, columns=2)
    told = explain(network, x)
    with torch.no_grad():
        torch.testing.assert_close(told.output, network(x))  # and no hook is left behind
    torch.testing.assert_close(x + sum(told.residuals), told.output)
    assert len(told.residuals) == levels
    attentions = [n for n, m in network.named_modules() if isinstance(m, Attention)]
    assert list(told.gather) == list(told.distribute)
    assert sorted(told.gather) == sorted(attentions)
    scales = {tuple(s // 2**i for s in x.shape[2:]) for i in range(3)}
    for name in attentions:
        assert tuple(told.gather[name].shape[2:]) in scales
        patches = len(told.gather[name]) * 2 ** (level_of(name) - 1)
        torch.testing.assert_close(
            told.gather[name].sum((0, 2, 3)), torch.full((len(told.gather[name][0]),), patches * 1.0)
        )
        torch.testing.assert_close(told.distribute[name].sum(1), torch.ones_like(told.distribute[name][:, 0]))
    assert all(k.shape[:2] == (2, 25) and k.min() >= 0 and k.max() <= 2 for k in told.kernels.values())


def level_of(name):
    """The level whose patches a module works on."""
    part, number = name.split(".")[:2]
    return max(1, int(number)) if part == "decoders" else int(number) + 1


def test_large_passes_give_memory_back_and_training_keeps_it(monkeypatch):
    network, x = load_model("saphn-s"), torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = network(x)
    given = []
    monkeypatch.setattr(saphn, "give_back_freed", lambda: given.append(1))
    with torch.no_grad():
        network(x)
        assert not given  # too small to leave much behind
        monkeypatch.setattr(saphn, "_LARGE", x.numel())
        network(x)
    assert len(given) == network.config.levels
    network(x)
    assert len(given) == network.config.levels
    monkeypatch.undo()
    monkeypatch.setattr(saphn, "_LARGE", x.numel())
    with torch.no_grad():
        assert torch.equal(network(x), expected)
