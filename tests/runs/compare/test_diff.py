"""Two runs compared: what is kept, moved, lost, and what is not comparable."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flashinterp.errors import NotComparable
from flashinterp.evaluation.claims import VERDICTS
from flashinterp.report.table_text import to_markdown, to_text
from flashinterp.runs.compare.baseline import FinishedRun
from flashinterp.runs.compare.changes import LOSSES
from flashinterp.runs.compare.conditions import conditions
from flashinterp.runs.compare.diff import diff
from flashinterp.runs.compare.diff_tables import diff_tables
from flashinterp.studies.finetuning.roles import RoleRule
from tests.helpers import assert_one_line_with_next_step
from tests.runs_by_hand import CLEAN, LOCK, SURFACES, entry, reference, run, words

OFF = CLEAN - 1.9  # an effect that is nearly gone


def fates(before: FinishedRun, after: FinishedRun) -> list[tuple[str, str]]:
    """Each claim's neuron with what became of it."""
    return [(r.neuron, r.fate) for r in diff(before, after).roles]


def with_effects(*verdicts: dict[str, Any], effects: Any) -> FinishedRun:
    return run(*verdicts, said=reference(verdicts, effects=effects))


# --- roles ------------------------------------------------------------------------------------------------


def test_the_same_run_has_lost_nothing() -> None:
    found = diff(run(entry()), run(entry()))
    assert [r.fate for r in found.roles] == ["kept"]
    assert (found.exit_code, found.losses) == (0, ())
    assert found.verdict.startswith("no loss: of 1 validated neurons 1 keep their role; 100.0% [")
    assert found.labels is not None
    assert found.labels.counts == {"kept": 6, "near tie": 0, "moved": 0, "lost": 0}


@pytest.mark.parametrize("verdict", [v for v in VERDICTS if v != "validated"])
def test_a_neuron_whose_effect_is_gone_is_lost_whatever_it_came_out_as(verdict: str) -> None:
    found = diff(run(entry()), with_effects(entry(verdict), effects=[OFF]))
    (role,) = found.roles
    assert role.fate in LOSSES
    assert (role.fate == "not measured") == (verdict in ("not_measured", "not_comparable"))
    assert found.exit_code == 1
    assert found.verdict == "LOST 1 of 1 validated neurons: dog (␣dog at L1N2)"
    first, line, step = found.message.splitlines()
    assert first == found.verdict
    change = f"change {(OFF - CLEAN).mean():+.3g}, margin {RoleRule().margin(float(CLEAN.mean())):.3g}"
    figures = f"effect 2, was 2 nats ({change}); AUC 1, was 1"
    why = figures if role.fate == "lost" else f"it came out as {verdict}"
    assert line == f"  dog (␣dog at L1N2) is now {verdict}: {why}"
    assert step.startswith("Next: the table of roles says why")


@pytest.mark.parametrize("verdict", [v for v in VERDICTS if v != "validated"])
def test_what_was_not_validated_cannot_be_lost(verdict: str) -> None:
    assert fates(run(entry(verdict)), run(entry("refuted"))) == [("L1N2", "never")]
    found = diff(run(entry(verdict)), run(entry("validated")))
    assert [r.fate for r in found.roles] == ["gained"]
    assert found.exit_code == 0
    assert found.verdict.startswith("nothing to lose: no neuron was validated in a")


def test_a_neuron_that_no_claim_is_about_is_not_measured_and_that_is_a_loss() -> None:
    other = entry(id="cat", token=" cat", neuron="L0N1")
    found = diff(run(entry()), run(other))
    assert [(r.id, r.fate, r.after) for r in found.roles] == [
        ("dog", "not measured", None),
        ("cat", "gained", "validated"),
    ]
    assert found.exit_code == 1
    assert found.verdict == "LOST 1 of 1 validated neurons: dog (␣dog at L1N2)"
    assert "\n  dog (␣dog at L1N2) is not among the claims of the later run\n" in found.message


@pytest.mark.parametrize("change", [{"token": " cat"}, {"token": 7}, {"neuron": "L1N1"}, {"direction": "-"}])
def test_another_token_neuron_or_direction_is_another_claim(change: dict[str, Any]) -> None:
    # Of another neuron that named the word before, too, so that it has not moved there.
    labels = (0, 1, 2, 3, 7, 7)
    before, after = entry(), entry(**change)
    found = diff(run(before, said=reference([before], labels)), run(after, said=reference([after], labels)))
    assert [r.fate for r in found.roles] == ["not measured", "gained"]


@pytest.mark.parametrize("change", [{"id": "hound"}, {"lens": "read"}, {"source": "discovered"}])
def test_a_neuron_is_the_same_under_another_id_or_lens(change: dict[str, Any]) -> None:
    assert fates(run(entry()), run(entry(**change))) == [("L1N2", "kept")]


@pytest.mark.parametrize("turned", [False, True])
def test_of_several_claims_about_a_neuron_one_that_holds_is_enough(turned: bool) -> None:
    now = [entry("refuted", id="first"), entry("validated", id="second")][:: -1 if turned else 1]
    (role,) = diff(run(entry()), run(*now)).roles
    assert (role.fate, role.after) == ("kept", "validated")


def test_the_order_is_the_baselines() -> None:
    before = [entry(neuron=n, id=n) for n in ("L1N1", "L0N2", "L1N0")]
    after = [entry(neuron=n, id=n) for n in ("L0N0", "L1N0")]
    assert [r.neuron for r in diff(run(*before), run(*after)).roles] == ["L1N1", "L0N2", "L1N0", "L0N0"]


# --- how much ---------------------------------------------------------------------------------------------


def test_a_smaller_effect_that_is_still_validated_has_changed_and_is_no_loss() -> None:
    found = diff(run(entry()), with_effects(entry(), effects=[CLEAN / 2]))
    (role,) = found.roles
    assert (role.fate, found.exit_code) == ("changed", 0)
    assert role.difference is not None
    assert role.difference.estimate == pytest.approx(-CLEAN.mean() / 2)
    assert role.difference.margin == RoleRule().margin(float(CLEAN.mean()))
    assert "1 are validated still, their effect not shown to be the same" in found.verdict


def test_a_verdict_that_falls_over_a_threshold_is_no_loss_where_the_role_is_shown_to_be_the_same() -> None:
    found = diff(run(entry()), run(entry("inconclusive")))
    assert [r.fate for r in found.roles] == ["kept"]
    assert found.exit_code == 0
    assert "no longer validated: dog (␣dog at L1N2); 100.0% [" in found.verdict
    assert found.message.splitlines()[1:] == ["  dog (␣dog at L1N2) is now inconclusive: it came out as inconclusive"]


def test_the_same_effect_without_reading_is_a_loss() -> None:
    assert fates(run(entry()), run(entry("lever", auc=0.6))) == [("L1N2", "lost")]
    assert fates(run(entry()), run(entry("lever", auc=None))) == [("L1N2", "lost")]


def test_an_effect_that_is_not_shown_to_be_the_same_is_no_excuse() -> None:
    spread = CLEAN + np.array([-3, 3, -3, 3, -3, 3])  # the same mean
    assert fates(run(entry()), with_effects(entry("inconclusive"), effects=[spread])) == [("L1N2", "lost")]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda r: replace(r, results={**r.results, "seed": 1}), id="seed"),
        pytest.param(lambda r: replace(r, results={**r.results, "profile": "audit"}), id="profile"),
        pytest.param(lambda r: replace(r, lock={**LOCK, "prompts": "qq"}), id="prompts"),
        pytest.param(lambda r: replace(r, lock={}), id="no lock"),
        pytest.param(lambda r: replace(r, reference=None), id="no reference"),
        pytest.param(
            lambda r: replace(r, reference=replace(r.reference, measured=np.array([False]))), id="not measured"
        ),
        pytest.param(
            lambda r: replace(r, reference=replace(r.reference, effects=r.reference.effects[:, :3])), id="fewer prompts"
        ),
    ],
)
def test_without_pairs_the_verdict_alone_decides(change: Any) -> None:
    for before, after in ((run(entry()), change(run(entry()))), (change(run(entry())), run(entry()))):
        (role,) = diff(before, after).roles
        assert (role.fate, role.difference) == ("changed", None)
    assert fates(run(entry()), change(run(entry("inconclusive")))) == [("L1N2", "lost")]


# --- moved ------------------------------------------------------------------------------------------------


def moved(labels_before: tuple[int, ...], *, held: bool = False) -> Any:
    """L1N2 is refuted for " dog", and L0N0 is validated for it now."""
    heir = entry(id="dog-now", neuron="L0N0")
    before = [entry(), *([heir] if held else [])]
    after = [entry("refuted", auc=0.5), heir]
    labels = (7, 1, 2, 3, 4, 5)
    return diff(
        run(*before, said=reference(before, labels_before)),
        run(*after, said=reference(after, labels, effects=[OFF, CLEAN])),
    )


def test_a_role_that_another_neuron_has_now_has_moved_and_is_told_not_failed() -> None:
    found = moved((0, 1, 2, 3, 4, 7))
    role = found.roles[0]
    assert (role.fate, role.heir, found.exit_code) == ("moved", "L0N0", 0)
    assert "L0N0 is validated for the word now, and did not name it before" in role.reason
    assert "1 moved to another neuron" in found.verdict


def test_a_twin_that_was_there_before_is_no_heir() -> None:
    assert moved((7, 1, 2, 3, 4, 7)).roles[0].fate == "lost"
    assert moved((0, 1, 2, 3, 4, 7), held=True).roles[0].fate == "lost"


def test_where_it_is_not_known_what_the_heir_named_before_the_neuron_is_lost() -> None:
    heir = entry(id="dog-now", neuron="L0N0")
    before, after = run(entry(), without=True), run(entry("refuted"), heir)
    assert fates(before, after)[0] == ("L1N2", "lost")


# --- words ------------------------------------------------------------------------------------------------


def test_the_words_of_a_claims_neuron_are_told_with_their_lead() -> None:
    (word,) = diff(run(entry()), run(entry())).words
    assert (word.fate, word.before, word.after, word.lead_before) == ("kept", ("␣dog",), ("␣dog",), 1.0)


@pytest.mark.parametrize(
    ("labels", "fate", "heir"),
    [((0, 1, 2, 3, 4, 6), "lost", None), ((7, 1, 2, 3, 4, 6), "moved", "L0N0")],
)
@pytest.mark.parametrize("measured", [True, False])
def test_a_neuron_that_names_another_word(labels: tuple[int, ...], fate: str, heir: str | None, measured: bool) -> None:
    after = entry() if measured else entry(id="cat", token=" cat", neuron="L0N1")
    (word,) = diff(run(entry()), run(after, said=reference([after], labels))).words
    assert (word.fate, word.heir, word.after) == (fate, heir, ("␣g",))


def test_two_words_within_rounding_that_changed_places_are_a_near_tie() -> None:
    before, after = reference([entry()]), reference([entry()])
    before = replace(before, claim_words=words([7], 0.001, [8]))
    after = replace(after, claim_words=words([8], 0.5, [7]))
    (word,) = diff(run(entry(), said=before), run(entry(), said=after)).words
    assert word.fate == "near tie"


def test_of_other_lenses_a_word_moves_to_the_neuron_that_names_it_best() -> None:
    before, after = (reference([entry(lens="write")], labels) for labels in ((0, 1, 2, 3, 4, 7), (7, 1, 2, 3, 4, 6)))
    (word,) = diff(run(entry(lens="write"), said=before), run(entry(lens="write"), said=after)).words
    assert (word.fate, word.heir) == ("moved", "L0N0")
    after = replace(after, best=before.best)  # it is the best still, and names another word better
    (word,) = diff(run(entry(lens="write"), said=before), run(entry(lens="write"), said=after)).words
    assert (word.fate, word.heir) == ("lost", None)


def test_words_by_another_lens_are_not_compared() -> None:
    assert diff(run(entry(lens="write")), run(entry(lens="read"))).words == ()


def test_all_neurons_words() -> None:
    before = replace(reference([entry()]), words=words((0, 1, 2, 3, 4, 7), (3, 1, 2, 0.001, 1, 1), (5, 5, 5, 6, 5, 5)))
    after = replace(reference([entry()]), words=words((5, 0, 2, 6, -1, 7)))
    found = diff(run(entry(), said=before), run(entry(), said=after)).labels
    assert found is not None
    # L0N0's word went to L0N1; L0N1's to nobody; L1N0's second took its place within rounding; L1N1 names nothing.
    assert found.counts == {"kept": 2, "near tie": 1, "moved": 1, "lost": 2}
    assert [(w.neuron, w.fate, w.heir) for w in found.foremost] == [
        ("L0N0", "moved", "L0N1"),
        ("L0N1", "lost", None),
        ("L1N1", "lost", None),
    ]
    assert found.share is not None
    assert found.share.estimate == pytest.approx(2 / 6)


def test_neurons_without_a_word_count_for_nothing() -> None:
    none = reference([entry()], (-1, -1, -1, -1, -1, -1))
    found = diff(run(entry(), said=none), run(entry(), said=none))
    assert found.labels is not None
    assert (found.labels.n, found.labels.share, found.labels.foremost) == (0, None, ())
    assert "of all neurons" not in found.verdict
    assert diff_tables(found)


# --- conditions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"architecture": "mistral"}, "the architecture is llama in one and mistral in the other"),
        ({"mlps": "layers 0 to 3 with neurons 0 to 2"}, "the set of neurons is"),
        ({"hidden_size": 8}, "the hidden size is 4 in one and 8"),
        ({"vocabulary": 11}, "the vocabulary's size is 10 in one and 11"),
    ],
)
def test_other_neurons_are_not_compared(model: dict[str, Any], told: str) -> None:
    a, b = run(entry()), run(entry(), name="b")
    b.results["model"].update(model)
    with pytest.raises(NotComparable, match=told) as caught:
        diff(a, b)
    assert_one_line_with_next_step(caught.value)


def test_other_words_are_not_compared() -> None:
    others = ("\u202ex\n", *SURFACES[1:])
    with pytest.raises(NotComparable, match="their tokenizers differ, first at id 0") as caught:
        diff(run(entry()), run(entry(), said=replace(reference([entry()]), surfaces=others)))
    assert_one_line_with_next_step(caught.value)
    assert "\u202e" not in str(caught.value)


def test_another_tokenizer_file_with_the_same_words_is_said() -> None:
    after = run(entry())
    after.results["model"]["digests"]["tokenizer.json"] = "uu"
    assert [(c.what, c.before, c.after) for c in diff(run(entry()), after).conditions] == [
        ("tokenizer file", "tt", "uu")
    ]


def test_another_tokenizer_file_whose_words_are_not_known_is_refused() -> None:
    after = run(entry(), without=True)
    assert diff(run(entry()), after).labels is None
    after.results["model"]["digests"]["tokenizer.json"] = "uu"
    with pytest.raises(NotComparable, match="one of the runs did not record its vocabulary") as caught:
        diff(run(entry()), after)
    assert_one_line_with_next_step(caught.value)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("live dtype", {"options": {"resolved": {"device": "cpu", "dtype": "bfloat16"}}}),
        ("device", {"options": {"resolved": {"device": "cuda", "dtype": "float32"}}}),
        ("torch", {"environment": {"packages": {"torch": "3.0", "transformers": "5.0", "flashinterp": "0.1"}}}),
        ("seed", {"seed": 3}),
        ("profile", {"profile": "audit"}),
        ("self-test", {"self_test": True}),
        ("partial", {"partial": True}),
    ],
)
def test_what_differs_is_said(what: str, change: dict[str, Any]) -> None:
    after = run(entry(), **change)
    after.results["model"]["digests"]["model.safetensors"] = "bb"
    assert [c.what for c in diff(run(entry()), after).conditions] == [what]


def test_other_claimed_words_are_said() -> None:
    after = run(entry(), entry(id="cat", token=" cat", neuron="L0N1"))
    after.results["model"]["digests"]["model.safetensors"] = "bb"
    (condition,) = diff(run(entry()), after).conditions
    assert (condition.what, condition.before, condition.after) == ("claimed words", "␣dog", "␣cat, ␣dog")


def test_the_same_weights_are_said() -> None:
    assert [c.means for c in conditions(run(entry()), run(entry()))] == ["both runs are of the same files"]


# --- saying it --------------------------------------------------------------------------------------------


def test_tables_and_json_hold_what_was_found() -> None:
    found = moved((0, 1, 2, 3, 4, 7))
    names = [t.name for t in diff_tables(found)]
    assert names == ["roles", "effects", "change", "words", "labels", "foremost", "conditions"]
    assert diff_tables(found)[0].rows[0][:7] == ("dog", "␣dog", "L1N2", "moved", "validated", "refuted", "L0N0")
    assert max(len(line) for t in diff_tables(found) for line in to_text(t).splitlines()) <= 120
    loaded = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (loaded["exit_code"], loaded["losses"]) == (0, [])
    assert loaded["roles"][0]["fate"] == "moved"


def test_of_figures_that_are_not_there_nothing_is_said() -> None:
    """Runs that cannot be paired have no change, a side that was not measured no figure, and then the reason stands."""
    unpaired = diff(run(entry()), run(entry("refuted", auc=0.5), seed=1))
    assert "  dog (␣dog at L1N2) is now refuted: effect 2, was 2 nats; AUC 0.5, was 1\n" in unpaired.message
    bare = diff(run(entry()), run(entry("refuted", figures={})))
    assert "  dog (␣dog at L1N2) is now refuted: it came out as refuted\n" in bare.message


@pytest.mark.parametrize(
    ("lost", "named", "lines", "more"), [(1, 1, 1, ""), (8, 8, 8, ""), (20, 8, 20, ""), (26, 8, 20, "6 more")]
)
def test_a_message_of_many_losses_stays_short(lost: int, named: int, lines: int, more: str) -> None:
    before = [entry(id=f"claim-{i}", direction=str(i)) for i in range(lost)]
    found = diff(run(*before, without=True), run(without=True))
    first, *rest, step = found.message.splitlines()
    assert first == found.verdict
    assert first.count("(␣dog at L1N2)") == named
    assert first.endswith(f" and {lost - named} more" if lost > named else ")")
    assert len(first) < 300
    assert len([line for line in rest if "is not among the claims" in line]) == lines
    assert rest[lines:] == ([f"  and {more}: see the table of roles"] if more else [])
    assert step.startswith("Next: ")
    assert len(found.as_dict()["losses"]) == lost


def test_the_message_of_no_loss_is_the_verdict() -> None:
    found = diff(run(entry()), run(entry()))
    assert found.message == found.verdict


def test_hostile_text_of_a_run_is_shown_harmless() -> None:
    nasty = entry("refuted", id="x\n\x1b[2J\u202e", reason="</script>\r" + "y" * 10_000, auc=0.5)
    found = diff(run(entry(id=nasty["id"])), with_effects(nasty, effects=[OFF]))
    shown = [*found.message.splitlines(), *(to_text(t) + to_markdown(t) for t in diff_tables(found))]
    assert not [c for text in shown for c in text if c in "\x1b\u202e\r"]
    assert "\n" not in found.verdict
    assert max(map(len, found.message.splitlines())) < 300
    assert len(found.message.splitlines()) == 3
