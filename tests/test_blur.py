"""Blur synthesis: alignment, light, oracles by hand, and every size."""

import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unsmear.data import blur
from unsmear.data.blur import (
    CLEAN,
    GOPRO,
    MEDIUM,
    MILD,
    STRONG,
    BlurConfig,
    average_frames,
    contact_sheet,
    synthesize,
)
from unsmear.data.camera import Camera, add_noise, compress_jpeg
from unsmear.data.preview import preview
from unsmear.data.trajectory import INSTANTS, corner_paths, draw_motion, plan_exposure
from unsmear.errors import UsageError

# Motion only: no object, no noise, no JPEG, values averaged as they are by a shutter without gaps.
PLAIN = BlurConfig(layers=0.0, encoded=1.0, open_share=(1.0, 1.0), shot_noise=0.0, read_noise=0.0, jpeg=0.0, still=0.0)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene(batch: int = 2, height: int = 40, width: int = 48, seed: int = 0) -> torch.Tensor:
    """Patches of random color, a few pixels wide, so that blur of any size shows."""
    patches = torch.rand(batch, 3, height // 4, width // 4, generator=rng(seed))
    return patches.repeat_interleave(4, 2).repeat_interleave(4, 3)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10(float((a - b).square().mean()) + 1e-12)


def fix_motion(monkeypatch: pytest.MonkeyPatch, *, dx: float = 0.0, dy: float = 0.0) -> None:
    """Every plane moves by (dx, dy) pixels in a straight line at constant speed."""
    motion = torch.zeros(INSTANTS, 4, 2)
    motion[:, 0] = torch.linspace(-0.5, 0.5, INSTANTS)[:, None] * torch.tensor([dx, dy])
    monkeypatch.setattr(blur, "draw_motion", lambda *_, **__: motion)


# Randomness


@pytest.mark.parametrize("config", [MILD, MEDIUM, STRONG, GOPRO])
def test_same_seed_same_bits(config: BlurConfig) -> None:
    first, second = (synthesize(scene(), config, rng(5)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], synthesize(scene(), config, rng(6))[0])


def test_global_random_state_is_neither_read_nor_touched() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    synthesize(scene(), MEDIUM, rng())
    assert torch.equal(before, torch.get_rng_state())


def test_sample_does_not_depend_on_the_rest_of_the_batch() -> None:
    config = replace(MEDIUM, layers=0.0)
    batch = scene(4)
    alone, _ = synthesize(batch[:1], config, rng(3))
    assert torch.equal(alone[0], synthesize(batch, config, rng(3))[0][0])


# Alignment and ground truth


def test_no_motion_gives_the_picture_back() -> None:
    blurred, sharp = synthesize(scene(), replace(PLAIN, extent=0.0), rng())
    assert torch.equal(sharp, scene())
    torch.testing.assert_close(blurred, sharp, atol=2e-5, rtol=0)


def test_no_motion_gives_the_picture_back_through_a_response_curve() -> None:
    config = replace(PLAIN, extent=0.0, encoded=0.0, saturation=1.0, layers=1.0)
    blurred, sharp = synthesize(scene(8), config, rng())
    torch.testing.assert_close(blurred, sharp, atol=2e-3, rtol=0)


def test_sharp_counterpart_is_the_untouched_crop() -> None:
    batch = scene()
    _, sharp = synthesize(batch, BlurConfig(layers=0.0, saturation=0.0), rng(), margin=9)
    assert torch.equal(sharp, batch[:, :, 9:-9, 9:-9])


def test_truth_with_objects_is_the_composite_at_mid_exposure() -> None:
    config = replace(MEDIUM, layers=1.0, max_layers=3)
    _, moving = synthesize(scene(6), replace(config, extent=20.0), rng(4))
    _, still = synthesize(scene(6), replace(config, extent=0.0), rng(4))
    assert torch.equal(moving, still)
    assert (moving != scene(6)).flatten(1).any(1).all()


def test_objects_come_from_other_pictures_and_leave_no_seam() -> None:
    colors = torch.tensor([[1.0, 0, 0], [0, 1, 0]])[:, :, None, None].expand(-1, -1, 64, 64)
    config = replace(PLAIN, layers=1.0, extent=10.0)
    blurred, sharp = synthesize(colors, config, rng(2), margin=10)
    for picture in (*blurred, *sharp):
        # Red and green share the light everywhere: nothing dark or bright along the edges.
        torch.testing.assert_close(picture[0] + picture[1], torch.ones(44, 44), atol=1e-4, rtol=0)
        assert picture[:2].amax() > 0.99
    assert sharp.amin((2, 3))[:, :2].max() < 0.01


def test_blur_is_not_shifted_on_average() -> None:
    batch = torch.full((1, 3, 65, 65), 0.25)
    batch[:, :, 32, 32] += 0.5
    x = torch.arange(65.0) - 32
    shifts = []
    # Zoom and parallax would spread or gather energy.
    config = replace(PLAIN, extent=12.0, skew=0.1, zoom=0.0, parallax=0.0)
    for blurred in synthesize(batch.expand(150, -1, -1, -1), config, rng())[0]:
        energy = (blurred.mean(0) - 0.25) / 0.5
        assert float(energy.sum()) == pytest.approx(1.0, abs=0.02)
        shifts.append([float((energy.sum(0) * x).sum()), float((energy.sum(1) * x).sum())])
    mean = torch.tensor(shifts).mean(0)
    error = torch.tensor(shifts).std(0) / math.sqrt(len(shifts))
    assert (mean.abs() < 3.5 * error).all()
    assert error.max() < 0.2


def test_margin_keeps_the_border_out() -> None:
    whole = scene(2, 104, 112)
    config = replace(PLAIN, extent=12.0, skew=0.1)
    narrow, _ = synthesize(whole[:, :, 20:-20, 20:-20], config, rng(), margin=12)
    wide, _ = synthesize(whole, config, rng(), margin=32)
    torch.testing.assert_close(narrow, wide, atol=1e-4, rtol=0)


# Oracles


def test_integer_steps_are_the_mean_of_shifted_copies() -> None:
    picture = scene(1)[0]
    shifts = [(-2, 0), (0, 0), (0, 3), (1, -1)]
    motion = torch.zeros(4, 4, 2)
    motion[:, 1] = torch.tensor(shifts, dtype=torch.float32)
    weights = torch.tensor([0.1, 0.4, 0.3, 0.2])
    average = blur._expose([picture], [motion], weights, torch.ones(40, 48), "reflection")
    expected = sum(w * picture.roll((-y, -x), (1, 2)) for (x, y), w in zip(shifts, weights, strict=True))
    torch.testing.assert_close(average[:, 4:-4, 4:-4], expected[:, 4:-4, 4:-4], atol=2e-5, rtol=0)


@pytest.mark.parametrize("length", [3.0, 8.0, 24.0])
def test_uniform_motion_damps_a_wave_by_sinc(monkeypatch: pytest.MonkeyPatch, length: float) -> None:
    fix_motion(monkeypatch, dx=length)
    wave = torch.sin(2 * math.pi * torch.arange(128.0) / 16)
    batch = (0.5 + 0.4 * wave).expand(1, 3, 8, 128)
    blurred, _ = synthesize(batch, replace(PLAIN, parallax=0.0), rng())
    damped = 0.5 + 0.4 * wave * torch.sinc(torch.tensor(length / 16))
    middle = slice(24, -24)
    torch.testing.assert_close(blurred[0, 0, 4, middle], damped[middle], atol=5e-3, rtol=0)


def test_far_things_move_less(monkeypatch: pytest.MonkeyPatch) -> None:
    fix_motion(monkeypatch, dx=10.0)
    monkeypatch.setattr(blur, "_draw_smooth_map", lambda size, *_: torch.linspace(0, 1, size[0])[:, None].expand(size))
    batch = torch.zeros(1, 3, 5, 64)
    batch[..., 32:] = 1.0
    blurred, _ = synthesize(batch, replace(PLAIN, parallax=1.0), rng())
    widths = ((blurred[0, 0] > 0.02) & (blurred[0, 0] < 0.98)).sum(1).tolist()
    assert widths[0] >= 9
    assert widths[-1] == 0
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_constant_picture_stays_constant(level: float) -> None:
    config = replace(STRONG, shot_noise=0.0, read_noise=0.0, jpeg=0.0, saturation=0.0)
    blurred, sharp = synthesize(torch.full((8, 3, 32, 32), level), config, rng())
    torch.testing.assert_close(blurred, torch.full_like(blurred, level), atol=1e-3, rtol=0)
    torch.testing.assert_close(sharp, torch.full_like(sharp, level), atol=1e-3, rtol=0)


# Light


def test_light_averages_brighter_than_values(monkeypatch: pytest.MonkeyPatch) -> None:
    fix_motion(monkeypatch, dx=20.0)
    batch = torch.zeros(1, 3, 4, 64)
    batch[..., 32:] = 1.0
    config = replace(PLAIN, gamma=(2.2, 2.2), contrast=0.0, saturation=0.0, parallax=0.0)
    values, _ = synthesize(batch, config, rng())
    light, _ = synthesize(batch, replace(config, encoded=0.0), rng())
    assert float(values[0, 0, 2, 32]) == pytest.approx(0.5, abs=0.04)
    torch.testing.assert_close(light, values ** (1 / 2.2), atol=0.02, rtol=0)


def test_saturated_highlights_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    fix_motion(monkeypatch, dx=12.0)
    batch = torch.full((1, 3, 9, 64), 0.1)
    batch[..., 3:6, 30:34] = 1.0
    config = replace(PLAIN, encoded=0.0, contrast=0.0, highlight_gain=20.0)
    dim, _ = synthesize(batch, replace(config, saturation=0.0), rng())
    bright, sharp = synthesize(batch, replace(config, saturation=1.0), rng())
    assert bright[0, 0, 4].sum() > 1.3 * dim[0, 0, 4].sum()
    torch.testing.assert_close(sharp, batch, atol=1e-4, rtol=0)


@pytest.mark.parametrize("camera", [Camera(None), Camera(2.2), Camera(1.8, 2.0), Camera(2.4, 0.5, 1.0)])
def test_camera_undoes_itself(camera: Camera) -> None:
    values = torch.linspace(0, 1, 256).expand(3, 1, 256)
    light = camera.to_light(values)
    assert (light.diff(dim=-1) >= 0).all()
    assert 0 <= float(light.min()) <= float(light.max()) <= 1
    torch.testing.assert_close(camera.to_values(light), values, atol=2e-3, rtol=0)


def test_highlights_exceed_white_and_are_clipped() -> None:
    camera = Camera(2.2, 0.0, 4.0)
    light = camera.to_light(torch.tensor([0.5, 1.0]).expand(3, 1, 2))
    assert float(light[0, 0, 0]) == pytest.approx(0.5**2.2, abs=1e-6)
    assert float(light[0, 0, 1]) == pytest.approx(4.0)
    assert float(camera.to_values(light)[0, 0, 1]) == 1.0


def test_noise_has_the_variance_asked_for() -> None:
    for level, shot, read in ((0.0, 0.0, 0.01), (0.5, 4e-4, 0.0), (1.0, 1e-4, 0.02)):
        noise = add_noise(torch.full((3, 200, 200), level), shot, read, rng()) - level
        assert float(noise.var()) == pytest.approx(level * shot + read**2, rel=0.03)
    light = torch.rand(3, 4, 4, generator=rng())
    assert add_noise(light, 0.0, 0.0, rng()) is light


def test_jpeg_harms_more_at_low_quality() -> None:
    picture = scene(1)[0]
    fine, coarse = (psnr(compress_jpeg(picture, quality), picture) for quality in (97, 20))
    assert fine > coarse > 10


# Trajectories


@pytest.mark.parametrize("extent", [0.0, 0.4, 7.0, 60.0])
@pytest.mark.parametrize("size", [(1, 1), (90, 160)])
def test_motion_spans_its_extent_around_its_average(size: tuple[int, int], extent: float) -> None:
    for seed in range(20):
        motion = draw_motion(size, extent, tremor=1.0, rotation=0.5, zoom=0.3, generator=rng(seed))
        assert float(corner_paths(motion, size).mean(0).abs().max()) <= 1e-4 * (1 + extent)
        corners = corner_paths(motion, size)
        spans = (corners.amax(0) - corners.amin(0)).norm(dim=-1)
        assert float(spans.max()) == pytest.approx(extent, rel=1e-4, abs=1e-6)
        assert float(corners.norm(dim=-1).max()) <= extent * (1 + 1e-4)


@pytest.mark.parametrize("extent", [0.0, 2.0, 40.0])
def test_sub_frames_are_close_and_weights_are_time(extent: float) -> None:
    size = (90, 160)
    for seed in range(10):
        motions = [
            draw_motion(size, extent, tremor=0.7, rotation=0.3, zoom=0.1, generator=rng(2 * seed + k)) for k in range(2)
        ]
        instants, weights = plan_exposure(motions, size, torch.ones(INSTANTS - 1), 1.0)
        assert len(instants) >= 7
        assert float(weights.sum()) == pytest.approx(1.0, abs=1e-5)
        # Centers of time slices, so the mean instant is mid-exposure.
        assert float((weights * instants).sum()) == pytest.approx(INSTANTS // 2, abs=3.0)
        for motion in motions:
            at_frames = corner_paths(blur.motion_at(motion, instants), size)
            assert float(at_frames.diff(dim=0).norm(dim=-1).max()) <= 1.01


def test_shutter_gaps_are_left_out() -> None:
    exposure = torch.zeros(INSTANTS - 1)
    exposure[:10] = 1.0
    exposure[-30:] = 1.0
    motion = torch.zeros(INSTANTS, 4, 2)
    motion[:, 0, 0] = torch.linspace(-20, 20, INSTANTS)
    instants, weights = plan_exposure([motion], (8, 8), exposure, 0.5)
    assert float(weights[instants < 11].sum()) == pytest.approx(0.25, abs=1e-5)
    assert not ((instants > 12) & (instants < INSTANTS - 33)).any()


def test_presets_grow_in_strength() -> None:
    batch = scene(24, 64, 64)
    mild, medium, strong = (psnr(*synthesize(batch, preset, rng(1))) for preset in (MILD, MEDIUM, STRONG))
    assert mild > medium + 1 > strong + 2


def test_gopro_preset_blurs_strongly_nearly_always() -> None:
    batch = scene(32, 64, 64)

    def of_pairs(config: BlurConfig) -> list[float]:
        return [psnr(*pair) for pair in zip(*synthesize(batch, config, rng(1)), strict=True)]

    gopro, strong = of_pairs(GOPRO), of_pairs(STRONG)
    assert max(gopro) < max(strong) - 3
    assert sum(value < 25 for value in gopro) >= 30


def test_page_about_blur_tells_the_presets_as_they_are() -> None:
    page = (Path(__file__).parents[1] / "docs/blur.md").read_text(encoding="utf-8")
    rows = {row[1].strip("` "): row[4:-1] for row in (line.split("|") for line in page.splitlines()) if len(row) == 10}
    for field in fields(BlurConfig):
        values = [getattr(preset, field.name) for preset in (MILD, MEDIUM, STRONG, GOPRO, CLEAN)]
        told = [" to ".join(f"{x:g}" for x in (v if isinstance(v, tuple) else (v,))) for v in values]
        assert [cell.strip() for cell in rows[field.name]] == told, field.name


# Sizes, types, mistakes


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (37, 5)])
@pytest.mark.parametrize("config", [replace(STRONG, layers=1.0, jpeg=1.0, saturation=1.0), PLAIN])
def test_every_size_stays_within_range(size: tuple[int, int], config: BlurConfig) -> None:
    for seed in range(4):
        for picture in synthesize(torch.rand(2, 3, *size, generator=rng(seed)), config, rng(seed)):
            assert picture.shape == (2, 3, *size)
            assert 0 <= float(picture.min()) <= float(picture.max()) <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    blurred, sharp = synthesize(scene().to(dtype), MEDIUM, rng())
    assert blurred.dtype == sharp.dtype == dtype
    assert not blurred.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_with_cpu() -> None:
    config = replace(MEDIUM, shot_noise=0.0, read_noise=0.0, jpeg=0.0, layers=1.0)
    on_cpu = synthesize(scene(4), config, rng(), margin=4)
    on_gpu = synthesize(scene(4).cuda(), config, rng(), margin=4)
    for a, b in zip(on_cpu, on_gpu, strict=True):
        torch.testing.assert_close(a, b.cpu(), atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(3, 8, 8),
        torch.zeros(1, 4, 8, 8),
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(0, 3, 8, 8),
        torch.zeros(1, 3, 0, 8),
    ],
)
def test_wrong_tensor_is_refused(bad: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="synthesize"):
        synthesize(bad, MILD, rng())


@pytest.mark.parametrize("margin", [-1, 20])
def test_wrong_margin_is_refused(margin: int) -> None:
    with pytest.raises(UsageError, match="margin"):
        synthesize(scene(), MILD, rng(), margin=margin)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("extent", -1.0),
        ("extent", float("nan")),
        ("extent", "5"),
        ("jpeg", 1.1),
        ("layers", -0.1),
        ("max_layers", 0),
        ("max_layers", 1.5),
        ("max_step", 0.0),
        ("gamma", (2.4, 1.8)),
        ("gamma", 2.2),
        ("open_share", (0.0, 1.0)),
        ("jpeg_quality", (0, 90)),
        ("jpeg_quality", (50, 80, 90)),
        ("highlight_gain", 0.5),
        ("shot_noise", (0.0, 0.1)),
    ],
)
def test_config_out_of_range_names_the_field(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=field):
        BlurConfig(**{field: value})


# Real frames


def test_average_of_frames_is_the_mean_and_the_middle() -> None:
    frames = torch.rand(7, 3, 5, 6, generator=rng())
    blurred, sharp = average_frames(frames)
    torch.testing.assert_close(blurred, sum(frames) / 7)
    assert torch.equal(sharp, frames[3])


def test_average_in_light_by_hand() -> None:
    frames = torch.tensor([0.0, 0.0, 1.0])[:, None, None, None].expand(-1, 3, 1, 2)
    plain, _ = average_frames(frames)
    light, _ = average_frames(frames, gamma=2.2)
    torch.testing.assert_close(plain, torch.full((3, 1, 2), 1 / 3))
    torch.testing.assert_close(light, torch.full((3, 1, 2), (1 / 3) ** (1 / 2.2)))


@pytest.mark.parametrize(
    ("frames", "gamma"),
    [
        (torch.zeros(4, 3, 2, 2), None),
        (torch.zeros(0, 3, 2, 2), None),
        (torch.zeros(3, 1, 2, 2), None),
        (torch.zeros(3, 3, 2, 2, dtype=torch.uint8), None),
        (torch.zeros(3, 3, 2, 2), 0.0),
    ],
)
def test_frames_that_cannot_be_averaged_are_refused(frames: torch.Tensor, gamma: float | None) -> None:
    with pytest.raises(UsageError, match="average_frames"):
        average_frames(frames, gamma)


def test_contact_sheet_shows_pairs_in_rows() -> None:
    batch = scene(3)
    sheet = contact_sheet(batch, replace(PLAIN, extent=0.0), rng(), margin=4)
    height, width = 32, 40
    assert sheet.size == (2 * width + 2, 3 * height + 4)
    red = round(float(batch[2, 0, 4, 4]) * 255)
    for x in (0, width + 2):
        assert sheet.getpixel((x, 2 * (height + 2)))[0] == pytest.approx(red, abs=1)


def test_preview_shows_every_photo_in_its_own_size(tmp_path) -> None:
    files = []
    for n, level in enumerate((40, 120, 200)):
        files.append(tmp_path / f"{n}.png")
        Image.fromarray(np.full((60 + n, 90, 3), level, np.uint8)).save(files[-1])
    still = replace(PLAIN, extent=4.0)
    sheet = preview(files, still, count=3, size=30)
    assert sheet.size == (2 * 30 + 2, 3 * 32 - 2)
    assert [sheet.getpixel((5, 32 * n + 5)) for n in range(3)] == [(v, v, v) for v in (40, 120, 200)]
    assert preview(files[:1], still, count=5, size=500).size == (2 * 60 + 2, 5 * 62 - 2)
    assert preview(files, STRONG, seed=1).tobytes() == preview(files, STRONG, seed=1).tobytes()


def test_preview_repeats_a_lone_photo_in_other_ways(tmp_path) -> None:
    Image.fromarray((scene(1)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(tmp_path / "a.png")
    sheet = np.asarray(preview([tmp_path / "a.png"], MEDIUM, count=2, size=24))
    assert (sheet[:24, :24] != sheet[26:, :24]).any()
    with pytest.raises(UsageError, match="preview"):
        preview([], MEDIUM)
    with pytest.raises(UsageError, match="count=0"):
        preview([tmp_path / "a.png"], MEDIUM, count=0)
