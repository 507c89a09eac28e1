"""Patches of the levels, cut out by slices."""

import pytest
import torch

from unsmear.models.patches import stitch, to_patches


def sliced(x, level):
    """The patches of a level up to 3, one after the other, of all pictures of the batch each."""
    top, bottom = slice(None, x.shape[2] // 2), slice(x.shape[2] // 2, None)
    left, right = slice(None, x.shape[3] // 2), slice(x.shape[3] // 2, None)
    rows = [slice(None)] if level == 1 else [top, bottom]
    columns = [left, right] if level == 3 else [slice(None)]
    return torch.cat([x[:, :, down, along] for along in columns for down in rows])


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_patches_are_slices_that_stitch_together_again(batch, layout, level):
    x = torch.randn(batch, 3, 8, 12).contiguous(memory_format=layout)
    patches = to_patches(x, level)
    assert torch.equal(patches, sliced(x, level))
    for above in range(level, 1, -1):
        patches = stitch(patches, above)
    assert torch.equal(patches, x)


def test_halves_of_one_picture_are_no_copy():
    x = torch.randn(1, 3, 8, 12).contiguous(memory_format=torch.channels_last)
    halves = to_patches(x, 2)
    assert halves.data_ptr() == x.data_ptr() == stitch(halves, 2).data_ptr()
    assert stitch(halves, 2).is_contiguous(memory_format=torch.channels_last)
