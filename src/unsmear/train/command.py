"""What `unsmear train` does: from folders and settings to a run on disk, with something to look at meanwhile.

A run's folder holds `config.json` (everything that defines it, and the versions), `log.jsonl`, `weights.safetensors`
and `checkpoints`.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unsmear import __version__
from unsmear.data.batches import RealPairs, SharpPhotos, Source, VideoFrames
from unsmear.data.pairs import check_sizes, find_pairs, is_paired
from unsmear.data.store import PictureStore, list_pictures
from unsmear.errors import UsageError
from unsmear.train.config import RECIPES, TrainConfig
from unsmear.train.loop import Progress, Row, train
from unsmear.train.validation import Validation

KINDS = ("photos", "frames", "pairs")
_HELD_OUT = 20  # without pictures to validate on, every 20th photo is kept from training
_VALIDATED = 12  # pictures at most, center crops of at most this side:
_VALIDATION_SIZE = 384


def configure(recipe: str, settings: Sequence[str]) -> TrainConfig:
    """A recipe with some fields changed.

    Args:
        recipe: A name of `RECIPES`.
        settings: `field=value` each, the value as JSON or, failing that, as a plain string.

    Raises:
        UsageError: If the recipe, a field or a value is unknown or out of range.
    """
    if recipe not in RECIPES:
        raise UsageError(f"unknown recipe {recipe!r}: choose one of {', '.join(RECIPES)}")
    config = RECIPES[recipe]()
    known = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in known:
            raise UsageError(f"--set {setting!r}: write FIELD=VALUE with one of {', '.join(known)}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if isinstance(known[name], float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if isinstance(known[name], tuple) and isinstance(value, list):
            value = tuple(value)
        if known[name] is not None and type(value) is not type(known[name]):
            raise UsageError(f"--set {setting!r}: {name} is of another type, such as {json.dumps(known[name])}")
        changes[name] = value
    return dataclasses.replace(config, **changes)


def run_training(
    config: TrainConfig,
    data: Sequence[str],
    out: Path,
    *,
    validate: Path | None,
    minutes: float | None,
    resume: bool,
    cache: Path | None = None,
    tensorboard: bool = False,
    show: Callable[[Row], None],
    notice: Callable[[str], None],
) -> Progress:
    """Train as the command line asks.

    Args:
        config: The run.
        data: Folders, each `DIR` or `KIND:DIR` with a kind of `KINDS`. Without a kind, a folder is taken as
            pairs if its layout is one of those, and as sharp photos otherwise.
        out: Folder of the run.
        validate: Sharp pictures to validate on; None holds out every 20th of the photos.
        minutes: When to stop.
        resume: Whether to go on with the run in `out`.
        cache: Folder for decoded pictures.
        tensorboard: Whether to write TensorBoard files, too.
        show: Takes each line of the log.
        notice: Takes sentences for a person.

    Raises:
        UsageError: If a folder, the run's folder or the configuration does not fit.
        TrainingError: If the run cannot go on.
    """
    if not data:
        raise UsageError("there is nothing to train on: give --data DIR")
    if not resume and (out / "checkpoints").exists():
        raise UsageError(f"{out}: holds a run already; pass --resume to go on with it, or choose another --out")
    sources: list[tuple[Source, float]] = []
    photos: list[Path] = []
    for given in data:
        kind, folder = _kind(given)
        if kind == "photos":
            photos += list_pictures(folder)
        elif kind == "frames":
            sources.append((VideoFrames(PictureStore(list_pictures(folder), cache)), config.frame_share))
        else:
            found = find_pairs(folder)
            notice(f"{folder}: {found}")
            check_sizes(found.pairs)
            blurred, sharp = (
                PictureStore([getattr(pair, side) for pair in found.pairs], cache) for side in ("blurred", "sharp")
            )
            sources.append((RealPairs(blurred, sharp), config.pair_share))
    held_out = list_pictures(validate) if validate else photos[_HELD_OUT - 1 :: _HELD_OUT] if len(photos) > 1 else []
    photos = [p for p in photos if p not in set(held_out)]
    if photos:
        rest = max(0.0, 1 - sum(share for _, share in sources)) or 1.0
        sources.append((SharpPhotos(PictureStore(photos, cache), config.mixture, config.curriculum), rest))
    sharp = [_center(p) for p in PictureStore(held_out[:_VALIDATED], cache)] if held_out else []
    _write_config(config, data, out)
    with _logging(out, tensorboard) as write:

        def log(row: Row) -> None:
            write(row)
            show(row)

        return train(
            config,
            sources,
            out,
            validation=Validation(sharp) if sharp else None,
            minutes=minutes,
            resume=resume,
            log=log,
            notice=notice,
        )


def _kind(given: str) -> tuple[str, Path]:
    kind, colon, folder = given.partition(":")
    if colon and kind in KINDS:
        return kind, Path(folder)
    folder = Path(given)
    if not folder.is_dir():
        raise UsageError(f"{given}: no such folder; give DIR, or {', '.join(f'{k}:DIR' for k in KINDS)}")
    return ("pairs" if is_paired(folder) else "photos"), folder


def _center(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    top, left = max(0, height - _VALIDATION_SIZE) // 2, max(0, width - _VALIDATION_SIZE) // 2
    return picture[top : top + _VALIDATION_SIZE, left : left + _VALIDATION_SIZE]


def _write_config(config: TrainConfig, data: Sequence[str], out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        versions = {"unsmear": __version__, "torch": torch.__version__}
        whole = {"config": dataclasses.asdict(config), "data": list(data), "versions": versions}
        (out / "config.json").write_text(json.dumps(whole, indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"{out}: this folder cannot be written: {error.strerror}") from None


@contextmanager
def _logging(out: Path, tensorboard: bool) -> Iterator[Callable[[Row], None]]:
    """Lines to `log.jsonl`, and scalars to TensorBoard where wanted."""
    writer = None
    if tensorboard:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            raise UsageError("--tensorboard needs the package tensorboard: pip install tensorboard") from None
        writer = SummaryWriter(str(out))
    with (out / "log.jsonl").open("a") as file:

        def write(row: Row) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()
            if writer is not None:
                for name, value in _scalars(row):
                    writer.add_scalar(name, value, row["step"])

        yield write
    if writer is not None:
        writer.close()


def _scalars(row: Row, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}{name}/")
        elif name != "step":
            yield prefix + name, float(value)
