"""Claims: what a file may say, what its digest fixes, and how the weights fill in what it leaves open."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.build import VOCAB
from flashinterp import Checkpoint, ClaimError, NeuronError, NeuronId, NeuronMap, TokenError, decode
from flashinterp.evaluation.claim_resolution import resolve_claim
from flashinterp.evaluation.claims import VERDICTS, Claim, check_design, load_claims, lock
from flashinterp.evaluation.profiles import PROFILES, Profile
from flashinterp.stats import LEAST_RESAMPLED, smallest_ps
from tests.helpers import assert_one_line_with_next_step

DOG = Claim("dog", " dog", NeuronId(1, 17), "+", "paper", None, "file")


def written(folder: Path, text: str) -> Path:
    path = folder / "claims.toml"
    path.write_text(text, encoding="utf-8")
    return path


# --- files ------------------------------------------------------------------------------------------


def test_a_full_claim_is_read_field_by_field(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        [[claim]]
        id = "california"
        token = " California"
        neuron = "L31N313"
        pole = "-"
        lens = "read"
        direction = "+"
        expect = "lever"
        note = "layer 32 of the paper"
        """,
    )
    assert load_claims(path) == (
        Claim(
            "california", " California", NeuronId(31, 313), "-", "read", "+", "file", "lever", "layer 32 of the paper"
        ),
    )
    assert load_claims(str(path)) == load_claims(path)


def test_what_is_not_said_is_left_open(tmp_path: Path) -> None:
    (claim,) = load_claims(written(tmp_path, '[[claim]]\nid = "dog"\ntoken = 269'))
    assert claim == Claim("dog", 269, None, None, "paper", None, "file")
    assert claim.expect == "validated"


def test_candidates_become_one_claim_each_of_one_group(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '[[claim]]\nid = "dog"\ntoken = " dog"\nneuron = ["L25N1442", "L25N1441"]\n'
        '[[claim]]\nid = "cat"\ntoken = " cat"\nneuron = ["L3N4"]',
    )
    claims = load_claims(path)
    assert [c.id for c in claims] == ["dog/L25N1442", "dog/L25N1441", "cat"]
    assert [c.group for c in claims] == ["dog", "dog", "cat"]
    assert [c.neuron for c in claims] == [NeuronId(25, 1442), NeuronId(25, 1441), NeuronId(3, 4)]


@pytest.mark.parametrize(
    ("pole", "direction", "drive"),
    [(None, None, "+"), ("+", None, "+"), ("-", None, "-"), ("-", "+", "+"), ("+", "-", "-")],
)
def test_the_direction_is_as_stated_else_the_poles(pole: Any, direction: Any, drive: str) -> None:
    assert replace(DOG, pole=pole, direction=direction).drive == drive


GOOD = {"id": '"dog"', "token": '" dog"'}


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"id": None}, "needs an id"),
        ({"id": '""'}, "needs an id"),
        ({"id": "7"}, "needs an id"),
        ({"id": '"dog/L1N17"'}, "'dog/L1N17'.*slash"),
        ({"token": None}, "'dog'.*token"),
        ({"token": "1.5"}, "'dog'.*token"),
        ({"token": "true"}, "'dog'.*token"),
        ({"token": '[" dog"]'}, "'dog'.*token"),
        ({"neuron": '"dog"'}, "'dog'.*neuron.*'dog' is not a neuron's name"),
        ({"neuron": "1442"}, "'dog'.*neuron = 1442"),
        ({"neuron": "[]"}, r"'dog'.*neuron = \[\]"),
        ({"neuron": "[1442]"}, r"'dog'.*neuron = \[1442\]"),
        ({"neuron": '["L1N1", "x"]'}, "'dog'.*neuron.*'x'"),
        ({"neuron": '["L1N1", "L1N1"]'}, "'dog/L1N1' twice"),
        ({"pole": '"up"'}, r"'dog'.*pole = 'up': choose one of \+, -"),
        ({"pole": "1"}, "'dog'.*pole = 1"),
        ({"lens": '"tuned"'}, "'dog'.*lens = 'tuned'.*paper, read"),
        ({"lens": '["paper"]'}, "'dog'.*lens"),
        ({"direction": '"up"'}, "'dog'.*direction = 'up'"),
        ({"expect": '"true"'}, "'dog'.*expect = 'true'.*validated"),
        ({"layer": "3"}, "'dog'.*unknown field 'layer'.*neuron"),
    ],
)
def test_a_wrong_field_is_told_with_file_claim_and_field(
    tmp_path: Path, fields: dict[str, str | None], match: str
) -> None:
    lines = [f"{k} = {v}" for k, v in {**GOOD, **fields}.items() if v is not None]
    path = written(tmp_path, "\n".join(["[[claim]]", *lines]))
    with pytest.raises(ClaimError, match=match) as caught:
        load_claims(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no claims"),
        ("claim = []", "no claims"),
        ('[claim]\nid = "dog"\ntoken = " dog"', "no claims"),
        ("claim = [3]", "needs an id: 3"),
        ("[[claim]", "cannot be read"),
        ('[[claim]]\nid = "a"\ntoken = "x"\n[[claim]]\nid = "a"\ntoken = "y"', "'a' twice"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, text: str, match: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ClaimError, match=match) as caught:
        load_claims(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_not_there_or_not_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(ClaimError, match="cannot be read"):
        load_claims(tmp_path / "missing.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ClaimError, match="cannot be read"):
        load_claims(tmp_path / "bytes.toml")
    with pytest.raises(ClaimError, match="cannot be read"):
        load_claims(tmp_path)


def test_every_lens_pole_and_verdict_is_accepted(tmp_path: Path) -> None:
    for field, values in (
        ("lens", ("paper", "read", "gate", "write", "logit-lens")),
        ("pole", "+-"),
        ("expect", VERDICTS),
    ):
        for value in values:
            (claim,) = load_claims(written(tmp_path, f'[[claim]]\nid = "a"\ntoken = "x"\n{field} = "{value}"'))
            assert getattr(claim, field) == value


# --- the lock ---------------------------------------------------------------------------------------


def test_the_lock_is_stable_and_can_be_written() -> None:
    locked = lock([DOG], alpha=0.05, profile="smoke")
    assert locked == lock([DOG], profile="smoke", alpha=0.05)
    assert json.loads(json.dumps(locked, allow_nan=False)) == locked
    assert locked["claims"][0]["neuron"] == "L1N17"
    assert locked["claims"][0]["drive"] == "+"
    # A reader can compute it again from the rest of the file.
    rest = {k: v for k, v in locked.items() if k != "sha256"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False)
    assert locked["sha256"] == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"id": "dog2"}, {"token": "dog"}, {"token": 269}, {"neuron": NeuronId(1, 18)}, {"neuron": None}, {"pole": "-"},
        {"pole": None}, {"lens": "read"}, {"direction": "+"}, {"source": "fixture"}, {"expect": "lever"}, {"note": "x"},
    ],
    ids=str,
)  # fmt: skip
def test_the_lock_changes_with_every_field(change: dict[str, Any]) -> None:
    assert lock([replace(DOG, **change)])["sha256"] != lock([DOG])["sha256"]


def test_the_lock_changes_with_the_design_and_the_family() -> None:
    digests = [
        lock(claims, **design)["sha256"]
        for claims, design in (
            ([DOG], {}), ([DOG], {"alpha": 0.05}), ([DOG], {"alpha": 0.01}), ([DOG, replace(DOG, id="b")], {}), ([], {})
        )
    ]  # fmt: skip
    assert len(set(digests)) == len(digests)


def test_a_design_that_is_no_number_is_not_locked() -> None:
    with pytest.raises(ValueError, match="JSON"):
        lock([DOG], alpha=float("nan"))


# --- the design -------------------------------------------------------------------------------------


SMOKE = {"controls": 239, "prompts": 6, "doses": 5, "contexts": 4, "absent": 8}


@pytest.mark.parametrize(
    ("claims", "changes", "alpha", "fits"),
    [
        # Controls: the best q of a single true claim is claims / (controls + 1).
        (12, {}, 0.05, True),
        (13, {}, 0.05, False),
        (10, {"controls": 199}, 0.05, True),
        (11, {"controls": 199}, 0.05, False),
        (2, {"controls": 199}, 0.01, True),
        (3, {"controls": 199}, 0.01, False),
        (1, {"controls": 19}, 0.05, True),
        (1, {"controls": 18}, 0.05, False),
        (50, {"controls": 999}, 0.05, True),
        (1, {"controls": 0}, 0.05, False),
        # Doses: a trend needs three; over three prompts its p is then (1 / 3!) ** 3 = 1 / 216.
        (1, {"doses": 3}, 0.05, True),
        (1, {"doses": 2}, 0.05, False),
        (1, {"doses": 1}, 0.05, False),
        (10, {"doses": 3, "prompts": 3, "controls": 999}, 0.05, True),
        (11, {"doses": 3, "prompts": 3, "controls": 999}, 0.05, False),
        # Contexts and other words: 1 / (6 choose 3) = 1 / 20, and 1 / (9 choose 3) = 1 / 84.
        (1, {"contexts": 3, "absent": 1}, 0.0501, True),
        (2, {"contexts": 3, "absent": 1}, 0.05, False),
        (4, {"contexts": 3, "absent": 2}, 0.05, True),
        (5, {"contexts": 3, "absent": 2}, 0.05, False),
        # Prompts and contexts: an interval needs three.
        (1, {"prompts": 3}, 0.05, True),
        (1, {"prompts": 2}, 0.05, False),
        (1, {"prompts": 2, "doses": 11}, 0.05, False),
        (1, {"prompts": 0}, 0.05, False),
        (1, {"contexts": 3}, 0.05, True),
        (1, {"contexts": 2, "absent": 99}, 0.05, False),
        (1, {"contexts": 0}, 0.05, False),
    ],
)
def test_a_family_that_can_never_pass_is_refused(claims: int, changes: Any, alpha: float, fits: bool) -> None:
    sizes = {**SMOKE, **changes}
    if fits:
        check_design(claims, sizes, alpha)
    else:
        with pytest.raises(ClaimError) as caught:
            check_design(claims, sizes, alpha)
        assert_one_line_with_next_step(caught.value)


@pytest.mark.parametrize(
    ("changes", "test", "p"),
    [
        ({"controls": 59}, "rank among controls", "0.017"),
        ({"doses": 2}, "trend over doses", "1"),
        ({"prompts": 3, "doses": 3}, "trend over doses", "0.0046"),
        ({"contexts": 3, "absent": 1}, "with the word and with others", "0.05"),
    ],
    ids=str,
)
def test_the_refusal_names_the_weakest_test_and_every_size(changes: dict[str, int], test: str, p: str) -> None:
    sizes = {**SMOKE, **changes}
    with pytest.raises(ClaimError, match=f"the test of {test} gives p = {p} at best") as caught:
        check_design(20, sizes, 0.05)
    message = str(caught.value)
    assert message.startswith("20 claims cannot reach significance with ")
    assert all(f"{n} {name}" in message for name, n in sizes.items())


@pytest.mark.parametrize("size", ["prompts", "contexts"])
def test_too_few_for_an_interval_is_told_by_number(size: str) -> None:
    sizes = {**SMOKE, size: LEAST_RESAMPLED - 1}
    with pytest.raises(ClaimError, match="give no interval: take at least 3 of each") as caught:
        check_design(1, sizes, 0.05)
    assert f"2 {size}" in str(caught.value)
    check_design(1, {**sizes, size: LEAST_RESAMPLED}, 0.05)


@pytest.mark.parametrize(
    ("claims", "changes", "advice"),
    [
        (20, {"controls": 59}, "above 0.05; name at most 3 claims, or take a profile with more"),
        (2, {"controls": 19}, "above 0.05; name at most 1 claims, or take a profile with more"),
        (1, {"controls": 18}, "above 0.05; take a profile with more"),
        (20, {"controls": 1}, "above 0.05; take a profile with more"),
        (5, {"doses": 2}, "above 0.05; take a profile with more"),
    ],
)
def test_nobody_is_advised_to_name_no_claims(claims: int, changes: dict[str, int], advice: str) -> None:
    with pytest.raises(ClaimError) as caught:
        check_design(claims, {**SMOKE, **changes}, 0.05)
    assert str(caught.value).endswith(advice)


@given(
    claims=st.integers(1, 300), controls=st.integers(1, 1000), prompts=st.integers(3, 6), doses=st.integers(3, 6),
    contexts=st.integers(3, 6), absent=st.integers(1, 8), alpha=st.sampled_from([0.01, 0.05, 0.1]),
)  # fmt: skip
def test_the_advised_number_of_claims_is_accepted_and_no_more(claims: int, alpha: float, **sizes: int) -> None:
    try:
        check_design(claims, sizes, alpha)
    except ClaimError as refused:
        before, least, after = str(refused).partition("name at most ")
        if not least:  # not even one: only more of everything helps
            assert before.endswith("; take a profile with more")
            with pytest.raises(ClaimError):
                check_design(1, sizes, alpha)
            return
        advised = int(after.split()[0])
        assert 1 <= advised < claims
        assert after == f"{advised} claims, or take a profile with more"
        check_design(advised, sizes, alpha)
        with pytest.raises(ClaimError):
            check_design(advised + 1, sizes, alpha)
    else:
        assert max(smallest_ps(**sizes).values()) * claims <= alpha
        if claims > 1:
            check_design(claims - 1, sizes, alpha)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_every_profile_can_tell_as_many_claims_as_a_model_is_asked_for(profile: Profile) -> None:
    check_design(10, {name: getattr(profile, name) for name in SMOKE}, 0.05)


# --- what the weights fill in -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def maps(planted: Checkpoint) -> dict[str, NeuronMap]:
    return {lens: decode(planted, lens=lens, top_k=20) for lens in ("paper", "write")}


PAPER_PLANTS = ("dog", "california", "sherlock", "wizard", "river-detector", "moon-dead")


@pytest.mark.parametrize("plant_id", PAPER_PLANTS)
def test_the_lens_finds_the_planted_neuron_and_its_pole(
    planted: Checkpoint, maps: dict[str, NeuronMap], truth: dict[str, Any], plant_id: str
) -> None:
    plant = next(p for p in truth["plants"] if p["id"] == plant_id)
    found = resolve_claim(Claim(plant_id, plant["token"], None, None, "paper", None, "file"), maps, planted)
    assert (str(found.neuron), found.pole) == (plant["name"], plant["pole"])


@pytest.mark.parametrize("top_k", [1, 20, 100])
def test_a_short_map_finds_the_same_neuron(planted: Checkpoint, top_k: int) -> None:
    short = {"paper": decode(planted, top_k=top_k)}
    found = resolve_claim(Claim("dog", "dog", None, None, "paper", None, "file"), short, planted)
    assert (str(found.neuron), found.pole) == ("L1N17", "+")


def test_a_stated_pole_confines_the_search(planted: Checkpoint, maps: dict[str, NeuronMap]) -> None:
    claim = Claim("california", " California", None, "+", "paper", None, "file")
    found = resolve_claim(claim, maps, planted)
    assert found.pole == "+"
    assert str(found.neuron) != "L3N31"  # which names it on the negative pole


@pytest.mark.parametrize("name", ["L1N17", "L3N31", "L0N0", "L2N255"])
@pytest.mark.parametrize("lens", ["paper", "write"])
def test_a_named_neuron_gets_the_pole_with_the_higher_score(
    planted: Checkpoint, maps: dict[str, NeuronMap], name: str, lens: str
) -> None:
    claim = Claim("california", " California", NeuronId.parse(name), None, lens, None, "file")
    found = resolve_claim(claim, maps, planted)
    scores = {
        f.pole: f.score for f in maps[lens].find(" California", 10**6, checkpoint=planted) if str(f.neuron) == name
    }
    assert len(scores) == 2
    assert found == replace(claim, pole=max(scores, key=lambda pole: scores[pole]))


def test_a_complete_claim_is_left_as_it_is(planted: Checkpoint, maps: dict[str, NeuronMap]) -> None:
    claim = replace(DOG, pole="-")  # though the other pole names it
    assert resolve_claim(claim, maps, planted) == claim


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"token": " Dumbledore"}, TokenError),
        ({"token": VOCAB}, TokenError),
        ({"neuron": NeuronId(4, 0)}, NeuronError),
        ({"neuron": NeuronId(0, 256)}, NeuronError),
    ],
    ids=str,
)
def test_what_the_model_does_not_have_is_an_error(
    planted: Checkpoint, maps: dict[str, NeuronMap], change: dict[str, Any], error: Any
) -> None:
    with pytest.raises(error):
        resolve_claim(replace(DOG, **change), maps, planted)


def test_what_nothing_reads_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "claims.toml"
    path.write_text('[[claim]]\nid = "dog"\ntoken = " dog"\n[[Claim]]\nid = "cat"\ntoken = " cat"\n')
    with pytest.raises(ClaimError, match=r"has 'Claim' beside its claims, which nothing reads: write \[\[claim\]\]"):
        load_claims(path)
