"""`unsmear deblur`: restores pictures."""

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import typer

from unsmear.cli.terminal import answer, fail, ignore, printable, say
from unsmear.errors import UnsmearError, UsageError
from unsmear.process import loading

if TYPE_CHECKING:
    from unsmear.arrays import Progress
    from unsmear.batch import Batch, Job
    from unsmear.pipeline import Outcome, Usage
    from unsmear.restore import Deblurrer

_SMALL = 40_000  # pixels of a picture for which loading the compiled kernels takes some ten times as long as a pass


class _Report(Protocol):
    def __call__(self, done: int, what: str, part: int = 0, parts: int = 1) -> None:
        """Show how many pictures are done, what is in work, and how much of that is done."""


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
    quality: Annotated[
        Literal["normal", "best"],
        typer.Option(metavar="normal|best", help="best: the mean of eight turns and flips, at eight times the time."),
    ] = "normal",
    only_if_blurry: Annotated[
        bool,
        typer.Option(
            "--only-if-blurry",
            help="Keep pictures that look sharp, as slightly blurred ones do: copied to --output, else left alone.",
        ),
    ] = False,
    guard: Annotated[
        bool, typer.Option("--guard/--no-guard", help="Blend back where the result is implausible, or do not.")
    ] = True,
    strip: Annotated[
        bool, typer.Option("--strip", help="Leave out metadata: places, dates, captions. Colors stay.")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Write name.ext.compare.png, too: before and after, side by side.")
    ] = False,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="A name that 'unsmear models' lists, or a weights file.")
    ] = "saphn-s",
    device: Annotated[
        str,
        typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute; cuda:0,cuda:1 shares pictures among GPUs."),
    ] = "auto",
    dtype: Annotated[
        str, typer.Option(metavar="TYPE", help="float32, bfloat16, float16, or auto: 16 bits on CUDA.")
    ] = "auto",
    max_megapixels: Annotated[
        float, typer.Option(metavar="N", min=0, max=1e6, help="Refuse pictures with more million pixels.")
    ] = 200.0,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", metavar="N", min=1, help="Threads that read pictures, and that write them.")
    ] = 2,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Take only the I-th of N shares, to divide a folder among machines.")
    ] = "1/1",
    report_file: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Write what became of every picture: .json or .csv."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be done, and write nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> int:
    """Restore blurred pictures.

    An INPUT is a picture, a folder, a pattern like '*.jpg', or - for standard input. Pictures are JPEG, PNG, WebP,
    TIFF, BMP or AVIF files, and with the extras photo, heif and raw also 16-bit, HEIC and camera raw files.

    They come back as they were: same size, depth and format, with metadata, color profile and transparency. Nothing
    is overwritten unless you say so, and no output is ever half-written.
    """
    from unsmear.batch import RAWS_LEFT_OUT, STREAM, plan_jobs
    from unsmear.image import probe
    from unsmear.pipeline import Outcome, run_job, run_jobs
    from unsmear.report import check_report, write_report

    begin = time.monotonic()
    if report_file is not None:
        check_report(report_file)
    batch = plan_jobs(inputs, output, recursive=recursive, overwrite=overwrite, compare=compare, shard=_shard(shard))
    tell = answer if dry_run else ignore if quiet else say
    if batch.raws:
        tell(RAWS_LEFT_OUT % len(batch.raws))
    for text in batch.unread:
        fail(text)
    for job in batch.existing:
        tell(f"{job} (skipped, exists)")
    copy_kept = output is not None
    outcomes: list[Outcome] = []
    usage, small = None, False
    try:
        if not batch.is_many and STREAM not in inputs:  # most faults of a picture show before a network is loaded
            header = probe(batch.jobs[0].source, max_megapixels=max_megapixels)
            small = header.width * header.height <= _SMALL
        if batch.jobs:
            with _progress(len(batch.jobs), hidden=quiet or dry_run) as show:
                show(0, f"loading {model}")
                with loading():
                    from unsmear.ops.dispatch import plain_operators
                    from unsmear.restore import Deblurrer

                    deblurrers = [Deblurrer(model, device=name, dtype=dtype) for name in device.split(",")]
                if dry_run:
                    return _preview(batch, deblurrers[0], max_megapixels, tell) or int(bool(batch.unread))

                from unsmear.treatment import Options, treatment

                begun = count()

                def progress(job: "Job") -> "Progress":
                    return partial(show, next(begun), job.source_name)

                def done(outcome: Outcome) -> None:
                    outcomes.append(outcome)
                    if outcome.error is not None:
                        fail(str(outcome.error))
                        return
                    note = f"; {outcome.note}" if outcome.note else ""
                    size = f"{outcome.width} x {outcome.height}"
                    what = str(outcome.job) if outcome.state == "restored" else f"{outcome.job.source_name} kept"
                    tell(f"{what} ({size}, {outcome.seconds:.1f} s{note})")

                options = Options(
                    strength=strength,
                    quality=quality,
                    only_if_blurry=only_if_blurry,
                    guard=guard,
                    strip=strip,
                )
                treatments = [treatment(deblurrer, options, progress) for deblurrer in deblurrers]
                if batch.is_many:
                    usage = run_jobs(
                        batch.jobs,
                        treatments,
                        max_megapixels=max_megapixels,
                        workers=jobs,
                        copy_kept=copy_kept,
                        done=done,
                    )
                else:
                    with plain_operators() if small else nullcontext():
                        outcome = run_job(
                            batch.jobs[0], treatments[0], max_megapixels=max_megapixels, copy_kept=copy_kept
                        )
                    done(outcome)
    except UnsmearError as error:
        if not batch.is_many:
            outcomes.append(Outcome(batch.jobs[0], "failed", str(error), error=error))
        raise
    finally:
        if report_file is not None and not dry_run:
            complete = len(outcomes) == len(batch.jobs) and not batch.unread
            write_report(report_file, outcomes, batch.existing, complete=complete)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if batch.is_many and not dry_run:
        tell(_summary(batch, outcomes, usage, time.monotonic() - begin))
        for outcome in failed:
            tell(f"failed: {outcome.job.source_name}")
    return 1 if failed or batch.unread else 0


def _shard(text: str) -> tuple[int, int]:
    numbers = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    number, shares = map(int, numbers.groups()) if numbers else (0, 0)
    if not 1 <= number <= shares:
        raise UsageError(f"--shard {text!r}: write I/N, the share and the number of shares, such as 2/4")
    return number, shares


def _preview(batch: "Batch", deblurrer: "Deblurrer", max_megapixels: float, tell: "Callable[[str], None]") -> int:
    """What would be done, and what memory it would take."""
    from unsmear.image import probe

    code = 0
    for job in batch.jobs:
        try:
            header = probe(job.source, max_megapixels=max_megapixels)
            width, height = header.width, header.height
            memory = deblurrer.expected_peak(height, width, bytes_per_value=header.bytes_per_value) / 2**30
            tell(f"{job} ({width} x {height}, {deblurrer.plan(height, width)}; about {memory:.1f} GiB in all)")
        except UnsmearError as error:
            if not batch.is_many:
                raise
            fail(str(error))
            code = 1
    return code


def _summary(batch: "Batch", outcomes: "list[Outcome]", usage: "Usage | None", seconds: float) -> str:
    states = Counter(outcome.state for outcome in outcomes)
    counts = (
        (states["restored"], "restored"),
        (states["kept"], "kept as they were"),
        (len(batch.existing), "skipped (exists; --overwrite makes them anew)"),
        (states["failed"], "failed"),
    )
    text = ", ".join(f"{number} {state}" for number, state in counts if number) or "nothing to do"
    if usage is None:
        return text
    return f"{text} in {seconds:.1f} s; the network worked {usage.share:.0%} of the time"


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
            number = f"{done + 1}/{total} " if total > 1 else ""
            bar.update(task, completed=done + part / parts, description=number + printable(what), refresh=True)

        yield report
