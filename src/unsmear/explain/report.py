"""What a person is shown: sections of panels, each a picture that says what it is."""

from dataclasses import dataclass

import numpy as np

from unsmear.explain.draw import Legend


@dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
        title: What it shows, a few words.
        caption: How to read it.
        picture: uint8 (H, W, 3).
        legend: What its colors stand for, where they are not those of the photograph.
        is_wide: Whether it needs twice the width of others.
    """

    title: str
    caption: str
    picture: np.ndarray
    legend: Legend | None = None
    is_wide: bool = False


@dataclass(frozen=True)
class Section:
    """Panels that belong together, and what they have in common."""

    title: str
    text: str
    panels: list[Panel]


@dataclass(frozen=True)
class Report:
    """All that is shown of one picture."""

    title: str
    subtitle: str
    sections: list[Section]
