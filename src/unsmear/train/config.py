"""Everything that defines a training run, and the recipes: functions that return a complete one."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from unsmear.errors import UsageError
from unsmear.train.loss import LossName

Adversarial = Literal["none", "wgan-gp", "ragan-ls"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run. Two runs with equal configuration, data and machine give equal weights.

    Attributes:
        model: A name of `unsmear.list_models()`.
        overrides: Fields of the model's configuration to change; with `init` those by which its network is to grow
            (`unsmear.train.growth`).
        init: Weights to start from: a name with shipped weights or a file; None for fresh ones.
        frozen: Beginnings of the names of weights to leave as they are, for instance "blind.".
        steps: Optimizer steps of the whole schedule.
        batch_size: Crops a step on each process.
        crop: Side of a crop, pixels, a multiple of what the network needs.
        optimizer: "adam", "adamw", or "muon": orthogonalized momentum for matrices and convolutions, AdamW for
            the rest.
        learning_rate: The highest learning rate.
        momentum: Decay of the mean gradient in "adam", and in the Adam of critics.
        warmup: Steps over which it rises from zero.
        schedule: "halve" halves it every `halve_every` steps, "constant" keeps it, "cosine" lowers it to zero.
        halve_every: Steps between halvings.
        cooldown: Share of the steps at the end over which "constant" falls to zero.
        weight_decay: Decoupled weight decay of AdamW and Muon.
        loss: "mse", "charbonnier", or "psnr", whose gradients are some hundred times larger: raise `clip` with it.
        lower_weight: Loss weight of each level below the output's.
        frequency_weight: Weight of the Fourier term.
        harm_weight: How much more what a picture loses against its blurred input counts than what another gains.
        pixel_weight: Weight of all of that together, which compares pixels; 0 to leave it out.
        perceptual_weight: Weight of the difference between features of VGG19; 0 to leave it out.
        vgg19: File of VGG19's weights, which the perceptual term needs.
        adversarial: "none", or critics to train against: "wgan-gp" as in DeblurGAN, "ragan-ls" as in DeblurGAN-v2.
        adversarial_weight: Weight of what critics say.
        critic_steps: Steps of the critics before each one of the network.
        clip: Largest norm of the gradient; larger ones are scaled down. 0 for no limit.
        max_bad_steps: Steps in a row whose loss or gradient may be not finite before the run is stopped. Such
            steps change nothing.
        ema: Decay of the moving average of the weights, which is what is validated and saved.
        precision: "no" (float32), "bf16" or "fp16" autocast.
        checkpoint_activations: Whether to recompute levels in the backward pass instead of keeping them.
        compile: Whether to compile the network (worth it on a GPU).
        mixture: Shares of the presets mild, medium, strong, gopro and clean of synthetic blur; those left out are 0.
        curriculum: Whether medium blur and then the two strong presets come in over the first half of the steps only.
        soft_share: Share of the crops of photos that are softened, half of them by a Gaussian of 0.25 to 2 pixels,
            before they are blurred: soft pictures must not be taken for blurred ones.
        soft_color_share: Share of the crops of photos whose colors are made softer than their luma, by a Gaussian of
            0.4 to 2.5 pixels, before they are blurred, as those of most cameras, scanners and JPEG files are.
        sharp_share: Share of the batches of photos that are not blurred at all: what is sharp must stay as it is.
        grain_share: Share of the crops of photos that get strong noise, blurred and sharp alike: noise is neither to be
            taken away nor to be made stronger.
        pattern_share: Share of the crops of photos that are made regular patterns, bricks and the like, before they are
            blurred: what repeats must not be taken for the trace of a motion.
        shrink_share: Share of the crops that are taken from photos made up to 2.5 times smaller.
        frame_share: Share of batches from averaged video frames, where such data is given.
        pair_share: Share of batches from real pairs, where such data is given. What frames and pairs leave is for the
            photos; without photos they have it all, in proportion.
        seed: Seed of everything random.
        workers: Processes that prepare batches; 0 prepares them in the training process.
        log_every: Steps between lines of the log.
        validate_every: Steps between validations.
        save_every: Minutes between checkpoints.
    """

    model: str = "saphn-s"
    overrides: dict[str, Any] = field(default_factory=dict)
    init: str | None = None
    frozen: tuple[str, ...] = ()
    steps: int
    batch_size: int = 16
    crop: int = 64
    optimizer: Literal["adam", "adamw", "muon"] = "muon"
    learning_rate: float = 2e-3
    momentum: float = 0.9
    warmup: int = 50
    schedule: Literal["halve", "constant", "cosine"] = "constant"
    halve_every: int = 200_000
    cooldown: float = 0.2
    weight_decay: float = 1e-4
    loss: LossName = "charbonnier"
    lower_weight: float = 0.3
    frequency_weight: float = 0.0
    harm_weight: float = 0.0
    pixel_weight: float = 1.0
    perceptual_weight: float = 0.0
    vgg19: str | None = None
    adversarial: Adversarial = "none"
    adversarial_weight: float = 0.01
    critic_steps: int = 1
    clip: float = 0.5
    max_bad_steps: int = 20
    ema: float = 0.999
    precision: Literal["no", "bf16", "fp16"] = "no"
    checkpoint_activations: bool = False
    compile: bool = False
    mixture: tuple[float, ...] = (1.0, 2.0, 1.0, 0.5)
    curriculum: bool = True
    soft_share: float = 0.5
    soft_color_share: float = 0.0
    sharp_share: float = 0.0
    grain_share: float = 0.0
    pattern_share: float = 0.0
    shrink_share: float = 0.0
    frame_share: float = 0.25
    pair_share: float = 0.5
    seed: int = 0
    workers: int = 1
    log_every: int = 50
    validate_every: int = 2000
    save_every: float = 3.0

    def __post_init__(self) -> None:
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, float)}
        for name, value in (*numbers.items(), *(("mixture", share) for share in self.mixture)):
            if not abs(value) < _TOO_LARGE:
                raise UsageError(f"{name} must be finite, not {value}")
        for name in ("steps", "batch_size", "crop", "log_every", "validate_every", "halve_every", "critic_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        shares = [field.name for field in fields(self) if field.name.endswith("_share")]
        for name in (*shares, "ema", "cooldown"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must be 0 to 1, not {getattr(self, name)}")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"momentum must be 0 or more and less than 1, not {self.momentum}")
        for name in (*_WEIGHTS, *_NOT_NEGATIVE):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must not be negative, but is {getattr(self, name)}")
        if self.seed >= 2**63:
            raise UsageError(f"seed must be less than 2^63, not {self.seed}")
        if not self.pixel_weight and not self.perceptual_weight:
            raise UsageError("pixel_weight and perceptual_weight are both 0: nothing says which picture is meant")
        shares = (*self.mixture, *[0.0] * (5 - len(self.mixture)))
        if len(shares) != 5 or min(shares) < 0 or shares[0] + shares[4] <= 0:
            raise UsageError(
                f"mixture must be up to five shares, of them mild or clean (the first, the fifth) above 0,"
                f" not {self.mixture}"
            )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        if self.precision == "fp16" and self.optimizer == "muon":
            raise UsageError("optimizer 'muon' does not work with precision 'fp16': choose bf16, or adamw")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "halve":
            shape = 0.5 ** (step // self.halve_every)
        elif self.schedule == "cosine":
            shape = math.cos(math.pi / 2 * min(1.0, step / self.steps)) ** 2
        else:
            left = max(0.0, 1 - step / self.steps)
            shape = min(1.0, left / self.cooldown) if self.cooldown else 1.0
        return self.learning_rate * warm * shape


_WEIGHTS = (
    "lower_weight",
    "frequency_weight",
    "harm_weight",
    "pixel_weight",
    "perceptual_weight",
    "adversarial_weight",
)
_NOT_NEGATIVE = "learning_rate", "weight_decay", "clip", "warmup", "max_bad_steps", "seed", "workers", "save_every"
_TOO_LARGE = 1e30  # float32, in which it is computed with, ends at 3e38
_CHOICES = {
    "optimizer": ("adam", "adamw", "muon"),
    "schedule": ("halve", "constant", "cosine"),
    "loss": ("mse", "charbonnier", "psnr"),
    "adversarial": ("none", "wgan-gp", "ragan-ls"),
    "precision": ("no", "bf16", "fp16"),
}


def default() -> TrainConfig:
    """What ships: `saphn-s` on two processor cores. Small crops and small blur first, all levels supervised."""
    return TrainConfig(steps=100_000)


def paper() -> TrainConfig:
    """Section 3.1 of the paper: Adam at 1e-4 halved every 2e5 iterations, batches of 6 crops of 256 x 256.

    The paper states neither its loss nor its end; the base model's are the mean squared error of level 1 and
    some 1e6 iterations.
    """
    return TrainConfig(
        model="saphn",
        steps=1_000_000,
        batch_size=6,
        crop=256,
        optimizer="adam",
        learning_rate=1e-4,
        warmup=0,
        schedule="halve",
        halve_every=200_000,
        weight_decay=0.0,
        loss="mse",
        lower_weight=0.0,
        clip=0.0,
        curriculum=False,
        soft_share=0.0,
        workers=4,
    )


def gpu() -> TrainConfig:
    """`saphn-s` on one large GPU: larger crops and batches, bfloat16, compiled."""
    return TrainConfig(
        steps=20_000, batch_size=32, crop=192, precision="bf16", compile=True, workers=14, validate_every=1000
    )


def finetune() -> TrainConfig:
    """The shipped weights on data of your own, as they were trained last: slowly, on crops that tell long motion.

    What reads the spectra stays as it is. What a picture loses counts two and a half times, and a part of the crops is
    to be left as it is, sharp, soft, noisy or a regular pattern, so that the network does not forget how
    (docs/trials.md).
    """
    return TrainConfig(
        init="saphn-s",
        frozen=("blind.near", "blind.mid", "blind.far", "blind.gates", "blind.color_gates"),
        steps=3_000,
        batch_size=1,
        crop=512,
        learning_rate=2e-4,
        cooldown=0.9,
        loss="psnr",
        clip=100.0,
        harm_weight=1.5,
        mixture=(3.5, 3.0, 2.0, 0.3, 1.6),
        curriculum=False,
        soft_share=0.3,
        soft_color_share=0.5,
        sharp_share=0.12,
        grain_share=0.12,
        pattern_share=0.08,
        shrink_share=0.6,
        frame_share=0.15,
    )


def smoke() -> TrainConfig:
    """Half a minute that shows everything working; the weights are worth nothing."""
    return TrainConfig(
        overrides={"widths": [16, 16, 16], "lower_widths": None},
        steps=30,
        batch_size=2,
        crop=32,
        workers=0,
        log_every=5,
        validate_every=15,
        save_every=0.1,
    )


def deblurgan() -> TrainConfig:
    """DeblurGAN (Kupyn et al. 2018): features of VGG19 and a critic, no pixels. Needs `vgg19`.

    One crop a step of 1,000 pairs in 300 epochs, the rate falling to zero in the latter half. Their program gave VGG19
    pictures in [-1, 1] where it expects ImageNet's normalization, which makes its term a fifth of what it is here.
    """
    return _adversarial(
        model="deblurgan",
        momentum=0.5,
        pixel_weight=0.0,
        perceptual_weight=100.0,
        adversarial="wgan-gp",
        adversarial_weight=1.0,
        critic_steps=5,
    )


def deblurgan_v2() -> TrainConfig:
    """DeblurGAN-v2 (Kupyn et al. 2019): pixels, features of VGG19 and two critics. Needs `vgg19`.

    They start from a classifier's backbone, kept as it is for the first three epochs. Here all weights learn from the
    start, fresh or those of `init`. They weigh squared errors of pictures normalized for ImageNet by 0.5; these errors
    are 19.6 times those of pictures in [0, 1].
    """
    return _adversarial(
        model="deblurgan-v2",
        pixel_weight=0.5 * 19.6,
        perceptual_weight=0.006,
        adversarial="ragan-ls",
        adversarial_weight=0.01,
    )


def _adversarial(**changes: Any) -> TrainConfig:
    common = TrainConfig(
        steps=300_000,
        batch_size=1,
        crop=256,
        optimizer="adam",
        learning_rate=1e-4,
        warmup=0,
        schedule="constant",
        cooldown=0.5,
        weight_decay=0.0,
        loss="mse",
        lower_weight=0.0,
        clip=0.0,
        ema=0.0,
        curriculum=False,
        workers=4,
    )
    return replace(common, **changes)


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "default": default,
    "paper": paper,
    "gpu": gpu,
    "finetune": finetune,
    "smoke": smoke,
    "deblurgan": deblurgan,
    "deblurgan-v2": deblurgan_v2,
}
