"""One suite over every network: whatever is added to the package must pass all of it."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from unsmear import create_model, list_models, load_model
from unsmear.checkpoint import read_weights
from unsmear.cost import count_macs
from unsmear.errors import ModelError, UsageError
from unsmear.models import count_parameters, save_model, shipped_weights
from unsmear.models.explain import explain
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
    {"unshuffle": 1},
    {"unshuffle": 2},
]


def awake(network, seed=0):
    """Random weights everywhere: fresh networks are the identity, which hides mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * (0.3 / max(1, p[0].numel()) ** 0.5))
    return network.eval()


@pytest.fixture(params=list_models())
def name(request):
    return request.param


@pytest.fixture(params=VARIANTS, ids=str)
def variant(request):
    return create_model("saphn", **SMALL | request.param)


def picture(network, batch=1, rows=2, columns=3, seed=0):
    m = network.size_multiple
    return torch.rand(batch, 3, m * rows, m * columns, generator=torch.Generator().manual_seed(seed))


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
    assert [e.shape for e in estimates] == [x.shape] * network.config.levels
    assert all(e.isfinite().all() for e in estimates)


def test_every_parameter_gets_a_gradient(variant):
    network = awake(variant).train()
    network(picture(network)).square().sum().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


def test_every_parameter_of_the_presets_gets_a_gradient(name):
    network = awake(create_model(name)).train()
    network(picture(network, rows=1, columns=2)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in network.parameters())


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


def test_memory_format_does_not_matter(name):
    network = awake(create_model(name))
    x = picture(network, rows=1, columns=2)
    with torch.no_grad():
        expected = network(x)
        network = network.to(memory_format=torch.channels_last)
        torch.testing.assert_close(
            network(x.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5
        )


def test_levels_see_their_patches_only():
    # Level 3 alone works on quarters: what happens in one quarter must not reach its encoder elsewhere.
    network = awake(create_model("saphn", **SMALL))
    x = picture(network, rows=4, columns=4)
    changed = x.clone()
    h, w = x.shape[2] // 2, x.shape[3] // 2
    changed[..., :h, :w] += 0.1
    with torch.no_grad():
        from unsmear.models.saphn import stitch, to_patches

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


def test_unknown_names_and_overrides_are_refused():
    with pytest.raises(UsageError, match="unknown model 'nope': choose one of saphn"):
        create_model("nope")
    with pytest.raises(UsageError, match="unexpected keyword argument"):
        create_model("saphn", depth=3)
    with pytest.raises(UsageError, match="levels must be 1 to 4"):
        create_model("saphn", levels=5)
    with pytest.raises(UsageError, match="unknown model 'nope'"):
        load_model("nope")
    with pytest.raises(UsageError, match="no such file"):
        load_model("folder/nope.safetensors")


def test_weights_survive_a_round_trip(tmp_path, variant):
    network = awake(variant)
    save_model(network, tmp_path / "w.safetensors", dtype=torch.float32)
    again = load_model(tmp_path / "w.safetensors")
    assert again.config == network.config
    x = picture(network)
    with torch.no_grad():
        torch.testing.assert_close(again(x), network(x), rtol=1e-4, atol=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.safetensors"]


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    network = create_model("saphn", **SMALL)
    with torch.no_grad():
        network.decoders[0].last.weight[0] = 1e6
    with pytest.raises(ModelError, match=r"not finite in torch\.float16"):
        save_model(network, tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


def test_damaged_weights_are_refused(tmp_path):
    network, path = create_model("saphn", **SMALL), tmp_path / "w.safetensors"
    save_model(network, path)
    whole = path.read_bytes()
    for broken in (b"", b"not weights", whole[:100], whole[:-10], b"\xff" * 8 + whole[8:]):
        path.write_bytes(broken)
        with pytest.raises(ModelError, match="not a readable weights file"):
            load_model(path)
    save_file(network.state_dict(), path)
    with pytest.raises(ModelError, match="not an unsmear weights file"):
        load_model(path)


def test_weights_that_do_not_fit_name_the_first_wrong_tensors(tmp_path):
    path = tmp_path / "w.safetensors"
    save_model(create_model("saphn", **SMALL), path)
    _, config, tensors = read_weights(path)
    first = next(iter(tensors))
    metadata = {"format": "unsmear-1", "model": "saphn", "config": json.dumps(config)}
    save_file({k: v for k, v in tensors.items() if k != first}, path, metadata)
    with pytest.raises(ModelError, match=f"first wrong names: {first}"):
        load_model(path)
    save_file(tensors, path, metadata | {"config": json.dumps(config | {"levels": 9})})
    with pytest.raises(ModelError, match="levels must be 1 to 4"):
        load_model(path)
    save_file(tensors, path, metadata | {"config": "{"})
    with pytest.raises(ModelError, match="damaged metadata"):
        load_model(path)


def test_a_pickle_is_never_opened(tmp_path):
    class Canary:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").write_text, ("",))

    torch.save(Canary(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match="not a readable weights file"):
        load_model(tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()


def test_default_model_ships_with_weights():
    network = load_model()
    assert network.name == "saphn-s"
    assert shipped_weights("saphn-s").stat().st_size < 8 * 2**20
    assert not network.training
    x = picture(network)
    with torch.no_grad():
        assert (network(x) - x).abs().max() > 1e-3


def test_a_model_without_weights_says_so(name):
    if shipped_weights(name) is None:
        with pytest.raises(ModelError, match="ships without weights"):
            load_model(name)


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
