"""Does a clamped model talk of its concept (Figure 3 of arXiv 2501.02688)?

The model answers questions twice from the same seeds, once as it is and once with one neuron clamped at all
positions. A judge that knows only the concept's words says whether an answer is about it. What the clamp cost is
beside it: how much the answers repeat themselves, and how unlikely the unclamped model finds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from evals.conftest import Judged
from flashinterp import Answers, lexicon_judge, steer
from flashinterp.audit.session import AuditSession
from flashinterp.bench import Bench
from flashinterp.claims import Claim
from flashinterp.evidence import Evidence as Measured
from flashinterp.neuron_map import NeuronMap
from flashinterp.profiles import Profile
from flashinterp.pytest_plugin import Evidence
from flashinterp.stats import Interval

CONCEPTS = 3
OWN_WORDS = 5
SHOWN = 3  # answers that are printed side by side
LENGTH = 30  # new tokens


@dataclass(frozen=True)
class Steered:
    """One claim's answers, with what was clamped and what the judge looked for."""

    claim: Claim
    dose: float
    lexicon: list[str]
    answers: Answers


def test_clamped_answers(
    audit: AuditSession,
    model: Any,
    bench: Bench,
    judged: Judged,
    session_tuned_model: Any,
    maps: Any,
    profile: Profile,
    evidence: Evidence,
) -> None:
    """Rates of answers about the concept, without and with the clamp, and the answers side by side.

    Implementation: the fine-tune answers where one is given, through its own chat template if it has one, else
    the base model. Clamped are the validated claims, or, where none was validated, the first ones, which the
    table says. The dose is the smallest of the -500…500 curve, in the claimed direction, at which the token is
    at least half as likely as at its best. The judge looks for the token's written forms and the neuron's own
    best words, as whole words; both are listed. Intervals are Wilson's, 95 %.
    """
    speaker = session_tuned_model if session_tuned_model is not None else model
    checkpoint = audit.tuned or audit.base
    chosen = [(c, e) for c, e, v in zip(judged.claims, judged.evidence, judged.verdicts, strict=True)
              if v.verdict == "validated" and isinstance(e, Measured)]  # fmt: skip
    status = "validated"
    if not chosen:
        status = "not validated"
        chosen = [(c, e) for c, e in zip(judged.claims, judged.evidence, strict=True) if isinstance(e, Measured)]
    question = bench.prompts.questions[0]
    steered = []
    for claim, found in chosen[:CONCEPTS]:
        assert claim.neuron is not None
        dose, lexicon = _dose(claim, found), _lexicon(claim, bench, maps[claim.lens])
        answers = steer(
            speaker, checkpoint.tokenizer, question, {claim.neuron: dose},
            n=profile.answers, rng=bench.rng(f"steer {claim.id}"), max_new_tokens=LENGTH,
        )  # fmt: skip
        steered.append(Steered(claim, dose, lexicon, answers))
    evidence.table("rates", "Answers about the concept, without and with the clamp", *_rates(steered, status))
    evidence.table("answers", f"Side by side: {question}", *_side_by_side(steered))
    if audit.truth and not audit.options.claims:
        _check_dog(steered)


def _dose(claim: Claim, e: Measured) -> float:
    """The smallest stress dose in the claimed direction at which the token is half as likely as at its best."""
    sign = 1 if claim.drive == "+" else -1
    log_p = -np.logaddexp(0, -e.stress_log_odds).mean(axis=0)
    allowed = np.flatnonzero(sign * e.stress_doses > 0)
    enough = allowed[log_p[allowed] >= log_p[allowed].max() - np.log(2)]
    return float(e.stress_doses[enough[np.argmin(np.abs(e.stress_doses[enough]))]])


def _lexicon(claim: Claim, bench: Bench, m: NeuronMap) -> list[str]:
    """The words that the judge looks for: written forms of the token, and words of the neuron that stand out.

    A whole word counts as the neuron's own if it scores at least half of what its best word does.
    """
    token = bench.token(claim)
    forms = [v.text for v in bench.checkpoint.vocabulary.variants(token)]
    assert claim.neuron is not None
    whole = set(bench.checkpoint.vocabulary.words())  # a fragment would be found in any answer
    words = m.words(claim.neuron, OWN_WORDS, claim.pole or "+")
    own = [w.token.text for w in words if w.token.id in whole and w.score >= 0.5 * words[0].score]
    return sorted({w.strip().lower() for w in (*forms, *own) if w.strip()})


def _rates(steered: list[Steered], status: str) -> tuple[list[str], list[list[Any]], str]:
    rows = []
    for s in steered:
        clean, clamped = s.answers.rates(lexicon_judge(s.lexicon))
        perplexity = [_mean(x) for x in (s.answers.perplexity_clean, s.answers.perplexity_clamped)]
        repeats = [_mean(x) for x in (s.answers.repetition_clean, s.answers.repetition_clamped)]
        rows.append(
            [s.claim.id, str(s.claim.neuron), s.dose, len(s.answers.clean), _share(clean), _share(clamped)]
            + [*repeats, *perplexity, ", ".join(s.lexicon)]
        )
    return (
        ["claim", "neuron", "clamped at", "answers", "clean", "clamped", "repeats, clean", "clamped",
         "perplexity, clean", "clamped", "judge looks for"],
        rows,
        f"Claims: {status}. Share of answers about the concept, with interval. Repeats: share of three-word runs that "
        "occurred before in the answer. Perplexity: of the answer under the unclamped model.",
    )  # fmt: skip


def _side_by_side(steered: list[Steered]) -> tuple[list[str], list[list[Any]], str]:
    rows = [
        [s.claim.id, s.answers.clean[i], s.answers.clamped[i]]
        for s in steered
        for i in range(min(SHOWN, len(s.answers.clean)))
    ]
    setting = steered[0].answers.settings
    caption = f"Same seeds on both sides. Settings: {', '.join(f'{k} {v}' for k, v in sorted(setting.items()))}."
    return ["claim", "unclamped", "clamped"], rows, caption


def _share(rate: Interval | None) -> str | None:
    return None if rate is None else f"{rate.estimate:.0%} [{rate.low:.0%}, {rate.high:.0%}]"


def _mean(values: Any) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _check_dog(steered: list[Steered]) -> None:
    """On the fixtures, the planted dog neuron makes the model talk of dogs, which it hardly does otherwise."""
    dog = next(s for s in steered if s.claim.id == "dog")
    clean, clamped = dog.answers.rates(lexicon_judge(dog.lexicon))
    assert clean is not None
    assert clamped is not None
    assert clamped.low is not None
    assert clean.high is not None
    assert clamped.low > clean.high, f"clamped {clamped}, clean {clean}"
