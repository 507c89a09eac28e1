"""What became of a folder of pictures, for programs: JSON or CSV."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from unsmear import __version__
from unsmear.atomic import write_whole
from unsmear.batch import Job
from unsmear.errors import UsageError
from unsmear.paths import check_writable, exists
from unsmear.pipeline import Outcome

_COLUMNS = ("source", "target", "state", "width", "height", "seconds", "note")
_CSV_HEAD = ",".join(_COLUMNS).encode()
_JSON_HEAD = b'{\n "unsmear": '


@dataclass(frozen=True)
class _Row:
    source: str
    target: str
    state: str
    width: int
    height: int
    seconds: float
    note: str


def check_report(path: Path) -> None:
    """Find out before the work whether a report can be written.

    Raises:
        UsageError: If the name ends in neither .json nor .csv, there is no such folder, or a file of that name is no
            earlier report.
    """
    if path.suffix.lower() not in (".json", ".csv"):
        raise UsageError(f"{path}: end the name of the report with .json or .csv")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no such folder to write to; choose another file for --report")
    check_writable(path.parent, "file for --report")
    if exists(path, "file for --report"):
        if not path.is_file():
            raise UsageError(f"{path}: is no file; choose another one for --report")
        with path.open("rb") as file:
            head = file.read(len(_CSV_HEAD))
        if not head.startswith((_JSON_HEAD, _CSV_HEAD)):
            raise UsageError(f"{path}: exists already, and is no report; choose another file for --report")


def write_report(path: Path, outcomes: Sequence[Outcome], existing: Sequence[Job], *, complete: bool) -> None:
    """Write a report, whole or not at all; an earlier one is replaced.

    Args:
        path: A .json or .csv file.
        outcomes: What became of the pictures in work.
        existing: Pictures that were left out because their result was there.
        complete: Whether all pictures are told of; not so after an interrupt.
    """
    skipped = [Outcome(job, "skipped", "exists") for job in existing]
    rows = [
        _Row(o.job.source_name, o.job.target_name, o.state, o.width, o.height, round(o.seconds, 3), o.note)
        for o in [*skipped, *outcomes]
    ]
    rows.sort(key=lambda row: row.source)
    if path.suffix.lower() == ".csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(astuple(row) for row in rows)
        data = text.getvalue()
    else:
        states = ("restored", "kept", "skipped", "failed")
        counts = {state: sum(row.state == state for row in rows) for state in states}
        whole = {"unsmear": __version__, "complete": complete, **counts, "pictures": [asdict(row) for row in rows]}
        data = json.dumps(whole, indent=1) + "\n"
    write_whole(path, data.encode(errors="surrogateescape"))
