"""What is done to a photograph beside running the network on it: judged before, guarded after, shown side by side."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unsmear.arrays import ArrayDeblurrer, Progress, Quality
from unsmear.batch import Job
from unsmear.compare import compare_sheet
from unsmear.formats import RAW_SUFFIXES, format_of
from unsmear.guard import guard
from unsmear.image import Picture, from_pil
from unsmear.pipeline import Treated, Treatment
from unsmear.sharpness import THRESHOLD, blur_extent

_WORTH_TELLING = 0.005  # of a picture


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to treat photographs.

    Attributes:
        strength: How far to go from the input (0) to the network's output (1).
        quality: "normal", or "best" for the mean over all eight turns and flips of the picture.
        only_if_blurry: Whether to keep pictures as they are that look sharp (see `unsmear.sharpness`).
        guard: Whether to leave as it was what no deblurring can have changed that way (see `unsmear.guard`).
        strip: Whether to leave out EXIF, XMP, IPTC and other texts.
    """

    strength: float = 1.0
    quality: Quality = "normal"
    only_if_blurry: bool = False
    guard: bool = True
    strip: bool = False


def treatment(deblurrer: ArrayDeblurrer, options: Options, show: Callable[[Job], Progress]) -> Treatment:
    """What `unsmear.pipeline` is to do to every picture.

    Args:
        deblurrer: The network; it is used from one thread only.
        options: What is wanted.
        show: Gives what is told of the tiles of a picture.
    """

    def treat(job: Job, picture: Picture) -> Treated:
        seen = picture.srgb()
        if options.only_if_blurry and (extent := blur_extent(seen)) < THRESHOLD:
            note = f"looks sharp, edges {extent:.1f} px" if extent else "nothing in it to judge by"
            return Treated(_as_it_is(job, picture, options), kept=True, note=note)
        restored = deblurrer.restore(seen, strength=options.strength, quality=options.quality, progress=show(job))
        note = ""
        if options.guard:
            restored, share = guard(seen, restored)
            note = f"{share:.0%} of the picture left as it was" if share >= _WORTH_TELLING else ""
        result = picture.with_srgb(restored)
        if options.strip:
            result = result.stripped()
        sheet = None if job.sheet is None else from_pil(compare_sheet(seen, restored))
        return Treated(result, note=note, sheet=sheet)

    return treat


def _as_it_is(job: Job, picture: Picture, options: Options) -> Picture | None:
    """A picture that is not restored: None where its file can stay as it is."""
    if options.strip:
        return picture.stripped()
    if not isinstance(job.source, Path) or job.source.suffix.lower() in RAW_SUFFIXES:  # developed into another format
        return picture
    other = isinstance(job.target, Path) and format_of(job.target) != picture.format
    return picture if other else None
