"""How much of each estimate is taken, by what they would change."""

import numpy as np
import pytest
import torch
from scenes import scene
from scipy import ndimage

from unsmear.models.gates import CELL, Gates, compare, compare_colors, detail


def smooth(side, seed):
    noise = torch.randn(1, 1, side // 8, side // 8, generator=torch.Generator().manual_seed(seed))
    return 0.01 * torch.nn.functional.interpolate(noise, size=side, mode="bicubic")


def test_what_is_compared_is_what_it_says():
    luma, estimates = scene(128)[:, :1], torch.cat([smooth(128, seed) for seed in range(3)], 1)
    compared = compare(detail(luma), estimates)[0].double().numpy()
    picture, changes = luma[0, 0].double().numpy(), estimates[0].double().numpy()

    def fine(row, column):
        around = picture[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
        return picture[row, column] - around.mean()

    rows = range(0, 128, 2)
    details = np.array([[fine(row, column) for column in rows] for row in rows])
    changes = changes[:, ::2, ::2]

    def expected(where):
        much = np.log10(np.square(details[where]).mean() + 1e-8)
        powers = [np.square(change[where]).mean() + 1e-8 for change in changes]
        pairs = ((0, 1), (0, 2), (1, 2))
        alike = [(changes[a][where] * changes[b][where]).mean() / np.sqrt(powers[a] * powers[b]) for a, b in pairs]
        return [much, *(np.log10(power) - much for power in powers), *alike]

    assert compared.shape == (14, 4, 4)
    for row, column in ((0, 0), (1, 2), (3, 3)):  # each cell with those around it
        cells = [slice(max(0, at - 1) * CELL // 2, (at + 2) * CELL // 2) for at in (row, column)]
        around, everywhere = expected(tuple(cells)), expected((slice(None), slice(None)))
        np.testing.assert_allclose(compared[:, row, column], around + everywhere, rtol=1e-3, atol=1e-4)


def test_colors_are_compared_with_the_luma():
    luma, colors = (
        scene(96)[:, :1],
        torch.cat([smooth(96, seed) for seed in range(3)], 1) + 0.1 * torch.rand(1, 3, 96, 96),
    )
    change, color_change = smooth(96, 3), 0.1 * torch.cat([smooth(96, seed) for seed in range(4, 7)], 1)
    found = compare_colors(detail(luma), change, detail(colors), color_change)[0].double().numpy()

    def fine(x):  # of every channel
        return [x[c] - ndimage.generic_filter(x[c], np.nanmean, 5, mode="constant", cval=np.nan) for c in range(len(x))]

    parts = [np.stack(fine(part[0].double().numpy())) for part in (luma, colors)]
    parts[1:1] = [change[0].double().numpy()]
    parts.append(color_change[0].double().numpy())

    def expected(*where):
        much, changed, colors, colors_changed = (
            np.log10(np.square(part[:, ::2, ::2][:, *where]).mean() + 1e-8) for part in parts
        )
        return [much, changed - much, colors - much, colors_changed - colors]

    assert found.shape == (8, 3, 3)
    everywhere = expected(slice(None), slice(None))
    for row, column in ((0, 0), (1, 1), (2, 1)):
        cells = [slice(max(0, at - 1) * CELL // 2, (at + 2) * CELL // 2) for at in (row, column)]
        np.testing.assert_allclose(found[:, row, column], expected(*cells) + everywhere, rtol=1e-3, atol=1e-3)


def test_before_anything_is_learned_all_of_all_is_taken():
    compared = compare(detail(scene(64)[:, :1]), torch.cat([smooth(64, 0), smooth(64, 1)], 1))
    assert (Gates(compared.shape[1], 2)(compared, 64, 64) == 1).all()


@pytest.mark.parametrize("size", [(16, 24), (32, 32), (48, 104), (70, 33)])
def test_any_size_has_shares_within_bounds(size):
    gates = Gates(14, 3)
    torch.nn.init.normal_(gates.last.weight, std=5.0)
    with torch.no_grad():
        shares = gates(compare(detail(torch.rand(2, 1, *size)), torch.randn(2, 3, *size)), *size)
    assert shares.shape == (2, 3, *size)
    assert shares.min() >= 0
    assert shares.max() <= 1


@pytest.mark.parametrize(("bias", "sign", "moves"), [(-3, -1, True), (-3, 1, False), (3, 1, True), (3, -1, False)])
def test_shares_beyond_their_bounds_come_back_and_go_no_further(bias, sign, moves):
    gates = Gates(14, 3)
    torch.nn.init.constant_(gates.last.bias, bias)
    shares = gates(compare(detail(scene(64)[:, :1]), torch.randn(1, 3, 64, 64)), 64, 64)
    torch.testing.assert_close(shares, torch.full_like(shares, min(max(bias, 0), 1)))
    (sign * shares).sum().backward()
    assert gates.last.bias.grad.ne(0).all() if moves else gates.last.bias.grad.eq(0).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_shares_within_their_bounds_move_both_ways(sign):
    gates = Gates(14, 3)
    torch.nn.init.constant_(gates.last.bias, 0.5)
    shares = gates(compare(detail(scene(64)[:, :1]), torch.randn(1, 3, 64, 64)), 64, 64)
    torch.testing.assert_close(shares, torch.full_like(shares, 0.5))
    (sign * shares).sum().backward()
    assert (sign * gates.last.bias.grad > 0).all()


def test_no_picture_and_no_change_have_finite_shares():
    nothing = torch.zeros(1, 1, 32, 32), torch.zeros(1, 3, 64, 64)
    assert Gates(14, 3)(compare(*nothing), 64, 64).isfinite().all()
    assert compare_colors(nothing[0], nothing[1][:, :1], nothing[0].expand(-1, 3, -1, -1), nothing[1]).isfinite().all()
