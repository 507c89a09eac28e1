"""The file that a report ends in."""

import io
from pathlib import Path

from unsmear.atomic import write_whole
from unsmear.errors import UsageError
from unsmear.explain.page import render_page
from unsmear.explain.report import Report
from unsmear.explain.sheet import render_sheet
from unsmear.paths import check_writable, exists

SUFFIXES = (".png", ".html")
"""What a report can be written as."""


def check_output(source: Path, output: Path, *, overwrite: bool) -> None:
    """Find what is wrong with an output before any work.

    Raises:
        UsageError: If its kind is unknown, its folder is missing, it exists, or it is the picture itself.
    """
    if output.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{output}: a report is a picture (.png) or a page (.html); choose one by the extension")
    if not output.parent.is_dir():
        raise UsageError(f"{output.parent}: no such folder for the output; make it first")
    check_writable(output.parent, "--output")
    there = exists(output, "--output")
    if there and exists(source) and output.samefile(source):
        raise UsageError(f"{output}: the report would replace the picture; choose another --output")
    if there and not overwrite:
        raise UsageError(f"{output}: exists already; choose another --output, or pass --overwrite")


def write_report(report: Report, output: Path) -> None:
    """Write a report as its extension says, whole or not at all; an existing file is replaced."""
    if output.suffix.lower() == ".html":
        write_whole(output, render_page(report).encode("utf-8", "backslashreplace"))
        return
    buffer = io.BytesIO()
    render_sheet(report).save(buffer, "PNG")
    write_whole(output, buffer.getvalue())
