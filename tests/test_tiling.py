"""The geometry of tiles: everything a plan promises, for any picture, network and budget."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unsmear.arrays import ArrayDeblurrer
from unsmear.data.store import read_picture
from unsmear.errors import OutOfMemoryError
from unsmear.tiling import TilePlan, merge_tiles, plan_tiles, reflect_indices, tile_weights

sizes = st.integers(1, 3000)


@st.composite
def plans(draw, side=sizes):
    height, width = draw(side), draw(side)
    multiple = draw(st.sampled_from([1, 2, 8, 16]))
    overlap = draw(st.integers(0, 130))
    bytes_per_pixel = draw(st.floats(50, 5000))
    budget = draw(st.floats(bytes_per_pixel * 600**2, bytes_per_pixel * 2000**2)) + 12 * 600 * 3000
    plan = plan_tiles(
        height,
        width,
        multiple=multiple,
        bytes_per_pixel=bytes_per_pixel,
        budget=budget,
        overlap=overlap,
        side=draw(st.sampled_from([0, 100, 384])),
    )
    assert plan.peak_bytes <= budget
    return plan


def axes(plan: TilePlan):
    yield plan.height, plan.tile_height, plan.tops
    yield plan.width, plan.tile_width, plan.lefts


@given(plans())
@settings(deadline=None)
def test_tiles_are_aligned_and_reach_past_the_picture_only_to_the_next_multiple(plan):
    for length, tile, starts in axes(plan):
        assert tile % plan.multiple == 0
        assert all(start % plan.multiple == 0 for start in starts)
        assert starts[0] == 0
        assert length <= starts[-1] + tile < length + plan.multiple


@given(plans())
@settings(deadline=None)
def test_neighbors_overlap_and_only_neighbors(plan):
    for _, tile, starts in axes(plan):
        for left, right in pairwise(starts):
            assert plan.overlap <= left + tile - right
        for left, right in zip(starts, starts[2:], strict=False):
            assert left + tile <= right


@given(plans())
@settings(deadline=None)
def test_weights_sum_to_one_everywhere(plan):
    for length, tile, starts in axes(plan):
        total = np.zeros(starts[-1] + tile, np.float32)
        for index, start in enumerate(starts):
            weights = tile_weights(starts, tile, index)
            assert weights.dtype == np.float32
            assert weights.min() >= 0
            total[start : start + tile] += weights
        np.testing.assert_allclose(total[:length], 1, atol=1e-6)


@given(plans(), st.floats(0.1, 1))
@settings(deadline=None)
def test_a_smaller_budget_is_kept_too_or_refused(plan, share):
    budget = plan.peak_bytes * share
    try:
        smaller = plan_tiles(
            plan.height,
            plan.width,
            multiple=plan.multiple,
            bytes_per_pixel=1000,
            budget=budget,
            overlap=plan.overlap,
        )
    except OutOfMemoryError:
        return
    assert smaller.peak_bytes <= budget


def test_the_whole_picture_is_taken_when_it_fits():
    plan = plan_tiles(720, 1280, multiple=16, bytes_per_pixel=1000, budget=2**30)
    assert (plan.num_tiles, plan.tile_height, plan.tile_width) == (1, 720, 1280)
    assert str(plan) == "whole picture, 0.90 GiB"


def test_a_large_picture_wastes_little_and_the_plan_can_be_read():
    plan = plan_tiles(4000, 6000, multiple=16, bytes_per_pixel=1000, budget=2**31)
    assert plan.num_tiles * plan.tile_height * plan.tile_width < 1.3 * 4000 * 6000
    assert str(plan).startswith(f"{plan.cols} x {plan.rows} tiles of {plan.tile_width} x {plan.tile_height} px")


def test_time_is_linear_in_pixels():
    work = []
    for height, width in [(4000, 6000), (8000, 12500), (16000, 25000)]:
        plan = plan_tiles(height, width, multiple=16, bytes_per_pixel=1000, budget=2**31)
        work.append(plan.num_tiles * plan.tile_height * plan.tile_width / (height * width))
    assert max(work) < 1.1 * min(work)


def test_overlap_shrinks_before_giving_up():
    plan = plan_tiles(2000, 2000, multiple=8, bytes_per_pixel=1000, budget=50e6)
    assert plan.overlap == 32


@given(st.integers(1, 1000), st.integers(1, 1000), st.floats(2**25, 2**28))
@settings(deadline=None)
def test_tiles_are_as_large_as_asked_where_memory_allows_it(height, width, budget):
    def plan(side):
        return plan_tiles(height, width, multiple=32, bytes_per_pixel=500, budget=budget, side=side)

    anyhow, asked = plan(0), plan(384)
    least = min(height, width, 384)
    if min(asked.tile_height, asked.tile_width) < least:
        assert asked == anyhow
    if min(anyhow.tile_height, anyhow.tile_width) >= least:
        assert asked.num_tiles <= anyhow.num_tiles


def test_tiles_of_the_shipped_network_are_large_enough_to_tell_blur_in():
    plan = ArrayDeblurrer(device="cpu", memory_gib=0.1).plan(512, 768)
    assert plan.num_tiles > 1
    assert min(plan.tile_height, plan.tile_width) >= 512


def test_impossible_budgets_say_what_to_do():
    with pytest.raises(OutOfMemoryError, match=r"5000 x 4000 pixels .* even in the smallest tiles"):
        plan_tiles(4000, 5000, multiple=16, bytes_per_pixel=1000, budget=1e6)


@given(st.integers(1, 60), st.integers(-150, 150), st.integers(0, 150))
@settings(deadline=None)
def test_reflection_is_that_of_numpy(length, start, count):
    index = reflect_indices(start, start + count, length)
    padded = np.pad(np.arange(length), 300, mode="reflect")
    np.testing.assert_array_equal(index, padded[300 + start : 300 + start + count])


@given(plans(side=st.integers(1, 400)))
@settings(deadline=None, max_examples=30)
def test_merging_the_tiles_of_a_picture_gives_the_picture(plan):
    check_merge(plan)


@given(st.integers(150, 300), st.integers(150, 300), st.sampled_from([1, 2, 8]))
@settings(deadline=None, max_examples=30)
def test_merging_many_tiles_gives_the_picture(height, width, multiple):
    plan = plan_tiles(height, width, multiple=multiple, bytes_per_pixel=100, budget=1_200_000, overlap=16)
    assert plan.num_tiles >= 4
    check_merge(plan)


def check_merge(plan: TilePlan):
    rng = np.random.default_rng(plan.height)
    picture = rng.random((plan.height, plan.width, 3), np.float32)

    def compute(top, left):
        rows = reflect_indices(top, top + plan.tile_height, plan.height)
        cols = reflect_indices(left, left + plan.tile_width, plan.width)
        return picture[rows[:, None], cols]

    merged = np.full_like(picture, np.nan)
    next_top = 0
    for top, strip in merge_tiles(plan, compute):
        assert top == next_top
        assert strip.dtype == np.float32
        merged[top : top + len(strip)] = strip
        strip[:] = np.nan  # the caller may spoil it
        next_top = top + len(strip)
    np.testing.assert_allclose(merged, picture, atol=1e-6)


def test_tiles_that_are_judged_differently_fade_into_each_other():
    plan = plan_tiles(300, 400, multiple=8, bytes_per_pixel=100, budget=3_000_000, overlap=32)
    assert plan.num_tiles >= 4
    brightness = iter(np.random.default_rng(0).random(plan.num_tiles))

    def compute(top, left):
        return np.full((plan.tile_height, plan.tile_width, 3), next(brightness), np.float32)

    merged = np.concatenate([strip.copy() for _, strip in merge_tiles(plan, compute)])
    steepest = np.pi / plan.overlap  # of a raised cosine of half the overlap, for tiles that differ by 1
    assert all(np.abs(np.diff(merged, axis=axis)).max() < steepest for axis in (0, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["airplane", "houses", "lighthouse", "motocross"])
def test_the_shipped_network_hardly_sees_tiles(name):
    picture = read_picture(Path(__file__).parent.parent / "examples" / f"{name}.png").astype(np.float32) / np.float32(
        255
    )
    tiling = ArrayDeblurrer(device="cpu", memory_gib=0.1)
    plan = tiling.plan(*picture.shape[:2])
    assert plan.num_tiles > 1
    whole, tiled = ArrayDeblurrer(device="cpu", memory_gib=4).restore(picture), tiling.restore(picture)
    assert -10 * np.log10(np.square(tiled - whole).mean()) > 45
    for axis, starts, tile in ((0, plan.tops, plan.tile_height), (1, plan.lefts, plan.tile_width)):
        steps = [np.abs(np.diff(values, axis=axis)).sum((1 - axis, 2)) for values in (tiled, whole)]
        for first, second in pairwise(starts):
            seam = slice(second, first + tile)
            assert steps[0][seam].sum() < 1.05 * steps[1][seam].sum()


def test_memory_told_in_advance_grows_with_the_picture_and_its_depth():
    deblurrer = ArrayDeblurrer(device="cpu", memory_gib=1)
    small, large, deep = (
        deblurrer.expected_peak(*size, bytes_per_value=depth)
        for size, depth in (((100, 100), 1), ((8000, 8000), 1), ((8000, 8000), 2))
    )
    assert large - small > 2 * 3 * 8000**2
    assert deep - large == 2 * 3 * 8000**2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measured there")
@pytest.mark.parametrize("size", [(840, 1200), (2000, 3000)])
def test_memory_told_in_advance_is_about_right(size, tmp_path):
    Image.effect_noise((size[1], size[0]), 50).convert("RGB").save(tmp_path / "in.jpg")
    command = [sys.executable, "-m", "unsmear", "deblur", "in.jpg", "-q", "--device", "cpu"]
    process = subprocess.Popen(command, cwd=tmp_path)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert ArrayDeblurrer(device="cpu").expected_peak(*size, bytes_per_value=1) == pytest.approx(
        usage.ru_maxrss * 1024, rel=0.2
    )
