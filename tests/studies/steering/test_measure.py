"""What is steered and asked: the lexicon of a claim, its curve, the two that come most, and the judge's texts."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from flashinterp.decoding.lens_maps import DecodedMaps
from flashinterp.evaluation.claim_family import planted_claims
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.judgement import Judged
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.prompts import shipped
from flashinterp.evaluation.verdict import Rule, judge
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import NeuronId
from flashinterp.studies.steering import measure
from flashinterp.studies.steering.dose_choice import DoseCurve
from flashinterp.studies.steering.measure import CONCEPTS, Steering, ask_judge, concept_of, measure_steering
from flashinterp.studies.steering.records import Concept
from tests.evidence_by_hand import CLAIM, STRONG


@pytest.fixture(scope="module")
def bench(planted_model: Any, planted: Checkpoint) -> Experiment:
    return Experiment(planted_model, planted, shipped(), replace(PROFILES["smoke"], selection=2), 0)


def map_of(words: list[tuple[str, float]], checkpoint: Checkpoint) -> Any:
    """A map of one neuron with these words and scores."""
    found = [SimpleNamespace(token=checkpoint.vocabulary.resolve(word), score=score) for word, score in words]
    return SimpleNamespace(words=lambda neuron, n, pole: found[:n])


def test_a_lexicon_has_the_forms_and_the_words_that_stand_out(bench: Experiment, truth: dict[str, Any]) -> None:
    dog, other, weak = (w for w in truth["dog_words"][:3])
    vocabulary = bench.checkpoint.vocabulary
    known = {vocabulary.surfaces[i] for i in vocabulary.words()}
    common = next(w for w in " ".join(bench.prompts.selection).split() if f" {w}" in known)
    words = [(dog, 10.0), (other, 5.0), (f" {common}", 9.0), (weak, 4.9)]
    concept = concept_of(replace(CLAIM, token=dog), bench, map_of(words, bench.checkpoint))
    assert {dog.strip().lower(), f"{dog.strip().lower()}s", other.strip().lower()} <= set(concept.lexicon)
    assert not {weak.strip().lower(), common} & set(concept.lexicon)
    assert concept.judge(f"I saw a {other.strip()}.")


def curve(dose: float | None, rate: float) -> DoseCurve:
    """A curve of which a dose, or none, was taken."""
    found: Any = object.__new__(DoseCurve)
    chosen = SimpleNamespace(index=None if dose is None else 0)
    for name, value in {"choice": chosen, "doses": (dose,), "rates": (SimpleNamespace(estimate=rate),)}.items():
        object.__setattr__(found, name, value)
    curve: DoseCurve = found
    return curve


def test_the_two_that_came_most_often_with_a_neuron_each(bench: Experiment) -> None:
    claims = [replace(CLAIM, id=name, neuron=NeuronId(1, n)) for name, n in zip("abcde", (1, 2, 2, 3, 4), strict=True)]
    concepts = tuple(Concept(claim, claim.neuron or NeuronId(0, 0), ()) for claim in claims)
    curves = (curve(1.0, 0.2), curve(2.0, 0.9), curve(3.0, 0.8), curve(None, 1.0), "never reached")
    steering = Steering(bench, (), (), concepts, curves)
    assert [(one.claim.id, dose) for one, dose in steering.dosed] == [("a", 1.0), ("b", 2.0), ("c", 3.0)]
    assert [(one.claim.id, dose) for one, dose in steering.two()] == [("b", 2.0), ("a", 1.0)]


def test_the_validated_claims_are_steered_else_the_first(
    bench: Experiment, truth: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_curve", lambda one, bench, questions: f"{len(questions)} questions")
    claims = planted_claims(truth["plants"])[:5]
    evidence = (STRONG, "not there", *[STRONG] * 3)
    verdicts = tuple(judge(claims, evidence, rule=Rule(), seed=0))
    maps = DecodedMaps(bench.checkpoint, "cpu")
    found = measure_steering(bench, Judged(claims, evidence, verdicts), maps)
    validated = [v.claim for v in verdicts if v.verdict == "validated"]
    assert [one.claim for one in found.concepts] == validated[:CONCEPTS] != []
    assert found.measured == ["2 questions"] * len(found.concepts)
    none = tuple(replace(v, verdict="refuted") for v in verdicts)
    found = measure_steering(bench, Judged(claims, evidence, none), maps)
    assert [one.claim for one in found.concepts] == [claims[0], *claims[2:4]]


def test_a_neurons_curve_or_why_there_is_none(bench: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Concept(CLAIM, NeuronId(1, 17), ("dog",))
    seen: dict[str, Any] = {}
    monkeypatch.setattr(measure, "dose_curve", lambda *args, **how: seen.update(how, args=args) or "a curve")
    assert measure._curve(one, bench, ("A question",)) == "a curve"
    low, high = seen["natural"]
    assert low < high
    assert (seen["n"], seen["drive"], seen["args"][2:]) == (12, "+", (("A question",), one.neuron, one.judge))
    still: Any = SimpleNamespace(doses=lambda neuron, n: (0.5, 0.5))
    monkeypatch.setattr(measure, "natural_text", lambda *_: {one.neuron.block: still})
    assert measure._curve(one, bench, ()) == "its natural range has no width"


def test_the_judge_is_asked_about_both_kinds_of_text(bench: Experiment) -> None:
    asked = ask_judge(Concept(CLAIM, NeuronId(1, 17), ("dog", "dogs")), bench, (" hound",))
    assert {text.about for text in asked.texts} == {True, False}
    assert any("hound" in text.text for text in asked.texts if text.about)
    assert asked.check().sensitivity is not None
