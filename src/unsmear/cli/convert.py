"""`unsmear convert`: turns weights that others released into ours."""

from pathlib import Path
from typing import Annotated

import typer

from unsmear.cli.terminal import say
from unsmear.errors import UsageError


def convert(
    checkpoints: Annotated[list[Path], typer.Argument(metavar="CHECKPOINT", hidden=True)],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Weights file to write.")],
    warm_start: Annotated[
        str | None,
        typer.Option(metavar="saphn", help="Write a network to train that starts from this one: a saphn from a dmphn."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
) -> int:
    """Turn released weights of other networks into a weights file.

    A CHECKPOINT is a file of PyTorch, safetensors, TensorFlow 1 or Caffe, or a folder of such files: give all that
    belong to one network. Which it is shows by their names. No code in them is ever run.

    Weights stay under the terms of those who released them.
    """
    if warm_start not in (None, "saphn"):
        raise UsageError(f"--warm-start {warm_start!r}: only saphn can start from another network")
    from unsmear.convert.run import convert_files
    from unsmear.models import count_parameters

    network = convert_files(checkpoints, output, start_saphn=warm_start is not None, overwrite=overwrite)
    say(f"{output}: {network.name}, {count_parameters(network):,} parameters")
    return 0
