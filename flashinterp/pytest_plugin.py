"""The pytest door: options, fixtures, and the recorder of evidence. No science is done here.

Loaded by the one-line root ``conftest.py``, or with ``-p flashinterp.pytest_plugin``.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from flashinterp.errors import FlashinterpError
from flashinterp.runs.options import run_options
from flashinterp.runs.start import begin

_SESSION = pytest.StashKey[Any]()
_DESELECTED = pytest.StashKey[list[pytest.Item]]()
_WRITE_ERROR = pytest.StashKey[str]()
MARKERS = (
    "gpu: runs on a CUDA GPU; chosen with -m gpu",
    "slow: no part of a quick run; left out with -m 'not slow'",
    "control: a positive or negative control of the suite itself",
    "limitation: documents a known limit of the method",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("flashinterp", "flashinterp: claims about neurons, put to the test")
    for option in run_options():
        shown = option.help if option.default in (None, (), False) else f"{option.help} Default: {option.default}."
        if option.kind is bool:
            group.addoption(option.flag, action="store_true", help=shown)
        else:
            default = None if option.read else option.default
            choices = list(option.choices) or None
            kind = int if option.kind is int else str
            group.addoption(
                option.flag, type=kind, default=default, metavar=option.metavar, choices=choices, help=shown
            )


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test body, two devices: ``device`` is a parameter of every test that asks for it."""
    if "device" in metafunc.fixturenames:
        named = metafunc.config.option.device
        gpu = pytest.param(named if named.startswith("cuda") else "cuda", marks=pytest.mark.gpu)
        cpu = "cpu" if named in ("auto", "cpu") or named.startswith("cuda") else named
        metafunc.parametrize("device", [cpu, gpu], scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """GPU tests run under ``-m gpu`` or ``--device cuda`` only; without a GPU they skip, or fail if one is required.

    A worker of pytest-xdist keeps one eval, which says once for all that they cannot run there.
    """
    if hasattr(config, "workerinput"):
        others = set([i for i in items if _is_eval(i)][1:])
        items[:] = [i for i in items if i not in others]
    on_gpu = "gpu" in (config.option.markexpr or "") or config.option.device.startswith("cuda")
    if config.option.device.startswith("cuda"):
        dropped = [i for i in items if "device" in getattr(i, "fixturenames", ()) and not i.get_closest_marker("gpu")]
    else:
        dropped = [] if on_gpu else [i for i in items if i.get_closest_marker("gpu")]
    # Not reported as deselected: the same body runs on the other device.
    items[:] = [i for i in items if i not in set(dropped)]
    if on_gpu and not config.option.require_gpu and _lack_gpu(items):
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="torch sees no CUDA GPU"))


def _lack_gpu(items: list[pytest.Item]) -> bool:
    if not any(i.get_closest_marker("gpu") for i in items):
        return False
    import torch

    return not torch.cuda.is_available()


def pytest_deselected(items: list[pytest.Item]) -> None:
    if items:
        items[0].config.stash.setdefault(_DESELECTED, []).extend(filter(_is_eval, items))


def _is_eval(item: pytest.Item) -> bool:
    """Whether a test asks for this module's own `evidence`, and not for an argument that happens to be called so.

    A fixture of that name in a conftest.py counts where it asks for this one, as one does that adds to it.
    """
    info: Any = getattr(item, "_fixtureinfo", None)
    for found in reversed(info.name2fixturedefs.get("evidence", ()) if info is not None else ()):
        if found.func.__module__ == __name__:
            return True
        if "evidence" not in found.argnames:
            break
    return False


def _left_out(session: pytest.Session) -> int:
    """How many evals were deselected; one whose body runs on the other device is not left out."""
    running = {_body(i) for i in session.items}
    return len({_body(i) for i in session.config.stash.get(_DESELECTED, [])} - running)


def _body(item: pytest.Item) -> tuple[str, str]:
    """What a test is, but for the device that it runs on."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    return item.nodeid.partition("[")[0], repr({k: v for k, v in params.items() if k != "device"})


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Prove the folder writable and the models readable before anything is loaded.

    Here and not when the collection is finished, which pytest also calls where the collection was refused.
    """
    if session.config.option.collectonly:
        return
    if session.config.option.require_gpu and _lack_gpu(session.items):
        raise pytest.UsageError("--require-gpu: torch sees no CUDA GPU: use a machine with one, or leave out -m gpu")
    evals = [i for i in session.items if _is_eval(i)]
    if not evals or hasattr(session.config, "workerinput"):
        return
    try:
        audit = begin(session.config)
    except FlashinterpError as error:
        raise pytest.UsageError(str(error)) from None
    session.config.stash[_SESSION] = audit
    audit.partial = _chosen(session) or _left_out(session) > 0 or not _all_modules(evals)
    audit.eval_files = _files(evals)
    for item in evals:
        _document(audit, item)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        from flashinterp.runs.terminal import header

        params = [getattr(getattr(i, "callspec", None), "params", {}) for i in evals]
        reporter.write_line(header(audit, {str(p["device"]) for p in params if "device" in p}))


def _files(evals: list[pytest.Item]) -> list[Path]:
    """The files that the evals are written in, with the conftest.py beside them."""
    files = {Path(str(i.path)) for i in evals}
    return sorted(files | {f for folder in {p.parent for p in files} if (f := folder / "conftest.py").is_file()})


def _chosen(session: pytest.Session) -> bool:
    """Whether evals were chosen in a way that pytest does not report as deselection: by name, or by --last-failed."""
    failed = session.config.pluginmanager.get_plugin("lfplugin")
    known = getattr(failed, "lastfailed", {}) if session.config.getoption("lf", False) else {}
    last = set(map(str, known))
    return any("::" in arg for arg in session.config.args) or any(i.nodeid in last for i in session.items)


def _all_modules(evals: list[pytest.Item]) -> bool:
    """Whether every eval module of the folder is among those that run."""
    folder = Path(str(evals[0].path)).parent
    return {p.name for p in folder.glob("test_*.py")} <= {Path(str(i.path)).name for i in evals}


def _document(audit: Any, item: pytest.Item) -> None:
    """Collect the auditor's paragraphs: the module's docstring, then each test's."""
    name, function = _eval_name(item), getattr(item, "function", None)
    module = inspect.getdoc(getattr(item, "module", None)) or ""
    text = inspect.cleandoc(getattr(function, "__doc__", None) or "")
    known = audit.docs.setdefault(name, module)
    title, _, body = text.partition("\n\n")
    if title and body not in known:
        audit.docs[name] = f"{known}\n\n### {' '.join(title.split())}\n\n{body}"


def _eval_name(item: pytest.Item) -> str:
    return Path(str(item.path)).stem.removeprefix("test_")


@pytest.fixture(scope="session")
def audit(pytestconfig: pytest.Config) -> Any:
    """The run's session: its options, models and folder."""
    if hasattr(pytestconfig, "workerinput"):  # a worker of pytest-xdist
        pytest.fail("the evals share one model and one report: run them without -n", pytrace=False)
    return pytestconfig.stash[_SESSION]


@pytest.fixture
def evidence(request: pytest.FixtureRequest, audit: Any) -> Iterator[Any]:
    """The recorder of one eval."""
    from flashinterp.runs.eval_recorder import EvalRecorder

    record = EvalRecorder(audit, _eval_name(request.node))
    yield record
    if record.recorded == 0 and getattr(request.node, "_flashinterp_passed", False):
        pytest.fail("this eval recorded no evidence: a pass without evidence is no pass", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    if _is_eval(item) and call.excinfo is not None and isinstance(call.excinfo.value, FlashinterpError):
        call.excinfo = _in_one_line(call.excinfo.value)  # the project's own tests keep their traceback
    report = yield
    if report.when == "call":
        item._flashinterp_passed = report.passed  # type: ignore[attr-defined]
    if _is_eval(item) and _SESSION in item.config.stash:
        try:
            _count(item.config.stash[_SESSION], report)
        except FlashinterpError as error:  # a full disk: what comes after it would be lost
            item.session.shouldstop = str(error)
    return report


def _in_one_line(error: FlashinterpError) -> pytest.ExceptionInfo[BaseException]:
    """The error as a failure without traceback."""
    failure = pytest.fail.Exception(f"{type(error).__name__}: {error}", pytrace=False)
    return pytest.ExceptionInfo.from_exception(failure.with_traceback(error.__traceback__))


def _count(audit: Any, report: pytest.TestReport) -> None:
    """Enter a test's outcome into the ledger: at its call, or where its set-up or clean-up went wrong."""
    reason = ""
    if hasattr(report, "wasxfail"):
        reason = report.wasxfail
    elif report.skipped:
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
    elif report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        text = crash.message.removeprefix("Failed: ") if crash else report.longreprtext
        reason = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if report.when == "call":
        outcome = "xfailed" if report.skipped and hasattr(report, "wasxfail") else report.outcome
        audit.count(outcome, report.nodeid, reason, report.duration)
    elif report.failed:
        audit.count("errors", report.nodeid, reason, report.duration)
    elif report.skipped:
        audit.count("skipped", report.nodeid, reason, report.duration)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the report; a run in which nothing passed is not a pass."""
    audit = session.config.stash.get(_SESSION, None)
    if audit is None:
        return
    audit.ledger["collected"] = sum(map(_is_eval, session.items))
    audit.ledger["deselected"] = _left_out(session)
    run = sum(audit.ledger[k] for k in ("passed", "failed", "errors", "skipped", "xfailed"))
    audit.partial = audit.partial or run < audit.ledger["collected"]
    if session.exitstatus == pytest.ExitCode.OK and audit.ledger["passed"] == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    names = {0: "passed", 1: "failed", 2: "interrupted"}
    try:
        audit.finish(names.get(int(session.exitstatus), f"stopped with exit code {int(session.exitstatus)}"))
    except FlashinterpError as error:
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
        audit.report = None
        session.config.stash[_WRITE_ERROR] = str(error)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    audit = config.stash.get(_SESSION, None)
    if audit is None:
        return
    from flashinterp.runs.terminal import closing, title

    terminalreporter.section(title(audit))
    for line in closing(audit, config.stash.get(_WRITE_ERROR, "the run did not finish")):
        terminalreporter.write_line(line)
