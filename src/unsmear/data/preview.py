"""A sheet of synthetic blur for a person to look at."""

from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from unsmear.data.batches import random_crop
from unsmear.data.blur import MEDIUM, MILD, STRONG, contact_sheet
from unsmear.data.store import list_pictures, read_picture
from unsmear.errors import UsageError

STRENGTHS = {"mild": MILD, "medium": MEDIUM, "strong": STRONG}


def preview_sheet(folder: Path, *, strength: str, count: int, size: int, seed: int) -> Image.Image:
    """Blur random crops of the photos in a folder, each beside its sharp counterpart.

    Args:
        folder: Sharp photos.
        strength: A name of `STRENGTHS`.
        count: Number of pairs, one below the other.
        size: Side of each picture, pixels.
        seed: Seed of everything random.

    Raises:
        UsageError: If the strength is unknown, or the folder has no pictures large enough.
    """
    if strength not in STRENGTHS:
        raise UsageError(f"unknown strength {strength!r}: choose one of {', '.join(STRENGTHS)}")
    config = replace(STRENGTHS[strength], still=0.0)
    margin = min(40, int(config.extent) + 1)
    rng = torch.Generator().manual_seed(seed)
    files = list_pictures(folder)
    chosen = torch.randperm(len(files), generator=rng).tolist()
    crops = [random_crop(read_picture(files[chosen[i % len(files)]]), size + 2 * margin, rng) for i in range(count)]
    return contact_sheet(torch.stack(crops).float() / 255, config, rng, margin=margin)
