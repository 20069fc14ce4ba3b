"""The known limits of the method: each has an id, a page in the docs, and an eval that measures it (METHOD 7).

They are experiments with a result for every model, and no excuses: a report shows how far each one reaches in the
model at hand. ``docs/LIMITATIONS.md`` is the index.
"""

from __future__ import annotations

from dataclasses import dataclass

from flashinterp.errors import FlashinterpError


@dataclass(frozen=True)
class Limit:
    """One known limit.

    Attributes:
        id: ``FI-L001`` and so on; in reports, in the docs and in the eval that measures it.
        title: a few words.
        claim: what is claimed to be so.
        page: where the docs say how it is tested and what came out, from the checkout's root.
    """

    id: str
    title: str
    claim: str

    @property
    def page(self) -> str:
        return f"docs/limitations/{self.id}.md"


LIMITS = tuple(
    Limit(f"FI-L{number:03}", title, claim)
    for number, (title, claim) in enumerate(
        (
            (
                "A rare concept leads to a broader neuron",
                "A name that has no neuron of its own leads to one that names something broader, and clamping that one "
                "brings the broader word: Dumbledore leads to the wizard.",
            ),
            (
                "High doses saturate",
                "Far outside the natural range a higher dose does little more, because the final norm divides by what "
                "the neuron itself has added.",
            ),
            (
                "Frequency in the training text",
                "Whether a concept has a neuron of its own depends on how often the training text has it: the paper's "
                "guess.",
            ),
            (
                "Capacity",
                "Whether a concept has a neuron of its own depends on how many neurons there are to have.",
            ),
            (
                "Size",
                "As models grow, concepts stay with single neurons, or are dispersed over more of them: the paper's "
                "open question.",
            ),
            (
                "Two concepts in one neuron",
                "A neuron may carry two unrelated concepts, and clamping it brings both.",
            ),
            (
                "Duplicated neurons",
                "Where two neurons do the same, silencing one shows little, and clamping one brings the word all the "
                "same: what an ablation does not find may be there.",
            ),
            (
                "Names of several tokens",
                "A name of several tokens has no row of the head: looked up by its first token or by the mean of all, "
                "it may lead to different neurons, and neither need bring the whole name.",
            ),
            (
                "Rounding at low doses",
                "In bfloat16 small steps of a dose are lost in rounding, and a curve that rises in float32 goes up and "
                "down.",
            ),
            (
                "Dead neurons",
                "A neuron whose output is nothing on natural text still decodes to a word, and clamping it can move "
                "nothing.",
            ),
        ),
        start=1,
    )
)
"""All known limits, by id."""


def limit(limit_id: str) -> Limit:
    """The limit of an id.

    Raises:
        FlashinterpError: there is none.
    """
    for one in LIMITS:
        if one.id == limit_id:
            return one
    raise FlashinterpError(f"there is no limit {limit_id!r}: choose one of {LIMITS[0].id} to {LIMITS[-1].id}")
