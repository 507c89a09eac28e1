"""What names of files tell, and whether they are there. To ask can fail: names may be too long, folders closed."""

import os
from pathlib import Path

from unsmear.errors import UsageError

RESULT, SHEET, REPORT = ".deblurred", ".compare", ".explained"
"""What the names of our own results end in, before the extension."""


def is_own_name(path: Path) -> bool:
    """Whether a file is named as our own results are."""
    return path.stem.endswith((RESULT, SHEET, REPORT))


def exists(path: Path, what: str = "file or folder") -> bool:
    """Whether there is a file or folder of this name.

    Args:
        path: The name.
        what: What to choose another of, if that cannot be told.

    Raises:
        UsageError: If that cannot be told.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; choose another {what}") from None
    except ValueError as error:  # a zero byte in the name
        raise UsageError(f"{str(path)!r}: {error}; choose another {what}") from None
    return True


def check_writable(folder: Path, what: str) -> None:
    """Find out before the work whether files can be written to a folder.

    Args:
        folder: The folder.
        what: What to choose another of, if not.

    Raises:
        UsageError: If not.
    """
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{folder}: this folder cannot be written; choose another {what}")
