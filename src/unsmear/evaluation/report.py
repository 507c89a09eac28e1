"""What an evaluation leaves: a table for other programs, all of it as JSON, and a page to look at."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from unsmear.atomic import write_whole
from unsmear.embed import data_uri
from unsmear.evaluation.restorers import BLURRED
from unsmear.evaluation.summary import Evaluation, Row
from unsmear.finite import finite

Show = Callable[[str], Mapping[str, np.ndarray]]
"""Gives the pictures of a pair by the name of the model, `BLURRED` first and "sharp" last, uint8 (H, W, 3)."""

CROP = (240, 320)
"""Largest height and width of what the page shows of a picture."""

ERROR_WHITE = 48
"""Gray levels of mean absolute difference that are white in error maps."""

_MAX_EXAMPLES, _MAX_PANES = 32, 250  # some 50 kB each for photographs: the page stays below 20 MB


def write_reports(evaluation: Evaluation, folder: Path, show: Show, *, command: str = "") -> None:
    """Write `scores.csv`, `report.html` and `report.json`, each whole or not at all.

    Nothing is done if they tell the same already: the page needs pictures, which may have to be restored again.

    Args:
        evaluation: What was found.
        folder: Where to.
        show: Gives the pictures for the page.
        command: The way to get the same numbers.

    Raises:
        UnsmearError: If something cannot be written, or a picture cannot be shown.
    """
    table, page, everything = (folder / name for name in ("scores.csv", "report.html", "report.json"))
    data = _json(evaluation, command)
    if table.is_file() and page.is_file() and everything.is_file() and everything.read_bytes() == data:
        return
    everything.unlink(missing_ok=True)  # it vouches for the others, so it goes first and comes last
    write_whole(table, _csv(evaluation))
    write_whole(page, _html(evaluation, show, command))
    write_whole(everything, data)


def choose_examples(evaluation: Evaluation) -> dict[str, int]:
    """Which pictures to look at: the worst, a few around the median and the best, by the first protocol.

    Pictures of which something could not be scored are left out.

    Returns:
        Ranks by name; 1 is the worst.
    """
    failed = {failure.picture for failure in evaluation.failures}
    names = [name for name in evaluation.worst_first if name not in failed]
    count = min(_MAX_EXAMPLES, max(8, _MAX_PANES // (2 * len(evaluation.models) + 1)))
    few = count // 8
    if len(names) > count:
        middle = (len(names) - few) // 2
        shown = {*names[: count - 2 * few], *names[middle : middle + few], *names[-few:]}
    else:
        shown = {*names}
    return {name: rank for rank, name in enumerate(names, 1) if name in shown}


def find_crop(pictures: Mapping[str, np.ndarray]) -> tuple[slice, slice]:
    """Where models changed the error of the blurred picture most, for better or worse.

    Args:
        pictures: Those of a pair, as `Show` gives them.

    Returns:
        Rows and columns of a window of at most `CROP`.
    """
    sharp = pictures["sharp"].astype(np.float32)
    errors = {name: np.square(p - sharp).sum(2) for name, p in pictures.items() if name != "sharp"}
    change = sum((np.abs(e - errors[BLURRED]) for name, e in errors.items() if name != BLURRED), errors[BLURRED] * 1e-3)
    height, width = (min(most, length) for most, length in zip(CROP, sharp.shape, strict=False))
    total = np.pad(np.cumsum(np.cumsum(change, 0, dtype=np.float64), 1), ((1, 0), (1, 0)))
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    top, left = (int(place) for place in np.unravel_index(np.argmax(sums), sums.shape))
    return slice(top, top + height), slice(left, left + width)


def _csv(evaluation: Evaluation) -> bytes:
    text = io.StringIO()
    rows = [asdict(row) for row in evaluation.rows]
    writer = csv.DictWriter(text, fieldnames=list(Row.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _json(evaluation: Evaluation, command: str) -> bytes:
    whole = {
        "command": command,
        **asdict(evaluation),
        "bootstrap": evaluation.bootstrap,
        "summaries": [asdict(summary) for summary in evaluation.summaries],
    }
    return (json.dumps(finite(whole), indent=1) + "\n").encode()


def _html(evaluation: Evaluation, show: Show, command: str) -> bytes:
    pages = Environment(
        loader=PackageLoader("unsmear.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"decibels": decibels, "gain": signed, "ssim": similarity}
    scores = {(row.picture, row.protocol, row.model): row for row in evaluation.rows}
    examples = (
        {"picture": name, "rank": rank, "panes": _panes(show(name))}
        for name, rank in choose_examples(evaluation).items()
    )
    text = pages.get_template("report.html").render(
        evaluation=evaluation,
        command=command,
        blurred=BLURRED,
        error_white=ERROR_WHITE,
        scores=scores,
        first=next(iter(evaluation.protocols)),
        examples=examples,
    )
    return text.encode("utf-8", "backslashreplace")


def _panes(pictures: Mapping[str, np.ndarray]) -> list[dict[str, str]]:
    """Crops of all pictures of a pair and their error maps, as data URIs."""
    rows, cols = find_crop(pictures)
    sharp = pictures["sharp"][rows, cols]
    panes = []
    for name, picture in pictures.items():
        crop = picture[rows, cols]
        error = np.abs(crop.astype(np.float32) - sharp).mean(2) * (255 / ERROR_WHITE)
        is_sharp = name == "sharp"
        panes.append(
            {
                "model": name,
                "picture": data_uri(crop),
                "error": "" if is_sharp else data_uri(np.clip(np.rint(error), 0, 255).astype(np.uint8)),
            }
        )
    return panes


def decibels(value: float | None) -> str:
    """A PSNR for people."""
    return "-" if value is None else "equal" if math.isinf(value) else f"{value:.2f}"


def signed(value: float | None) -> str:
    """A gain for people."""
    return "-" if value is None else f"{value:+.2f}"


def similarity(value: float | None) -> str:
    """An SSIM for people."""
    return "-" if value is None else f"{value:.4f}"
