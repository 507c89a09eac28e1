"""What an evaluation found: scores by picture, and what they come to."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from unsmear.bench.machine import Machine

_RESAMPLES, _SEED = 2_000, 0
_MIN_SCENES = 8  # fewer are no sample


@dataclass(frozen=True, kw_only=True)
class Row:
    """One picture of one model under one protocol.

    Attributes:
        picture: Name of the pair.
        model: Name of the model, or `BLURRED`.
        protocol: Name of the protocol.
        psnr: In dB, infinite for equal pictures.
        ssim: None where the picture is smaller than the protocol's window.
        gain: PSNR over that of the blurred picture in dB; 0 where both are infinite, None for the blurred one itself.
        tiles: In how many tiles the picture was done; 1 is whole, 0 where unsmear did not restore it.
        seconds: What restoring took, on a machine that may have done other things, too.
    """

    picture: str
    model: str
    protocol: str
    psnr: float
    ssim: float | None
    gain: float | None
    tiles: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All pictures of one model under one protocol. Gains are in dB of PSNR over the blurred pictures.

    Attributes:
        protocol: Name of the protocol.
        model: Name of the model, or `BLURRED`.
        pictures: How many were scored.
        infinite: How many of them have an infinite PSNR or gain, which means and medians leave out.
        psnr: Mean PSNR in dB; None if there is none.
        ssim: Mean SSIM over the pictures that have one.
        gain: Mean gain; None for the blurred pictures.
        interval: Where the mean gain lies with 95 % by bootstrap; None for less than two pictures.
        median: Median gain.
        worst: Lowest gain.
        worst_picture: Name of the picture with it.
        worse: How many pictures have a lower PSNR than before.
    """

    protocol: str
    model: str
    pictures: int
    infinite: int
    psnr: float | None
    ssim: float | None
    gain: float | None
    interval: tuple[float, float] | None
    median: float | None
    worst: float | None
    worst_picture: str
    worse: int


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A picture that could not be scored, and why; `model` is empty if it was the pair itself."""

    picture: str
    model: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluation.

    Attributes:
        data: What was scored: layout, variant, split and number of pairs.
        data_sha256: Fingerprint of the pictures that were scored: equal for the same files, whatever their names.
        pairs: How many pairs there are.
        protocols: Definition of each protocol by name, the first is the one that orders pictures.
        models: SHA-256 of the weights of each model by name, empty where there are none; first `BLURRED`.
        setup: Versions, device and precision.
        machine: Where it ran.
        scenes: How many folders the pictures come from; intervals are over them if there are eight at least.
        rows: By picture, protocol and model.
        failures: What could not be scored. Means with failures must not be compared with others.
    """

    data: str
    data_sha256: str
    pairs: int
    protocols: Mapping[str, str]
    models: Mapping[str, str]
    setup: str
    machine: Machine
    scenes: int
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]

    @cached_property
    def summaries(self) -> list[Summary]:
        """What the scores come to, by protocol, then model."""
        groups: dict[tuple[str, str], list[Row]] = {(p, m): [] for p in self.protocols for m in self.models}
        for row in self.rows:
            groups[row.protocol, row.model].append(row)
        return [_summarize(protocol, model, rows) for (protocol, model), rows in groups.items()]

    @cached_property
    def worst_first(self) -> list[str]:
        """Names of the pictures, from the lowest gain of any model under the first protocol."""
        first, gains = next(iter(self.protocols)), dict.fromkeys((row.picture for row in self.rows), math.inf)
        for row in self.rows:
            if row.protocol == first and row.gain is not None:
                gains[row.picture] = min(gains[row.picture], row.gain)
        return sorted(gains, key=lambda name: (gains[name], name))

    def tiling(self, model: str) -> str:
        """How the pictures of a model were done, in words such as `5 whole, 1 in 4 tiles`."""
        counts: dict[int, set[str]] = {}
        for row in self.rows:
            if row.model == model and row.tiles:
                counts.setdefault(row.tiles, set()).add(row.picture)
        parts = (f"{len(v)} whole" if k == 1 else f"{len(v)} in {k} tiles" for k, v in sorted(counts.items()))
        return ", ".join(parts) or "restored before"

    @property
    def bootstrap(self) -> str:
        """What the intervals are, in words."""
        over = f"{self.scenes} scenes" if self.scenes >= _MIN_SCENES else "the pictures"
        return f"95 % interval of the mean gain: bootstrap over {over}, {_RESAMPLES:,} resamples, seed {_SEED}"


def scene(picture: str) -> str:
    """The folder of a picture by its name."""
    return picture.rpartition("/")[0]


def gain(before: float, after: float) -> float:
    """What was gained in dB; 0 if both are infinite."""
    return 0.0 if before == after else after - before


def _summarize(protocol: str, model: str, rows: list[Row]) -> Summary:
    psnrs = [row.psnr for row in rows if math.isfinite(row.psnr)]
    ssims = [row.ssim for row in rows if row.ssim is not None]
    gains = {row.picture: row.gain for row in rows if row.gain is not None}
    finite = {name: value for name, value in gains.items() if math.isfinite(value)}
    worst = min(gains, key=lambda name: gains[name], default="")
    values: dict[str, Any] = {"gain": None, "median": None}
    if finite:
        values = {"gain": float(np.mean([*finite.values()])), "median": float(np.median([*finite.values()]))}
    infinite = sum(not (math.isfinite(row.psnr) and math.isfinite(row.gain or 0)) for row in rows)
    return Summary(
        protocol=protocol,
        model=model,
        pictures=len(rows),
        infinite=infinite,
        psnr=float(np.mean(psnrs)) if psnrs else None,
        ssim=float(np.mean(ssims)) if ssims else None,
        interval=_interval(finite),
        worst=gains.get(worst),
        worst_picture=worst,
        worse=sum(value < 0 for value in gains.values()),
        **values,
    )


def _interval(gains: Mapping[str, float]) -> tuple[float, float] | None:
    """Bootstrap over scenes, if there are enough: their frames are nearly the same picture."""
    groups: dict[str, list[float]] = {}
    for name, value in gains.items():
        groups.setdefault(scene(name), []).append(value)
    if len(groups) < _MIN_SCENES:
        groups = {name: [value] for name, value in gains.items()}
    if len(groups) < 2:
        return None
    sums, counts = (np.array([measure(group) for group in groups.values()]) for measure in (sum, len))
    draws, means = np.random.default_rng(_SEED), np.empty(_RESAMPLES)
    for number in range(_RESAMPLES):
        drawn = draws.integers(len(groups), size=len(groups))
        means[number] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
