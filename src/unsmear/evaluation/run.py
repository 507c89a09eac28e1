"""`evaluate`: all of an evaluation in one call."""

import hashlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from unsmear import __version__
from unsmear.arrays import Quality
from unsmear.bench.machine import describe
from unsmear.data.pairs import Pair, PairedFolder, check_sizes
from unsmear.device import choose_device
from unsmear.errors import UsageError
from unsmear.evaluation.journal import Journal
from unsmear.evaluation.metrics import DEFAULT_PROTOCOLS, choose_protocols
from unsmear.evaluation.report import Show, write_reports
from unsmear.evaluation.restorers import Blurred, Network, Restored, Restorer, Stored
from unsmear.evaluation.score import Scored, Scorer
from unsmear.evaluation.summary import Evaluation, scene
from unsmear.image import Picture, open_picture, save_picture
from unsmear.models import DEFAULT_MODEL, list_models
from unsmear.paths import exists

Progress = Callable[[int, int, Scored], None]
"""Told after each pair: how many are done, how many there are, and what was found."""

_JOURNAL = "scores.jsonl"
_KEPT_BYTES = 2**29  # of restored pictures, so that a report of few pictures need not restore them again


def evaluate(
    data: PairedFolder,
    models: Sequence[str | Path] = (DEFAULT_MODEL,),
    *,
    protocols: Sequence[str] = DEFAULT_PROTOCOLS,
    device: str = "auto",
    memory_gib: float | None = None,
    quality: Quality = "normal",
    out: str | Path | None = None,
    save_images: bool = False,
    workers: int = 2,
    command: str = "",
    progress: Progress | None = None,
) -> Evaluation:
    """Score models on pairs of blurred and sharp pictures.

    Args:
        data: The pairs, from `unsmear.data.pairs.find_pairs` or `pair_folders`.
        models: For each a name of `list_models()`, a weights file, or a folder of pictures that any other program
            restored, named as the pairs are.
        protocols: Names out of `PROTOCOLS`, or "all"; the first one orders pictures by their gain.
        device: Where networks compute, as for `Deblurrer`.
        memory_gib: Working memory for a picture, as for `Deblurrer`. None for a share of what is free, by which larger
            pictures may be done in other tiles the next time.
        quality: "normal"; or "best", networks' mean over all eight turns and flips, at eight times the time.
        out: Folder for `report.html`, `report.json`, `scores.csv` and `scores.jsonl`; made if it is not there. With the
            folder of an earlier call only what is missing or has changed is scored. None to write nothing.
        save_images: Whether to write the restored pictures of networks to `out`, too, below `restored`.
        workers: Threads that decode, and threads that measure.
        command: What to tell in the report as the way to get the same numbers.
        progress: Told of every pair that is done.

    Returns:
        What was found. Pictures that could not be scored are in its `failures`.

    Raises:
        UsageError: If a model, protocol, device or folder is not there or unknown, or sizes in a pair differ.
        ImageError: If a picture is unreadable before anything is scored.
        ModelError: If weights are missing or damaged.
    """
    chosen = choose_protocols(protocols)
    if workers < 1:
        raise UsageError(f"workers must be at least 1, not {workers}")
    if not chosen or not data.pairs:
        raise UsageError("there is nothing to score: give at least one protocol and one pair")
    if save_images and out is None:
        raise UsageError("restored pictures need a folder: give one with --out")
    check_sizes(data.pairs)
    where = choose_device(device).device
    restorers: list[Restorer] = [Blurred()]
    for model in dict.fromkeys(map(str, models)):
        is_folder = model not in list_models() and exists(Path(model)) and Path(model).is_dir()
        if is_folder:
            restorers.append(Stored(model, data.pairs))
        else:
            restorers.append(Network(model, device=device, memory_gib=memory_gib, quality=quality))
    folder = None if out is None else _prepare(Path(out))
    ways = ", mean of eight turns and flips" if quality == "best" else ""
    memory = "" if memory_gib is None else f", {memory_gib:g} GiB a picture"
    setup = (
        f"unsmear {__version__}, PyTorch {torch.__version__}, scikit-image {version('scikit-image')},"
        f" {where.type}, float32{ways}{memory}"
    )
    images = _Images(restorers, folder if save_images else None)
    journal = Journal(folder / _JOURNAL if folder else None)
    scorer = Scorer(restorers=restorers, protocols=chosen, setup=setup, journal=journal, shelf=images)
    rows, failures, hashes = [], [], []
    for done, scored in enumerate(scorer.run(data.pairs, workers), 1):
        rows += scored.rows
        failures += scored.failures
        hashes.append(scored.hashes)
        if progress is not None:
            progress(done, len(data.pairs), scored)
    evaluation = Evaluation(
        data=str(data),
        data_sha256=hashlib.sha256(repr(sorted(hashes)).encode()).hexdigest(),
        pairs=len(data.pairs),
        protocols={protocol.name: protocol.definition for protocol in chosen},
        models={restorer.name: restorer.sha256 for restorer in restorers},
        setup=setup,
        machine=describe(where),
        scenes=len({scene(pair.name) for pair in data.pairs}),
        rows=tuple(rows),
        failures=tuple(failures),
    )
    if folder is not None:
        write_reports(evaluation, folder, images.show({pair.name: pair for pair in data.pairs}), command=command)
    return evaluation


def _prepare(folder: Path) -> Path:
    """Make the folder, or make sure that it is one of ours."""
    _make(folder)
    if any(folder.iterdir()) and not (folder / _JOURNAL).is_file():
        raise UsageError(f"{folder}: has other files in it; choose a new folder for --out")
    return folder


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be used: {error.strerror}; choose another folder for --out") from None


class _Images:
    """Restored pictures: kept for the report while they are few, and written where that was asked for.

    Args:
        restorers: What restores them.
        folder: Where to write them below, or None.
    """

    def __init__(self, restorers: Sequence[Restorer], folder: Path | None) -> None:
        self._restorers = restorers
        self._folder = folder
        self._kept: dict[tuple[str, str], np.ndarray] = {}
        self._free = _KEPT_BYTES

    def wants(self, pair: Pair, restorer: Restorer) -> bool:
        """Whether a picture is still to be written."""
        file = self._file(pair, restorer)
        return file is not None and not file.is_file()

    def keep(self, pair: Pair, restorer: Restorer, restored: Restored) -> None:
        """Take a picture that was restored.

        Raises:
            UnsmearError: If it cannot be written.
        """
        if isinstance(restorer, Blurred):
            return
        if restored.picture.nbytes <= self._free:
            self._free -= restored.picture.nbytes
            self._kept[pair.name, restorer.name] = restored.picture
        file = self._file(pair, restorer)
        if file is not None:
            _make(file.parent)
            save_picture(Picture(restored.picture), file)

    def show(self, pairs: dict[str, Pair]) -> Show:
        """A function that gives the pictures of a pair by name, the sharp one last, restoring them again if need be."""

        def pictures(name: str) -> dict[str, np.ndarray]:
            pair = pairs[name]
            blurred = open_picture(pair.blurred, deep=False).rgb
            shown = {restorer.name: self._picture(pair, restorer, blurred) for restorer in self._restorers}
            return {**shown, "sharp": open_picture(pair.sharp, deep=False).rgb}

        return pictures

    def _picture(self, pair: Pair, restorer: Restorer, blurred: np.ndarray) -> np.ndarray:
        kept = self._kept.get((pair.name, restorer.name))
        return restorer.restore(pair, blurred).picture if kept is None else kept

    def _file(self, pair: Pair, restorer: Restorer) -> Path | None:
        if self._folder is None or not isinstance(restorer, Network):
            return None
        best = "-best" if restorer.quality == "best" else ""
        model = f"{Path(restorer.name).stem}-{restorer.sha256[:8]}{best}"
        return self._folder / "restored" / model / f"{pair.name}.png"
