"""Spectra that tell the blur, and filters that undo it."""

import copy

import numpy as np
import pytest
import torch
from scenes import scene, smeared
from scipy import ndimage

from unsmear import Deblurrer, create_model
from unsmear.errors import UsageError
from unsmear.models.blind_deconvolution import (
    BlindDeconvolution,
    filter_basis,
    maximum_around,
)
from unsmear.samples import REC601


@pytest.fixture(scope="module")
def module():
    return BlindDeconvolution(48, 24, [8], fold=2).eval()


def mix_everywhere(part, amount):
    """Mix alike at every place, whatever its spectrum: those filters that are the same when they are turned."""
    torch.nn.init.normal_(part.mix.bias, std=amount)
    part.mix.bias.data *= (part.turns.signs > 0).all(0)


def test_filters_keep_the_mean_brightness():
    assert filter_basis(48).sum((1, 2)).abs().max() < 1e-2


def test_filters_turned_by_half_are_the_same():
    filters = filter_basis(48)
    torch.testing.assert_close(filters, filters.flip(1, 2), atol=2e-3, rtol=0)


@pytest.mark.parametrize("count", [24, 48])
@pytest.mark.parametrize("turn", [lambda f: f.flip(1), lambda f: f.flip(2), lambda f: f.transpose(1, 2)])
def test_turned_filters_are_mixtures_of_the_filters(count, turn):
    filters = filter_basis(count).double()
    columns, turned = filters.flatten(1).T, turn(filters).flatten(1).T
    mixtures = columns @ torch.linalg.lstsq(columns, turned).solution
    assert (mixtures - turned).norm() < 2e-3 * turned.norm()


def test_only_so_many_filters_exist():
    with pytest.raises(UsageError, match="blind_filters must be within 1 to 96, not 97"):
        create_model("saphn-s", blind_filters=97)
    with pytest.raises(UsageError, match="blind_filters must be 0, or at least filter_basis"):
        create_model("saphn-s", blind_filters=23)
    assert create_model("saphn-s", filter_basis=0).blind is None
    with pytest.raises(UsageError, match="needs residual=True"):
        create_model("saphn-s", residual=False)


@pytest.mark.parametrize("axis", [2, 3])
def test_a_mixture_undoes_motion(module, axis):
    sharp = scene()
    blurred = smeared(sharp, 3, axis)
    bank = module(blurred).bank
    columns = bank.responses()[0].transpose(0, 1).flatten(1).T.double()
    missing = torch.nn.functional.pixel_unshuffle((sharp - blurred)[:, :1], 2)
    weights = torch.linalg.lstsq(columns, missing.flatten().double()[:, None]).solution[:, 0].float()
    everywhere = weights[None, :, None, None].expand(1, -1, *missing.shape[2:])
    restored = bank.mix(everywhere, torch.zeros_like(missing))
    before, after = missing.square().mean(), (missing - restored).square().mean()
    assert 10 * torch.log10(before / after) > 4  # dB


def test_the_first_estimate_is_what_the_first_mixture_gives():
    network = create_model("saphn-s").eval()
    x = torch.rand(1, 3, 32, 48)
    assert torch.equal(network(x), x)  # as every network starts
    torch.nn.init.normal_(network.blind.near.mix.bias, std=0.1)
    with torch.no_grad():
        look = network.blind(x)
        torch.testing.assert_close(network(x), x + look.correction)


def correlate(picture, part):
    """What the mixture that a part makes everywhere gives of every channel of a picture."""
    kernel = np.tensordot(part.mix.bias.detach().numpy(), part.filters.numpy(), 1)
    return torch.from_numpy(ndimage.correlate(picture.numpy(), kernel[None, None], mode="nearest"))


def short_change(picture, part):
    """The change at full size, literally: of values plus light, which is their square."""
    exposed = picture + picture**2
    after = (exposed + correlate(exposed, part)).clamp_min(0)
    return ((1 + 4 * after).sqrt() - 1) / 2 - picture  # the root of v + v**2 = after


def long_change(picture, part, factor):
    small = correlate(torch.nn.functional.avg_pool2d(picture, factor), part)
    return torch.nn.functional.interpolate(small, scale_factor=factor, mode="bicubic")


def luma_of(picture):
    return (picture * torch.tensor(REC601)[:, None, None]).sum(1, keepdim=True)


def as_those_around(picture, change):
    """A change that leaves what colors have beyond the luma within what there is of it in 17 x 17 pixels."""
    beyond = (picture - luma_of(picture)).numpy()[0]
    square = {"size": (1, 17, 17), "mode": "nearest"}
    lowest, highest = ndimage.minimum_filter(beyond, **square), ndimage.maximum_filter(beyond, **square)
    changed = np.clip(beyond + (change - luma_of(change)).numpy()[0], lowest, highest)
    return luma_of(change) + torch.from_numpy(changed - beyond)


def corrected(module, picture):
    with torch.no_grad():
        return module(picture).correction


def patchwork():
    """So dark that nothing becomes a lamp, colors of its own in every square, (1, 3, 400, 400)."""
    colors = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return 0.1 * scene(400) * colors.repeat_interleave(100, 2).repeat_interleave(100, 3)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_near_changes_colors_as_far_as_their_gates_say(module, share):
    module, picture = copy.deepcopy(module), patchwork()
    mix_everywhere(module.near, 0.3)
    module.color_gates.last.bias.data.fill_(share)
    change = short_change(picture, module.near)
    expected = luma_of(change) + share * (change - luma_of(change))
    assert expected.abs().max() > 0.01
    expected = as_those_around(picture, expected)
    torch.testing.assert_close(corrected(module, picture), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("part", "factor"), [("mid", 2), ("far", 4)])
def test_long_motion_is_undone_in_every_color(module, part, factor):
    module, picture = copy.deepcopy(module), patchwork()
    mix_everywhere(getattr(module, part), 0.1)
    module.color_gates.last.bias.data.fill_(0.0)  # which near alone asks
    expected = as_those_around(picture, long_change(picture, getattr(module, part), factor))
    torch.testing.assert_close(corrected(module, picture), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("part", ["near", "mid"])
def test_white_on_red_gets_no_tint(module, part):
    """Filters that went too far had given white letters a tint of cyan."""
    module, picture = copy.deepcopy(module), torch.full((1, 3, 400, 400), 0.02)
    picture[:, 0] = 0.3
    picture[..., 190:210, :] = picture[..., 190:210] = 0.3  # white, with as much red as there is around; no lamp
    picture = torch.nn.functional.avg_pool2d(picture, 5, 1, 2, count_include_pad=False)
    sharper = torch.zeros(17, 17)
    sharper[4:13, 4:13], sharper[8, 8] = -3 / 81, 3 - 3 / 81
    changing = getattr(module, part)
    changing.mix.bias.data = torch.linalg.lstsq(changing.filters.flatten(1).T, sharper.flatten()[:, None]).solution[
        :, 0
    ]
    module.color_gates.last.bias.data.fill_(1.0)
    change = corrected(module, picture)
    assert change.abs().max() > 0.05
    red, cyan = picture[:, :1] + change[:, :1], picture[:, 1:] + change[:, 1:]
    assert (cyan - red).max() < 0.01


def test_without_colors_all_of_them_get_what_the_luma_lacks():
    module, picture = BlindDeconvolution(48, 24, [8], fold=2, colors=False).eval(), patchwork()
    for part in (module.near, module.mid):
        mix_everywhere(part, 0.3)
    expected = correlate(luma_of(picture), module.near) + long_change(luma_of(picture), module.mid, 2)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(corrected(module, picture), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("part", "factor"), [("far", 4), ("mid", 2)])
def test_long_motion_is_undone_in_smaller_pictures(module, part, factor):
    module = copy.deepcopy(module)
    mix_everywhere(getattr(module, part), 0.1)
    mix_everywhere(module.near, 0.1)
    picture = 0.1 * scene(100 * factor)  # so dark that nothing of it becomes a lamp
    expected = short_change(picture, module.near) + long_change(picture, getattr(module, part), factor)
    torch.testing.assert_close(corrected(module, picture), expected, atol=1e-4, rtol=0)
    picture = picture[..., : 94 * factor]  # too small to tell
    torch.testing.assert_close(corrected(module, picture), short_change(picture, module.near), atol=1e-4, rtol=0)


@pytest.mark.parametrize("taken", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 0.2, 1.0)])
def test_of_every_part_as_much_is_taken_as_the_gates_say(module, taken):
    module = copy.deepcopy(module)
    luma = 0.1 * scene(400)
    for part in (module.near, module.mid, module.far):
        mix_everywhere(part, 0.1)

    def changes(*shares):
        module.gates.last.bias.data[:] = torch.tensor(shares)
        with torch.no_grad():
            look = module(luma)
        return look.correction, look.bank.responses()

    unit = [changes(*row) for row in torch.eye(3).tolist()]
    correction, responses = changes(*taken)
    torch.testing.assert_close(correction, sum(t * c for t, (c, _) in zip(taken, unit, strict=True)))
    nothing = changes(1, 0, 0)[1]  # the levels see the picture without long motion
    expected = nothing + sum(t * (r - nothing) for t, (_, r) in zip(taken, unit, strict=True))
    torch.testing.assert_close(responses, expected)


@pytest.mark.parametrize("part", ["near", "mid", "far"])
def test_slight_changes_are_left_out(part):
    module = BlindDeconvolution(48, 24, [8], fold=2, colors=False).eval()  # linear in what is mixed
    luma = 0.1 * scene(400)
    mix = getattr(module, part).mix

    def changes():
        for bias in (1e-5, 1e-2, 1.0):
            mix.bias.data.fill_(bias)
            with torch.no_grad():
                yield float(module(luma).correction.abs().max()) / bias

    slight, some, much = changes()
    assert slight == 0
    assert some <= much
    assert much > 0
    module.train()
    assert list(changes()) == pytest.approx([much] * 3, rel=1e-3)  # training begins with slight ones
    module.requires_grad_(False)
    assert list(changes()) == [slight, some, much]


def test_around_lamps_nothing_is_changed(module):
    module = copy.deepcopy(module)
    module.far.mix.bias.data[0] = 2  # makes the lamp twice as bright as white, and its outline darker than black

    def change(brightness):
        picture = 0.3 * scene(400)
        picture[..., 200:208, 200:208] = brightness
        with torch.no_grad():
            return module(picture).correction[0, 0]

    lamp, spot = change(1.0), change(0.3)
    assert lamp[192:216, 192:216].abs().max() < 1e-6
    assert spot[192:216, 192:216].abs().max() > 0.1
    far_away = torch.ones(400, 400, dtype=torch.bool)
    far_away[140:268, 140:268] = False
    torch.testing.assert_close(lamp[far_away], spot[far_away])


@pytest.mark.parametrize("side", [1, 5, 9, 17])
def test_maximum_around_is_max_pooling(side):
    x = torch.randn(2, 1, 23, 31)
    assert torch.equal(maximum_around(x, side), torch.nn.functional.max_pool2d(x, side, 1, side // 2))


@pytest.mark.parametrize("size", [(16, 24), (32, 32), (48, 104), (384, 392)])
def test_any_size_and_batch(module, size):
    height, width = size
    look = module(torch.rand(2, 3, height, width))
    assert look.bank.responses().shape == (2, 4, 24, height // 2, width // 2)
    assert look.correction.shape == (2, 3, height, width)
    places = (max(1, side // 32) for side in size)
    assert [f.shape for f in look.features] == [(2, 8, *places)]


def test_regular_patterns_are_no_motion():
    """A wall of bricks has gaps in its spectrum, as motion has; weights that did not ship left 27 dB of it."""
    data = pytest.importorskip("skimage.data", reason="needs the extra eval")
    wall = np.repeat(data.brick()[..., None], 3, axis=2)
    kept = Deblurrer("saphn-s", device="cpu")(wall, guard=False)
    error = np.square(kept.astype(float) - wall).mean()
    assert 10 * np.log10(255**2 / error) > 55
