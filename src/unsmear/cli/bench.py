"""`unsmear bench`: how fast networks are. PyTorch is only loaded once the call has been found good."""

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unsmear.atomic import write_whole
from unsmear.cli.arguments import check_new_file, parse_size
from unsmear.cli.terminal import answer, show_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from unsmear.bench.measure import ModelResult, Report, Speed

_STREAM = "-"
_SPEED = ("GFLOP\nper s", "of\nmatrix\nrate", "of\nceiling")
_MIB = 2**20


def bench(
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME", help="A network's name, or a weights file. May be repeated."),
    ] = None,
    size: Annotated[str, typer.Option(metavar="WIDTHxHEIGHT", help="Size of the picture.")] = "1280x720",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")] = "auto",
    dtype: Annotated[str, typer.Option(metavar="NAME", help="float32, bfloat16 or float16.")] = "float32",
    threads: Annotated[int | None, typer.Option(metavar="N", min=1, help="Threads to compute with.")] = None,
    rounds: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Rounds. By default 10 seconds a network, 3 at least.")
    ] = None,
    modules: Annotated[bool, typer.Option("--modules", help="Show where the time goes, too.")] = False,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write all that was measured there; - for stdout.")
    ] = None,
) -> None:
    """Time networks against what the machine can do.

    Networks and the machine's own rates are timed in turn, round by round, so that their ratios hold on a busy
    machine, too. Networks without weights get random ones, which cost the same.
    """
    width, height = parse_size(size)
    if json_file not in (None, _STREAM):
        check_new_file(Path(json_file), "--json")

    from rich.console import Console

    from unsmear.bench.measure import measure
    from unsmear.models import DEFAULT_MODEL

    with Console(stderr=True).status("measuring") if sys.stderr.isatty() else nullcontext():
        report = measure(
            models or [DEFAULT_MODEL],
            width=width,
            height=height,
            device=device,
            dtype=dtype,
            threads=threads,
            rounds=rounds,
            parts=modules,
        )
    text = json.dumps(asdict(report), indent=1) + "\n"
    if json_file == _STREAM:
        typer.echo(text, nl=False)
        return
    for line in _headings(report):
        answer(line)
    answer("")
    show_table(_networks(report))
    for result in report.models:
        if result.parts:
            answer("")
            show_table(_parts(result))
    if json_file is not None:
        write_whole(Path(json_file), text.encode())


def _headings(report: "Report") -> "Iterator[str]":
    machine, rates = report.machine, report.rates
    yield f"unsmear {machine.unsmear}, PyTorch {machine.torch}, {machine.device_name}"
    threads = f", {machine.threads} threads on {machine.processors} processors" if machine.device == "cpu" else ""
    yield f"{report.width}x{report.height}, {report.dtype}, {machine.device}{threads}; rounds: {report.rounds}"
    yield (
        f"matrix rate {rates.matrix / 1e9:,.0f} GFLOP/s (3x3 convolution {rates.convolution / 1e9:,.0f},"
        f" {rates.product_side}^3 matrix product {rates.product / 1e9:,.0f}), copy {rates.copy / 1e9:,.1f} GB/s"
    )
    for result in report.models:
        if result.weights == "random":
            yield f"{result.model} ships without weights: random ones are timed, which cost the same"


def _networks(report: "Report") -> "Table":
    table = _table("model", "million\nweights", "GMAC", "ms", "spread", "MP/s", "MiB", *_SPEED)
    for result in report.models:
        low, high = result.quartiles
        table.add_row(
            result.model,
            f"{result.parameters / 1e6:.2f}",
            _number(result.macs / 1e9),
            _number(1e3 * result.seconds),
            f"{(high - low) / result.seconds:.0%}",
            _number(result.pixels_per_second / 1e6),
            "-" if result.memory is None else _number(result.memory / _MIB),
            *_speed(result),
        )
    return table


def _parts(result: "ModelResult") -> "Table":
    table = _table(f"in {result.model}", "GMAC", "MiB to\nmove", "ms", "share", *_SPEED)
    for part in result.parts:
        work = (_number(part.macs / 1e9), _number(part.traffic / _MIB)) if part.traffic else ("-", "-")
        speed = _speed(part) if part.traffic else ["-"] * len(_SPEED)
        table.add_row(part.kind, *work, _number(1e3 * part.seconds), f"{part.share:.1%}", *speed)
    return table


def _table(first: str, *others: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column(first, vertical="bottom", overflow="fold")
    for name in others:
        table.add_column(name, vertical="bottom", justify="right", no_wrap=True)
    return table


def _speed(speed: "Speed") -> tuple[str, ...]:
    return _number(speed.flops / 1e9), f"{speed.of_matrix_rate:.1%}", f"{speed.of_ceiling:.1%}"


def _number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"
