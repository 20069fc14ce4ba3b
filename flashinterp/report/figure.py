"""What a figure is, whoever drew it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from flashinterp._util.text import check_name


@dataclass(frozen=True)
class Figure:
    """One figure of a report.

    Attributes:
        name: file-safe slug; ``evalname--rest`` puts the figure in that eval's section.
        title: its heading, drawn in the figure too.
        alt: what it shows, in words: its caption, and what a screen reader says after the title.
        svg: the drawing, one ``<svg>`` element.
        data: every plotted point, by the name of its series.
    """

    name: str
    title: str
    alt: str
    svg: str
    data: dict[str, npt.NDArray[Any]]

    def __post_init__(self) -> None:
        check_name(self.name)
