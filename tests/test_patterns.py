"""Regular patterns to train on."""

import torch

from unsmear.data.batches import SharpPhotos
from unsmear.data.patterns import random_pattern


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def repeats(picture: torch.Tensor) -> float:
    """The highest autocorrelation of (1, C, H, W) at a distance of 4 pixels or more, at most half of the sides."""
    luma = picture.mean((0, 1))
    luma = (luma - luma.mean()) * torch.hann_window(luma.shape[0])[:, None] * torch.hann_window(luma.shape[1])
    twice = [2 * side for side in luma.shape]
    correlation = torch.fft.irfft2(torch.fft.rfft2(luma, twice).abs() ** 2, twice)
    correlation = correlation.roll([side // 2 for side in twice], (0, 1)) / correlation[0, 0]
    y, x = torch.meshgrid(*(torch.arange(side) - side // 2 for side in twice), indexing="ij")
    away = torch.maximum(y.abs(), x.abs())
    near = min(luma.shape) // 2
    return correlation[(away >= 4) & (away <= near)].max().item()


def test_patterns_repeat_and_what_they_are_made_of_does_not():
    made, before = [], []
    for seed in range(24):
        crop = torch.rand(1, 3, 160, 160, generator=generator(seed))
        before.append(repeats(crop))
        made.append(repeats(random_pattern(crop, 1.0, generator(seed))))
    assert max(before) < 0.1
    assert sorted(made)[12] > 0.3  # long pieces repeat beyond half of the sides


def test_patterns_are_pictures_of_the_same_size():
    for seed, (height, width) in enumerate([(1, 1), (4, 200), (33, 6), (96, 128)] * 4):
        crop = torch.rand(1, 3, height, width, generator=generator(seed))
        kept = crop.clone()
        pattern = random_pattern(crop, 1.0, generator(seed))
        assert pattern.shape == crop.shape
        assert pattern.isfinite().all()
        assert pattern.min() >= 0
        assert pattern.max() <= 1
        assert torch.equal(crop, kept)
        assert torch.equal(pattern, random_pattern(crop, 1.0, generator(seed)))


def test_a_share_of_the_crops_is_made_patterns():
    crop = torch.rand(1, 3, 64, 64, generator=generator(0))
    rng = generator(1)
    changed = sum(random_pattern(crop, 0.25, rng) is not crop for _ in range(200))
    assert 30 <= changed <= 70


def test_without_a_share_nothing_is_drawn():
    rng = generator(0)
    state = rng.get_state()
    crop = torch.rand(1, 3, 8, 8)
    assert random_pattern(crop, 0.0, rng) is crop
    assert torch.equal(rng.get_state(), state)


def test_training_draws_patterns():
    photo = torch.randint(256, (200, 200, 3), generator=generator(0), dtype=torch.uint8).numpy()
    source = SharpPhotos([photo], sharp_share=1.0, pattern_share=1.0)
    crops = [source.draw(1, 160, 0.0, generator(seed))[1] for seed in range(8)]
    assert max(repeats(crop) for crop in crops) > 0.5
