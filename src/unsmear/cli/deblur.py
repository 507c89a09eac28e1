"""`unsmear deblur`: restores pictures."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from unsmear.cli.terminal import answer, fail, ignore, printable, say
from unsmear.errors import UnsmearError

if TYPE_CHECKING:
    from unsmear.batch import Batch, Job


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
    tell = answer if dry_run else ignore if quiet else say
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
                fail(str(error))
                failed.append(job)
    if batch.is_many and not dry_run:
        tell(f"{_count(batch, len(failed))} in {time.monotonic() - begin:.1f} s")
        for job in failed:
            tell(f"failed: {job.source_name}")
    return 1 if failed else 0


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
            bar.update(task, completed=done + part / parts, description=count + printable(what), refresh=True)

        yield report


def _count(batch: "Batch", num_failed: int) -> str:
    counts = (
        (len(batch.jobs) - num_failed, "restored"),
        (len(batch.existing), "skipped (exists)"),
        (num_failed, "failed"),
    )
    return ", ".join(f"{count} {state}" for count, state in counts if count)
