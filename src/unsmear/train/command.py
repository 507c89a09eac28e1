"""What `unsmear train` does: from folders and settings to a run on disk, with something to look at meanwhile.

A run's folder holds `config.json` (everything that defines it, and the versions), `log.jsonl`, `weights.safetensors`
and `checkpoints`.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unsmear import __version__
from unsmear.atomic import write_whole
from unsmear.data.batches import RealPairs, SharpPhotos, Source, VideoFrames
from unsmear.data.clips import list_clips
from unsmear.data.pairs import check_sizes, find_pairs, is_paired
from unsmear.data.store import PictureStore, list_pictures
from unsmear.data.video import is_video
from unsmear.errors import UsageError
from unsmear.finite import finite
from unsmear.paths import exists
from unsmear.train.config import RECIPES, TrainConfig
from unsmear.train.loop import Progress, Row, train
from unsmear.train.objective import vgg19_file
from unsmear.train.validation import Validation

KINDS = ("photos", "frames", "pairs")
_HELD_OUT = 20  # without pictures to validate on, every 20th photo is kept from training
_VALIDATED = 12  # pictures at most, center crops of at most this side:
_VALIDATION_SIZE = 384
_FILES = ("init", "vgg19")  # fields that name one, or are null
# What checkpoints cannot do without.
_FIXED = ("model", "overrides", "init", "frozen", "optimizer", "adversarial", "precision")


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
            with suppress(OverflowError):  # too large: of another type, then
                value = float(value)
        if isinstance(known[name], tuple) and isinstance(value, list):
            value = tuple(value)
        is_file = name in _FILES
        if not (value is None or isinstance(value, str) if is_file else _is_alike(value, known[name])):
            such = "null or the name of a file" if is_file else json.dumps(known[name])
            raise UsageError(f"--set {setting!r}: {name} is of another type, such as {such}")
        changes[name] = value
    init = changes.get("init", config.init)
    if changes.get("model", config.model) != config.model and init is not None and init == config.init:
        raise UsageError(f"--set model: recipe {recipe!r} begins with {init!r}; give --set init=FILE or init=null, too")
    if "name" in changes.get("overrides", {}):
        raise UsageError("--set overrides: the name is no part of a configuration; give --set model=NAME")
    if "model" in changes:  # the recipe's overrides are of the recipe's model
        changes.setdefault("overrides", {})
    return dataclasses.replace(config, **changes)


def _is_alike(value: Any, known: Any) -> bool:
    """Whether a value is of the type that a field has."""
    if isinstance(known, tuple):
        kinds = (int, float) if known and not isinstance(known[0], str) else str  # shares, or names
        return isinstance(value, tuple) and all(isinstance(v, kinds) and not isinstance(v, bool) for v in value)
    return type(value) is type(known)


def run_training(
    config: TrainConfig,
    data: Sequence[str],
    out: Path,
    *,
    validate: Path | None,
    minutes: float | None,
    resume: bool,
    tensorboard: bool = False,
    show: Callable[[Row], None],
    notice: Callable[[str], None],
) -> Progress:
    """Train as the command line asks.

    Args:
        config: The run.
        data: Paths, each `PATH` or `KIND:PATH` with a kind of `KINDS`. Without a kind, a video is taken as
            frames, a folder as pairs if its layout is one of those, and as sharp photos otherwise.
        out: Folder of the run.
        validate: Sharp pictures to validate on; None holds out every 20th of the photos.
        minutes: When to stop.
        resume: Whether to go on with the run in `out`.
        tensorboard: Whether to write TensorBoard files, too.
        show: Takes each line of the log.
        notice: Takes sentences for a person.

    Raises:
        UsageError: If a folder, the run's folder or the configuration does not fit.
        TrainingError: If the run cannot go on.
    """
    if not data:
        raise UsageError("there is nothing to train on: give --data DIR")
    if resume:
        _check_alike(config, out, notice)
    elif exists(out) and any((out / "checkpoints").glob("step-*")):
        raise UsageError(f"{out}: holds a run already; pass --resume to go on with it, or choose another --out")
    if config.perceptual_weight:
        vgg19_file(config)  # or tell that it is missing before all is decoded
    make_writer = _tensorboard() if tensorboard else None  # likewise
    sources: list[tuple[Source, float]] = []
    photos: list[Path] = []
    kinds = [_kind(given) for given in data]
    number = Counter(kind for kind, _ in kinds)
    for kind, path in kinds:
        if kind == "photos":
            photos += list_pictures(path)
        elif kind == "frames":
            sources.append((_frames(path, config.crop, notice), config.frame_share / number[kind]))
        else:
            sources.append((_pairs(path, config.crop, notice), config.pair_share / number[kind]))
    held_out = list_pictures(validate) if validate else photos[_HELD_OUT - 1 :: _HELD_OUT] if len(photos) > 1 else []
    photos = [p for p in photos if p not in set(held_out)]
    if photos:
        rest = 1 - sum(share for _, share in sources)
        if rest <= 0:
            raise UsageError("frame_share and pair_share leave nothing for the photos: make them smaller")
        store = PictureStore(photos, notice=notice)
        drawn = sharp_photos(store, config)
        store.check_sides(drawn.needs(config.crop))
        sources.append((drawn, rest))
    sharp = [_center(p) for p in PictureStore(held_out[:_VALIDATED])] if held_out else []
    _write_config(config, data, out)
    with open_log(out, make_writer) as write:

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
    kind, colon, path = given.partition(":")
    if colon and kind in KINDS:
        return kind, Path(path)
    path = Path(given)
    exists(path)  # or tell why that cannot be told
    if is_video(path):
        return "frames", path
    if not path.is_dir():
        raise UsageError(f"{given}: no such folder or video; give PATH, or {', '.join(f'{k}:PATH' for k in KINDS)}")
    return ("pairs" if is_paired(path) else "photos"), path


def sharp_photos(pictures: Sequence[np.ndarray], config: TrainConfig) -> SharpPhotos:
    """Photos that are blurred as a configuration says: (H, W, 3) uint8 each."""
    names = "soft_share", "soft_color_share", "sharp_share", "grain_share", "pattern_share", "shrink_share"
    return SharpPhotos(pictures, config.mixture, config.curriculum, **{name: getattr(config, name) for name in names})


def _frames(path: Path, crop: int, notice: Callable[[str], None]) -> VideoFrames:
    clips = list_clips(path)
    store = PictureStore([file for files in clips.values() for file in files], notice=notice)
    counts = iter(store.counts)
    lengths = {name: sum(islice(counts, len(files))) for name, files in clips.items()}
    store.check_sides(crop)
    notice(f"{path}: {len(store)} frames in {len(clips)} clip{'s' * (len(clips) > 1)}")
    return VideoFrames(store, lengths)


def _pairs(folder: Path, crop: int, notice: Callable[[str], None]) -> RealPairs:
    found = find_pairs(folder)
    notice(f"{folder}: {found}")
    check_sizes(found.pairs)
    blurred = PictureStore([pair.blurred for pair in found.pairs], notice=notice)
    blurred.check_sides(crop)
    return RealPairs(blurred, PictureStore([pair.sharp for pair in found.pairs], notice=notice))


def _center(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    top, left = max(0, height - _VALIDATION_SIZE) // 2, max(0, width - _VALIDATION_SIZE) // 2
    return picture[top : top + _VALIDATION_SIZE, left : left + _VALIDATION_SIZE]


def _check_alike(config: TrainConfig, out: Path, notice: Callable[[str], None]) -> None:
    """Refuse to go on with a run that was another one; tell of settings that have changed since."""
    try:
        before = json.loads((out / "config.json").read_text())["config"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{out}: holds no run to go on with; start without --resume") from None
    now = json.loads(json.dumps(dataclasses.asdict(config)))  # JSON knows no tuples
    changed = {
        name: f"{name} was {json.dumps(before[name])}, not {json.dumps(value)}"
        for name, value in now.items()
        if before.get(name, value) != value
    }
    if fixed := [changed[name] for name in _FIXED if name in changed]:
        raise UsageError(f"{out}: holds another run: {'; '.join(fixed)}; give the same --recipe and --set")
    if changed:
        notice(f"{out}: goes on with other settings: {'; '.join(changed.values())}")


def _write_config(config: TrainConfig, data: Sequence[str], out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out}: this folder cannot be made: {error.strerror}") from None
    versions = {"unsmear": __version__, "torch": torch.__version__}
    whole = {"config": dataclasses.asdict(config), "data": list(data), "versions": versions}
    write_whole(out / "config.json", (json.dumps(whole, indent=1) + "\n").encode())


@contextmanager
def open_log(out: Path, make_writer: Callable[..., Any] | None = None) -> Iterator[Callable[[Row], None]]:
    """Lines to `log.jsonl` of a folder, after those there are, and scalars to TensorBoard where wanted."""
    with (out / "log.jsonl").open("a") as file, ExitStack() as stack:
        writer = None

        def write(row: Row) -> None:
            nonlocal writer
            file.write(json.dumps(finite(row)) + "\n")
            file.flush()
            if make_writer and not writer:
                # Made here, as only the main process logs; and what a killed run wrote beyond its last checkpoint is
                # to be forgotten.
                writer = make_writer(str(out), purge_step=row["step"])
                stack.callback(writer.close)
            if writer:
                for name, value in _scalars(row):
                    writer.add_scalar(name, value, row["step"])

        yield write


def _tensorboard() -> Callable[..., Any]:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        raise UsageError("--tensorboard needs the package tensorboard: pip install 'unsmear[tensorboard]'") from None
    return SummaryWriter


def _scalars(row: Row, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}{name}/")
        elif name != "step":
            yield prefix + name, float(value)
