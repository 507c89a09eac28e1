"""The training loop. Devices, precision, several processes and machines are Accelerate's business."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.utils.data import DataLoader

from unsmear.data.batches import Batches, Source
from unsmear.errors import TrainingError, UsageError
from unsmear.models import create_model, load_model, save_model
from unsmear.models.network import Network
from unsmear.restore import Deblurrer
from unsmear.train.average import MovingAverage
from unsmear.train.config import TrainConfig
from unsmear.train.growth import grow
from unsmear.train.muon import Muon, split_parameters
from unsmear.train.objective import Objective
from unsmear.train.sharding import set_up_sharding
from unsmear.train.state import load_checkpoint, save_checkpoint
from unsmear.train.validation import Validation, summarize

Row = dict[str, Any]
"""One line of the log."""


@dataclass
class Progress:
    """How far a run is; part of every checkpoint.

    Attributes:
        step: Optimizer steps done.
        seconds: Time spent in training, before and after every resume.
        bad_steps: Steps in a row that were not finite.
    """

    step: int = 0
    seconds: float = 0.0
    bad_steps: int = 0

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint holds."""
        return dict(self.__dict__)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.__dict__.update(state)


class _Levels(nn.Module):
    """The network as training sees it: picture in, the estimates of all levels out."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.network.estimates(x)


def train(
    config: TrainConfig,
    sources: Sequence[tuple[Source, float]],
    out: Path,
    *,
    validation: Validation | None = None,
    minutes: float | None = None,
    resume: bool = False,
    log: Callable[[Row], None] = lambda row: None,
    notice: Callable[[str], None] = lambda text: None,
) -> Progress:
    """Train a network.

    Writes `out/weights.safetensors` (the averaged weights, at every checkpoint), `out/checkpoints`, and a sheet of
    pictures at every validation. Started by `accelerate launch` or `torchrun`, every process draws its own batches.

    Args:
        config: The run.
        sources: What to draw batches from, each with its share.
        out: Folder of the run.
        validation: What to score the averaged weights on now and then.
        minutes: When to stop, leaving a state to resume from; None trains to the end.
        resume: Whether to go on from the newest checkpoint in `out`.
        log: Takes a line of the log: step, loss, gain and so on; or validation scores. Called on the main
            process only.
        notice: Takes a sentence that a person should see.

    Returns:
        How far the run is.

    Raises:
        TrainingError: If too many steps in a row were not finite.
        UsageError: If there is no checkpoint to resume from, nothing to train on, or Accelerate was launched with
            sharding other than FSDP version 2.
    """
    # Without being told, Accelerate takes several processes without GPUs for as many single ones.
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    accelerator = Accelerator(mixed_precision=config.precision, cpu=not has_gpu)
    sharded = set_up_sharding(accelerator)
    torch.manual_seed(config.seed)
    plain = _start(config)
    layout = torch.contiguous_format if sharded else torch.channels_last  # FSDP cuts no other
    plain = plain.train().to(accelerator.device).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    plain.checkpoint_activations = config.checkpoint_activations
    average = MovingAverage(plain, config.ema)
    optimizers = make_optimizers(plain, config)
    objective = Objective(config, accelerator)
    levels, *prepared = accelerator.prepare(_Levels(plain), *optimizers)
    if sharded:
        average.cut_like(plain)
        accelerator._models *= len(prepared)  # its save_state looks for a network beside every optimizer
    run = torch.compile(levels) if config.compile else levels
    progress = Progress()
    accelerator.register_for_checkpointing(average, progress)
    if objective.adversary is not None:
        accelerator.register_for_checkpointing(objective.adversary)
    if resume:
        load_checkpoint(accelerator, out / "checkpoints", notice)

    began = last_save = time.monotonic()
    before = progress.seconds
    meter = _Meter(config.batch_size * accelerator.num_processes)

    def save() -> None:
        progress.seconds = before + time.monotonic() - began
        averaged = average.whole()
        if accelerator.is_main_process:
            out.mkdir(parents=True, exist_ok=True)
            notes = {"steps": progress.step, "minutes": round(progress.seconds / 60, 1)}
            save_model(averaged, out / "weights.safetensors", notes=notes)
        save_checkpoint(accelerator, out / "checkpoints", progress.step)

    def validate(validation: Validation) -> None:
        averaged = average.whole()
        if accelerator.is_main_process:
            deblurrer = Deblurrer(averaged, device=str(accelerator.device), dtype="float32")
            log({"step": progress.step, "validation": summarize(validation.score(deblurrer))})
            pictures = out / "pictures"
            pictures.mkdir(parents=True, exist_ok=True)
            validation.sheet(deblurrer).save(pictures / f"step-{progress.step:08d}.png")
        accelerator.wait_for_everyone()

    batches = Batches(
        sources,
        count=config.batch_size,
        size=config.crop,
        steps=config.steps,
        seed=config.seed,
        rank=accelerator.process_index,
    )
    for blurred, sharp in _loader(batches, progress.step, config.workers, accelerator.device):
        for optimizer in prepared:
            for group in optimizer.param_groups:
                group["lr"] = config.rate(progress.step) * group.get("rate_share", 1.0)
        blurred = blurred.to(accelerator.device, non_blocking=True, memory_format=torch.channels_last)
        sharp = sharp.to(accelerator.device, non_blocking=True)
        with accelerator.autocast():
            estimates = run(blurred)
        loss = objective(estimates, blurred, sharp, config.rate(progress.step))
        accelerator.backward(loss)
        # Gradients are summed over all processes, so a bad loss anywhere shows everywhere.
        norm = accelerator.clip_grad_norm_(levels.parameters(), config.clip or math.inf)
        finite = bool(torch.isfinite(torch.as_tensor(norm)))
        if finite or accelerator.scaler is not None:  # which skips bad steps itself, and learns from them
            for optimizer in prepared:
                optimizer.step()
        if finite:
            average.update_parameters(plain)
        for optimizer in prepared:
            optimizer.zero_grad()
        progress.step += 1
        progress.bad_steps = 0 if finite else progress.bad_steps + 1
        if progress.bad_steps > config.max_bad_steps:
            raise TrainingError(
                f"step {progress.step}: {progress.bad_steps} gradients in a row were not finite; lower the"
                " learning rate, and go on from the last checkpoint with --resume"
            )
        meter.add(loss, estimates[-1], blurred, sharp, objective.terms)
        now = time.monotonic()
        if progress.step % config.log_every == 0 and accelerator.is_main_process:
            log(meter.row(progress.step, config, before, now - began))
        if validation is not None and progress.step % config.validate_every == 0:
            validate(validation)
        is_last = progress.step == config.steps or (minutes is not None and now - began > 60 * minutes)
        is_last, is_due = _agree(accelerator, is_last, now - last_save > 60 * config.save_every)
        if is_last or is_due:
            save()
            last_save = time.monotonic()
        if is_last:
            break
    return progress


def _start(config: TrainConfig) -> Network:
    if config.init is None:
        network = create_model(config.model, **config.overrides)
    else:
        network = grow(load_model(config.init), config.overrides)
    if config.crop % network.size_multiple:
        raise UsageError(f"crop must be a multiple of {network.size_multiple} for {network.name!r}, not {config.crop}")
    for beginning in config.frozen:
        found = [weight for name, weight in network.named_parameters() if name.startswith(beginning)]
        if not found:
            raise UsageError(f"frozen: {network.name!r} has no weights called {beginning}...")
        for weight in found:
            weight.requires_grad_(False)
    if not any(weight.requires_grad for weight in network.parameters()):
        raise UsageError("frozen: nothing is left to train")
    return network


def make_optimizers(network: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The optimizers of a run: one, or Muon beside AdamW."""
    rate, decay = config.learning_rate, config.weight_decay
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    if config.optimizer == "adam":
        return [torch.optim.Adam(trained, lr=rate, betas=(config.momentum, 0.999), fused=True)]
    matrices, others = split_parameters(network) if config.optimizer == "muon" else ([], trained)
    # Beside Muon, the first and last layers and the depthwise filters at the full rate make the loss jump.
    group = {"params": others, "rate_share": 0.5 if matrices else 1.0}
    adamw = torch.optim.AdamW([group], lr=rate, betas=(0.9, 0.99), weight_decay=decay, fused=True)
    return [Muon(matrices, lr=rate, weight_decay=decay), adamw] if matrices else [adamw]


def _loader(batches: Batches, start: int, workers: int, device: torch.device) -> DataLoader[Any]:
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, len(batches)),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=_one_thread,
        generator=torch.Generator(),  # the run's own stays as the seed left it
    )


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def _agree(accelerator: Accelerator, *wishes: bool) -> list[bool]:
    """The main process's view, on all of them: clocks differ, and a process left alone would wait for ever."""
    if accelerator.num_processes == 1:
        return list(wishes)
    flags = torch.tensor([float(wish) for wish in wishes], device=accelerator.device)
    return [bool(flag) for flag in broadcast(flags).tolist()]


class _Meter:
    """Averages since the last line of the log. Numbers stay on the device until then."""

    def __init__(self, pictures_per_step: int) -> None:
        self._pictures = pictures_per_step
        self._reset()

    def _reset(self) -> None:
        self._began, self._count = time.monotonic(), 0
        self._sums: Tensor | None = None

    @torch.no_grad()
    def add(self, loss: Tensor, estimate: Tensor, blurred: Tensor, sharp: Tensor, terms: dict[str, Tensor]) -> None:
        errors = [(x.float() - sharp).square().mean() for x in (blurred, estimate)]
        values = torch.stack([loss.detach().float(), *errors, *terms.values()])
        self._sums = values if self._sums is None else self._sums + values
        self._count += 1
        self._names = list(terms)

    def row(self, step: int, config: TrainConfig, seconds_before: float, seconds_now: float) -> Row:
        assert self._sums is not None
        loss, before, after, *terms = (self._sums / self._count).tolist()
        seconds = (time.monotonic() - self._began) / self._count
        self._reset()
        return {
            "step": step,
            "minutes": round((seconds_before + seconds_now) / 60, 2),
            "minutes_now": round(seconds_now / 60, 2),
            "loss": round(loss, 6),
            **{name: round(term, 6) for name, term in zip(self._names, terms, strict=True)},
            "psnr": round(-10 * math.log10(max(after, 1e-12)), 3),
            "gain": round(10 * math.log10(max(before, 1e-12) / max(after, 1e-12)), 4),
            "rate": config.rate(step - 1),
            "pictures_per_second": round(self._pictures / seconds, 2),
            "minutes_left": round((config.steps - step) * seconds / 60, 1),
        }
