"""Table 1 of the paper, and beside it what this package measures of each system that it has.

Figures of the paper are kept as they are printed there. Figures measured here come from the package's own tools:
`unsmear.cost` counts, `unsmear.bench` times, `unsmear.evaluation.run` scores. Nothing is copied from one to the other,
and everything that is known to be wrong with the printed ones is told in notes.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from unsmear import __version__
from unsmear.bench.machine import Machine, describe
from unsmear.cost import count_macs
from unsmear.data.pairs import PairedFolder
from unsmear.device import choose_device, free_memory
from unsmear.errors import UsageError
from unsmear.models import count_parameters, create_model, list_models, load_model, shipped_weights
from unsmear.tiling import round_up

PROTOCOLS = ("matlab-rgb", "skimage")
"""What PSNR and SSIM are measured by here: PSNR is the same under both, SSIM is not."""

TEST_PAIRS = 1111
"""Pairs of the GoPro test set."""

_COST_HEIGHT, _COST_WIDTH = 720, 1280
_GIB = 2**30


@dataclass(frozen=True)
class PaperRow:
    """A row of the paper's table.

    Attributes:
        method: Who, as the paper has it.
        psnr: In dB, as it is printed.
        ssim: As it is printed; the paper does not say which SSIM it is.
        seconds: For a picture, as they are printed; the paper does not say of which size.
        models: Names of this package's networks for it, that of the row itself first; some are smaller relatives.
        note: What is known of the figures.
    """

    method: str
    psnr: str
    ssim: str
    seconds: str
    models: tuple[str, ...] = ()
    note: str = ""


ROWS = (
    PaperRow(
        "Xu et al. 2013",
        "21",
        "0.741",
        "3800",
        note="Table 1 of DeblurGAN-v2 has 25.10 dB, 0.890 and 13.41 s for a method of this name, also on GoPro.",
    ),
    PaperRow("Whyte et al. 2012", "24.6", "0.846", "700"),
    PaperRow(
        "Hyun Kim et al. 2013",
        "23.64",
        "0.824",
        "3600",
        note="Doubtful attribution: these are said to be the figures that Nah et al. print for another method, Kim and "
        "Lee 2014. We could not check it, and know of no program for either.",
    ),
    PaperRow(
        "Gong et al. 2017",
        "26.4",
        "0.863",
        "1200",
        ("motionflow",),
        note="The GMACs of motionflow are those of its layers. The deconvolution after them is not counted, and "
        "is not the authors' own.",
    ),
    PaperRow(
        "Nah et al. 2017",
        "29.08",
        "0.914",
        "6",
        ("deepdeblur",),
        note="Scored by its authors on blur_gamma, with MATLAB's SSIM. Their later training in PyTorch has 30.40 dB, "
        "and 0.9018 under skimage. DeblurGAN-v2 has 29.23 dB, 0.916 and 4.33 s for it.",
    ),
    PaperRow(
        "Kupyn et al. 2017",
        "28.7",
        "0.858",
        "1",
        ("deblurgan",),
        note="Three SSIMs are in print for 28.7 dB: 0.858 here, 0.927 in DeblurGAN-v2, and 0.954 as readers quote the "
        "paper (KupynOrest/DeblurGAN, issue 124). Readers measure 25.20 dB on all 1111 pictures with the released "
        "weights (issues 102, 106).",
    ),
    PaperRow(
        "Tao et al. 2018",
        "30.26",
        "0.934",
        "1.2",
        ("srn", "srn-color"),
        note="The released weights have 30.19 dB and 0.9334 by their authors, and readers did not get that either "
        "(jiangsutx/SRN-Deblur, issue 12).",
    ),
    PaperRow(
        "Zhang et al. 2018",
        "29.19",
        "0.931",
        "1",
        ("svrnn",),
        note="The GMACs of svrnn are those of its layers; the recurrent scans, which multiply no matrices, are "
        "not counted.",
    ),
    PaperRow("Gao et al. 2019", "30.90", "0.935", "1.0", ("pss-nsc",)),
    PaperRow(
        "Zhang et al. 2019",
        "31.20",
        "0.940",
        "0.98",
        ("dmphn-stack4", "dmphn"),
        note="The row is Stack(4)-DMPHN by the paper's text; dmphn is the single network that SAPHN is built on. The "
        "authors' timer does not wait for the GPU; MPRNet's table has 1.07 s.",
    ),
    PaperRow(
        "Kupyn et al. 2019",
        "29.55",
        "0.934",
        "0.48",
        ("deblurgan-v2", "deblurgan-v2-mobile"),
        note="Its own table has 0.35 s. Readers measure 27.66 dB and 0.850 with the released weights (VITA-Group/"
        "DeblurGANv2, issue 11), and 26.6 to 27.0 dB after training it again (issue 102).",
    ),
    PaperRow(
        "Ours (SAPHN)",
        "31.85",
        "0.948",
        "0.34",
        ("saphn", "saphn-s"),
        note="Neither code nor weights were released. MPRNet's table has 23.0 M parameters; saphn is the reading of "
        "the paper that docs/design.md explains. The paper calls 0.34 s, 3 pictures a second, real "
        "time. saphn-s is ours alone, made for two processor cores.",
    ),
)
"""The paper's Table 1, row by row."""

NOTES = (
    "The paper says 1103 test pictures. The GoPro test set has 1111 (11 scenes; 2103 more pairs are for training).",
    "The paper does not say which SSIM. Most of the column look like MATLAB's for color pictures (here matlab-rgb), "
    "as the authors of GoPro say of theirs (SeungjunNah/DeepDeblur_release, issue 51). It is some 0.03 to 0.05 above "
    "skimage, more than the step from 0.940 to 0.948 that ends the table. Compare only the same kind.",
    "The paper does not say how or on what it timed, only that it trained on a Titan Xp. Programs of this family stop "
    "their clocks before the GPU is done: 150 ms became more than 1500 ms when it was waited for (swz30/MPRNet, issue "
    "83). Times here wait, and are of this machine: compare them with each other, not with the paper's.",
    "The rows are not of the same pictures: Nah et al. blur_gamma, Zhang et al. 2019 and Kupyn et al. 2019 the linear "
    "blur, which is the default here, too. The paper does not say.",
)
"""What is known to be wrong with, or missing from, the whole table."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured here of one network. None is what was not asked for, or cannot be had.

    Attributes:
        model: Its name.
        weights: "shipped", the file that was given, or "none": no scores then, and times are of random weights.
        parameters: Number of trained values.
        gmacs: Multiply-accumulates of one 1280x720 picture, padded as the network needs it, in billions.
        seconds: Median time of a pass, and None if it was not timed or does not fit into memory.
        quartiles: First and third quartile of the times.
        psnr: Mean PSNR in dB.
        ssim: Mean SSIM by protocol.
        pictures: How many pictures were scored.
    """

    model: str
    weights: str
    parameters: int
    gmacs: float
    seconds: float | None = None
    quartiles: tuple[float, float] | None = None
    psnr: float | None = None
    ssim: Mapping[str, float | None] | None = None
    pictures: int = 0


@dataclass(frozen=True, kw_only=True)
class Table1:
    """The paper's table with what was measured.

    Attributes:
        measured: Networks by name.
        blurred: Scores of the blurred pictures as they are: PSNR, then SSIM by protocol; None without data.
        machine: Where it was measured.
        size: Width and height of the picture that was timed; None if none was.
        data: What was scored, empty for nothing.
        notes: `NOTES`, what was measured otherwise than the paper did, and what was left out and why.
        failures: Pictures that could not be scored, and why.
    """

    measured: Mapping[str, Measured]
    blurred: tuple[float | None, Mapping[str, float | None]] | None
    machine: Machine
    size: tuple[int, int] | None
    data: str
    notes: tuple[str, ...]
    failures: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is under "paper" is printed there, what is under "measured" was measured here."""
        rows = []
        for row in ROWS:
            printed = {"psnr": float(row.psnr), "ssim": float(row.ssim), "seconds": float(row.seconds)}
            ours = [asdict(self.measured[name]) for name in row.models if name in self.measured]
            rows.append({"method": row.method, "paper": printed, "measured": ours, "note": row.note})
        return {
            "unsmear": __version__,
            "machine": asdict(self.machine),
            "size": self.size,
            "data": self.data,
            "blurred": self.blurred and {"psnr": self.blurred[0], "ssim": self.blurred[1]},
            "rows": rows,
            "notes": self.notes,
            "failures": self.failures,
        }


def measure_table(
    models: Sequence[str] | None = None,
    *,
    weights: Mapping[str, Path] | None = None,
    data: PairedFolder | None = None,
    timed: bool = False,
    width: int = 1280,
    height: int = 720,
    rounds: int | None = None,
    device: str = "auto",
    memory_gib: float | None = None,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Table1:
    """Measure what this package has of the paper's Table 1.

    Args:
        models: Networks to measure; None for all that belong to a row.
        weights: Weights files by the name of their network. Those that ship with the package need not be given.
        data: Pairs to score on; without them there are no scores.
        timed: Whether to time passes, all networks in turn.
        width: Width of the picture to time, in pixels.
        height: Height of the picture to time, in pixels.
        rounds: How often each is timed, as for `unsmear.bench.measure.measure`.
        device: Where to compute.
        memory_gib: Working memory for a picture that is scored.
        out: Folder for scores and their report, from which a stopped call goes on; None for none.
        progress: Told what is done next.

    Raises:
        UsageError: If a name is in no row, a file holds another network than it was given for, or the data, the
            device or a number cannot be used.
        ModelError: If a weights file is missing or damaged.
    """
    files = dict(weights or {})
    known = [name for row in ROWS for name in row.models if name in list_models()]
    chosen = [name for name in known if models is None or name in models]
    for name in (*(models or ()), *files):
        if name not in chosen:
            raise UsageError(f"{name!r} is not measured for Table 1: choose among {', '.join(known)}")
    place, notes = choose_device(device).device, []
    costs, fitting = {}, []
    for name in chosen:
        progress(f"counting {name}")
        costs[name], bytes_per_pixel = _cost(name, files.get(name))
        needed, free = bytes_per_pixel * height * width, free_memory(place)
        if needed <= free:
            fitting.append(name)
        elif timed:
            needs = f"{needed / _GIB:.1f} GiB, and {free / _GIB:.1f} GiB are free"
            notes.append(f"{name} was not timed: a pass at {width}x{height} takes about {needs}.")
    times = _time(fitting, files, width, height, device, rounds, progress) if timed and fitting else {}
    scores, failures, scored = {}, (), ""
    if data is not None:
        scores, failures = _score(chosen, files, data, device, memory_gib, out, progress)
        scored = str(data)
        if data.layout != "GoPro" or data.split != "test" or len(data.pairs) != TEST_PAIRS:
            notes.append(
                f"Scores measured here are of {scored}. That is not the GoPro test set of {TEST_PAIRS} pairs, so they "
                "cannot be compared with the paper's."
            )
        if failures:
            notes.append(f"Not all pictures were scored ({len(failures)} failures): do not compare these scores.")
    measured = {name: Measured(**costs[name], **times.get(name, {}), **scores.get(name, {})) for name in chosen}
    return Table1(
        measured=measured,
        blurred=(scores[""]["psnr"], scores[""]["ssim"]) if scores else None,
        machine=describe(place),
        size=(width, height) if timed else None,
        data=scored,
        notes=(*NOTES, *notes),
        failures=failures,
    )


def _cost(name: str, file: Path | None) -> tuple[dict[str, Any], float]:
    """The fields of `Measured` that need no computation, and the working memory in bytes per pixel."""
    with torch.device("meta") if file is None else nullcontext():
        network = create_model(name) if file is None else load_model(file)
        if network.name != name:
            raise UsageError(f"--weights {name}={file}: holds weights of {network.name!r}; give them for that name")
        height, width = (round_up(length, network.size_multiple) for length in (_COST_HEIGHT, _COST_WIDTH))
        gmacs = count_macs(network, height, width) / 1e9
    from_where = str(file) if file else "shipped" if shipped_weights(name) else "none"
    cost = {"model": name, "weights": from_where, "parameters": count_parameters(network), "gmacs": gmacs}
    return cost, network.peak_bytes_per_pixel


def _time(
    names: Sequence[str],
    files: Mapping[str, Path],
    width: int,
    height: int,
    device: str,
    rounds: int | None,
    progress: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    from unsmear.bench.measure import measure

    progress(f"timing {len(names)} networks at {width}x{height}")
    subjects = [str(files.get(name, name)) for name in names]
    report = measure(subjects, width=width, height=height, device=device, rounds=rounds)
    return {
        name: {"seconds": result.seconds, "quartiles": result.quartiles}
        for name, result in zip(names, report.models, strict=True)
    }


def _score(
    names: Sequence[str],
    files: Mapping[str, Path],
    data: PairedFolder,
    device: str,
    memory_gib: float | None,
    out: Path | None,
    progress: Callable[[str], None],
) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """The scores of each network with weights by its name, those of the blurred pictures under "", and failures."""
    from unsmear.evaluation.restorers import BLURRED
    from unsmear.evaluation.run import evaluate

    names_of = {str(files.get(name, name)): name for name in names if name in files or shipped_weights(name)}
    evaluation = evaluate(
        data,
        [*names_of],
        protocols=PROTOCOLS,
        device=device,
        memory_gib=memory_gib,
        out=out,
        progress=lambda done, total, scored: progress(f"scored {done}/{total}"),
    )
    scores: dict[str, dict[str, Any]] = {}
    for summary in evaluation.summaries:
        name = "" if summary.model == BLURRED else names_of[summary.model]
        score = scores.setdefault(name, {"psnr": summary.psnr, "ssim": {}, "pictures": summary.pictures})
        score["ssim"][summary.protocol] = summary.ssim
    failures = tuple(f"{failure.picture}: {failure.reason}" for failure in evaluation.failures)
    return scores, failures
