"""What the commands share: lines for people, and lines for programs.

Standard output is for what was asked for, standard error for all that is said on the way.
"""

import typer


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


def ignore(message: str) -> None:
    """Say nothing."""
