"""Whether files are there, where asking can fail: names that are too long, folders that may not be entered."""

from pathlib import Path

from unsmear.errors import UsageError


def exists(path: Path) -> bool:
    """Whether there is a file or folder of this name.

    Raises:
        UsageError: If that cannot be told.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; choose another file or folder") from None
    except ValueError as error:  # a zero byte in the name
        raise UsageError(f"{str(path)!r}: {error}; choose another file or folder") from None
    return True
