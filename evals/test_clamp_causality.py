"""Does driving a neuron bring its word, and is that more than any neuron does (Figure 2 of arXiv 2501.02688)?

A claim says that one neuron stands for one token. It was found by decoding weights, and fixed before the model
was run. Here the neuron is clamped at values over its own natural range, on prompts that had no part in
choosing anything, and its natural output is compared where the token stands and where other words stand. Both
sides are set against matched neurons of the same layer, because in any model, trained or not, clamping almost
any neuron moves almost any token one way or the other.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from evals.conftest import RULE
from flashinterp.decoding.lens_maps import DecodedMaps
from flashinterp.evaluation.claim_family import not_held, same_words_elsewhere
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.figures import natural_doses, stress_doses
from flashinterp.evaluation.judgement import Judged
from flashinterp.evaluation.measure import judge_on
from flashinterp.evaluation.tables import (
    direction_table,
    reading_table,
    verdict_table,
    verdicts_counted,
    why_table,
    writing_table,
)
from flashinterp.evaluation.verdict import Verdict
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.provenance.recorded import Recorded
from flashinterp.runs.eval_recorder import EvalRecorder
from flashinterp.runs.session import AuditSession

TABLES = (
    ("verdicts", verdict_table, "Verdicts"),
    ("writing", writing_table, "The writing side: clamp over the natural range"),
    ("reading", reading_table, "The reading side: natural output with the word and with others"),
    ("direction", direction_table, "Which way the curve goes, and what predicts it"),
    ("why", why_table, "Why the curve goes the way it goes, in words"),
)


def test_claims(audit: AuditSession, judged: Judged, bench: Experiment, evidence: EvalRecorder) -> None:
    """The verdict on each claim, with every figure that it rests on.

    Implementation: see METHOD 4 in the project's docs. `validated` needs both sides: the neuron's natural output
    tells the token from other words, and clamping it over its natural range moves the token's log-odds, each
    more than in matched neurons of the layer, with false discovery controlled over the family. A discovered
    neuron may be refuted without failing this test; a claim from a file may not.
    """
    evidence.verdicts(judged.verdicts)
    found, verdicts = Recorded("judgements", "claims"), Recorded("judgements", "claims", "verdicts")
    for name, make, title in TABLES:
        evidence.derived(make, name, title, verdicts)
    evidence.finding(2, "clamping them moves their token's probability, monotonically", verdicts_counted, verdicts)
    if judged.measured:
        evidence.figure(natural_doses, "natural", "Clamped over its natural range, beside its controls", found)
        evidence.figure(stress_doses, "stress", "Clamped from -500 to 500, as in the paper", found)

    if audit.truth and not audit.options.claims:
        wrong = [f"{v.claim.id} is {v.verdict}: {v.reason}" for v in judged.verdicts if v.verdict != v.claim.expect]
        assert not wrong, "a planted neuron was misjudged: " + "; ".join(wrong)
    _check_file_claims(judged.verdicts)


def _check_file_claims(verdicts: tuple[Verdict, ...]) -> None:
    """Of each claim in a file, one candidate at least comes out as claimed."""
    failed = not_held(verdicts)
    assert not failed, "claims that do not hold: " + "; ".join(
        f"{v.claim.id} ({v.claim.neuron}) claimed {v.claim.expect}, is {v.verdict}: {v.reason}" for v in failed
    )


@pytest.mark.control
def test_nothing_is_found_where_nothing_is_planted(
    audit: AuditSession,
    blank: Checkpoint,
    bench: Experiment,
    claims: tuple[Claim, ...],
    device: str,
    evidence: EvalRecorder,
) -> None:
    """A model with nothing planted gets no `validated`, by the same rule on the same words.

    Implementation: a model of the same shape that was never trained is decoded and audited in the same way, its
    specialised neurons taken as claims. Runs on the bundled models only: for any other model it has nothing to compare.
    """
    family = same_words_elsewhere(claims, DecodedMaps(blank, device), blank)
    judged = judge_on(replace(bench, model=blank.load_model(device=device), checkpoint=blank), family, RULE)
    audit.add_judgement("unplanted", judged.verdicts, judged.evidence, rule=RULE, seed=bench.seed)
    evidence.derived(
        verdict_table,
        "unplanted",
        "The control: the same words in the model with nothing planted",
        Recorded("judgements", "unplanted", "verdicts"),
    )
    validated = [str(v.claim.neuron) for v in judged.verdicts if v.verdict == "validated"]
    assert not validated, f"validated where nothing was planted: {', '.join(validated)}"
