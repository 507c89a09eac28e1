"""The `unsmear` command.

Standard output is for what was asked for: the picture with `--output -`, and the listings of `--dry-run`,
`models` and `doctor`. Everything else, progress and errors included, goes to standard error.

PyTorch takes seconds to load, so whatever needs it is imported where it is used: `unsmear --help` answers at
once, and mistakes in the call are found before anything is loaded.
"""

import io
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Protocol

import typer

from unsmear import __version__
from unsmear.bench.command import bench
from unsmear.errors import UnsmearError, UsageError
from unsmear.evaluation.command import evaluate
from unsmear.process import tune_process

if TYPE_CHECKING:
    from unsmear.batch import Batch, Job
    from unsmear.train.loop import Row

_INTERRUPTED = 130
_WRONG_CALL: Any = typer.BadParameter.__bases__[0]  # any mistake in a call; typer has no public name for it

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _Report(Protocol):
    def __call__(self, done: int, what: str, part: int = 0, parts: int = 1) -> None:
        """Show how many pictures are done, what is in work, and how much of that is done."""


def main() -> NoReturn:
    """Run the command line and exit: the one place where errors become messages and exit codes."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # tidy up as after Ctrl-C
    tune_process()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may hold what the terminal's encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = app(prog_name="unsmear", standalone_mode=False)
        sys.stdout.flush()
    except UnsmearError as error:
        _fail(str(error))
        code = error.exit_code
    except _WRONG_CALL as error:
        command = error.ctx.command_path if error.ctx else "unsmear"
        _fail(f"{' '.join(error.format_message().split())} (see '{command} --help')")
        code = error.exit_code
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone, and Python's last flush must not reach them
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    if code == _INTERRUPTED:
        _fail("interrupted; what was finished is in place, and nothing is half-written")
    sys.exit(code)


@app.callback(
    invoke_without_command=True,
    epilog="Exit codes: 0 all done, 1 some pictures failed, 2 wrong call, 3 model unusable, 4 out of memory, "
    "130 interrupted.",
)
def _unsmear(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Take the motion blur out of photographs."""
    if version:
        typer.echo(f"unsmear {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def deblur(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", hidden=True),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="A file for one picture, a folder for several, or - for standard output. "
            "By default name.deblurred.ext beside each input.",
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Go into the folders inside a folder, too.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    strength: Annotated[
        float, typer.Option(metavar="X", min=0, max=1, help="From 0, the input, to 1, fully restored.")
    ] = 1.0,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="A name that 'unsmear models' lists, or a weights file.")
    ] = "saphn-s",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")] = "auto",
    dtype: Annotated[
        str, typer.Option(metavar="TYPE", help="float32, bfloat16, float16, or auto: 16 bits on CUDA.")
    ] = "auto",
    max_megapixels: Annotated[
        float, typer.Option(metavar="N", min=0, help="Refuse pictures with more million pixels.")
    ] = 200.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be done, and write nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> int:
    """Restore blurred pictures.

    An INPUT is a picture, a folder, a pattern like '*.jpg', or - for standard input. Pictures are JPEG, PNG,
    WebP, TIFF, BMP or AVIF files with 8 bits per channel.

    They come back as they were: same size and format, with metadata, color profile and transparency. Nothing
    is overwritten unless you say so, and no output is ever half-written.
    """
    from unsmear.batch import STREAM, plan_jobs, run_job
    from unsmear.image import probe

    begin = time.monotonic()
    batch = plan_jobs(inputs, output, recursive=recursive, overwrite=overwrite)
    if not batch.is_many and STREAM not in inputs:  # most faults of a picture show before a network is loaded
        probe(batch.jobs[0].source, max_megapixels=max_megapixels)
    tell = _list if dry_run else _ignore if quiet else _say
    for job in batch.existing:
        tell(f"{job} (skipped, exists)")
    if not batch.jobs:
        tell(_count(batch, 0))
        return 0
    failed: list[Job] = []
    with _progress(len(batch.jobs), hidden=quiet or dry_run) as report:
        report(0, f"loading {model}")
        from unsmear.restore import Deblurrer

        deblurrer = Deblurrer(model, device=device, dtype=dtype)
        for done, job in enumerate(batch.jobs):
            start = time.monotonic()
            try:
                if dry_run:
                    width, height, _ = probe(job.source, max_megapixels=max_megapixels)
                    tell(f"{job} ({width} x {height}, {deblurrer.plan(height, width)})")
                else:
                    progress = partial(report, done, job.source_name)
                    restore = partial(deblurrer.restore, strength=strength, progress=progress)
                    width, height = run_job(job, restore, max_megapixels=max_megapixels)
                    tell(f"{job} ({width} x {height}, {time.monotonic() - start:.1f} s)")
            except UnsmearError as error:
                if not batch.is_many:
                    raise
                _fail(str(error))
                failed.append(job)
    if batch.is_many and not dry_run:
        tell(f"{_count(batch, len(failed))} in {time.monotonic() - begin:.1f} s")
        for job in failed:
            tell(f"failed: {job.source_name}")
    return 1 if failed else 0


@app.command()
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
    recipe: Annotated[str, typer.Option(metavar="NAME", help="default, paper, gpu, finetune or smoke.")] = "default",
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
    try:
        from unsmear.train.command import configure, run_training
    except ModuleNotFoundError as error:
        raise UsageError(f"training needs the package {error.name}: pip install 'unsmear[train]'") from None
    config = configure(recipe, settings or [])
    tell = _ignore if quiet else _say
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
    state = "done" if progress.step == config.steps else "stopped, go on with --resume"
    tell(f"{out / 'weights.safetensors'}: {progress.step} of {config.steps} steps, {state}")
    return 0


@app.command()
def synth(
    photos: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of sharp photos.")],
    preview: Annotated[Path, typer.Option(metavar="FILE", help="Picture to write: blurred left, sharp right.")],
    strength: Annotated[str, typer.Option(metavar="NAME", help="mild, medium, strong or gopro.")] = "medium",
    count: Annotated[int, typer.Option(metavar="N", min=1, help="Number of pairs.")] = 4,
    size: Annotated[int, typer.Option(metavar="PIXELS", min=16, help="Side of each picture.")] = 256,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Another seed gives other blur.")] = 0,
) -> int:
    """Show the motion blur that training makes from sharp photos."""
    from unsmear.data.blur import PRESETS
    from unsmear.data.preview import preview as draw
    from unsmear.data.store import list_pictures
    from unsmear.image import from_pil, save_picture

    if strength not in PRESETS:
        raise UsageError(f"unknown strength {strength!r}: choose one of {', '.join(PRESETS)}")
    sheet = draw(list_pictures(photos), PRESETS[strength], seed=seed, count=count, size=size)
    save_picture(from_pil(sheet), preview)
    _say(f"{preview}: {count} pairs, {strength} blur, seed {seed}")
    return 0


@app.command()
def models() -> None:
    """List the networks.

    A network without weights has to be trained first. Inside, pictures are padded so that their sides are a
    multiple of what is told; they come back at their own size.
    """
    import torch

    from unsmear.models import DESCRIPTIONS, count_parameters, create_model, list_models, shipped_weights

    row = "{:<8}  {:>10}  {:<7}  {:>8}  {}"
    _list(row.format("name", "parameters", "weights", "multiple", "description"))
    for name in list_models():
        with torch.device("meta"):
            network = create_model(name)
        weights = "shipped" if shipped_weights(name) else "none"
        size, multiple = f"{count_parameters(network):,}", network.size_multiple
        _list(row.format(name, size, weights, multiple, DESCRIPTIONS[name]))


@app.command()
def doctor() -> int:
    """Show versions, device and memory, for when something is wrong."""
    from unsmear.doctor import examine

    is_healthy = True
    for what, finding, is_good in examine():
        _list(f"{what:<18}{'' if is_good else 'PROBLEM: '}{finding}")
        is_healthy = is_healthy and is_good
    return 0 if is_healthy else 1


app.command()(bench)  # these modules are light: they load PyTorch when called
app.command("eval")(evaluate)


@contextmanager
def _progress(total: int, *, hidden: bool) -> Iterator[_Report]:
    """A bar on a terminal, nothing elsewhere."""
    if hidden or not sys.stderr.isatty():
        yield lambda done, what, part=0, parts=1: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.table import Column

    name = TextColumn(
        "{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
    )
    columns = (
        name,
        BarColumn(20),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        task = bar.add_task("", total=total)

        def report(done: int, what: str, part: int = 0, parts: int = 1) -> None:
            count = f"{done + 1}/{total} " if total > 1 else ""
            bar.update(task, completed=done + part / parts, description=count + _printable(what), refresh=True)

        yield report


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
        yield lambda row: _say(line(row))
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


def _count(batch: "Batch", num_failed: int) -> str:
    counts = (
        (len(batch.jobs) - num_failed, "restored"),
        (len(batch.existing), "skipped (exists)"),
        (num_failed, "failed"),
    )
    return ", ".join(f"{count} {state}" for count, state in counts if count)


def _fail(message: str) -> None:
    _say(f"unsmear: error: {message}")


def _say(message: str) -> None:
    typer.echo(_printable(message), err=True)


def _list(message: str) -> None:
    typer.echo(_printable(message))


def _ignore(message: str) -> None:
    pass


def _printable(text: str) -> str:
    """One line, whatever file names hold: line breaks, colors of the terminal, bytes that are no text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
