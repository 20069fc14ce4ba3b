"""A folder that is what its run wrote verifies; any byte that is not, any forged verdict, is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashinterp.audit.folder import MANIFEST, RunFolder, read_arrays, sha256_of
from flashinterp.audit.render import rendered
from flashinterp.audit.verify import verify
from flashinterp.checkpoint import Checkpoint
from flashinterp.errors import RunError
from tests.audit.finished_run import copied, edit_json, files_of, finished, list_anew, state_of
from tests.helpers import assert_one_line_with_next_step

DERIVED = (
    "answers--paper",
    *(f"clamp_causality--{name}" for name in ("verdicts", "writing", "reading", "direction", "why")),
    *(f"lens_predicts_causality--{name}" for name in ("lenses", "nulls", "parts", "parts-rest")),
    *("finetune_preservation--roles", "finetune_preservation--roles-why"),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, planted: Checkpoint, tuned: Checkpoint) -> Path:
    """A finished run; tests leave it as it is."""
    return finished(tmp_path_factory.mktemp("whole") / "run", planted, tuned)


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    return copied(whole, tmp_path / "run")


def states(folder: Path, manifest: str | None = None) -> dict[str, str]:
    return {check.name: check.state for check in verify(folder, manifest).checks}


def first(folder: Path) -> str:
    """The first thing that differs, which must be one line."""
    found = verify(folder)
    assert not found.ok
    assert found.first is not None
    assert found.first.isprintable()
    return found.first


# --- a whole folder -------------------------------------------------------------------------------------


def test_a_whole_folder_verifies_and_is_left_as_it_is(whole: Path) -> None:
    before = state_of(whole)
    found = verify(whole, sha256_of(whole / MANIFEST).upper())
    assert [c.state for c in found.checks] == ["ok"] * len(found.checks)
    assert found.ok
    assert found.first is None
    assert found.status == "failed"  # of its tests, which is another question
    assert state_of(whole) == before


def test_it_is_said_what_rests_on_raw_numbers_and_what_does_not(whole: Path) -> None:
    found = verify(whole)
    assert found.derived == DERIVED
    assert found.drawn == ("clamp_causality--natural", "specialised_neurons--s")
    assert found.covered == ("decode_speed--t", "specialised_neurons--own")
    assert all(check.proves and check.leaves for check in found.checks)
    assert "decode_speed--t" in found.said()
    assert "does not show that the run was honest" in found.said()
    told = json.loads(json.dumps(found.record(), allow_nan=False))
    assert told["ok"] is True
    assert [row[1] for row in found.table().rows] == [c["state"] for c in told["checks"]]


def test_of_a_folder_that_differs_nothing_good_is_said(run: Path) -> None:
    (run / "report.md").write_text("mine")
    said = verify(run).said()
    assert said.startswith("It differs. digests: report.md has 4 bytes")
    assert said.endswith("ask for the one that the run wrote, or run it again.")
    assert "has not changed" not in said


def test_without_the_digest_it_is_told_and_not_called_checked(whole: Path) -> None:
    (pinned,) = (c for c in verify(whole).checks if c.name == "manifest's digest")
    assert pinned.state == "not checked"
    assert sha256_of(whole / MANIFEST) in pinned.told


def test_neither_model_nor_evals_are_needed(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr("flashinterp.checkpoint.open_checkpoint", refuse)
    monkeypatch.setattr("flashinterp.checkpoint.Checkpoint.load_model", refuse)
    monkeypatch.setitem(__import__("sys").modules, "evals", None)
    assert verify(whole).ok


@pytest.mark.parametrize("digest", ["", "x" * 64, "ab" * 31, "é" * 64])
def test_a_digest_that_is_none_is_refused(whole: Path, digest: str) -> None:
    with pytest.raises(RunError, match="is no sha256") as caught:
        verify(whole, digest)
    assert_one_line_with_next_step(caught.value)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_what_is_no_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="is no run's folder") as caught:
        verify(tmp_path / name)
    assert_one_line_with_next_step(caught.value)


# --- one byte -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flippable(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which one byte at a time is turned and turned back."""
    return copied(whole, tmp_path_factory.mktemp("flip") / "run")


def flips(file: Path, places: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Turn one byte at a time; while the caller has it, it is turned."""
    whole = file.read_bytes()
    try:
        for place, mask in places:
            file.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
            yield place, mask
    finally:
        file.write_bytes(whole)


def test_a_flipped_byte_of_any_file_is_noticed_and_the_file_named(flippable: Path) -> None:
    draw = np.random.default_rng(1)
    for name in files_of(flippable):
        file = flippable / name
        size = file.stat().st_size
        places = {0, size - 1, *draw.integers(0, size, 6).tolist()}
        for place, mask in flips(file, ((place, int(draw.integers(1, 256))) for place in sorted(places))):
            told = first(flippable)
            assert name in told, f"byte {place} of {name} ^ {mask}: {told}"
    assert verify(flippable).ok


@settings(max_examples=60)
@given(data=st.data())
def test_any_flip_anywhere_is_noticed(flippable: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(files_of(flippable)), "file")
    file = flippable / name
    place = data.draw(st.integers(0, file.stat().st_size - 1), "byte")
    mask = data.draw(st.integers(1, 255), "mask")
    for _ in flips(file, iter([(place, mask)])):
        assert name in first(flippable)


def test_every_byte_of_the_manifest_counts(flippable: Path) -> None:
    """Without its digest: what it lists is checked against the folder, and its form against the one form."""
    file = flippable / MANIFEST
    size = file.stat().st_size
    for place, _ in flips(file, ((place, 1 << place % 8) for place in range(0, size, 7))):
        told = first(flippable)
        assert MANIFEST in told, f"byte {place}: {told}"


@pytest.mark.parametrize("name", ["results.json", "claims.lock.json", MANIFEST])
@pytest.mark.parametrize(
    "change",
    [lambda b: b + b"\n", lambda b: b.replace(b'": ', b'":  ', 1), lambda b: b.replace(b"\n", b"\r\n", 1)],
    ids=["line at the end", "space", "CR LF"],
)
def test_space_that_no_reader_sees_counts(run: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Also where the forger lists it anew: each of these files has one form."""
    file = run / name
    changed = change(file.read_bytes())
    file.write_bytes(changed)
    if name != MANIFEST:
        list_anew(run)
    assert f"{name} is not in the form that a run writes" in first(run)


# --- files and names ------------------------------------------------------------------------------------


def test_a_missing_an_extra_and_a_shortened_file_are_named(run: Path) -> None:
    file = run / "tables" / "decode_speed--t.md"
    text = file.read_bytes()
    file.unlink()
    assert "tables/decode_speed--t.md is listed in manifest.json and is not there" in first(run)
    file.write_bytes(text[:-1])
    assert "tables/decode_speed--t.md has" in first(run)
    file.write_bytes(text)
    for name in ("notes.txt", "raw/own.npz", "raw/deep", ".hidden"):
        (run / name).write_bytes(b"x")
        assert f"{name} is not listed in manifest.json" in first(run)
        (run / name).unlink()
    (run / "more").mkdir()
    assert "more is not listed" in first(run)


def test_links_are_not_followed(run: Path, tmp_path: Path) -> None:
    file = run / "report.md"
    moved = shutil.move(file, tmp_path / "elsewhere.md")
    file.symlink_to(moved)
    assert "report.md is a link" in first(run)
    file.unlink()
    shutil.move(moved, file)
    raw = shutil.move(run / "raw", tmp_path / "raw")
    (run / "raw").symlink_to(raw)
    assert "is a link" in first(run)
    (run / "raw").unlink()
    shutil.move(raw, run / "raw")
    (run / "loop").symlink_to(run)
    assert "loop is not listed" in first(run)
    (run / "loop").unlink()
    shutil.move(run / MANIFEST, tmp_path / MANIFEST)
    (run / MANIFEST).symlink_to(tmp_path / MANIFEST)
    assert "manifest.json is a link" in first(run)


def test_a_folder_that_is_reached_by_a_link_is_a_folder(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(whole)
    assert verify(tmp_path / "link").ok


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "raw/../results.json",
        "/etc/passwd",
        "raw/a/b.npz",
        "raw\\x.npz",
        "RAW/x.npz",
        "raw/x",
        MANIFEST,
        "",
        7,
        None,
    ]
    + ["tables/..md", "raw/\u202enpz.npz", "raw/x.npz\x00"],
)
def test_a_name_that_is_no_place_of_a_run_is_refused(run: Path, path: Any) -> None:
    edit_json(run / MANIFEST, lambda m: m["files"][0].update(path=path))
    assert "which is no place in a run's folder" in first(run)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(schema_version=2),
        lambda m: m.pop("schema_version"),
        lambda m: m.update(signed=True),
        lambda m: m.update(files={}),
        lambda m: m["files"].reverse(),
        lambda m: m["files"].append(m["files"][-1]),
        lambda m: m["files"][0].update(sha256="A" * 64),
        lambda m: m["files"][0].update(size="1"),
        lambda m: m["files"][0].pop("size"),
        lambda m: m["files"].insert(0, 3),
    ],
    ids=["version", "no version", "key", "no list", "order", "twice", "capitals", "size", "no size", "a number"],
)
def test_a_manifest_of_another_form_is_refused(run: Path, change: Callable[[Any], Any]) -> None:
    edit_json(run / MANIFEST, change)
    assert MANIFEST in first(run) or "manifest" in first(run)


def test_a_manifest_that_was_written_anew_is_known_by_its_digest(run: Path) -> None:
    """The one forgery that nothing in the folder can show."""
    told = sha256_of(run / MANIFEST)
    edit_json(run / "results.json", lambda r: r["limits"].clear())
    for path, text in rendered(json.loads((run / "results.json").read_text()), _drawn(run)).items():
        RunFolder(run).write_at(path, text)
    list_anew(run)
    assert verify(run).ok
    found = verify(run, told)
    assert not found.ok
    assert "this is another folder" in str(found.first)


def _drawn(run: Path) -> dict[str, str]:
    return {file.stem: file.read_text() for file in (run / "figures").iterdir()}


# --- forgeries that are listed anew ---------------------------------------------------------------------


def forged(run: Path, change: Callable[[Any], Any], name: str = "results.json") -> str:
    """What verify says of a file that was edited in its own form and listed anew."""
    edit_json(run / name, change)
    list_anew(run)
    return first(run)


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
            lambda r: r["derivations"][0].update(make="writing_table"), "is not what raw/ gives", id="another function"
        ),
        pytest.param(lambda r: r["derivations"][0].update(make="eval"), "this release has no 'eval'", id="a built-in"),
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


@pytest.mark.parametrize(
    "name", ["report.html", "report.md", "junit.xml", "environment.json", "tables/answers--paper.md"]
)
def test_what_follows_from_results_follows_byte_for_byte(run: Path, name: str) -> None:
    file = run / name
    file.write_bytes(file.read_bytes()[:-1] + b" ")
    list_anew(run)
    assert f"{name} is not what results.json gives" in first(run)


def test_a_figure_that_shows_something_else_is_noticed(run: Path) -> None:
    drawing = run / "figures" / "specialised_neurons--s.svg"
    drawing.write_text(drawing.read_text().replace("#0072b2", "#d55e00"))
    list_anew(run)
    assert "figures/specialised_neurons--s.svg does not show the points that raw/ gives" in first(run)


def test_a_figure_whose_values_are_not_kept_is_held_to_the_report(run: Path) -> None:
    drawing = run / "figures" / "specialised_neurons--own.svg"
    drawing.write_text(drawing.read_text().replace("#0072b2", "#d55e00"))
    list_anew(run)
    assert "report.html is not what results.json gives" in first(run)


def test_a_figure_of_its_own_is_noticed(run: Path) -> None:
    shutil.copy(run / "figures" / "specialised_neurons--s.svg", run / "figures" / "more.svg")
    list_anew(run)
    assert "figures/more.svg is in the folder" in first(run)


def test_another_matplotlib_draws_other_strokes_through_the_same_points(run: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("matplotlib.__version__", "0.0")
    drawing = run / "figures" / "specialised_neurons--s.svg"
    drawing.write_text(drawing.read_text().replace("#0072b2", "#d55e00"))
    for path, text in rendered(json.loads((run / "results.json").read_text()), _drawn(run)).items():
        RunFolder(run).write_at(path, text)
    list_anew(run)
    found = verify(run)
    assert found.ok
    (figures,) = (c for c in found.checks if c.name == "figures")
    assert "point by point" in figures.told


def test_a_table_whose_derivation_was_dropped_is_not_called_derived(run: Path) -> None:
    """What a forger can do: the reader is told what rests on nothing but digests."""
    edit_json(run / "results.json", lambda r: r.update(derivations=[]))
    list_anew(run)
    found = verify(run)
    assert found.derived == found.drawn == ()
    assert set(DERIVED) <= set(found.covered)
    assert {c.state for c in found.checks if c.name in ("tables", "figures")} == {"not checked"}


def raw_changed(run: Path, name: str, **changes: Any) -> str:
    arrays = read_arrays(run / "raw" / f"{name}.npz")
    RunFolder(run).write_arrays(name, arrays | {k: np.asarray(v(arrays[k])) for k, v in changes.items()})
    list_anew(run)
    return first(run)


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("claims--dog", {"log_odds": lambda a: a[:, ::-1]}, "by its evidence it is"),
        ("claims--dog", {"present": lambda a: -a}, "by its evidence it is"),
        ("claims--dog", {"log_odds": lambda a: a * 1.001}, "differs from its evidence"),
        ("claims--a-b-2", {"kl": lambda a: a + 9}, "by its evidence it is"),
        ("roles--dog", {"after": lambda a: 0 * a}, "by its evidence it is"),
        ("roles--dog", {"before": lambda a: a * 1.001}, "differs from its evidence"),
        ("lens_predicts_causality--real", {"effects": lambda a: a[::-1]}, "the table lens_predicts_causality--lenses"),
        ("clamp_causality--natural", {"panel0_curves": lambda a: a + 1}, "the points of panel0_curves are not those"),
        ("specialised_neurons--s", {"score": lambda a: a[:-1]}, "the points of score are not those"),
        ("specialised_neurons--s--figure", {"a0": lambda a: a + 1}, "the points of score are not those"),
        ("specialised_neurons--s--figure", {"value": lambda a: a[:-1]}, "cannot be made from raw/specialised_neurons"),
        ("clamp_causality--2--finding", {"value": lambda a: a[1:]}, "the finding clamp_causality--2 cannot be made"),
        ("lens_predicts_causality--permuted-1", {"effects": lambda a: a[::-1]}, "the table lens_predicts_causality--n"),
    ],
)
def test_raw_numbers_are_held_against_the_verdicts(
    run: Path, name: str, changes: dict[str, Callable[[Any], Any]], told: str
) -> None:
    assert told in raw_changed(run, name, **changes)


def test_evidence_that_is_not_there_is_named(run: Path) -> None:
    (run / "raw" / "claims--dog.npz").unlink()
    list_anew(run)
    assert "raw/claims--dog.npz is what a verdict, table or figure rests on, and is not there" in first(run)


def test_a_damaged_or_dangerous_file_of_numbers_is_named(run: Path) -> None:
    file = run / "raw" / "own--raw.npz"
    for content in (b"", b"PK\x03\x04", file.read_bytes()[:-40]):
        file.write_bytes(content)
        list_anew(run)
        assert "own--raw.npz cannot be read as arrays" in first(run)
    np.savez(file, x=np.array([{}], dtype=object))
    list_anew(run)
    assert "own--raw.npz cannot be read as arrays" in first(run)


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


# --- other releases, partial and broken runs --------------------------------------------------------------


def test_other_code_may_word_its_report_otherwise(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later release is no forgery: what cannot be compared is not called checked, and figures still are."""
    monkeypatch.setattr("flashinterp.audit._verify_run.code_digest", lambda: "0" * 64)
    assert verify(run).ok
    file = run / "report.html"
    file.write_bytes(file.read_bytes() + b" ")
    list_anew(run)
    found = verify(run)
    assert found.ok
    (files,) = (c for c in found.checks if c.name == "files")
    assert files.state == "not checked"
    assert "report.html is worded otherwise by this release: verify it with the one that wrote it" in files.told
    assert "the table clamp" in forged(run, lambda r: r["tables"][1]["rows"][0].__setitem__(8, "refuted"))


def test_after_what_differs_nothing_is_called_ok(run: Path) -> None:
    (run / "report.md").write_text("mine")
    found = states(run)
    assert found["digests"] == "differs"
    assert {found[name] for name in ("results", "claims", "events", "verdicts", "tables", "files")} == {"not checked"}


@pytest.mark.parametrize("missing", [MANIFEST, "results.json", "events.jsonl"])
def test_a_run_without_its_end_is_incomplete_and_no_pass(run: Path, missing: str) -> None:
    (run / missing).unlink()
    found = verify(run)
    assert found.status == "incomplete"
    assert not found.ok
    assert f"complete: the run is incomplete: it has no {missing}" in str(found.first)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"schema_version": NaN}', "[" * 100_000, "\udcff"],
    ids=["empty", "list", "object", "NaN", "deep", "not UTF-8"],
)
def test_results_that_are_none_are_a_difference_and_no_crash(run: Path, content: str) -> None:
    (run / "results.json").write_bytes(content.encode("utf-8", errors="surrogateescape"))
    list_anew(run)
    assert first(run).startswith("results: ")
