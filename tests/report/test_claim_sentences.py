"""A verdict in words: its numbers with their intervals, and nothing where nothing was measured."""

from __future__ import annotations

from typing import Any

import pytest

from flashinterp.report.claim_sentences import digits, in_words


def record(**changes: Any) -> dict[str, Any]:
    written = {"effect": 2.09, "effect_low": 1.19, "effect_high": 3.2, "rank_p": 1 / 240, "n_controls": 239.0}
    figures = {
        "writes": {"q": 0.0094, "figures": written},
        "reads": {"q": 0.0142, "figures": {"auc": 1.0, "auc_low": None, "auc_high": None, "rank_p": 2 / 240}},
        "explained": {"dose_low": -1.4712, "dose_high": 1.28},
    }
    base = {"id": "california", "token": " California", "neuron": "L2N31", "lens": "paper", "pole": "-"}
    return base | {"verdict": "validated", "reason": "it does", "figures": figures} | changes


def test_both_sides_are_told() -> None:
    claim = in_words(record())
    assert (claim.token, claim.neuron, claim.verdict) == ("␣California", "L2N31", "validated")
    assert claim.how == "its negative values stand for it, found by the paper lens"
    assert claim.reason == "It does."
    assert claim.facts == [
        "Driven over its natural range (−1.47 to 1.28), it moves the token's log-odds by 2.09 nats [1.19, 3.20] in the "
        "claimed direction, which multiplies its odds by 8.08; 0 of 239 matched neurons move it as much for what they "
        "write; q = 0.00940.",
        "The chance that its output is higher on the token than on another word (AUC) is 1.00; 1 of 239 matched "
        "neurons tell the two apart as well; q = 0.0142.",
    ]
    assert (claim.effect, claim.reads) == ("2.09 [1.19, 3.20]", "1.00")


@pytest.mark.parametrize("figures", [None, {}, "text", {"writes": None, "reads": None}, {"writes": {"figures": []}}])
def test_what_was_not_measured_is_not_told(figures: Any) -> None:
    claim = in_words(record(figures=figures, verdict="not_measured", neuron=None))
    assert claim.facts == []
    assert (claim.effect, claim.reads, claim.neuron) == (None, None, "-")


def test_a_token_of_a_number_is_named_as_one() -> None:
    assert in_words(record(token=407)).token == "token 407"


def test_a_small_effect_is_no_multiple() -> None:
    claim = in_words(record(figures={"writes": {"figures": {"effect": -0.0147}}}))
    assert "−0.0147 nats in the claimed direction." in claim.facts[0]
    assert "multiplies" not in claim.facts[0]


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.19699, "3.20"), (0.011011, "0.0110"), (-5.9e-05, "−5.9e−05"), (110.0, "110"), (1234.5, "1234"), (0.0, "0")],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert digits(value) == text
