"""``junit.xml`` for CI, written from the run's own ledger: a projection of results.json, not the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from flashinterp._util.text import clip, safe_text

_CLIP = 10_000  # characters of one text: CI pages show a line
_ELEMENT = {"failed": "failure", "errors": "error", "skipped": "skipped", "xfailed": "skipped"}


def to_junit(results: Mapping[str, Any]) -> str:
    """JUnit XML of a run: one test case per eval, the verdicts and the run's standing as properties.

    A test that failed as expected is counted as skipped, as JUnit has no word for it; its type says so.
    """
    tests = results["tests"]
    outcomes = [test["outcome"] for test in tests]
    counted = {
        "tests": len(tests),
        "failures": outcomes.count("failed"),
        "errors": outcomes.count("errors"),
        "skipped": outcomes.count("skipped") + outcomes.count("xfailed"),
    }
    total = sum(test["seconds"] or 0.0 for test in tests)
    about = {**{k: str(v) for k, v in counted.items()}, "time": f"{total:.3f}"}
    root = ElementTree.Element("testsuites", {"name": "flashinterp", **about})
    started = results["environment"]["started"]
    suite = ElementTree.SubElement(root, "testsuite", {"name": "flashinterp", **about, "timestamp": _text(started)})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(results):
        ElementTree.SubElement(properties, "property", {"name": _text(name), "value": _text(value)})
    for test in tests:
        _case(suite, test)
    ElementTree.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _properties(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    standing = ["status", "self_test", "partial", "profile", "seed", "schema_version"]
    told = [(f"flashinterp.{key}", str(results[key]).lower()) for key in standing]
    return told + [(f"flashinterp.evaluation.verdict.{v['id']}", str(v["verdict"])) for v in results["verdicts"]]


def _case(suite: ElementTree.Element, test: Mapping[str, Any]) -> None:
    module, _, name = str(test["id"]).partition("::")
    seconds = {} if test["seconds"] is None else {"time": f"{test['seconds']:.3f}"}
    named = {"classname": _text(module.removesuffix(".py").replace("/", ".")), "name": _text(name or module)}
    case = ElementTree.SubElement(suite, "testcase", named | seconds)
    if (kind := _ELEMENT.get(test["outcome"])) is not None:
        # A passed or unexpectedly passed test has no element; every other outcome carries its reason.
        typed = {"type": "xfail"} if test["outcome"] == "xfailed" else {}
        ElementTree.SubElement(case, kind, {"message": _text(test["reason"] or test["outcome"]), **typed})


def _text(value: str) -> str:
    """A text that XML can hold and that moves nothing on a page: what neither shows is made visible."""
    return safe_text(clip(str(value), _CLIP))
