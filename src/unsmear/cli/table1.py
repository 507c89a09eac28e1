"""`unsmear table1`: the paper's Table 1 beside what is measured here."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unsmear.atomic import write_whole
from unsmear.cli.arguments import check_evaluation_extra, check_memory, check_new_file, parse_size
from unsmear.cli.terminal import answer, fail, ignore, printable, say, show_table
from unsmear.errors import UsageError
from unsmear.paths import exists

if TYPE_CHECKING:
    from rich.table import Table

    from unsmear.evaluation.table1 import Measured, Table1

_NARROWEST = 110  # columns of the table
_HEAD = (
    "method or network",
    "from",
    "PSNR",
    "SSIM (which?)",
    "SSIM matlab-rgb",
    "SSIM skimage",
    "seconds",
    "million weights",
    "GMAC",
    "weights",
    "notes",
)
_LEGEND = (
    "from: 'paper' is printed in Table 1 of arXiv 2201.00155, 'measured' was counted, timed or scored here. PSNR in "
    "dB. GMAC: billion multiply-accumulates of a 1280x720 picture, counted layer by layer."
)


def table1(
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The GoPro data set as it is unpacked, to score on its test set.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which blurred pictures: blur (the default) or blur_gamma.")
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option("--weights", metavar="NAME=FILE", help="Weights of a network, to score it. May be repeated."),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME", help="Measure this network only. May be repeated."),
    ] = None,
    time: Annotated[bool, typer.Option("--time", help="Time the networks, too.")] = False,
    size: Annotated[str, typer.Option(metavar="WIDTHxHEIGHT", help="Size of the picture to time.")] = "1280x720",
    rounds: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Rounds. By default 10 seconds a network, 3 at least.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")] = "auto",
    memory: Annotated[
        float | None,
        typer.Option(
            metavar="GIB", min=0, help="Working memory for a picture that is scored; larger ones go in tiles."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder for the scores and their report. Given again, only what is new is done."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the table there as JSON.")
    ] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write the table there as Markdown.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result and errors.")] = False,
) -> int:
    """Print the paper's Table 1 beside what is measured here.

    Every row of the paper keeps its printed figures. Below it stand this package's networks for it, with what they
    cost. Their scores need --data, and weights: those that ship, and those given by --weights.
    """
    width, height = parse_size(size)
    check_memory(memory)
    files = _files(weights or [])
    for file, option in ((json_file, "--json"), (markdown_file, "--markdown")):
        if file is not None:
            check_new_file(file, option)
    if data is None and (variant is not None or out is not None):
        raise UsageError(
            f"{'--variant' if variant is not None else '--out'} is for scores; give the pictures by --data"
        )

    found = None
    if data is not None:
        check_evaluation_extra()
        from unsmear.data.pairs import find_pairs

        found = find_pairs(data, split="test", variant=variant)

    from unsmear.evaluation.table1 import measure_table

    table = measure_table(
        models,
        weights=files,
        data=found,
        timed=time,
        width=width,
        height=height,
        rounds=rounds,
        device=device,
        memory_gib=memory,
        out=out,
        progress=ignore if quiet else say,
    )
    notes = _notes(table)
    show_table(_table(list(_rows(table, notes))), _NARROWEST)
    for line in (_LEGEND, *_headings(table), *_numbered(notes)):
        answer(line)
    if json_file is not None:
        write_whole(json_file, (json.dumps(table.as_dict(), indent=1) + "\n").encode())
    if markdown_file is not None:
        write_whole(markdown_file, _markdown(table, notes).encode())
    for failure in table.failures:
        fail(failure)
    return 1 if table.failures else 0


def _files(pairs: Sequence[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for pair in pairs:
        name, equals, file = pair.partition("=")
        if not (name and equals and file):
            raise UsageError(f"--weights {pair!r}: write NAME=FILE, such as srn=srn.safetensors")
        if name in files:
            raise UsageError(f"--weights {pair!r}: {name} was given before; give one file for a network")
        if not exists(Path(file)) or not Path(file).is_file():
            raise UsageError(f"--weights {pair!r}: there is no such file")
        files[name] = Path(file)
    return files


def _notes(table: "Table1") -> list[str]:
    """All notes: those of the whole table, then those of rows, in their order."""
    from unsmear.evaluation.table1 import ROWS

    return [*table.notes, *(f"{row.method}: {row.note}" for row in ROWS if row.note)]


def _numbered(notes: Sequence[str]) -> Iterator[str]:
    yield from (f"{number}. {note}" for number, note in enumerate(notes, 1))


def _headings(table: "Table1") -> Iterator[str]:
    machine = table.machine
    yield f"Measured by unsmear {machine.unsmear} with PyTorch {machine.torch} on {machine.device_name}."
    if table.size is not None:
        threads = f", {machine.threads} threads" if machine.device == "cpu" else ""
        yield f"Times: median of passes at {table.size[0]}x{table.size[1]}, float32, {machine.device}{threads}."
    if table.data:
        yield f"Scores: {table.data}."


def _rows(table: "Table1", notes: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Cells of the table, `_HEAD` wide; "-" is what there is not."""
    from unsmear.evaluation.table1 import ROWS

    if table.blurred is not None:
        psnr, ssim = table.blurred
        yield ("blurred input", "measured", *_scores(psnr, ssim), *("-",) * 4, "")
    for row in ROWS:
        number = str(notes.index(f"{row.method}: {row.note}") + 1) if row.note else ""
        yield (row.method, "paper", row.psnr, row.ssim, "-", "-", row.seconds, "-", "-", "-", number)
        for name in row.models:
            if name in table.measured:
                yield ("  " + name, "measured", *_measured(table.measured[name]), "")


def _measured(found: "Measured") -> tuple[str, ...]:
    return (
        *_scores(found.psnr, found.ssim or {}),
        "-" if found.seconds is None else f"{found.seconds:.3g}",
        f"{found.parameters / 1e6:.2f}",
        f"{found.gmacs:,.1f}",
        printable(found.weights),
    )


def _scores(psnr: float | None, ssim: Mapping[str, float | None]) -> tuple[str, ...]:
    from unsmear.evaluation.table1 import PROTOCOLS

    values = (ssim.get(protocol) for protocol in PROTOCOLS)
    similar = ("-" if value is None else f"{value:.4f}" for value in values)
    return ("-" if psnr is None else f"{psnr:.2f}", "-", *similar)


def _table(rows: Sequence[tuple[str, ...]]) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="")
    for number, name in enumerate(_HEAD):
        text = number in (0, 1, 9)
        table.add_column(
            name.replace(" ", "\n", 1) if not text else name,
            vertical="bottom",
            justify="left" if text else "right",
            no_wrap=number != 9,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*row)
    return table


def _markdown(table: "Table1", notes: Sequence[str]) -> str:
    lines = [_HEAD, tuple("---" if number in (0, 1, 9) else "---:" for number in range(len(_HEAD)))]
    lines += [tuple(cell.strip().replace("|", "\\|") for cell in row) for row in _rows(table, notes)]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    text = "\n\n".join((_LEGEND, *_headings(table)))
    return f"{body}\n\n{text}\n\n" + "\n".join(_numbered(notes)) + "\n"
