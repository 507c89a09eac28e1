"""`unsmear eval`: scores networks. PyTorch is only loaded once the call has been found good."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from unsmear.cli.arguments import check_evaluation_extra, check_memory
from unsmear.cli.terminal import printable, show_table
from unsmear.errors import UsageError
from unsmear.paths import exists

if TYPE_CHECKING:
    from rich.table import Table

    from unsmear.data.pairs import PairedFolder, Split
    from unsmear.evaluation.score import Scored
    from unsmear.evaluation.summary import Evaluation

_NARROWEST = 96  # columns of the table


def evaluate(
    data: Annotated[
        Path,
        typer.Option(metavar="PATH", help="Folder of a data set; or blurred pictures, or one, with --sharp."),
    ],
    sharp: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Folder of the sharp pictures, or the sharp picture.")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="A network's name, a weights file, or a folder of pictures restored by any program. May be repeated.",
        ),
    ] = None,
    protocols: Annotated[
        list[str] | None,
        typer.Option(
            "--protocol",
            metavar="NAME",
            help="skimage, matlab-rgb, y, aligned or all. May be repeated. By default skimage and matlab-rgb.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder for the report and all scores. Given again, only what is new is done."
        ),
    ] = None,
    save_images: Annotated[bool, typer.Option("--save-images", help="Write the restored pictures there, too.")] = False,
    split: Annotated[str, typer.Option(metavar="NAME", help="train or test.")] = "test",
    variant: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which blurred pictures, such as blur_gamma of GoPro or R.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")] = "auto",
    memory: Annotated[
        float | None,
        typer.Option(metavar="GIB", min=0, help="Working memory for a picture; larger ones are done in tiles."),
    ] = None,
    quality: Annotated[
        Literal["normal", "best"],
        typer.Option(metavar="normal|best", help="best: the mean of eight turns and flips, at eight times the time."),
    ] = "normal",
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Threads that decode and measure.")] = 2,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result and errors.")] = False,
) -> int:
    """Score networks on pairs of blurred and sharp pictures.

    Data sets are GoPro, HIDE, RealBlur or REDS as they are unpacked, and folders named blur and sharp, input and
    target and so on. Every number carries the protocol that it was measured by; docs/evaluation.md defines them.
    """
    check_evaluation_extra()
    check_memory(memory)
    from unsmear.evaluation.metrics import DEFAULT_PROTOCOLS, choose_protocols

    chosen = [protocol.name for protocol in choose_protocols(protocols or DEFAULT_PROTOCOLS)]
    found = _find(data, sharp, split, variant)

    from unsmear.evaluation.report import decibels
    from unsmear.evaluation.run import evaluate as run
    from unsmear.models import DEFAULT_MODEL

    with _progress(len(found.pairs), hidden=quiet) as show:

        def told(done: int, total: int, scored: "Scored") -> None:
            rows = [row for row in scored.rows if row.protocol == chosen[0]]
            numbers = (f"{row.model} {decibels(row.psnr)}" for row in rows)
            text = f"{chosen[0]} PSNR, dB: {', '.join(numbers)}" if rows else "failed"
            show(done, f"{done}/{total} {scored.pair.name}: {text}")

        evaluation = run(
            found,
            models or [DEFAULT_MODEL],
            protocols=chosen,
            device=device,
            memory_gib=memory,
            quality=quality,
            out=out,
            save_images=save_images,
            workers=workers,
            command=f"unsmear {shlex.join(sys.argv[1:])}",
            progress=told,
        )
    for line in _lines(evaluation):
        typer.echo(printable(line))
    show_table(_table(evaluation), _NARROWEST)
    for row in evaluation.summaries[: len(evaluation.models)]:
        if row.worst is not None:
            typer.echo(
                printable(f"worst of {row.model} under {row.protocol}: {row.worst_picture}, {row.worst:+.2f} dB")
            )
    if found.layout == "RealBlur" and "aligned" not in chosen:
        typer.echo("Papers on RealBlur print scores after alignment: --protocol aligned")
    if out is not None:
        typer.echo(printable(f"{out / 'report.html'}: the report, with scores.csv and report.json beside it"), err=True)
    for failure in evaluation.failures:
        what = f"{failure.picture}: " if failure.model else ""
        typer.echo(printable(f"unsmear: error: {what}{failure.reason}"), err=True)
    return 1 if evaluation.failures else 0


def _find(data: Path, sharp: Path | None, split: str, variant: str | None) -> "PairedFolder":
    """The pairs that the call is about."""
    from unsmear.data.pairs import Pair, PairedFolder, find_pairs, pair_folders

    if not exists(data):
        raise UsageError(f"{data}: no such file or folder")
    if sharp is None:
        if not data.is_dir():
            raise UsageError(f"{data}: is one picture; give the sharp one with --sharp")
        return find_pairs(data, split=cast("Split", split), variant=variant)
    if not exists(sharp):
        raise UsageError(f"{sharp}: no such file or folder")
    if data.is_dir() != sharp.is_dir():
        raise UsageError(f"{data} and {sharp}: give two folders or two pictures, not one of each")
    if variant is not None:
        raise UsageError("--variant is for the folder of a data set; leave it out with --sharp")
    if data.is_dir():
        return pair_folders(data, sharp)
    return PairedFolder(f"{data.name}/{sharp.name}", "", "all", (Pair(data.stem, data, sharp),))


def _lines(evaluation: "Evaluation") -> Iterator[str]:
    """What was scored, how, and on what."""
    yield f"{evaluation.data}; SHA-256 of the files {evaluation.data_sha256[:16]}"
    yield evaluation.setup
    for name, sha256 in [*evaluation.models.items()][1:]:
        weights = f"weights SHA-256 {sha256[:16]}, " if sha256 else ""
        yield f"{name}: {weights}{evaluation.tiling(name)}"
    for name, definition in evaluation.protocols.items():
        yield f"protocol {name}: {definition}"
    yield evaluation.bootstrap
    if evaluation.failures:
        yield f"NOT ALL PICTURES WERE SCORED ({len(evaluation.failures)} failures): do not compare these means"


def _table(evaluation: "Evaluation") -> "Table":
    from rich.table import Table

    from unsmear.evaluation.report import decibels, signed, similarity

    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("protocol", vertical="bottom", no_wrap=True)
    table.add_column("model", vertical="bottom", overflow="fold")
    for name in (
        "n",
        "PSNR\ndB",
        "SSIM",
        "gain\ndB",
        "95 % of\nmean gain",
        "median\ngain",
        "worst\ngain",
        "made\nworse",
    ):
        table.add_column(name, vertical="bottom", justify="right", no_wrap=True)
    for row in evaluation.summaries:
        count = f"{row.pictures}, {row.infinite} infinite" if row.infinite else str(row.pictures)
        cells = [row.protocol, printable(row.model), count, decibels(row.psnr), similarity(row.ssim)]
        if row.gain is not None:
            interval = "-" if row.interval is None else " to ".join(map(signed, row.interval))
            cells += [signed(row.gain), interval, signed(row.median), signed(row.worst), str(row.worse)]
        table.add_row(*cells)
    return table


@contextmanager
def _progress(total: int, *, hidden: bool) -> Iterator[Callable[[int, str], None]]:
    """A bar on a terminal, a line for every picture elsewhere."""
    if hidden:
        yield lambda done, text: None
    elif not sys.stderr.isatty():
        yield lambda done, text: typer.echo(printable(text), err=True)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(20), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("loading", total=total)
            yield lambda done, text: bar.update(task, completed=done, description=printable(text), refresh=True)
