"""The study of the lenses as a figure: the share of words whose neuron moves them, against chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flashinterp.provenance.registry import derivation
from flashinterp.report.charts.shares import SharePanel, shares
from flashinterp.report.figure import Figure
from flashinterp.studies.lens_causality.ranking import Result, Study
from flashinterp.studies.lens_causality.tables import SHOWN, of, part_name


@derivation("lens_causality.share_figure", version=1)
def study_shares(name: str, title: str, found: Study, results: Sequence[Result]) -> Figure:
    """One panel for the whole model and one for each part, as far as they have a top 5 %."""
    return shares(name, title, share_panels(found, results), "share of the words (%)")


def share_panels(found: Study, results: Sequence[Result]) -> list[SharePanel]:
    """The panels of `study_shares`; none where nothing could be ranked."""
    panels = []
    for region in range(len(found.regions)):
        mine = of(results, SHOWN, region)
        there: dict[str, tuple[float, float, float]] = {}
        for r in mine:
            if (value := r.here.value) is not None and value.low is not None and value.high is not None:
                there[r.lens] = value.estimate, value.low, value.high
        if there:
            chances = [r.chance for r in mine if r.chance is not None]
            label = "whole model" if region == 0 else part_name(found, region)
            panels.append(SharePanel(label, there, {r.lens: r.beyond.means for r in mine}, float(np.mean(chances))))
    return panels
