"""Scores on disk, a line each as they are made, so that a stopped evaluation goes on where it was."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from unsmear.errors import UsageError
from unsmear.evaluation.metrics import Score


class Key(NamedTuple):
    """All that a score depends on. If any of it changes, the picture is scored again.

    Attributes:
        setup: Versions, device and precision.
        restorer: Content of the weights or of the restored picture; empty for the blurred input.
        protocol: Name of the protocol.
        blurred: SHA-256 of the blurred file.
        sharp: SHA-256 of the sharp file.
    """

    setup: str
    restorer: str
    protocol: str
    blurred: str
    sharp: str


class Entry(NamedTuple):
    """A score, and what it took: tiles of the picture, and seconds for restoring it."""

    score: Score
    tiles: int
    seconds: float


class Journal:
    """Scores by what they depend on, of this run and of earlier ones.

    Args:
        path: File of JSON lines; None to keep nothing. A last line that was cut off by a kill is dropped.

    Raises:
        UsageError: If it is no such file, or cannot be read or written.
    """

    def __init__(self, path: Path | None) -> None:
        self._entries: dict[Key, Entry] = {}
        self._path = path
        if path is None:
            return
        try:
            path.touch()
            text = path.read_bytes()
            whole = text[: text.rfind(b"\n") + 1]
            if len(whole) < len(text):
                path.write_bytes(whole)
        except OSError as error:
            raise UsageError(f"{path}: cannot be used: {error.strerror}; choose another folder for --out") from None
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                values = json.loads(line)
                entry = Entry(Score(float(values["psnr"]), values["ssim"]), values["tiles"], values["seconds"])
                self._entries[Key(**{field: values[field] for field in Key._fields})] = entry
            except (ValueError, KeyError, TypeError):
                raise UsageError(f"{path}: line {number} is no score; remove it, or choose another folder") from None

    def find(self, key: Key) -> Entry | None:
        """The score, if it is known."""
        return self._entries.get(key)

    def add(self, key: Key, entry: Entry, picture: str, model: str) -> None:
        """Take in a score; it is on disk when this returns.

        Args:
            key: What it depends on.
            entry: The score.
            picture: Name of the picture, for people who read the file.
            model: Name of the model, likewise.

        Raises:
            UsageError: If it cannot be written.
        """
        self._entries[key] = entry
        if self._path is None:
            return
        values = {"picture": picture, "model": model, **key._asdict(), **plain(entry)}
        try:
            with self._path.open("ab") as file:
                file.write(json.dumps(values).encode() + b"\n")
        except OSError as error:
            raise UsageError(f"{self._path}: cannot be written: {error.strerror}") from None


def plain(entry: Entry) -> dict[str, Any]:
    """Values for JSON, which knows no infinity: that of equal pictures is the text "inf", which `float` reads."""
    psnr, ssim = entry.score.psnr, entry.score.ssim
    return {
        "psnr": psnr if math.isfinite(psnr) else str(psnr),
        "ssim": ssim,
        "tiles": entry.tiles,
        "seconds": entry.seconds,
    }
