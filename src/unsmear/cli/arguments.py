"""What options of several commands mean. What is wrong with them is found before any work."""

import re
from pathlib import Path

from unsmear.errors import UsageError
from unsmear.paths import check_writable, exists


def parse_size(text: str) -> tuple[int, int]:
    """Width and height in pixels of `--size WIDTHxHEIGHT`."""
    numbers = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text, re.ASCII | re.IGNORECASE)
    width, height = (int(number) for number in numbers.groups()) if numbers else (0, 0)
    if min(width, height) < 1:
        raise UsageError(f"--size {text!r}: write WIDTHxHEIGHT in pixels, such as 1280x720")
    return width, height


def check_new_file(file: Path, option: str, *, overwrite: bool | None = None) -> None:
    """Refuse a file that exists, or that lies in no folder.

    Args:
        file: The file to write.
        option: The option that names it.
        overwrite: Whether it may be replaced; None where nobody can say so.
    """
    if not file.parent.is_dir():
        raise UsageError(f"{file}: there is no such folder to write to; choose another file for {option}")
    check_writable(file.parent, f"file for {option}")
    if exists(file, f"file for {option}") and not overwrite:
        way_out = "" if overwrite is None else ", or pass --overwrite"
        raise UsageError(f"{file}: exists already; choose another file for {option}{way_out}")


def check_memory(memory: float | None) -> None:
    """Refuse `--memory 0`, by which no picture would fit."""
    if memory == 0:
        raise UsageError("--memory 0: must be above 0")


def check_evaluation_extra() -> None:
    """Refuse to score where the extra `eval` is not installed."""
    try:
        import jinja2  # noqa: F401 - for the report
        import skimage  # noqa: F401
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise UsageError(f"evaluation needs the package {package}: pip install 'unsmear[eval]'") from None
