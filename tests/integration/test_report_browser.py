"""The report in a real browser: hostile content stays inert, and all can read it, by key, by phone, in the dark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from fixtures.storybook.models import FOLDER as MODELS
from flashinterp.report.charts.dose_response import DosePanel, dose_response
from flashinterp.report.charts.layers import LayerRow, concept_layers
from flashinterp.report.charts.neurons import alignment, spikes
from flashinterp.report.charts.shares import preservation
from flashinterp.report.figure import Figure
from flashinterp.report.html import CATALOGUE, render_html
from flashinterp.report.table import Table
from tests.integration.browser import MINUTE, Tab, browser, chromium

HOSTILE = (
    "</script></style></title></svg><img src=http://h.example/x onerror=alert(1)>"
    "<script>document.title='owned'</script>\"'`\u202e\x00"
)
MEGABYTE = HOSTILE + "x" * 1_000_000
TAB, ENTER, BACKSPACE = ("Tab", 9), ("Enter", 13), ("Backspace", 8)


def hostile_report() -> str:
    verdict = dict.fromkeys(("id", "token", "neuron", "lens", "pole", "reason"), HOSTILE)
    results = {
        "self_test": True,
        "status": HOSTILE,
        "model": {"id": HOSTILE},
        "options": {HOSTILE: [HOSTILE]},
        "ledger": {"collected": 1, "reasons": {"skipped": [HOSTILE]}},
        "verdicts": [verdict | {"verdict": "validated", "figures": {HOSTILE: HOSTILE}}],
        "limits": [HOSTILE],
    }
    rows = tuple((HOSTILE, i) for i in range(20))
    tables = [
        Table("paper--words", HOSTILE, (HOSTILE, "n"), rows, HOSTILE, HOSTILE),
        Table("paper--answers", HOSTILE, (HOSTILE, "unclamped", "clamped"), ((HOSTILE, MEGABYTE, MEGABYTE),), HOSTILE),
        Table(f"paper--{CATALOGUE}", HOSTILE, ("neuron", HOSTILE), ((HOSTILE, MEGABYTE), ("L0N1", HOSTILE)), HOSTILE),
    ]
    figures = [spikes("paper--spikes", HOSTILE, np.ones((2, 5)), [(3, HOSTILE)])]
    return render_html(results, tables, figures, {"paper": HOSTILE, HOSTILE: HOSTILE})


def visit(page: Path) -> tuple[str, list[str], set[str]]:
    """Open a file in the browser; return its DOM, its console, and the hosts it asked for."""
    log = page.with_suffix(".netlog.json")
    command = [
        *(chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *("--disable-sync", f"--user-data-dir={page.parent / 'profile'}"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"),
        *(f"--log-net-log={log}", "--virtual-time-budget=2000", "--dump-dom", page.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=MINUTE, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    # The browser's own housekeeping may ask for other hosts; the page's text names only this one.
    hosts = set(re.findall(r"h\.example", log.read_text(encoding="utf-8", errors="replace")))
    return done.stdout, console, hosts


def test_a_browser_finds_nothing_that_acts(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text(hostile_report(), encoding="utf-8")
    dom, console, hosts = visit(report)
    assert console == []  # whatever the policy had to stop would be reported here
    assert hosts == set()
    assert "<title>flashinterp self-test</title>" in dom
    assert "SELF-TEST on bundled models" in dom
    check_inert(dom)
    assert 'placeholder="Filter rows"' in dom  # the page's own script did run


def check_inert(dom: str) -> None:
    """Nothing in a page but its own script, and no hidden character."""
    assert re.findall(r"<(?:img|iframe|object|embed|link|form|base)\b", dom) == []
    assert len(re.findall(r"<script\b", dom)) == 1
    assert re.findall(r"<[a-z]+[^>]*\son[a-z]+=", re.sub(r'"[^"]*"', '""', dom)) == []
    assert not {"\u202e", "\x00"} & set(dom)


def test_the_same_look_sees_a_page_that_does_act(tmp_path: Path) -> None:
    page = tmp_path / "active.html"
    page.write_text(
        "<title>x</title><img src=http://h.example/x onerror=\"document.title='owned'\">"
        "<script>console.error('seen')</script>",
        encoding="utf-8",
    )
    dom, console, hosts = visit(page)
    assert "<title>owned</title>" in dom
    assert any("seen" in line for line in console)
    assert hosts == {"h.example"}


def test_the_policy_stops_what_escaping_would_have_missed(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    broken = hostile_report().replace("</main>", f"{HOSTILE}</main>")
    report.write_text(broken, encoding="utf-8")
    dom, console, hosts = visit(report)
    assert "<img" in dom
    assert "<title>flashinterp self-test</title>" in dom
    assert any("Content Security Policy" in line for line in console)
    assert hosts == set()


# --- a reader with a keyboard, a phone, a dark screen, a printer --------------------------------------


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def report(tab: Tab, tmp_path: Path) -> Tab:
    """The tab with a report that has one of everything."""
    page = tmp_path / "report.html"
    page.write_text(full_report(), encoding="utf-8")
    tab.complaints.clear()
    tab.requests.clear()
    tab.size(1200, 900)
    tab.prefer("light")
    tab.open(page)
    return tab


@cache
def full_report() -> str:
    names = ("validated", "lever", "detector", "refuted", "inconclusive", "not_measured", "not_comparable", "odd")
    figures = {"writes": {"q": 0.01, "figures": {"effect": 2.0, "effect_low": 1.0, "effect_high": 3.0}}}
    claim = {"token": " dog", "neuron": "L1N17", "pole": "+", "lens": "paper", "reason": "so", "figures": figures}
    results = {
        "self_test": True,
        "partial": True,
        "status": "failed",
        "model": {"name": "m", "digests": {"model.safetensors": "ab" * 32}},
        "tuned": {"name": "n", "digests": {"model.safetensors": "cd" * 32}},
        "environment": {"python": "3"},
        "ledger": {"passed": 3, "failed": 1, "reasons": {"failed": ["a test: why"]}},
        "verdicts": [claim | {"id": f"c{i}", "verdict": name} for i, name in enumerate(names)],
        "limits": ["A limit."],
        "known_limits": [{"id": "FI-L001", "title": "Rare", "claim": "So.", "page": "docs/x.md"}],
    }
    docs = {"paper": "What it asks.\n\n### It says *so*.\n\nImplementation: `how`. Limit FI-L001.\n\n- one\n- two"}
    return render_html(results, full_tables(), full_figures(), docs)


def full_tables() -> list[Table]:
    words = [f"␣word{i}, ␣dogs" if i == 77 else f"␣word{i}" for i in range(150)]
    neurons = tuple((f"L{i // 50}N{i % 50}", 9.0 - i / 50, word) for i, word in enumerate(words))
    wide = tuple(f"column {i}" for i in range(14))
    return [
        Table("paper--wide", "Wide", wide, (tuple(range(14)), tuple(range(14))), "A `note`"),
        Table("paper--answers", "Talk", ("claim", "unclamped", "clamped"), (("dog", "A fox. " * 9, "A dog. " * 9),)),
        Table(f"paper--{CATALOGUE}", "All neurons", ("neuron", "score", "words"), neurons),
    ]


def full_figures() -> list[Figure]:
    values = np.linspace(-2, 2, 5)
    panel = DosePanel("dog", values, np.outer([1.0, 2.0], values), 0.1, (-2, 2), [-0.5, 0.4], (2.0, 1.8))
    grid = np.random.default_rng(3).gamma(2.0, 1.0, (3, 40))
    return [
        spikes("paper--spikes", "Spikes", grid, [(45, "L1N5 ␣dog")]),
        dose_response("paper--dose", "Doses", [panel] * 4),
        concept_layers("paper--layers", "Layers", [0, 1, 2], [LayerRow("dog", grid[:, :3], "L1N5")]),
        preservation("paper--kept", "Kept", [0, 1], [0.5, 0.6], [0.4, 0.5], [0.6, 0.7], 0.55),
        alignment("paper--aligned", "Aligned", list(grid)),
    ]


FOCUSED = "(e => e.placeholder || e.textContent.trim().slice(0, 30))(document.activeElement)"
SEARCH = "A word, or a name as L1N17"
SHOWN = """[...document.querySelectorAll(".catalogue tbody tr")].filter(row => row.offsetHeight)
    .map(row => row.cells[0].textContent)"""
FOUND = "document.querySelector('.catalogue').previousElementSibling.querySelector('[role=status]').textContent"


def test_it_loads_without_a_complaint_or_a_request(report: Tab) -> None:
    assert report.complaints == []
    assert [url.rpartition("/")[2] for url in report.requests] == ["report.html"]


def test_a_keyboard_reaches_the_answer_first_and_everything_in_reading_order(report: Tab) -> None:
    report.press(*TAB)
    assert report.ask(FOCUSED) == "Skip to the answer"
    assert report.ask("document.activeElement.getBoundingClientRect().left >= 0")  # it is seen when it has the focus
    report.press(*ENTER)
    assert report.ask("location.hash") == "#answer"
    places, ledger = [], "document.activeElement.getAttribute('aria-labelledby') === 'table-ledger-1'"
    for _ in range(60):
        report.press(*TAB)
        places.append(report.ask("document.activeElement.getBoundingClientRect().top + scrollY"))
        assert report.ask("document.activeElement.matches(':focus-visible')")
        assert report.ask("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 1
        if report.ask(ledger):
            break
    assert report.ask(ledger)
    assert places == sorted(places)
    assert report.ask("[...document.querySelectorAll('[tabindex]')].every(e => e.tabIndex <= 0)")


def find(report: Tab, text: str) -> list[str]:
    """The neurons that are left when a reader has reached the search by keys, and typed."""
    for _ in range(60):
        if report.ask(FOCUSED) == SEARCH:
            break
        report.press(*TAB)
    assert report.ask(FOCUSED) == SEARCH
    report.type(text)
    left: list[str] = report.ask(SHOWN)
    return left


@pytest.mark.parametrize(
    ("text", "left"),
    [("dogs", ["L1N27"]), (" dogs", ["L1N27"]), ("DOGS", ["L1N27"]), ("L2N49", ["L2N49"]), ("no", []), ("<b>", [])],
)
def test_a_neuron_is_found_by_word_and_by_name(report: Tab, text: str, left: list[str]) -> None:
    assert len(report.ask(SHOWN)) == 150
    assert find(report, text) == left
    assert report.ask(FOUND) == f"{len(left)} of 150 rows"


def test_an_emptied_search_shows_every_row_again(report: Tab) -> None:
    assert find(report, "dogs") == ["L1N27"]
    for _ in "dogs":
        report.press(*BACKSPACE)
    assert len(report.ask(SHOWN)) == 150
    assert report.ask(FOUND) == ""


# Of every text that is seen: its contrast with what is behind it, as WCAG 2 computes it.
CONTRAST = """
(() => {
  const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  document.querySelectorAll("details").forEach(d => d.open = true);
  for (const e of document.querySelectorAll("body *:not(script)")) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !e.getClientRects().length) continue;
    const style = getComputedStyle(e), front = parse(e.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(front), light(behind(e))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), e.textContent.trim().slice(0, 40), String(e.className)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
})()
"""
ENOUGH = 4.5  # WCAG 2, level AA


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(report: Tab, scheme: str) -> None:
    report.prefer(scheme)
    dark = report.ask("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    found = report.ask(CONTRAST)
    assert len(found) > 200
    assert any("not measured" in text for _, text, _ in found)
    assert found[0][0] >= ENOUGH, found[:5]


def test_the_look_at_contrast_sees_a_faint_text(report: Tab) -> None:
    report.ask("document.querySelector('.answer').style.color = '#999'")
    worst, text, _ = report.ask(CONTRAST)[0]
    assert worst < ENOUGH
    assert text.startswith("8 claims")


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_makes_a_small_page_scroll_sideways(report: Tab, width: int) -> None:
    report.size(width, 800)
    report.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert report.ask("document.documentElement.scrollWidth") <= width
    # What is wide scrolls inside its own box, which a keyboard can reach.
    boxes = report.ask(
        "[...document.querySelectorAll('body *')].filter(e => e.scrollWidth > e.clientWidth + 1 && "
        "getComputedStyle(e).overflowX === 'auto').map(e => e.tabIndex)"
    )
    assert boxes
    assert set(boxes) == {0}


def test_on_a_phone_the_answers_stand_below_each_other(report: Tab) -> None:
    places = "[...document.querySelectorAll('.said')].map(e => Math.round(e.getBoundingClientRect().left))"
    assert len(set(report.ask(places))) == 2
    report.size(390, 800)
    assert len(set(report.ask(places))) == 1


def test_on_paper_it_is_dark_on_white_and_says_what_is_left_out(report: Tab) -> None:
    report.paper("dark")
    assert report.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert report.ask(CONTRAST)[0][0] >= ENOUGH
    assert len(report.ask(SHOWN)) == 40
    assert report.ask("[...document.querySelectorAll('input')].every(e => !e.offsetHeight)")
    assert "On paper only the first 40 rows are printed" in report.ask("document.body.innerText")


# --- a hostile model, through the evals themselves ----------------------------------------------------


def spoil(folder: Path, target: Path) -> Path:
    """A copy of a model whose tokenizer has hostile words where it had common ones, and one of a megabyte."""
    shutil.copytree(folder, target)
    file = target / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    encode = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary = tokenizer["model"]["vocab"]
    for i, word in enumerate((" It", " lives", " eats", " the", " barks", " cat", " tailor")):
        text = f"{word}{i}{MEGABYTE if word == ' tailor' else HOSTILE}"
        vocabulary[encode.pre_tokenize_str(text)[0][0]] = vocabulary.pop(encode.pre_tokenize_str(word)[0][0])
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    return target


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of evals on a model that says hostile things."""
    root = tmp_path_factory.mktemp("hostile")
    options: dict[str, Any] = {
        "--model": spoil(MODELS / "planted", root / "planted"),
        "--tuned": spoil(MODELS / "planted-chat", root / "planted-chat"),
        "--prompts": MODELS / "prompts.json",
        "--tokens": " dog",
        "--profile": "smoke",
        "--out": root / "run",
        "-k": "specialised or where or every or test_claims or clamped_answers",
    }
    checkout = Path(__file__).parents[2]
    modules = ("specialised_neurons", "clamp_causality", "concept_steering")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += [str(checkout / "evals" / f"test_{name}.py") for name in modules]
    command += [str(part) for option in options.items() for part in option]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10 * MINUTE, cwd=checkout)
    assert done.returncode == 0, done.stdout[-2000:]
    return root / "run"


def test_a_hostile_model_stays_inert_from_its_weights_to_the_page(hostile_run: Path) -> None:
    dom, console, hosts = visit(hostile_run / "report.html")
    assert console == []
    assert hosts == set()
    check_inert(dom)
    shown = "&lt;/script&gt;&lt;/style&gt;&lt;/title&gt;"
    said, catalogue = dom.index('class="pairs"'), dom.index('id="catalogue"')
    assert shown in dom[said:catalogue]  # what it answered
    assert shown in dom[catalogue:]  # its words
    assert len(dom) < 5_000_000


def test_its_other_files_hold_no_hidden_character_and_no_live_markup(hostile_run: Path) -> None:
    files = [hostile_run / "report.md", *hostile_run.glob("tables/*.md"), *hostile_run.glob("figures/*.svg")]
    assert len(files) > 10
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert not {"\u202e", "\x00"} & set(text), file.name
        assert not re.search(r"(?<!\\)<(?:img|script)", text), file.name
