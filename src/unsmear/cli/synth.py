"""`unsmear synth`: shows the blur that training makes."""

from pathlib import Path
from typing import Annotated

import typer

from unsmear.cli.arguments import check_new_file
from unsmear.cli.terminal import say
from unsmear.errors import UsageError


def synth(
    photos: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of sharp photos.")],
    preview: Annotated[Path, typer.Option(metavar="FILE", help="Picture to write: blurred left, sharp right.")],
    strength: Annotated[str, typer.Option(metavar="NAME", help="mild, medium, strong, gopro or clean.")] = "medium",
    count: Annotated[int, typer.Option(metavar="N", min=1, help="Number of pairs.")] = 4,
    size: Annotated[int, typer.Option(metavar="PIXELS", min=16, help="Side of each picture.")] = 256,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Another seed gives other blur.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a preview that exists.")] = False,
) -> int:
    """Show the motion blur that training makes from sharp photos."""
    from unsmear.data.blur import PRESETS
    from unsmear.data.preview import preview as draw
    from unsmear.data.store import list_pictures
    from unsmear.formats import format_of
    from unsmear.image import from_pil, save_picture

    if strength not in PRESETS:
        raise UsageError(f"unknown strength {strength!r}: choose one of {', '.join(PRESETS)}")
    check_new_file(preview, "--preview", overwrite=overwrite)
    format_of(preview)
    sheet = draw(list_pictures(photos), PRESETS[strength], seed=seed, count=count, size=size)
    save_picture(from_pil(sheet), preview)
    say(f"{preview}: {count} pairs, {strength} blur, seed {seed}")
    return 0
