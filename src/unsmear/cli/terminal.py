"""What the commands share: lines for people, and lines for programs.

Standard output is for what was asked for, standard error for all that is said on the way.
"""

import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table

_NO_TERMINAL = 200  # columns, where the output goes to none


def printable(text: str) -> str:
    """One line, whatever file names hold: line breaks, colors of the terminal, bytes that are no text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(message: str) -> None:
    """Tell a person something, on standard error."""
    typer.echo(printable(message), err=True)


def fail(message: str) -> None:
    """Tell a person what went wrong."""
    say(f"unsmear: error: {message}")


def answer(message: str) -> None:
    """Print a line of what was asked for, on standard output."""
    typer.echo(printable(message))


def show_table(table: "Table", narrowest: int = 0) -> None:
    """Print a table of what was asked for.

    Args:
        table: What to print; its cells are printable, and are taken as they are.
        narrowest: Columns: lines of a narrower terminal break, instead of the table losing columns.
    """
    from rich.console import Console

    width = max(narrowest, Console().width) if sys.stdout.isatty() else _NO_TERMINAL
    Console(width=width, markup=False, highlight=False, emoji=False).print(table)


def ignore(message: str) -> None:
    """Say nothing."""
