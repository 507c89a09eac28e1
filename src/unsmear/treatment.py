"""What is done to a photograph beside running the network on it: judged before, guarded after, shown side by side."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from unsmear.arrays import ArrayDeblurrer, Progress
from unsmear.batch import Job
from unsmear.compare import compare_sheet
from unsmear.image import Picture, from_pil
from unsmear.pipeline import Treated, Treatment


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to treat photographs.

    Attributes:
        strength: How far to go from the input (0) to the network's output (1).
        quality: "normal", or "best" for the mean over all eight turns and flips of the picture.
        strip: Whether to leave out EXIF, XMP, IPTC and other texts.
        compare: Whether to write a sheet with the picture before and after beside each result.
    """

    strength: float = 1.0
    quality: Literal["normal", "best"] = "normal"
    strip: bool = False
    compare: bool = False


def treatment(deblurrer: ArrayDeblurrer, options: Options, show: Callable[[Job], Progress]) -> Treatment:
    """What `unsmear.pipeline` is to do to every picture.

    Args:
        deblurrer: The network; it is used from one thread only.
        options: What is wanted.
        show: Gives what is told of the tiles of a picture.
    """

    def treat(job: Job, picture: Picture) -> Treated:
        seen = picture.srgb()
        restored = deblurrer.restore(seen, strength=options.strength, quality=options.quality, progress=show(job))
        result = picture.with_srgb(restored)
        if options.strip:
            result = result.stripped()
        sheets = {}
        if options.compare:
            sheets[".compare.png"] = from_pil(compare_sheet(seen, restored))
        return Treated(result, beside=sheets)

    return treat
