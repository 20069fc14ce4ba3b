"""A report with hostile content, opened in a real browser: inert, silent and alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from flashinterp.audit.figures import spikes
from flashinterp.audit.report import render_html
from flashinterp.audit.tables import Table

HOSTILE = (
    "</script></style></title></svg><img src=http://h.example/x onerror=alert(1)>"
    "<script>document.title='owned'</script>\"'`\u202e\x00"
)
MINUTE = 60


def chromium() -> str:
    """The browser's path; without one the test is skipped, but in CI it fails."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    if os.environ.get("CI"):
        pytest.fail("no chromium in CI: install it, the report must be tested in a browser")
    pytest.skip("no chromium, chromium-browser or google-chrome on the PATH")


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
    tables = [Table("paper--words", HOSTILE, (HOSTILE, "n"), rows, HOSTILE, HOSTILE)]
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
    assert re.findall(r"<(?:img|iframe|object|embed|link|form|base)\b", dom) == []
    assert len(re.findall(r"<script\b", dom)) == 1
    assert re.findall(r"<[a-z]+[^>]*\son[a-z]+=", re.sub(r'"[^"]*"', '""', dom)) == []
    assert 'placeholder="Filter rows"' in dom  # the page's own script did run


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
