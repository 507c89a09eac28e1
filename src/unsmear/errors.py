"""What can go wrong on the user's side, each with the exit code that the command line returns for it.

Every message is one line that says what, where, and what to do. Anything that is not an `UnsmearError`
is a bug in unsmear, and is allowed to show its traceback.
"""


class UnsmearError(Exception):
    """Base of all errors that a user can cause and mend."""

    exit_code = 1


class UsageError(UnsmearError):
    """The call itself is wrong: unknown model, missing input, output that would be overwritten."""

    exit_code = 2


class ImageError(UnsmearError):
    """A picture cannot be read, understood or written without loss."""

    exit_code = 1


class ModelError(UnsmearError):
    """A weights file is missing, damaged, or not one of ours."""

    exit_code = 3


class OutOfMemoryError(UnsmearError):
    """Not even the smallest tile fits into memory."""

    exit_code = 4


class TrainingError(UnsmearError):
    """A training run cannot go on."""

    exit_code = 1
