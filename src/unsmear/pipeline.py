"""Many pictures: while one is restored, the next ones are read and the last ones written.

Decoders and encoders run in threads of their own, so that the network never waits for them. How much is read ahead is
bounded by pixels, not by pictures: thousands of small ones or a few huge ones take the same memory.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Lock, Thread
from typing import BinaryIO, Literal

import numpy as np

from unsmear.atomic import write_whole
from unsmear.batch import Job
from unsmear.errors import ImageError, UnsmearError, UsageError
from unsmear.formats import format_of
from unsmear.image import Picture, check_fits, open_picture, probe, save_picture, write_stream, written_dtype

_PIXELS_IN_WORK = 100_000_000  # read, in the network, or being written; a single larger picture goes alone


@dataclass(frozen=True)
class Treated:
    """What a treatment made of a picture.

    Attributes:
        picture: What to write; None leaves the file as it is.
        kept: Whether the picture was not changed.
        note: What a person should know of it, or nothing.
        sheet: What to write to the job's sheet, after the target.
    """

    picture: Picture | None
    kept: bool = False
    note: str = ""
    sheet: Picture | None = None


Treatment = Callable[[Job, Picture], Treated]
"""What is done to every picture. Raises an UnsmearError for one that cannot be treated."""


@dataclass(frozen=True)
class Outcome:
    """What became of one picture.

    Attributes:
        job: The picture.
        state: "restored"; "kept" as it was; "skipped", as its result was there; or "failed".
        note: Why, or what else a person should know.
        width: Width in pixels, 0 where it could not be read.
        height: Height in pixels.
        seconds: Time in the treatment, without reading and writing.
        error: What failed.
    """

    job: Job
    state: Literal["restored", "kept", "skipped", "failed"]
    note: str = ""
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    error: UnsmearError | None = None


@dataclass(frozen=True)
class Usage:
    """How well the treatments were kept busy: their time together, and what they could have had."""

    busy_seconds: float
    seconds: float

    @property
    def share(self) -> float:
        """Share of the time in which they worked, 0 to 1."""
        return min(1.0, self.busy_seconds / self.seconds) if self.seconds > 0 else 1.0


def run_job(job: Job, treat: Treatment, *, max_megapixels: float, copy_kept: bool = False) -> Outcome:
    """Treat one picture, one step after the other.

    Args:
        job: What to do. Missing folders on the way to its target are made.
        treat: What is done to the picture.
        max_megapixels: Largest picture to decode, in million pixels.
        copy_kept: Whether files that are left as they are go to their target byte by byte, or nowhere.

    Raises:
        UnsmearError: If the picture cannot be read, treated or written. There is no output then, but for the target if
            only the sheet cannot be written.
    """
    picture = _read(job, max_megapixels)
    began = time.monotonic()
    treated = _treat(job, picture, treat)
    seconds = time.monotonic() - began
    _write(job, treated, copy_kept)
    return _outcome(job, picture, treated, seconds)


def run_jobs(
    jobs: Sequence[Job],
    treatments: Sequence[Treatment],
    *,
    max_megapixels: float,
    workers: int = 2,
    copy_kept: bool = False,
    done: Callable[[Outcome], None],
) -> Usage:
    """Treat many pictures. One that fails does not stop the others.

    Args:
        jobs: What to do, as for `run_job`; all by their paths.
        treatments: One for each device; they take the next picture whenever they are free.
        max_megapixels: Largest picture to decode, in million pixels.
        workers: Threads that read, and as many that write.
        copy_kept: As for `run_job`.
        done: Told of every picture when its output is in place or its failure known; one call at a time, from any
            thread. By and large in the order of the jobs.

    Raises:
        BaseException: What was no fault of a picture, and interrupts; then nothing is begun any more, and what was
            being written is finished.
    """
    began = time.monotonic()
    telling, busy = Lock(), [0.0] * len(treatments)

    def tell(outcome: Outcome) -> None:
        with telling:
            done(outcome)

    with ThreadPoolExecutor(workers) as readers, ThreadPoolExecutor(workers) as writers:
        queue = _Queue(jobs, readers, max_megapixels, workers, tell)

        def write(job: Job, picture: Picture, treated: Treated, seconds: float) -> None:
            try:
                _write(job, treated, copy_kept)
                tell(_outcome(job, picture, treated, seconds))
            except UnsmearError as error:
                tell(_failure(job, error))
            finally:
                queue.leave(job)

        def work(number: int) -> None:
            for job, picture in queue:
                start = time.monotonic()
                try:
                    treated = _treat(job, picture, treatments[number])
                except UnsmearError as error:
                    tell(_failure(job, error))
                    queue.leave(job)
                    continue
                finally:
                    busy[number] += time.monotonic() - start
                writers.submit(_guarded, queue, write, job, picture, treated, time.monotonic() - start)

        threads = [Thread(target=_guarded, args=(queue, work, number)) for number in range(1, len(treatments))]
        try:
            for thread in threads:
                thread.start()
            work(0)
            for thread in threads:
                thread.join()
        except BaseException:
            queue.close()
            readers.shutdown(cancel_futures=True)
            writers.shutdown(cancel_futures=True)
            raise
    if queue.fault is not None:
        raise queue.fault
    return Usage(sum(busy), (time.monotonic() - began) * len(treatments))


class _Queue:
    """Hands out pictures in the order of the jobs, and has the next ones read meanwhile.

    A picture is in work from when its reading begins until it leaves; together they hold at most `_PIXELS_IN_WORK`
    pixels, or one picture.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        readers: ThreadPoolExecutor,
        max_megapixels: float,
        ahead: int,
        tell: Callable[[Outcome], None],
    ) -> None:
        self.fault: BaseException | None = None
        self._jobs, self._readers = deque(jobs), readers
        self._limit, self._ahead, self._tell = max_megapixels, ahead, tell
        self._changed = Condition()
        self._reading: deque[tuple[Job, Future[Picture]]] = deque()
        self._in_work: dict[int, int] = {}  # pixels, by the identity of the job
        self._waiting: tuple[Job, int] | None = None  # the next job, when there is no room for it yet

    def __iter__(self) -> Iterator[tuple[Job, Picture]]:
        while (item := self._next()) is not None:
            job, future = item
            try:
                picture = future.result()
            except UnsmearError as error:
                self._tell(_failure(job, error))
                self.leave(job)
                continue
            yield job, picture

    def leave(self, job: Job) -> None:
        """A picture is done with."""
        with self._changed:
            self._in_work.pop(id(job), None)
            self._changed.notify_all()

    def close(self, fault: BaseException | None = None) -> None:
        """Hand out no more."""
        with self._changed:
            self.fault = self.fault or fault
            self._jobs.clear()
            self._reading.clear()
            self._waiting = None
            self._changed.notify_all()

    def _next(self) -> tuple[Job, "Future[Picture]"] | None:
        with self._changed:
            while True:
                self._fill()
                if self._reading:
                    item = self._reading.popleft()
                    self._fill()
                    return item
                if not self._jobs and self._waiting is None:
                    return None
                self._changed.wait()

    def _fill(self) -> None:
        while len(self._reading) < self._ahead and (self._waiting or self._jobs):
            job, pixels = self._waiting or self._look(self._jobs.popleft())
            if self._in_work and sum(self._in_work.values()) + pixels > _PIXELS_IN_WORK:
                self._waiting = job, pixels
                return
            self._waiting = None
            self._in_work[id(job)] = pixels
            self._reading.append((job, self._readers.submit(_read, job, self._limit)))

    def _look(self, job: Job) -> tuple[Job, int]:
        """The pixels of a picture by its header; what is wrong with it will show when it is read."""
        with suppress(UnsmearError):
            if isinstance(job.source, Path):
                header = probe(job.source, max_megapixels=self._limit)
                return job, header.width * header.height
        return job, 0


def _guarded(queue: _Queue, function: Callable[..., None], *arguments: object) -> None:
    """Call a function in a thread; whatever it raises stops the batch."""
    try:
        function(*arguments)
    except BaseException as error:
        queue.close(error)


def _read(job: Job, max_megapixels: float) -> Picture:
    picture = open_picture(job.source, max_megapixels=max_megapixels)
    check_fits(picture, _format(job, picture), job.target_name)
    return picture


def _treat(job: Job, picture: Picture, treat: Treatment) -> Treated:
    try:
        return treat(job, picture)
    except UnsmearError as error:  # which knows nothing of files
        raise type(error)(f"{job.source_name}: {error}") from error


def _write(job: Job, treated: Treated, copy_kept: bool) -> None:
    if treated.kept and not copy_kept and isinstance(job.target, Path):
        return
    if isinstance(job.target, Path):
        _make_folder(job.target.parent)
    if treated.picture is not None:
        save_picture(treated.picture, job.target, format=_format(job, treated.picture), replace=job.overwrite)
    elif isinstance(job.source, Path):
        _copy(job.source, job.target, job.overwrite)
    # Last: a sheet without a result would keep a batch that was killed in between from going on.
    if job.sheet is not None and treated.sheet is not None:
        save_picture(treated.sheet, job.sheet, replace=job.overwrite)


def _copy(source: Path, target: Path | BinaryIO, overwrite: bool) -> None:
    try:
        data = source.read_bytes()
    except OSError as error:
        raise ImageError(f"{source}: cannot be read: {error.strerror}") from None
    if isinstance(target, Path):
        write_whole(target, data, replace=overwrite)
    else:
        write_stream(target, data)


def _format(job: Job, picture: Picture) -> str:
    return format_of(job.target) if isinstance(job.target, Path) else picture.format


def _outcome(job: Job, picture: Picture, treated: Treated, seconds: float) -> Outcome:
    height, width = picture.rgb.shape[:2]
    notes = [treated.note] if treated.note else []
    if treated.picture is not None:
        format = _format(job, picture)
        bits, held = (8 * np.dtype(dtype).itemsize for dtype in (picture.rgb.dtype, written_dtype(picture, format)))
        if held < bits:
            notes.append(f"{bits} bits a channel, of which {format} holds {held}")
        if picture.left_out:
            notes.append(picture.left_out)
    return Outcome(job, "kept" if treated.kept else "restored", "; ".join(notes), width, height, seconds)


def _failure(job: Job, error: UnsmearError) -> Outcome:
    return Outcome(job, "failed", str(error), error=error)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: this folder cannot be made: {error.strerror}") from None
