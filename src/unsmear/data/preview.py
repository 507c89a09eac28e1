"""A look at synthetic blur: photographs beside what is made of them."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from unsmear.data.blur import BlurConfig, contact_sheet
from unsmear.data.store import read_picture
from unsmear.errors import UsageError


def preview(
    photos: Sequence[Path], config: BlurConfig, *, seed: int = 0, count: int = 6, size: int = 384
) -> Image.Image:
    """Blurs the middle of some photographs: one row each, blurred left, sharp right.

    Args:
        photos: picture files, taken evenly from all; one that is taken again is blurred in another way.
        config: what blur to make.
        seed: the same seed gives the same picture.
        count: number of rows, >= 1.
        size: side of what is shown of a photo, pixels, >= 1; less where a photo is smaller.

    Returns:
        An RGB picture of at most 2 * size + 2 by count * (size + 2) - 2 pixels.

    Raises:
        UsageError: there are no photos, or `count` or `size` is below 1.
        ImageError: a photo cannot be decoded.
    """
    if not photos or min(count, size) < 1:
        raise UsageError(f"preview: needs photos, count={count} and size={size} of at least 1")
    pictures = [read_picture(photos[i * max(len(photos), count) // count % len(photos)]) for i in range(count)]
    smallest = min(min(picture.shape[:2]) for picture in pictures)
    shown = min(size, smallest)
    # What moves in from outside is real where the photos are large enough.
    margin = min(math.ceil(config.extent), (smallest - shown) // 2)
    side = shown + 2 * margin
    crops = []
    for picture in pictures:
        top, left = ((length - side) // 2 for length in picture.shape[:2])
        crops.append(torch.from_numpy(picture[top : top + side, left : left + side].copy()))
    sharp = torch.stack(crops).permute(0, 3, 1, 2).float() / 255
    return contact_sheet(sharp, config, torch.Generator().manual_seed(seed), margin=margin)
