"""Scores on pictures that are never trained on: seeded synthetic blur at three strengths, real pairs, sharp pictures.

PSNR is 10 log10(255^2 / MSE) over all pixels and channels of the 8-bit pictures, without crop or alignment.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from unsmear.arrays import Quality
from unsmear.data.blur import PRESETS, synthesize
from unsmear.restore import Deblurrer

STRENGTHS = ("mild", "medium", "strong")


@dataclass(frozen=True)
class Score:
    """PSNR in dB of one picture before and after, both against the sharp one."""

    before: float
    after: float

    @property
    def gain(self) -> float:
        """What the network brought, dB."""
        return self.after - self.before


@dataclass
class Validation:
    """What a network is scored on.

    Attributes:
        sharp: Sharp pictures, (H, W, 3) uint8 each; picture number i is blurred with seed `seed + i`.
        pairs: Blurred and sharp pictures of real motion.
        seed: Of the first picture.
    """

    sharp: Sequence[np.ndarray]
    pairs: Sequence[tuple[np.ndarray, np.ndarray]] = ()
    seed: int = 0
    _blurred: dict[str, list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict, repr=False)

    def score(self, deblurrer: Deblurrer, quality: Quality = "normal") -> dict[str, list[Score]]:
        """Score a network on every set: "mild", "medium", "strong", "real" and "sharp".

        On "sharp", `before` is infinite, and `after` tells how well pictures without blur are kept.
        """
        scores = {}
        for name, pairs in self.sets().items():
            scores[name] = [Score(psnr(b, s), psnr(deblurrer.restore(b, quality=quality), s)) for b, s in pairs]
        return scores

    def sheet(self, deblurrer: Deblurrer, count: int = 4) -> Image.Image:
        """The first pictures to look at: blurred, restored and sharp side by side, one medium blur a row."""
        rows = [np.hstack([b, deblurrer.restore(b), s]) for b, s in self.sets()["medium"][:count]]
        height, width = sum(len(row) for row in rows), max(row.shape[1] for row in rows)
        sheet = Image.new("RGB", (width, height), "white")
        top = 0
        for row in rows:
            sheet.paste(Image.fromarray(row), (0, top))
            top += len(row)
        return sheet

    def sets(self) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
        """All pictures to score, (blurred, sharp) by the name of their set; blur is made once and kept."""
        if not self._blurred:
            for name in STRENGTHS:
                self._blurred[name] = [blurred_pair(s, name, seed) for seed, s in enumerate(self.sharp, self.seed)]
            if self.pairs:
                self._blurred["real"] = list(self.pairs)
            self._blurred["sharp"] = [(s, s) for s in self.sharp]
        return self._blurred


def blurred_pair(sharp: np.ndarray, strength: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture blurred by seed, and its sharp counterpart, both (H, W, 3) uint8.

    Args:
        sharp: The picture, (H, W, 3) uint8.
        strength: "mild", "medium" or "strong".
        seed: Seed of the blur.
    """
    batch = torch.from_numpy(np.array(sharp)).permute(2, 0, 1)[None].float() / 255
    pair = synthesize(batch, PRESETS[strength], torch.Generator().manual_seed(seed))
    blurred, truth = ((t[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy() for t in pair)
    return blurred, truth


def psnr(x: np.ndarray, y: np.ndarray) -> float:
    """Peak signal-to-noise ratio of 8-bit pictures, dB; infinite for equal ones."""
    mse = np.square(x.astype(np.float32) - y).mean(dtype=np.float64)
    return float(10 * np.log10(255**2 / mse)) if mse else float("inf")


def summarize(scores: dict[str, list[Score]]) -> dict[str, dict[str, float]]:
    """Means over the pictures of each set, and the worst: `{set: {n, before, after, gain, worst}}`, dB.

    For "sharp", which has no gain, the worst is the lowest PSNR.
    """
    rows = {}
    for name, values in scores.items():
        row = {"n": len(values), "after": float(np.mean([v.after for v in values]))}
        if name == "sharp":
            row["worst"] = min(v.after for v in values)
        else:
            row["before"] = float(np.mean([v.before for v in values]))
            row["gain"] = float(np.mean([v.gain for v in values]))
            row["worst"] = min(v.gain for v in values)
        rows[name] = row
    return rows
