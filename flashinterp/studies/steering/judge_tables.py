"""The tables that show how good a judge is: it is asked again about the same texts, by the eval and by `verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flashinterp.interventions.answer_judges import rate, says
from flashinterp.interventions.judge_check import JudgeCheck, Labelled
from flashinterp.provenance.registry import derivation, record
from flashinterp.report.table import Told
from flashinterp.studies.steering.records import Concept
from flashinterp.studies.steering.tables import share

WRONG = 12
"""Misjudged texts of each claim that are printed."""


@record("steering.judged_texts", version=1)
@dataclass(frozen=True)
class JudgeAnswers:
    """A concept's judge, and the texts that it was asked about.

    Attributes:
        concept: whose.
        texts: with their labels, in the order in which the judge was shown them.
    """

    concept: Concept
    texts: tuple[Labelled, ...]

    def check(self) -> JudgeCheck:
        """What the judge says of each text; it is shown nothing else."""
        judge = self.concept.judge
        about, others = ([t.text for t in self.texts if t.about is kind] for kind in (True, False))
        return JudgeCheck(
            texts=self.texts,
            said=tuple(says(judge, t.text) for t in self.texts),
            sensitivity=rate(judge, about),
            specificity=rate(lambda text: not says(judge, text), others),
        )


@derivation("steering.judge_accuracy", version=1)
def judge_table(asked: Sequence[JudgeAnswers]) -> Told:
    """Each judge's sensitivity and specificity, with intervals."""
    rows = []
    for one in asked:
        c, about = one.check(), sum(t.about for t in one.texts)
        rows.append(
            [one.concept.claim.id, about, share(c.sensitivity), len(one.texts) - about, share(c.specificity)]
            + [len(c.wrong), ", ".join(one.concept.lexicon)]
        )
    return (
        ["claim", "about it", "sensitivity", "not about it", "specificity", "wrong", "judge looks for"],
        rows,
        "Sensitivity: share of the texts about the concept that the judge called so; specificity: of the others, not "
        "called so. With intervals. The judge saw the texts shuffled and nothing else.",
    )


@derivation("steering.judge_accuracy_by_kind", version=1)
def judge_kinds_table(asked: Sequence[JudgeAnswers]) -> Told:
    """How many texts of each kind were judged rightly, with one of them."""
    rows: list[list[Any]] = []
    for one in asked:
        for kind, (about, right, n) in one.check().by_kind().items():
            example = next(t.text for t in one.texts if t.kind == kind)
            rows.append([one.concept.claim.id, kind, "yes" if about else "no", f"{right} of {n}", example])
    return ["claim", "kind of text", "about it", "judged rightly", "for example"], rows, ""


@derivation("steering.judge_errors", version=1)
def judge_wrong_table(asked: Sequence[JudgeAnswers]) -> Told:
    """The first texts that each judge got wrong."""
    rows: list[list[Any]] = [
        [one.concept.claim.id, t.text, "about it" if t.about else "not about it", t.kind]
        for one in asked
        for t in one.check().wrong[:WRONG]
    ]
    return ["claim", "text", "it is", "kind"], rows or [["none", *[None] * 3]], f"At most {WRONG} of each claim."
