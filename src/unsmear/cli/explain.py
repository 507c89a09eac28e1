"""`unsmear explain`: what a network did to a picture. PyTorch is only loaded once the call has been found good."""

import time
from pathlib import Path
from typing import Annotated

import typer

from unsmear.cli.terminal import answer, ignore, say


def explain(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="A blurred picture.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to: a picture (.png) or a page (.html). By default name.explained.png beside the photo.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="A name that 'unsmear models' lists, or a weights file.")
    ] = "saphn-s",
    block: Annotated[
        str | None, typer.Option(metavar="NAME", help="Draw the maps of this block. By default the most telling ones.")
    ] = None,
    list_blocks: Annotated[
        bool, typer.Option("--list-blocks", help="List the blocks, the most telling for this photo first, and stop.")
    ] = False,
    max_side: Annotated[
        int, typer.Option(metavar="PIXELS", min=32, help="Of larger photos only the middle is looked at.")
    ] = 1024,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> int:
    """Show what a network did to a photo.

    One sheet or page: the photo before and after with estimates of its blur, what was added, and where the network
    looked and how it filtered. What each panel is: docs/explain.md.
    """
    from unsmear.explain.output import check_output, write_report
    from unsmear.image import open_picture, report_beside
    from unsmear.samples import to_depth

    begin = time.monotonic()
    target = report_beside(photo) if output is None else output
    if not list_blocks:
        check_output(photo, target, overwrite=overwrite)
    picture = open_picture(photo).srgb()

    import numpy as np

    from unsmear.device import choose_device
    from unsmear.explain.run import cut_middle, explain_picture, list_picture_blocks
    from unsmear.models import load_model

    tell = ignore if quiet else say
    whole = picture.shape[0], picture.shape[1]
    values = cut_middle(picture, max_side, max_side)
    height, width = values.shape[:2]
    if (height, width) != whole:
        tell(f"{photo}: looking at the middle {width} x {height} of {whole[1]} x {whole[0]} pixels (--max-side)")
    values = to_depth(values, np.float32)
    network = load_model(model, device=choose_device(device).device)
    if list_blocks:
        for line in list_picture_blocks(network, values):
            answer(line)
        return 0
    write_report(explain_picture(network, values, name=photo.name, whole=whole, block=block), target)
    tell(f"{photo} -> {target} ({width} x {height}, {time.monotonic() - begin:.1f} s)")
    return 0
