"""One suite over every network: whatever is added to the package must pass all of it."""

import json

import pytest
import torch
from networks import awake, picture
from safetensors.torch import save_file

from unsmear import create_model, list_models, load_model
from unsmear.checkpoint import read_weights
from unsmear.cost import count_macs
from unsmear.errors import ModelError, UsageError
from unsmear.models import count_parameters, save_model, shipped_weights

SMALL = {"widths": (6, 8, 8), "lower_widths": None, "encoder_blocks": 1, "decoder_blocks": 1}

# Parameters, and multiply-accumulates at 1280x720 (or the next size that the network takes), in all networks; with
# where the figures are from.
FACTS = {
    "saphn": (13_752_077, 1_796_996_825_088),  # ours: the paper prints neither
    "saphn-s": (1_941_926, 60_972_000_000),
}


@pytest.fixture(params=list_models())
def name(request):
    return request.param


def test_every_parameter_of_the_presets_gets_a_gradient(name):
    network = awake(create_model(name)).train()
    network(picture(network, rows=1, columns=2)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in network.parameters())


def test_memory_format_does_not_matter(name):
    network = awake(create_model(name))
    x = picture(network, rows=1, columns=2)
    with torch.no_grad():
        expected = network(x)
        network = network.to(memory_format=torch.channels_last)
        torch.testing.assert_close(
            network(x.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5
        )


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


def test_every_network_has_the_published_size(name):
    parameters, macs = FACTS[name]
    with torch.device("meta"):
        network = create_model(name)
    assert count_parameters(network) == pytest.approx(parameters, rel=0.01)
    m = network.size_multiple
    assert count_macs(network, -(-720 // m) * m, -(-1280 // m) * m) == pytest.approx(macs, rel=0.01)


def test_keeps_shape_and_range(name):
    network = awake(create_model(name))
    x = picture(network, batch=2, rows=1, columns=2)
    with torch.no_grad():
        output = network(x)
        estimates = network.estimates(x)
    assert output.shape == x.shape
    assert output.isfinite().all()
    torch.testing.assert_close(estimates[-1], output)
    assert all(x.shape[2] % e.shape[2] == 0 and x.shape[3] % e.shape[3] == 0 for e in estimates)


def test_batch_equals_singles(name):
    network = awake(create_model(name))
    x = picture(network, batch=2, rows=1, columns=2)
    with torch.no_grad():
        together, singles = network(x), torch.cat([network(one) for one in x.split(1)])
    torch.testing.assert_close(together, singles, rtol=1e-4, atol=1e-4)
