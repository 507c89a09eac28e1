"""Pairs in, scores out. Pictures are decoded ahead and measured behind on other threads, while networks compute."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from unsmear.data.pairs import Pair
from unsmear.errors import UnsmearError
from unsmear.evaluation import metrics
from unsmear.evaluation.journal import Entry, Journal, Key
from unsmear.evaluation.restorers import Restored, Restorer, hash_file
from unsmear.evaluation.summary import Failure, Row, gain
from unsmear.image import open_picture


class Shelf(Protocol):
    """Takes the pictures that were restored."""

    def wants(self, pair: Pair, restorer: Restorer) -> bool:
        """Whether a picture is to be restored even if its scores are known."""
        ...

    def keep(self, pair: Pair, restorer: Restorer, restored: Restored) -> None:
        """Take a picture."""
        ...


T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Scored:
    """What was found of a pair.

    Attributes:
        pair: The pair.
        hashes: SHA-256 of the blurred and of the sharp file; empty if they could not be read.
        rows: A row for each protocol and model.
        failures: What could not be scored.
    """

    pair: Pair
    hashes: tuple[str, ...] = ()
    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


@dataclass
class _Task(Scored):
    """A pair on its way.

    Attributes:
        keys: What its scores depend on, by model and protocol.
        missing: Models to restore with.
        pictures: Blurred and sharp one, if there is anything to do.
        outputs: Restored pictures and the seconds they took, by model.
        entries: New scores, by model and protocol.
    """

    keys: dict[tuple[str, str], Key] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    pictures: tuple[np.ndarray, np.ndarray] | None = None
    outputs: dict[str, tuple[Restored, float]] = field(default_factory=dict)
    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)

    def fail(self, model: str, error: UnsmearError) -> None:
        """Note what went wrong."""
        self.failures.append(Failure(picture=self.pair.name, model=model, reason=str(error)))


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Scores pairs. What the journal knows is not computed again.

    Attributes:
        restorers: What to score; the first gives the blurred pictures themselves.
        protocols: How to measure.
        setup: What else the scores depend on.
        journal: Keeps the scores.
        shelf: Takes every picture that was restored.
    """

    restorers: Sequence[Restorer]
    protocols: Sequence[metrics.Protocol]
    setup: str
    journal: Journal
    shelf: Shelf

    def run(self, pairs: Iterable[Pair], workers: int) -> Iterator[Scored]:
        """Score pairs one after another, in their order.

        Args:
            pairs: What to score.
            workers: Threads that decode, and threads that measure.
        """
        with ThreadPoolExecutor(workers) as readers, ThreadPoolExecutor(workers) as meters:
            loaded = _ahead(readers, self._load, pairs, workers)
            restored = (self._restore(future.result()) for future in loaded)
            for future in _ahead(meters, self._measure, restored, workers):
                yield self._write(future.result())

    def _load(self, pair: Pair) -> _Task:
        """Look up what is known of a pair, and decode it if anything is missing."""
        task = _Task(pair)
        try:
            hashes = hash_file(pair.blurred), hash_file(pair.sharp)
            versions = [(restorer.name, restorer.version(pair)) for restorer in self.restorers]
            keys = {
                (name, protocol.name): Key(self.setup, version, protocol.name, *hashes)
                for name, version in versions
                for protocol in self.protocols
            }
            missing = {model for (model, _), key in keys.items() if not self.journal.find(key)}
            missing |= {restorer.name for restorer in self.restorers if self.shelf.wants(pair, restorer)}
            if missing:
                blurred, sharp = (open_picture(path, deep=False).rgb for path in (pair.blurred, pair.sharp))
                task.pictures = blurred, sharp
            task.hashes, task.keys, task.missing = hashes, keys, missing
        except UnsmearError as error:
            task.fail("", error)
        return task

    def _restore(self, task: _Task) -> _Task:
        """Restore with every model of which anything is missing."""
        for restorer in self.restorers:
            if task.pictures and restorer.name in task.missing:
                begin = time.perf_counter()
                try:
                    output = restorer.restore(task.pair, task.pictures[0])
                except UnsmearError as error:
                    task.fail(restorer.name, error)
                    continue
                task.outputs[restorer.name] = output, time.perf_counter() - begin
                self.shelf.keep(task.pair, restorer, output)
        return task

    def _measure(self, task: _Task) -> _Task:
        for (model, name), key in task.keys.items():
            if task.pictures and model in task.outputs and not self.journal.find(key):
                output, seconds = task.outputs[model]
                measure = next(protocol.measure for protocol in self.protocols if protocol.name == name)
                score = measure(output.picture, task.pictures[1])
                task.entries[model, name] = Entry(score, output.tiles, seconds)
        return task

    def _write(self, task: _Task) -> _Task:
        """Write new scores to the journal, and all scores of the pair as rows."""
        for (model, name), entry in task.entries.items():
            self.journal.add(task.keys[model, name], entry, task.pair.name, model)
        for protocol in self.protocols:
            before = None
            for restorer in self.restorers:
                key = task.keys.get((restorer.name, protocol.name))
                entry = self.journal.find(key) if key else None
                if entry is None:
                    continue
                psnr = entry.score.psnr
                task.rows.append(
                    Row(
                        picture=task.pair.name,
                        model=restorer.name,
                        protocol=protocol.name,
                        psnr=psnr,
                        ssim=entry.score.ssim,
                        gain=None if before is None else gain(before, psnr),
                        tiles=entry.tiles,
                        seconds=entry.seconds,
                    )
                )
                before = psnr if before is None else before
        return task


def _ahead(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], count: int) -> "Iterator[Future[R]]":
    """Results in order, with some items worked upon ahead of the one that is waited for."""
    queue: deque[Future[R]] = deque()
    for item in items:
        queue.append(pool.submit(work, item))
        if len(queue) > count:
            yield queue.popleft()
    while queue:
        yield queue.popleft()
