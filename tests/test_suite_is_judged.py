"""The evals are put to the test themselves: with one fault planted in the library, the right one must fail."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flashinterp
from fixtures.storybook import models as storybook
from flashinterp.audit import baseline, session  # pytester forgets what a run imports: these would come anew each time
from flashinterp.bench import Bench
from flashinterp.checkpoint import Checkpoint
from flashinterp.layout import Layout
from flashinterp.neuron import get_lens
from flashinterp.neuron_map import NeuronMap
from flashinterp.tokens import Token, Vocabulary
from tests.audit.test_report_browser import visit
from tests.documents import unexplained

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
# Modules by their full names: in the package, functions of the same names stand in front of some of them.
alignment, clamp, decode, measure, natural, replay, steer, sweep, verdict = (
    import_module(f"flashinterp.{name}")
    for name in ("alignment", "clamp", "decode", "measure", "natural", "replay", "steer", "sweep", "verdict")
)

DECODE = "test_decode_correctness.py"
CAUSALITY = "test_clamp_causality.py"
NEURONS = "test_specialised_neurons.py"
PRESERVATION = "test_finetune_preservation.py"
STEERING = "test_concept_steering.py"
ALIGNMENT = "test_vocabulary_alignment.py"
INSTRUMENT = "test_instrument.py"
REGRESSION = "test_regression.py"


@dataclass(frozen=True)
class Run:
    """One run of real evals: its exit code and its folder."""

    code: int
    out: Path

    @property
    def results(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.out / "results.json").read_text(encoding="utf-8"))
        return loaded

    @property
    def red(self) -> dict[str, str]:
        """The tests that failed or could not be set up, each with the reason."""
        reasons = self.results["ledger"]["reasons"]
        split = (r.partition("::")[2].partition(": ") for kind in ("failed", "errors") for r in reasons.get(kind, []))
        return {test.partition("[")[0]: reason for test, _, reason in split}

    @property
    def verdicts(self) -> dict[str, str]:
        return {v["id"]: v["verdict"] for v in self.results["verdicts"]}


@dataclass(frozen=True)
class Evals:
    """The real evals, run in this process."""

    pytester: pytest.Pytester

    def __call__(self, where: str, *args: str, out: str = "run") -> Run:
        for name in [n for n in sys.modules if n.partition(".")[0] == "evals"]:
            del sys.modules[name]  # another test has imported it: what it holds was bound before a fault was planted
        given = ["-p", "no:cacheprovider", f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml")]
        given += ["--profile", "smoke", "--bundled", "decoys", "--out", out, *args, str(ROOT / "evals" / where)]
        return Run(int(self.pytester.runpytest_inprocess(*given).ret), self.pytester.path / out)


@pytest.fixture(scope="module", autouse=True)
def imported(planted_model: Any) -> None:
    """What pytester would forget after each run and import again is imported before the first."""
    assert planted_model is not None
    assert baseline.RESULTS == session.RESULTS


@pytest.fixture
def evals(pytester: pytest.Pytester) -> Evals:
    return Evals(pytester)


# --- one fault at a time --------------------------------------------------------------------------------

Patch = Callable[[pytest.MonkeyPatch], None]


def after(place: Any, name: str, change: Callable[..., Any]) -> Patch:
    """A fault in what a function returns: ``change(result, *args, **kwargs)`` in place of the result."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        sound = getattr(place, name)
        monkeypatch.setattr(place, name, lambda *args, **kwargs: change(sound(*args, **kwargs), *args, **kwargs))

    return patch


def instead(place: Any, name: str, fault: Any) -> Patch:
    """A fault in place of a function."""
    return lambda monkeypatch: monkeypatch.setattr(place, name, fault)


def both(*patches: Patch) -> Patch:
    """Two faults at once, where one guard would catch the other."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        for one in patches:
            one(monkeypatch)

    return patch


def shift_ids(poles: Sequence[Any], rows: Any, head: Any, **_: Any) -> Any:
    """Every id is one too high."""
    return tuple(replace(pole, ids=(pole.ids + 1) % len(head)) for pole in poles)


def ties_to_the_higher_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head is decoded from its end, so that of equal logits the higher id comes first."""
    sound = decode.decode_rows

    def turned(rows: Any, head: Any, **kwargs: Any) -> Any:
        poles = sound(rows, head.flip(0), **kwargs)
        return tuple(replace(pole, ids=len(head) - 1 - pole.ids) for pole in poles)

    monkeypatch.setattr(decode, "decode_rows", turned)


def too_much_mass(poles: Sequence[Any], *_: Any, **__: Any) -> Any:
    """The normaliser is off by a thousandth."""
    return tuple(replace(pole, logsumexp=pole.logsumexp + 1e-3) for pole in poles)


def one_layer_off(tap: Any, layout: Layout, site: Any, layer: int) -> Any:
    """The clamp hangs on the next layer's module."""
    own, other = layout.layer(layer), layout.layer((layer + 1) % layout.n_layers)
    return replace(tap, module=tap.module.replace(own, other))


def multiply(self: Any, x: Any, one: Any, where: slice, column: int) -> None:
    """A clamp scales where it should fix."""
    rows = slice(None) if one.rows is None else list(one.rows)
    x[rows, where, column] *= float(one.value)
    self.written += 1


def leave_a_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clamp that forgets one of its hooks on the model."""
    sound = clamp.clamp_rows

    @contextmanager
    def forgetful(model: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with sound(model, *args, **kwargs) as log:
            yield log
        model.lm_head.register_forward_hook(lambda module, given, out: None)

    monkeypatch.setattr(clamp, "clamp_rows", forgetful)


def next_token(token: Token, vocabulary: Vocabulary, _: Any) -> Token:
    """A text is taken for the token after its own."""
    return Token(token.id + 1, vocabulary.surfaces[token.id + 1], token.form)


def shuffled(rows: torch.Tensor, *_: Any) -> torch.Tensor:
    """The rows on disk are not in the live model's order."""
    return rows.roll(1, dims=0)


def shuffled_down(rows: torch.Tensor, checkpoint: Checkpoint, kind: str, layer: int) -> torch.Tensor:
    """The columns of W_down are not in the live model's order."""
    return rows.roll(1, dims=0) if kind == "down" else rows


def without_norm(rows: Any, checkpoint: Checkpoint, lens: Any, layer: int, **_: Any) -> Any:
    """The write lens is handed to the head as it is."""
    return checkpoint.rows("down", layer).float() if get_lens(lens).name == "write" else rows


def other_pole(found: list[Any], *_: Any, **__: Any) -> list[Any]:
    """The poles are named the wrong way round."""
    return [f._replace(pole="-" if f.pole == "+" else "+") for f in found]


def validated(verdicts: list[Any], *_: Any, **__: Any) -> list[Any]:
    """A judge who says yes to everything."""
    return [replace(v, verdict="validated") for v in verdicts]


def smallest_rank(value: float, controls: Any, **_: Any) -> float | None:
    """Any neuron beats all its controls."""
    return 1 / (1 + len(controls)) if len(controls) else None


def turned_curve(curves: Any, *_: Any, **__: Any) -> Any:
    """The doses of a curve are in the wrong order."""
    return replace(curves, log_probs=np.ascontiguousarray(curves.log_probs[:, ::-1]))


def first_layer_unseen(result: Any, *_: Any, **__: Any) -> Any:
    """The first layer's changes are not counted."""
    kept = result.kept.copy()
    kept[: result.map_a.roster.width(0)] = True
    return replace(result, kept=kept)


def no_clamp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steered answers are made without the steering."""
    sound = flashinterp.steer

    def idle(model: Any, tokenizer: Any, prompt: Any, clamps: dict[Any, float], **kwargs: Any) -> Any:
        return sound(model, tokenizer, prompt, dict.fromkeys(clamps, 0.0), **kwargs)

    monkeypatch.setattr(flashinterp, "steer", idle)


def positive_only(aligned: Any, *_: Any) -> Any:
    """Alignment with the sign left on."""
    return replace(aligned, max_abs=aligned.map.top_logits[:, 0].astype(aligned.max_abs.dtype))


def does_not_fire(self: Any, x: torch.Tensor) -> torch.Tensor:
    """The hook runs, counts, and changes nothing."""
    self.place.log.calls[self.place.layer] += 1
    self.writer.written += 1
    return x.clone()


def last_position_only(where: slice | None, self: Any, length: int) -> slice | None:
    """What comes before the last position stays as it was before the clamp: as if its keys and values were old ones."""
    return where and slice(length - 1, length)


def after_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text is generated over keys and values that the prompt left before the clamp."""
    sound = steer.clamp
    monkeypatch.setattr(steer, "clamp", lambda *args, **kwargs: sound(*args, **{**kwargs, "positions": "generated"}))


def stale_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are called again as they were called for the first prompt, whatever the prompt is."""
    sound, kept = sweep.prepare, {}

    def prepare(model: Any, ids: Any, layers: Any) -> Any:
        fresh = sound(model, ids, layers)
        return replace(fresh, forward=kept.setdefault(tuple(layers), fresh).forward)

    monkeypatch.setattr(sweep, "prepare", prepare)


def next_ids(tokens: Any, *_: Any) -> Any:
    """A sweep looks at the tokens after those it was asked for."""
    return tuple(Token(t.id + 1, t.text, t.form) for t in tokens)


def dead_controls(controls: Any, scale: Any, target: int, n: int, duplicates: Any) -> Any:
    """The quietest neurons of the layer, said to match as well as the right ones."""
    quiet = np.argsort(scale.output, kind="stable")
    return replace(controls, neurons=tuple(int(i) for i in quiet if i != target)[: len(controls.neurons)])


def turned_sign(curves: Any, *_: Any, **__: Any) -> Any:
    """What rises is taken for what falls."""
    return replace(curves, log_probs=np.ascontiguousarray(2 * curves.clean - curves.log_probs))


def leaked(heldout: tuple[str, ...], bench: Any) -> tuple[str, ...]:
    """Effects are measured on a text that has set the doses."""
    return (bench.prompts.selection[0], *heldout[1:])


def range_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doses are taken from the held-out texts."""
    monkeypatch.setattr(Bench, "selection", property(lambda bench: bench.heldout))


def patched_property(place: Any, name: str, change: Callable[..., Any]) -> Patch:
    """A fault in what a property gives."""
    sound = getattr(place, name).fget
    return lambda monkeypatch: monkeypatch.setattr(place, name, property(lambda self: change(sound(self), self)))


BOTH_ON_DISK = after(Checkpoint, "rows", shuffled_down)
WORD, MECHANICS = "test_specialised_neurons", "test_clamp_is_what_it_says"
SINGLE = "test_curves_are_those_of_single_passes"
GENERATED = "test_generated_text_is_that_of_clamped_passes"
CONTROL = "test_nothing_is_found_where_nothing_is_planted"

# The fault, the eval that must see it, and what the eval says of it.
FAULTS = {
    "ids shifted": (after(decode, "decode_rows", shift_ids), DECODE, "test_random_weights", "our logits are off by"),
    "ties to the higher id": (ties_to_the_higher_id, DECODE, "test_random_weights", ""),
    "logsumexp off": (after(decode, "decode_rows", too_much_mass), DECODE, "test_random_weights", "assert 0.00"),
    "lens without its norm": (
        after(decode, "lens_rows", without_norm),
        DECODE,
        "test_every_lens_on_the_model",
        "our logits are off by",
    ),
    "clamp one layer off": (after(Layout, "tap", one_layer_off), INSTRUMENT, MECHANICS, "L1N17 at up: off by"),
    "clamp multiplies": (instead(clamp._Writer, "_write_one", multiply), INSTRUMENT, MECHANICS, "L1N17 at up: off by"),
    "hook left behind": (leave_a_hook, INSTRUMENT, MECHANICS, "hooks were left on lm_head"),
    "head shuffled": (after(Checkpoint, "head", shuffled), INSTRUMENT, MECHANICS, "LayoutError: the llama layout"),
    "W_down shuffled": (BOTH_ON_DISK, INSTRUMENT, MECHANICS, "LayoutError: the llama layout"),
    "W_down shuffled and no probe": (
        both(BOTH_ON_DISK, instead(flashinterp, "probe", lambda *_: {})),
        INSTRUMENT,
        MECHANICS,
        "L1N17 at up: off by",
    ),
    "curve turned round": (
        after(measure, "sweep", turned_curve),
        CAUSALITY,
        "test_claims",
        "a planted neuron was misjudged: dog is",
    ),
    "clamp does not fire": (
        instead(clamp._Dense, "__call__", does_not_fire),
        INSTRUMENT,
        MECHANICS,
        "L1N17 at up: off by",
    ),
    "keys and values from before the clamp": (
        after(clamp._Writer, "where", last_position_only),
        INSTRUMENT,
        "test_the_measure_is_finer_than_what_it_measures",
        "clamped at 7, in two parts, with a cache: log-probabilities move",
    ),
    "generated over a stale cache": (after_the_prompt, INSTRUMENT, GENERATED, "dog: generated"),
    "layers called as for another prompt": (stale_recording, INSTRUMENT, SINGLE, "dog: the judged curve is off by"),
    "another token's curve": (after(sweep, "_tokens", next_ids), INSTRUMENT, SINGLE, "dog: the judged curve is off by"),
    "sign turned": (after(measure, "sweep", turned_sign), INSTRUMENT, SINGLE, "dog: the judged curve is off by"),
    "sign turned, and judged": (after(measure, "sweep", turned_sign), CAUSALITY, "test_claims", "dog is"),
    "doses from the held-out texts": (
        range_of_the_test,
        INSTRUMENT,
        SINGLE,
        "dog: its doses are not its natural range",
    ),
    "prompts leaked": (
        patched_property(Bench, "heldout", leaked),
        INSTRUMENT,
        "test_selection_and_test_are_apart",
        "texts that select are also tested on",
    ),
    "prompts leaked, and measured": (
        patched_property(Bench, "heldout", leaked),
        INSTRUMENT,
        SINGLE,
        "dog: the judged curve is off by",
    ),
    "dead controls": (
        after(measure, "matched_controls", dead_controls),
        INSTRUMENT,
        "test_controls_are_fit",
        "controls are dead neurons",
    ),
    "judge says yes": (after(verdict, "judge", validated), CAUSALITY, CONTROL, "validated where nothing was planted"),
    "controls ignored": (
        instead(verdict, "rank_p", smallest_rank),
        CAUSALITY,
        "test_claims",
        "ocean-crowd is validated",
    ),
    "shape ignored": (
        instead(verdict, "isotonic_violation", lambda *_: 0.0),
        CAUSALITY,
        "test_claims",
        "honey-collapse is validated",
    ),
    "token off by one": (after(Vocabulary, "resolve", next_token), NEURONS, WORD, "planted L3N31"),
    "poles swapped": (after(NeuronMap, "find", other_pole), NEURONS, WORD, "assert '-' == '+'"),
    "a layer not compared": (
        after(flashinterp, "compare", first_layer_unseen),
        PRESERVATION,
        "test_top_tokens_kept",
        "== 0.75",
    ),
    "steering without a clamp": (no_clamp, STEERING, "test_clamped_answers", "AssertionError: clamped"),
    "signed alignment": (
        after(alignment, "alignment_of", positive_only),
        ALIGNMENT,
        "test_alignment_by_layer",
        "assert False",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_turns_its_eval_red(evals: Evals, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    plant, where, test, told = FAULTS[fault]
    plant(monkeypatch)
    run = evals(f"{where}::{test}")
    assert run.code == 1
    assert list(run.red) == [test]
    assert told in run.red[test]
    assert run.results["status"] == "failed"


# --- no fault, twice ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Twins:
    """Two runs with one seed, each in a process of its own: the whole suite, and the suite without its benchmark."""

    whole: Run
    again: Run
    said: str


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory, fixture_folder: Path) -> Twins:
    folder = tmp_path_factory.mktemp("twins")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # they run beside each other

    def start(name: str, *args: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pytest", "evals", "--profile", "smoke", "--out", str(folder / name), *args]
        return subprocess.Popen(
            [*command, "-p", "no:cacheprovider"],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    started = {"whole": start("whole"), "again": start("again", "--ignore=evals/test_decode_speed.py")}
    said = [process.communicate(timeout=600)[0] for process in started.values()]
    whole, again = (Run(process.returncode, folder / name) for name, process in started.items())
    return Twins(whole, again, "\n".join(said))


def test_the_decoys_are_named(evals: Evals, truth: dict[str, Any]) -> None:
    run = evals(CAUSALITY)
    assert run.code == 0, run.red
    assert run.verdicts == {plant["id"]: plant["verdict"] for plant in truth["plants"]}


def test_without_a_fault_the_suite_is_green(twins: Twins) -> None:
    assert (twins.whole.code, twins.again.code) == (0, 0), twins.said
    results = twins.whole.results
    ledger = results["ledger"]
    assert (results["status"], results["partial"], ledger["deselected"]) == ("passed", False, 0)
    assert ledger["passed"] + ledger.get("skipped", 0) == ledger["collected"] > 10
    assert list(unexplained(results["tables"])) == []
    assert twins.whole.verdicts == {plant["id"]: plant["verdict"] for plant in storybook.truth()["plants"]}


def test_its_report_opens_in_a_browser_without_network_or_console_error(twins: Twins, tmp_path: Path) -> None:
    dom, console, _ = visit(Path(shutil.copy(twins.whole.out / "report.html", tmp_path)))
    assert console == []
    assert re.findall(r"""(?:src|href)=["']?(?:\w+:)?//""", dom) == []
    assert "<title>flashinterp self-test</title>" in dom
    assert dom.count("<svg") > 5


def test_one_seed_gives_the_same_results(twins: Twins) -> None:
    whole, again = (run.results for run in (twins.whole, twins.again))
    assert again["partial"] is True
    for results in (whole, again):
        for key in ("started", "finished"):
            del results["environment"][key]
        # The second run has no benchmark, and is called otherwise; how long a test took is no result.
        del results["options"]["passed"]["out"], results["partial"], results["ledger"]
        del results["environment"]["argv"], results["environment"]["evals"]
        for key in ("tables", "docs", "tests"):
            named = {"tables": "name", "docs": "eval", "tests": "id"}[key]
            results[key] = [one for one in results[key] if "decode_speed" not in one[named]]
        for one in results["tests"]:
            del one["seconds"]
    assert whole == again


def test_one_seed_gives_the_same_files(twins: Twins) -> None:
    """But for the times: the claims that were locked, every array and every figure, to the byte."""
    names = [
        p.relative_to(twins.whole.out)
        for p in twins.whole.out.rglob("*")
        if p.name == "claims.lock.json" or p.parent.name in ("raw", "figures")
    ]
    assert Path("claims.lock.json") in names
    assert len(names) > 10
    for name in names:
        assert (twins.whole.out / name).read_bytes() == (twins.again.out / name).read_bytes(), name


# --- claims from a file, and a baseline -------------------------------------------------------------------


def write_claims(path: Path, truth: dict[str, Any], expect: dict[str, str], more: str = "") -> Path:
    """A claim file about the planted neurons, with the verdicts that are expected of them."""
    keys = {"id": "id", "token": "token", "name": "neuron", "pole": "pole", "lens": "lens"}
    tables = [
        "[[claim]]\n" + "".join(f"{key} = {json.dumps(plant[name])}\n" for name, key in keys.items())
        + f"expect = {json.dumps(expect[plant['id']])}\n"
        for plant in truth["plants"]
    ]  # fmt: skip
    path.write_text("\n".join([*tables, more]))
    return path


WRONG = '[[claim]]\nid = "wrong-dog"\ntoken = " dog"\nneuron = "L0N3"\nexpect = "validated"\n'


@pytest.fixture
def expected(truth: dict[str, Any]) -> dict[str, str]:
    """The verdict of each planted neuron."""
    return {plant["id"]: plant["verdict"] for plant in truth["plants"]}


@pytest.mark.parametrize("own_model", [False, True], ids=["self-test", "--model"])
def test_a_false_claim_fails_the_run_and_is_named(
    evals: Evals, fixture_folder: Path, truth: dict[str, Any], expected: dict[str, str], own_model: bool
) -> None:
    claims = write_claims(evals.pytester.path / "claims.toml", truth, expected, WRONG)
    given = ["--model", str(fixture_folder / "planted")] if own_model else []
    run = evals(f"{CAUSALITY}::test_claims", "--claims", str(claims), *given)
    assert run.code == 1
    reason = run.red["test_claims"]
    assert "wrong-dog" in reason
    assert not [i for i in expected if f" {i} " in reason]
    assert {i: v for i, v in run.verdicts.items() if i != "wrong-dog"} == expected


def test_a_lost_neuron_fails_the_run_that_has_a_baseline(
    evals: Evals, fixture_folder: Path, truth: dict[str, Any], expected: dict[str, str]
) -> None:
    folder = evals.pytester.path

    def audit(model: str, expect: dict[str, str], *args: str, out: str) -> Run:
        claims = write_claims(folder / f"{out}.toml", truth, expect)
        given = ["--model", str(fixture_folder / model), "--claims", str(claims), str(ROOT / "evals" / REGRESSION)]
        return evals(f"{CAUSALITY}::test_claims", *given, *args, out=out)

    before = audit("planted", expected, out="before")
    assert (before.code, before.verdicts) == (0, expected)

    unfounded = audit("unplanted", expected, out="unfounded")
    assert unfounded.code == 1
    assert "claims that do not hold" in unfounded.red["test_claims"]
    assert "validated" not in unfounded.verdicts.values()

    # The file now claims what is so: only the baseline can object.
    after_all = audit("unplanted", unfounded.verdicts, "--baseline", "before", out="after")
    assert after_all.code == 1
    assert set(after_all.red) == {"test_nothing_is_lost_since_the_baseline"}
    reason = after_all.red["test_nothing_is_lost_since_the_baseline"]
    assert "since the baseline LOST" in reason
    named = {plant["id"] for plant in truth["plants"] if f"at {plant['name']})" in reason}
    assert named == {i for i, v in expected.items() if v == "validated"}
