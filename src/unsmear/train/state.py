"""Checkpoints of a run: written whole, verified when read, the newest intact one wins.

What is in them, and how it is gathered from several processes, is Accelerate's business. Ours is that a kill or a
full disk at any moment leaves an intact checkpoint behind.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator

from unsmear.errors import UsageError

_MANIFEST = "manifest.json"
_KEPT = 2


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Write a checkpoint to `folder/step-NNN`, and remove all but the two newest."""
    final = folder / f"step-{step:08d}"
    part = folder / f".{final.name}.part"
    if accelerator.is_main_process:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(part))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (part / _MANIFEST).write_text(json.dumps(_digests(part)))
        for path in part.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        shutil.rmtree(final, ignore_errors=True)
        os.replace(part, final)
        for old in _checkpoints(folder)[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, folder: Path, notice: Callable[[str], None]) -> None:
    """Load the newest intact checkpoint of a folder, passing over damaged ones with a notice.

    Raises:
        UsageError: If there is none, or it was written with sharding and this run is without, or the other way round.
    """
    for path in reversed(_checkpoints(folder)):
        try:
            intact = json.loads((path / _MANIFEST).read_text()) == _digests(path)
        except (OSError, ValueError):
            intact = False
        if intact:
            if any(path.glob("pytorch_model_fsdp*")) != accelerator.is_fsdp2:
                raise UsageError(f"{path}: was written with{'out' * accelerator.is_fsdp2} FSDP; resume it the same way")
            accelerator.load_state(str(path))
            return
        notice(f"{path}: this checkpoint is damaged, going back to the one before")
    raise UsageError(f"{folder}: there is no intact checkpoint to resume from; start without --resume")


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != _MANIFEST)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
