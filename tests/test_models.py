"""One suite over every network: whatever is added to the package must pass all of it."""

import json
from dataclasses import asdict

import pytest
import torch
from networks import awake, picture, without_gradient
from safetensors.torch import save_file

from unsmear import create_model, list_models, load_model
from unsmear.checkpoint import read_weights, write_weights
from unsmear.cost import count_macs
from unsmear.errors import ModelError, UsageError
from unsmear.models import count_parameters, save_model, shipped_weights
from unsmear.ops.dispatch import plain_operators

SMALL = {"widths": (6, 8, 8), "lower_widths": None, "encoder_blocks": 1, "decoder_blocks": 1}

# Parameters, and multiply-accumulates at 1280x720 (or the next size that the network takes), in all networks; with
# where the figures are from.
FACTS = {
    "saphn": (13_752_077, 1_796_996_825_088),  # ours: the paper prints neither
    "saphn-s": (5_103_682, 75_911_060_736),
    # Layer by layer as in the authors' programs; the files of DMPHN(1-2-4) hold as many values.
    "dmphn": (5_424_393, 687.1e9),
    "dmphn-8": (7_232_524, 916.1e9),
    "dmphn-stack2": (10_848_786, 1_374.2e9),
    "dmphn-stack3": (16_273_179, 2_061.3e9),
    "dmphn-stack4": (21_697_572, 2_748.4e9),
    "deepdeblur": (11_721_321, 4_724e9),
    # DeblurGAN-v2 quotes 678e9 for deblurgan.
    "deblurgan": (11_380_000, 697e9),
    # What the released program runs: MPRNet's table says 60.9 M, of which 25.1 M are the end of the classifier that no
    # picture passes through (for the small one 1.2 of 3.31 M); the paper says 411e9 and 43.75e9, counted otherwise.
    "deblurgan-v2": (35_840_000, 273.9e9),
    "deblurgan-v2-mobile": (2_106_000, 38.9e9),
    # Layer by layer as in the authors' programs; three channels are three pictures but for srn-color.
    "srn": (8_060_000, 3_773e9),
    "srn-color": (6_880_000, 1_174e9),
    "svrnn": (9_230_000, 756e9),  # the scans are no products of matrices, and are not counted
    "pss-nsc": (3_870_000, 3_307e9),  # the released graph; the paper quotes 2.84 M
    "motionflow": (9_089_488, 276.4e9),  # the layers that the authors released, counted by hand; no deconvolution
    # Published: 67.9 M, 63.6 GMAC at 256x256; 17.1 M, 16 GMAC.
    "nafnet": (67_890_000, 886.6e9),
    "nafnet-32": (17_110_000, 224.4e9),
    # Published: 6.8 M and 16.1 M. Tables quote 67.2 and 154.4 GMAC at 256x256, from a counter that has every weight of
    # a transposed convolution at work for every pixel it makes, four times too often; without that, 63.7 and 150.7.
    "mimo-unet": (6_807_000, 896.2e9),
    "mimo-unet-plus": (16_108_000, 2_119.3e9),
    # Published: 20.1 M, 777 GMAC at 256x256, of which 18 are one PReLU counted once a block for every block.
    "mprnet": (20_127_000, 10_679e9),
    "restormer": (26_127_000, 1_982.7e9),  # published: 26.1 M, 140.99 GMAC at 256x256, without products of attention
}


@pytest.fixture(params=list_models())
def name(request):
    return request.param


def test_every_parameter_of_the_presets_gets_a_gradient(name):
    network = awake(create_model(name)).train()
    # Of all estimates: some networks let no gradient from one to the one before.
    loss = sum(e.square().sum() for e in network.estimates(picture(network, rows=None)))
    assert not without_gradient(network, loss)


def test_memory_format_does_not_matter(name):
    network = awake(create_model(name))
    x = picture(network, rows=1, columns=2)
    with torch.no_grad():
        expected = network(x)
        network = network.to(memory_format=torch.channels_last)
        torch.testing.assert_close(
            network(x.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-4
        )


def test_unknown_names_and_overrides_are_refused():
    with pytest.raises(UsageError, match="unknown model 'nope': choose one of saphn"):
        create_model("nope")
    with pytest.raises(UsageError, match="unexpected keyword argument"):
        create_model("saphn", depth=3)
    with pytest.raises(UsageError, match="levels must be 1 to 4"):
        create_model("saphn", levels=5)
    with pytest.raises(UsageError, match="a model must be a name or a weights file, not int"):
        load_model(3)
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
    assert shipped_weights("saphn-s").stat().st_size < 10 * 2**20
    assert not network.training
    x = picture(network)
    with torch.no_grad():
        assert (network(x) - x).abs().max() > 1e-3


def test_a_file_stays_what_it_was_when_its_preset_gets_more(tmp_path):
    # What files of saphn-s did not name before these fields came.
    before = {"skips": False, "filter_basis": 0, "blind_filters": 0, "blind_colors": False}
    network = create_model("saphn-s", **SMALL, **before)
    config = {k: v for k, v in asdict(network.config).items() if k not in before}
    write_weights(tmp_path / "w.safetensors", "saphn-s", config, network.state_dict())
    assert load_model(tmp_path / "w.safetensors").config == network.config


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


@pytest.mark.slow
def test_can_be_exported(name):
    if name == "motionflow":
        pytest.skip("how far it looks depends on the motion it finds")
    network = awake(create_model(name))
    x = picture(network, rows=2, columns=3)
    with torch.no_grad():
        exported = torch.export.export(network, (x,)).module()
        with plain_operators():  # a graph has these, and compiled kernels round otherwise
            torch.testing.assert_close(exported(x), network(x))
