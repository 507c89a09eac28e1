"""Training batches: by index, alike in any order, with crops that belong together."""

import numpy as np
import pytest
import torch

from unsmear.data.batches import Batches, RealPairs, SharpPhotos, VideoFrames, random_crop, random_grain
from unsmear.errors import UsageError


def photos(count=3, height=160, width=150, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (height, width, 3), np.uint8) for _ in range(count)]


def one_clip(frames, **options):
    return VideoFrames(frames, {"clip": len(frames)}, **options)


def batches(**changes):
    given = {"count": 2, "size": 32, "steps": 100, "seed": 1} | changes
    return Batches([(SharpPhotos(photos()), 0.5), (one_clip(photos(13)), 0.5)], **given)


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_batch_depends_on_its_index_alone():
    forward, backward = batches(), batches()
    first = [forward[i] for i in range(4)]
    second = [backward[i] for i in reversed(range(4))][::-1]
    assert all(equal(a, b) for a, b in zip(first, second, strict=True))
    assert not equal(first[0], first[1])


def test_seeds_and_processes_draw_their_own():
    assert not equal(batches()[0], batches(seed=2)[0])
    assert not equal(batches()[0], batches(rank=1)[0])


def test_shares_may_be_whole_numbers():
    assert len(Batches([(SharpPhotos(photos()), 1)], count=2, size=32, steps=1)[0]) == 2


def test_shapes_and_ranges():
    for index in range(6):
        for picture in batches()[index]:
            assert picture.shape == (2, 3, 32, 32)
            assert picture.dtype == torch.float32
            assert 0 <= picture.min() <= picture.max() <= 1


def test_blur_grows_with_the_curriculum():
    def error(progress):
        source = SharpPhotos(photos())
        pairs = [source.draw(2, 32, progress, torch.Generator().manual_seed(s)) for s in range(12)]
        return np.mean([float((b - s).square().mean()) for b, s in pairs])

    assert error(0.0) < error(0.6)


def test_a_share_of_the_photos_is_softer_or_sharper_before_it_is_blurred():
    def details(share):
        source = SharpPhotos(photos(), soft_share=share)
        sharp = torch.cat([source.draw(4, 32, 0.0, torch.Generator().manual_seed(s))[1] for s in range(16)])
        return sharp.diff(dim=-1).abs().mean((1, 2, 3))

    of_sharp, of_some, of_soft = (details(share) for share in (0.0, 0.5, 1.0))
    assert 0.7 < (of_soft < of_sharp).float().mean() < 1  # the others are sharpened
    assert of_soft.max() > 0.9 * of_sharp.min()  # from hardly
    assert of_soft.min() < 0.1 * of_sharp.min()  # to a lot
    assert 16 <= (of_some == of_sharp).sum() <= 48


def test_a_share_of_the_photos_has_softer_colors():
    def drawn(share):
        source = SharpPhotos(photos(), soft_color_share=share)
        return torch.cat([source.draw(4, 32, 0.0, torch.Generator().manual_seed(s))[1] for s in range(8)])

    as_they_are, some, all_of_them = (drawn(share) for share in (0.0, 0.5, 1.0))
    changed = [(other != as_they_are).flatten(1).any(1) for other in (some, all_of_them)]
    assert 8 <= changed[0].sum() <= 24
    assert changed[1].all()


def test_a_share_of_the_photos_is_not_blurred():
    source = SharpPhotos(photos(), sharp_share=0.5)
    pairs = [source.draw(2, 32, 0.0, torch.Generator().manual_seed(s)) for s in range(32)]
    assert 8 <= sum(torch.equal(blurred, sharp) for blurred, sharp in pairs) <= 24


def test_a_share_of_the_crops_is_noisy_and_the_truth_with_them():
    source = SharpPhotos(photos(), sharp_share=1.0, grain_share=0.5)
    clean = SharpPhotos(photos(), sharp_share=1.0)
    sizes = []
    for seed in range(16):
        blurred, sharp = source.draw(4, 32, 0.0, torch.Generator().manual_seed(seed))
        assert torch.equal(blurred, sharp)
        assert blurred.min() >= 0
        assert blurred.max() <= 1
        without, _ = clean.draw(4, 32, 0.0, torch.Generator().manual_seed(seed))
        sizes.extend((blurred - without).std(dim=(1, 2, 3)).tolist())
    assert 16 <= sizes.count(0.0) <= 48
    noisy = [size for size in sizes if size]
    assert min(noisy) < 0.03
    assert max(noisy) > 0.12


def test_grain_is_gray_or_colored_fine_or_coarse():
    grain = random_grain(torch.zeros(64, 3, 48, 48), 1.0, torch.Generator().manual_seed(0))
    size = grain.std(dim=(1, 2, 3), keepdim=True)
    assert 0.01 <= size.min() < 0.015
    assert 0.2 < size.max() <= 0.31
    color = ((grain - grain.mean(1, keepdim=True)).std(dim=(1, 2, 3)) / size.flatten()).tolist()
    slope = (grain.diff(dim=-1).std(dim=(1, 2, 3)) / size.flatten()).tolist()
    assert min(color) < 0.2
    assert max(color) > 0.7
    assert min(slope) < 0.8
    assert max(slope) == pytest.approx(2**0.5, abs=0.05)


def test_a_share_of_the_crops_is_of_smaller_photos():
    """Of stripes six pixels wide a smaller photo has more in as many pixels."""
    stripes = np.repeat(np.arange(180) // 6 % 2, 180).reshape(180, 180, 1).repeat(3, 2).astype(np.uint8) * 255

    def edges(share):
        counts = []
        for seed in range(40):
            source = SharpPhotos([stripes], sharp_share=1.0, shrink_share=share)
            crop = source.draw(1, 48, 1.0, torch.Generator().manual_seed(seed))[1][0, 0]
            assert crop.shape == (48, 48)
            assert 0 <= crop.min() <= crop.max() <= 1
            bright = crop > 0.5
            counts.append(max(int((bright.diff(dim=axis).sum(axis)).max()) for axis in (0, 1)))
        return counts

    plain, half, every = edges(0.0), edges(0.5), edges(1.0)
    assert set(plain) <= {7, 8}
    assert 8 <= sum(count > 9 for count in half) <= 28
    assert max(every) >= 16
    assert min(every) >= 7


def test_a_photo_that_is_hardly_larger_than_the_crop_is_made_hardly_smaller():
    source = SharpPhotos(photos(height=64, width=70), mixture=(0, 0, 0, 0, 1), shrink_share=1.0)
    for seed in range(8):
        assert source.draw(1, 48, 1.0, torch.Generator().manual_seed(seed))[0].shape == (1, 3, 48, 48)


def test_pairs_are_cropped_alike():
    sharp = photos()
    source = RealPairs([255 - p for p in sharp], sharp)
    blurred, truth = source.draw(8, 32, 0.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(blurred, 1 - truth)


def test_frames_are_averaged_around_the_middle():
    frames = [np.full((40, 40, 3), 10 * i, np.uint8) for i in range(13)]
    blurred, sharp = one_clip(frames, linear_share=0.0).draw(8, 32, 0.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(blurred, sharp)  # of a steady ramp the mean is the middle
    blurred, sharp = one_clip(frames, linear_share=1.0).draw(8, 32, 0.0, torch.Generator().manual_seed(0))
    assert (blurred > sharp).all()  # averaging light favors the bright


def test_windows_lie_within_one_clip_and_are_equally_likely():
    # The value of a frame tells its clip, and where it is in it.
    clips = {"long": 15, "short": 5, "middle": 9}
    values = [100 * n + i for n, count in enumerate(clips.values()) for i in range(count)]
    frames = [np.full((8, 8, 3), value, np.uint8) for value in values]
    source = VideoFrames(frames, clips, lengths=(5, 5), linear_share=0.0)
    blurred, sharp = source.draw(2000, 8, 0.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(blurred, sharp)  # across clips, the mean would not be the middle
    middles, counts = (255 * sharp[:, 0, 0, 0]).round().int().unique(return_counts=True)
    assert middles.tolist() == [*range(2, 13), 102, *range(202, 207)]
    assert counts.min() > 2000 / 17 / 2


def test_one_clip_draws_as_ever():
    frames = photos(20, 40, 40)
    rng = torch.Generator().manual_seed(3)
    length = 3 + 2 * int(torch.randint(6, (), generator=rng))
    first = int(torch.randint(20 - length + 1, (), generator=rng))
    drawn = one_clip(frames).draw(1, 40, 0.0, torch.Generator().manual_seed(3))[1]
    middle = torch.from_numpy(frames[first + length // 2]).float() / 255
    assert torch.equal(drawn.flatten().sort().values, middle.flatten().sort().values)


def test_all_eight_positions_of_a_crop_occur():
    picture = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    rng = torch.Generator().manual_seed(0)
    assert len({random_crop(picture, 3, rng).numpy().tobytes() for _ in range(100)}) == 8


def test_mistakes_are_named():
    with pytest.raises(UsageError, match="nothing to train on"):
        Batches([], count=1, size=8, steps=1)
    with pytest.raises(UsageError, match="short: averaging up to 13 frames needs as many; got 5"):
        VideoFrames(photos(18), {"long": 13, "short": 5})
    with pytest.raises(UsageError, match="clip: the frames of a clip must all be of one size"):
        one_clip(photos(12) + photos(1, 150, 160))
    with pytest.raises(UsageError, match="150 x 160 pixels is smaller than the crop of 512"):
        random_crop(photos()[0], 512, torch.Generator())
