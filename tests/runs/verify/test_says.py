"""What a folder says is held against the rest of it, also where the forger listed it anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runs.finished_run import list_anew
from tests.runs.verify.told import first, forged


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(
            lambda r: r["judgements"][0]["outcome"][1].update(verdict="validated"),
            "verdicts: claims: 'a b' is recorded as validated, and by its evidence it is detector",
            id="a verdict",
        ),
        pytest.param(lambda r: r["verdicts"][1].update(verdict="validated"), "verdicts[1].verdict", id="a copy of it"),
        pytest.param(lambda r: r["verdicts"].pop(), "the verdicts of results.json are not", id="a dropped verdict"),
        pytest.param(
            lambda r: r["judgements"][0]["outcome"][0]["figures"]["writes"].update(q=0.001),
            "figures.writes.q",
            id="a q",
        ),
        pytest.param(
            lambda r: r["roles"][0]["outcome"][2].update(role="role kept"), "is recorded as role kept", id="a role"
        ),
        pytest.param(lambda r: r["roles"][0]["rule"].update(share=9.0), "roles", id="a role's threshold"),
        pytest.param(lambda r: r["roles"][0].update(base="none"), "which is not recorded", id="a role's base"),
        pytest.param(
            lambda r: r["judgements"][0]["rule"].update(alpha=0.5), "not what was locked: rule.alpha", id="a threshold"
        ),
        pytest.param(
            lambda r: r["judgements"][0]["claims"][0].update(expect="refuted"), "not what was locked", id="a claim"
        ),
        pytest.param(lambda r: r["judgements"][0].update(seed=4), "not what was locked: seed", id="a seed"),
        pytest.param(lambda r: r["tables"][1]["rows"][0].__setitem__(8, "refuted"), "the table clamp", id="a table"),
        pytest.param(
            lambda r: next(t for t in r["tables"] if t["name"].endswith("--roles")).update(caption="x"),
            "the table finetune",
            id="a derived caption",
        ),
        pytest.param(lambda r: r["tables"][-1].update(caption="x"), "tables/decode_speed--t.md", id="another caption"),
        pytest.param(lambda r: r["docs"][0].update(text="x"), "report.html", id="a docstring"),
        pytest.param(lambda r: r["figures"][0].update(alt="x"), "is not described as it is: alt", id="an alt text"),
        pytest.param(lambda r: r["figures"][2].update(alt="x"), "report.html", id="another alt text"),
        pytest.param(
            lambda r: r["derivations"][0].update(make="evaluation.writing_side/1"),
            "is not what raw/",
            id="another function",
        ),
        pytest.param(
            lambda r: r["derivations"][0].update(make="eval"), "is made by eval, this release has none", id="a built-in"
        ),
        pytest.param(lambda r: r["derivations"][0].update(raw="own--raw"), "not on clamp", id="another file"),
        pytest.param(lambda r: r["derivations"][0].update(name="../x"), "cannot name a file", id="a path"),
        pytest.param(lambda r: r["derivations"][0].update(kind="x"), "does not follow its schema", id="another kind"),
        pytest.param(
            lambda r: r["tables"][0]["rows"][0].__setitem__(1, "9"), "the table answers--paper", id="a finding"
        ),
        pytest.param(lambda r: r["environment"].update(gpu="H900"), "environment.json", id="the environment"),
        pytest.param(lambda r: r["model"].update(name="another"), "report", id="the model"),
        pytest.param(lambda r: r.update(status="passed"), "events.jsonl ends with", id="the status"),
        pytest.param(lambda r: r["ledger"].update(failed=0), "events.jsonl counts", id="the ledger"),
        pytest.param(lambda r: r["tests"][1].update(outcome="passed"), "the tests of results.json", id="a test"),
        pytest.param(lambda r: r["ledger"]["reasons"].clear(), "the reasons of results.json", id="the reasons"),
        pytest.param(lambda r: r["options"]["passed"].update(profile="audit"), "other options", id="the options"),
        pytest.param(lambda r: r.update(claims_sha256="0" * 64), "claims.lock.json says", id="the lock's digest"),
        pytest.param(lambda r: r.update(seed=4), "has seed 4", id="the run's seed"),
        pytest.param(lambda r: r["tables"].pop(), "tables/decode_speed--t.md is in the folder", id="a dropped table"),
        pytest.param(
            lambda r: r["figures"].clear(), "the figure clamp_causality--natural has its values", id="a dropped figure"
        ),
        pytest.param(lambda r: r.update(extra=1), "$.extra is not known", id="a key"),
        pytest.param(lambda r: r.update(schema_version=2), "has schema 2, this release reads 1", id="a version"),
    ],
)
def test_what_results_say_is_held_against_the_rest(run: Path, change: Callable[[Any], Any], told: str) -> None:
    assert told in forged(run, change)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(lambda c: c["rule"].update(alpha=0.5), "says that its content has sha256", id="a threshold"),
        pytest.param(lambda c: c["claims"].pop(), "says that its content has sha256", id="a claim"),
        pytest.param(lambda c: c.update(sha256="0" * 64), "says that its content has sha256", id="its hash"),
        pytest.param(lambda c: c.pop("sha256"), "claims: cannot be made again", id="no hash"),
    ],
)
def test_the_lock_is_held_to_its_own_hash(run: Path, change: Callable[[Any], Any], told: str) -> None:
    assert told in forged(run, change, "claims.lock.json")


def test_verdicts_without_a_lock_are_noticed(run: Path) -> None:
    (run / "claims.lock.json").unlink()
    list_anew(run)
    assert "there are verdicts, and no claims.lock.json" in first(run)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[1:],
        lambda lines: lines[:-1],
        lambda lines: [lines[0], *lines],
        lambda lines: [line for line in lines if '"failed"' not in line or '"end"' in line],
        lambda lines: [line for line in lines if '"locked"' not in line],
        lambda lines: [*lines, "{"],
        lambda lines: [],
    ],
    ids=["no begin", "no end", "two begins", "a failure less", "never locked", "cut off", "empty"],
)
def test_a_log_that_tells_another_story_is_noticed(run: Path, change: Callable[[list[str]], list[str]]) -> None:
    file = run / "events.jsonl"
    file.write_text("".join(f"{line}\n" for line in change(file.read_text().splitlines())))
    list_anew(run)
    assert first(run).startswith("events: ")
