"""Many pictures: which files to take, and where the results go.

Everything that can be wrong with a call is found by `plan_jobs` before any work: missing inputs, results that
would meet in one file, results that would replace an input, folders that cannot be written.
"""

import glob
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from unsmear.errors import UsageError
from unsmear.formats import RAW_SUFFIXES, SUFFIXES, format_of, is_picture_name
from unsmear.image import default_output, sheet_beside, suffix_for
from unsmear.paths import check_writable, exists, is_own_name

STREAM = "-"
"""Stands for standard input among the inputs, and for standard output as the output."""

RAWS_LEFT_OUT = "%d camera raw files left out, which need rawpy: pip install 'unsmear[raw]'"
"""What to tell of a number of them."""


@dataclass(frozen=True)
class Job:
    """One picture to restore. A source or target that is no path is standard input or output.

    The sheet is where the picture goes before and after, side by side, if that is wanted. With `overwrite` a target and
    a sheet that exist are replaced.
    """

    source: Path | BinaryIO
    target: Path | BinaryIO
    sheet: Path | None = None
    overwrite: bool = False

    @property
    def source_name(self) -> str:
        """The source in words."""
        return str(self.source) if isinstance(self.source, Path) else "standard input"

    @property
    def target_name(self) -> str:
        """The target in words."""
        return str(self.target) if isinstance(self.target, Path) else "standard output"

    def __str__(self) -> str:
        return f"{self.source_name} -> {self.target_name}"


@dataclass(frozen=True)
class Batch:
    """What is to be done.

    Attributes:
        jobs: Pictures to restore.
        existing: Pictures to leave out because their result is there already.
        is_many: Whether several files, a folder or shares were asked for: then one failure does not stop the rest.
        raws: Camera raw files that are left out, as what reads them is not installed.
        unread: Folders inside of others that cannot be read, and why.
    """

    jobs: list[Job]
    existing: list[Job]
    is_many: bool
    raws: list[Path] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def plan_jobs(
    inputs: list[str],
    output: str | None = None,
    *,
    recursive: bool = False,
    overwrite: bool = False,
    compare: bool = False,
    shard: tuple[int, int] = (1, 1),
) -> Batch:
    """Find the pictures and where their results go.

    One file goes to the file named by `output`. Several files, a folder, and any input if `output` is a
    folder or ends in a slash, go into that folder under their own names; the tree below an input folder is
    kept. Without `output` everything goes to `name.deblurred.ext` beside its source; such files are no inputs
    of a folder.

    Args:
        inputs: Files, folders, patterns that the shell has not expanded, or `STREAM`.
        output: A file, a folder, or `STREAM`.
        recursive: Whether to go into the folders inside a folder.
        overwrite: Whether existing files may be replaced, the inputs included.
        compare: Whether sheets are wanted.
        shard: (i, n) takes the i-th of n shares of the pictures, counted from 1: every n-th picture of all that are
            found, whether they are done already or not, so that n machines share a folder without talking.

    Raises:
        UsageError: If an input is missing, a folder holds no pictures, or an output cannot be written, is
            another picture's output, or is an input; for a single picture also if its output exists. If a sheet exists
            of a picture that has no result yet.
    """
    if output == "":
        raise UsageError("the name of the output is empty")
    into_folder = False
    # Results of an earlier run may lie below an input folder: they are no inputs.
    walk = _Walk(recursive, {os.path.realpath(output)} if output is not None and os.path.isdir(output) else set())
    if STREAM in inputs or output == STREAM:
        jobs, is_many = [_stream_job(inputs, output)], False
    else:
        found = _find(inputs, walk)
        is_many = len(found) > 1 or os.path.isdir(inputs[0])
        is_folder = output is not None and (os.path.isdir(output) or output.endswith(("/", os.sep)))
        if is_many and output is not None and not is_folder and Path(output).suffix.lower() in SUFFIXES:
            raise UsageError(f"{output}: is the name of a file, but a folder is needed; end it in / if it is to be one")
        into_folder = output is not None and (is_many or is_folder)
        jobs = [Job(source, _target(source, place, output, into_folder)) for source, place in found.items()]
    if compare:
        jobs = [replace(job, sheet=sheet_beside(_needed(job.target))) for job in jobs]
    jobs = [replace(job, overwrite=overwrite) for job in jobs]
    _check_targets(jobs, overwrite)
    _check_folders(jobs, may_create=into_folder)
    number, shares = shard
    batch = Batch([], [], is_many or shares > 1, walk.raws, walk.unread)
    for job in jobs[number - 1 :: shares]:
        is_done = not overwrite and isinstance(job.target, Path) and _is_there(job.target, batch.is_many)
        (batch.existing if is_done else batch.jobs).append(job)
        if not (is_done or overwrite) and job.sheet is not None and exists(job.sheet, "--output"):
            raise UsageError(f"{job.sheet}: exists already, but no result; move it away, or pass --overwrite")
    if batch.existing and not batch.is_many:
        raise UsageError(f"{jobs[0].target}: exists already; choose another --output, or pass --overwrite")
    return batch


def _stream_job(inputs: list[str], output: str | None) -> Job:
    if len(inputs) > 1:
        raise UsageError("standard input and output take one picture; give one INPUT only")
    if inputs[0] != STREAM:
        source = _regular(Path(inputs[0]))
    elif sys.stdin.isatty():
        raise UsageError("no picture on standard input; pipe one into it")
    else:
        source = sys.stdin.buffer
    if output is not None and output != STREAM:
        return Job(source, _named(output))
    if sys.stdout.isatty():
        raise UsageError("will not write a picture to the terminal; redirect it, or give --output FILE")
    return Job(source, sys.stdout.buffer)


def _find(inputs: list[str], walk: "_Walk") -> dict[Path, Path]:
    """All pictures, and the place of each below the folder it was found in."""
    found: dict[Path, Path] = {}
    for given in inputs:
        for path in _expand(given):
            if path.is_dir():
                pictures = list(walk.pictures(path))
                if not pictures:
                    hint = "" if walk.recursive else "; --recursive looks into the folders inside"
                    hint = f"; {RAWS_LEFT_OUT % len(walk.raws)}" if walk.raws else hint
                    raise UsageError(f"{path}: no pictures in this folder{hint}")
                found.update({picture: picture.relative_to(path) for picture in pictures})
            else:
                found[_regular(path)] = Path(path.name)
    # `unsmear deblur *.jpg` a second time names the results of the first, too.
    results = {default_output(source) for source in found if is_picture_name(source)}
    results |= {sheet_beside(result) for result in results}
    return {source: place for source, place in found.items() if source not in results}


def _expand(given: str) -> list[Path]:
    if os.path.lexists(given):
        return [Path(given)]
    if not glob.has_magic(given):
        raise UsageError(f"{given or repr(given)}: no such file or folder")
    matches = sorted(glob.glob(given, recursive=True))
    if not matches:
        raise UsageError(f"{given}: no file matches this pattern")
    return [Path(match) for match in matches]


@dataclass(frozen=True)
class _Walk:
    """What is found in folders.

    Attributes:
        recursive: Whether to go into the folders inside.
        left_out: Real paths of folders to pass over, unless they are asked for themselves.
        raws: As in `Batch`.
        unread: As in `Batch`.
    """

    recursive: bool
    left_out: set[str]
    raws: list[Path] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def pictures(self, folder: Path) -> Iterator[Path]:
        """Pictures in a folder by name, hidden files and our own results left out; no folder is entered twice."""
        yield from self._walk(folder, _names(folder), self.left_out - {os.path.realpath(folder)})

    def _walk(self, folder: Path, names: list[str], seen: set[str]) -> Iterator[Path]:
        seen.add(os.path.realpath(folder))
        for name in names:
            path = folder / name
            if name.startswith("."):
                continue
            if os.path.isdir(path):
                if self.recursive and os.path.realpath(path) not in seen:
                    try:
                        inside = _names(path)
                    except UsageError as error:
                        self.unread.append(str(error))
                        continue
                    yield from self._walk(path, inside, seen)
            elif not is_own_name(path) and os.path.isfile(path):
                if is_picture_name(path):
                    yield path
                elif path.suffix.lower() in RAW_SUFFIXES:
                    self.raws.append(path)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise UsageError(f"{folder}: this folder cannot be read: {error.strerror}") from None


def _regular(path: Path) -> Path:
    if not os.path.exists(path):
        raise UsageError(f"{path}: no such file or folder")
    if not os.path.isfile(path):  # opening a pipe or device could wait for ever
        raise UsageError(f"{path}: is not a picture file but a folder, pipe or device")
    return path


def _target(source: Path, place: Path, output: str | None, into_folder: bool) -> Path:
    if output is None:
        return default_output(source)
    return Path(output) / place.with_suffix(suffix_for(source)) if into_folder else _named(output)


def _named(output: str) -> Path:
    """The output that a user named, whose extension must be one that we can write."""
    format_of(Path(output))
    return Path(output)


def _needed(target: Path | BinaryIO) -> Path:
    if not isinstance(target, Path):
        raise UsageError("--compare writes a file beside the result; give --output FILE for that")
    return target


def _check_targets(jobs: list[Job], overwrite: bool) -> None:
    """No result or sheet may meet another one, or an input; with `overwrite` a result may replace its own input."""
    sources = {_key(job.source): job for job in jobs if isinstance(job.source, Path)}
    taken: dict[str, Job] = {}
    results = [(job, target) for job in jobs for target in (job.target, job.sheet)]
    for job, target in results:
        if not isinstance(target, Path):
            continue
        key = _key(target)
        if key in taken:
            raise UsageError(f"{taken[key].source_name} and {job.source_name} would both be written to {target}")
        taken[key] = job
        if key in sources and sources[key] is not job:
            raise UsageError(f"{job.source_name} would be written over another input, {sources[key].source}")
        if key in sources and not overwrite:
            raise UsageError(
                f"{job.target}: the result would replace its input; choose another --output, or pass --overwrite"
            )


def _check_folders(jobs: list[Job], *, may_create: bool) -> None:
    for folder in {job.target.parent for job in jobs if isinstance(job.target, Path)}:
        while may_create and not exists(folder, "--output") and folder != folder.parent:
            folder = folder.parent
        if not exists(folder, "--output"):
            raise UsageError(f"{folder}: no such folder for the output; make it first")
        if not folder.is_dir():
            raise UsageError(f"{folder}: is a file, but a folder is needed for the output")
        check_writable(folder, "--output")


def _is_there(target: Path, is_many: bool) -> bool:
    """Whether a result is there. One of many whose name cannot be had stops no other: to write it will fail."""
    try:
        return exists(target, "--output")
    except UsageError:
        if not is_many:
            raise
        return False


def _key(path: Path) -> str:
    return os.path.normcase(os.path.realpath(path))
