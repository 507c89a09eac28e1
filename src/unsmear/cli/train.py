"""`unsmear train`: trains a network."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unsmear.cli.terminal import ignore, say
from unsmear.errors import UsageError
from unsmear.process import tune_process

if TYPE_CHECKING:
    from unsmear.train.loop import Row


def train(
    data: Annotated[
        list[str],
        typer.Option(
            metavar="[KIND:]PATH",
            help="A folder of sharp photos or of pairs, or a high-speed video to average; frames:DIR for folders of"
            " frames. May be repeated.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the run.")],
    recipe: Annotated[
        str, typer.Option(metavar="NAME", help="default, paper, gpu, finetune, smoke, deblurgan or deblurgan-v2.")
    ] = "default",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the recipe. May be repeated."),
    ] = None,
    validate: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Sharp pictures to validate on. By default every 20th photo is held out."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(metavar="N", min=0, help="Stop after N minutes, ready to resume.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard files, too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> int:
    """Train a network on sharp photos, video frames, or pairs.

    Sharp photos are blurred as they are drawn. The folder of the run gets the weights, a log, and checkpoints;
    a run that was stopped or killed goes on with --resume. For several GPUs: accelerate launch -m unsmear train ...
    """
    tune_process(training=True)
    try:
        from unsmear.train.command import configure, run_training
    except ModuleNotFoundError as error:
        raise UsageError(f"training needs the package {error.name}: pip install 'unsmear[train]'") from None
    config = configure(recipe, settings or [])
    tell = ignore if quiet else say
    with _training_progress(config.steps, minutes, hidden=quiet) as show:
        progress = run_training(
            config,
            data,
            out,
            validate=validate,
            minutes=minutes,
            resume=resume,
            tensorboard=tensorboard,
            show=show,
            notice=tell,
        )
    state = "done" if progress.step >= config.steps else "stopped, go on with --resume"
    tell(f"{out / 'weights.safetensors'}: {progress.step} of {config.steps} steps, {state}")
    return 0


@contextmanager
def _training_progress(steps: int, minutes: float | None, *, hidden: bool) -> "Iterator[Callable[[Row], None]]":
    """A live bar on a terminal, a line for every line of the log elsewhere."""

    def line(row: "Row") -> str:
        if "validation" in row:
            gains = (f"{name} {v.get('gain', v['after']):.2f}" for name, v in row["validation"].items())
            return f"step {row['step']}: validation, dB gained: {', '.join(gains)} (sharp: dB kept)"
        left = row["minutes_left"] if minutes is None else min(row["minutes_left"], minutes - row["minutes_now"])
        return (
            f"step {row['step']}: loss {row['loss']:.5f}, PSNR {row['psnr']:.2f} dB ({row['gain']:+.3f}),"
            f" {row['pictures_per_second']:.1f} pictures/s, {left:.0f} min left"
        )

    if hidden:
        yield lambda row: None
        return
    if not sys.stderr.isatty():
        yield lambda row: say(line(row))
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    bar_columns = (BarColumn(20), TextColumn("{task.description}", markup=False))
    with Progress(*bar_columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=steps)

        def show(row: "Row") -> None:
            if "validation" in row:
                bar.console.print(line(row), markup=False, highlight=False)
            else:
                bar.update(task, completed=row["step"], description=line(row), refresh=True)

        yield show
