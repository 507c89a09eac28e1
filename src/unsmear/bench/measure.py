"""Networks against the machine, timed in turn.

Every round times the machine's own rates and every network once. So all of them meet the same state of the machine,
and their ratios hold even where other programs take their share.

No pass should take less than its operations at the matrix rate, nor than its traffic at the copy rate: the longer of
the two is its ceiling. Caches can lift it, and the element-wise work that it leaves out lowers it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unsmear.bench.machine import Machine, Probes, Rates, describe, timed
from unsmear.bench.subject import Subject
from unsmear.device import choose_device
from unsmear.errors import UsageError
from unsmear.models import DEFAULT_MODEL, count_parameters
from unsmear.precision import DTYPES

_MIN_ROUNDS, _SECONDS = 3, 10  # without a number of rounds: at least so many, and so long for each network


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast some work was done.

    Attributes:
        seconds: Median time.
        macs: Multiply-accumulates.
        traffic: Bytes that it moves at least.
        flops: Operations per second, two for each multiply-accumulate.
        of_matrix_rate: `flops` as a fraction of the machine's matrix rate.
        of_ceiling: The least time that the machine's rates allow, as a fraction of `seconds`.
    """

    seconds: float
    macs: int
    traffic: int
    flops: float
    of_matrix_rate: float
    of_ceiling: float


@dataclass(frozen=True, kw_only=True)
class Part(Speed):
    """All modules of one kind in a pass, with what is inside them.

    Attributes:
        kind: What they do; `REST` for all that is in no such module.
        share: Share of the pass.
    """

    kind: str
    share: float


@dataclass(frozen=True, kw_only=True)
class ModelResult(Speed):
    """One network, one picture a pass.

    Attributes:
        model: Its name, or its weights file.
        weights: "shipped", "file", or "random" where there are none: a pass costs the same.
        parameters: Number of trained values.
        padded_width: Width of what the network sees, in pixels.
        padded_height: Height of what the network sees, in pixels.
        all_seconds: Time of a pass in every round.
        quartiles: First and third quartile of them.
        pixels_per_second: Pixels of the picture, without padding, over the median time.
        memory: Bytes that a pass takes at its peak, beside the network and PyTorch; None where that cannot be told.
        parts: Where the time goes, if that was asked for.
    """

    model: str
    weights: str
    parameters: int
    padded_width: int
    padded_height: int
    all_seconds: list[float]
    quartiles: tuple[float, float]
    pixels_per_second: float
    memory: int | None
    parts: list[Part]


@dataclass(frozen=True, kw_only=True)
class Report:
    """A measurement; `dataclasses.asdict` makes it ready for JSON.

    Attributes:
        machine: Where it was made.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        dtype: Type of weights and features.
        rounds: How often everything was timed.
        rates: What the machine could do meanwhile.
        models: The networks, in the order asked for.
    """

    machine: Machine
    width: int
    height: int
    dtype: str
    rounds: int
    rates: Rates
    models: list[ModelResult]


@torch.inference_mode()
def measure(
    models: Sequence[str] = (DEFAULT_MODEL,),
    *,
    width: int = 1280,
    height: int = 720,
    device: str = "auto",
    dtype: str = "float32",
    threads: int | None = None,
    rounds: int | None = None,
    parts: bool = False,
) -> Report:
    """Time networks and the machine in turn.

    On a CPU the memory of every network is measured in a fresh process, one after the other.

    Args:
        models: Names of `list_models()`, with or without weights, or weights files. One may come twice.
        width: Width of the picture in pixels; networks see it padded as `Deblurrer` pads it.
        height: Height of the picture in pixels.
        device: A name that `choose_device` knows.
        dtype: A name of `unsmear.precision.DTYPES`, for weights and features.
        threads: Threads to compute with, from now on; None leaves their number as it is.
        rounds: How often everything is timed; None for 10 seconds a network, but 3 times at least.
        parts: Whether to tell where the time goes, by another pass in every round.

    Raises:
        UsageError: If a model, device or type is unknown or cannot be used, or a number is too small.
        ModelError: If a weights file is damaged.
        OutOfMemoryError: If a pass does not fit into memory.
    """
    if dtype not in DTYPES:
        raise UsageError(f"unknown type {dtype!r}: choose one of {', '.join(DTYPES)}")
    if min(n for n in (width, height, threads, rounds) if n is not None) < 1:
        raise UsageError("width, height, threads and rounds must be at least 1")
    place = choose_device(device).device
    if threads is not None:
        torch.set_num_threads(threads)
    subjects = [Subject(name, height, width, place, DTYPES[dtype]) for name in models]
    memory = [subject.memory() for subject in subjects]
    probes = Probes(place, DTYPES[dtype])
    for subject in subjects:
        subject.run()  # the first pass plans and allocates
    seconds: list[list[float]] = [[] for _ in subjects]
    by_kind: list[list[dict[str, float]]] = [[] for _ in subjects]
    begin, done = time.perf_counter(), 0
    while done < (rounds or _MIN_ROUNDS) or (not rounds and time.perf_counter() - begin < _SECONDS * len(subjects)):
        probes.run()
        for i, subject in enumerate(subjects):
            seconds[i].append(timed(subject.run, place))
            if parts:
                by_kind[i].append(subject.run_parts())
        done += 1
    rates = probes.rates()
    results = [
        ModelResult(
            model=subject.name,
            weights=subject.weights,
            parameters=count_parameters(subject.network),
            padded_width=subject.width,
            padded_height=subject.height,
            all_seconds=seconds[i],
            quartiles=(float(np.percentile(seconds[i], 25)), float(np.percentile(seconds[i], 75))),
            pixels_per_second=width * height / float(np.median(seconds[i])),
            memory=memory[i],
            parts=_parts(subject, by_kind[i], rates),
            **_speed(float(np.median(seconds[i])), subject.macs.total(), subject.traffic.total(), rates),
        )
        for i, subject in enumerate(subjects)
    ]
    return Report(
        machine=describe(place), width=width, height=height, dtype=dtype, rounds=done, rates=rates, models=results
    )


def _parts(subject: Subject, rounds: list[dict[str, float]], rates: Rates) -> list[Part]:
    if not rounds:
        return []
    seconds = {kind: float(np.median([times[kind] for times in rounds])) for kind in rounds[0]}
    whole = sum(seconds.values())
    return [
        Part(kind=kind, share=time / whole, **_speed(time, subject.macs[kind], subject.traffic[kind], rates))
        for kind, time in seconds.items()
    ]


def _speed(seconds: float, macs: int, traffic: int, rates: Rates) -> dict[str, Any]:
    """The fields of `Speed`."""
    return {
        "seconds": seconds,
        "macs": macs,
        "traffic": traffic,
        "flops": 2 * macs / seconds,
        "of_matrix_rate": 2 * macs / seconds / rates.matrix,
        "of_ceiling": max(2 * macs / rates.matrix, traffic / rates.copy) / seconds,
    }
