"""The workflows of this repository: they are YAML, may do no more than they must, and what they name exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.project.files import PYPROJECT, ROOT, named_environments, tox_commands, tox_environments

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
IDS = [file.stem for file in FILES]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
CPU_TORCH = "https://download.pytorch.org/whl/cpu"
MADE = ("dist", "coverage.xml", "flashinterp-report")
"""What a job makes itself, or an earlier one has made."""

every_workflow = pytest.mark.parametrize("file", FILES, ids=IDS)


def read(file: Path) -> dict[Any, Any]:
    found = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def jobs(file: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read(file)["jobs"]
    return found


def steps(file: Path) -> list[dict[str, Any]]:
    return [step for job in jobs(file).values() for step in job.get("steps", [])]


def commands(file: Path) -> list[str]:
    """Each line that a shell runs."""
    return [line for step in steps(file) for line in step.get("run", "").splitlines()]


def paths(file: Path) -> list[str]:
    """Each file or folder of the checkout that a workflow names."""
    words = [word for line in commands(file) for word in shlex.split(line)]
    named = [word for word in words if re.fullmatch(r"[\w./-]+\.(txt|toml|py|ini|cff|md)|tests/[\w./-]+", word)]
    for step in steps(file):
        given = step.get("with", {})
        named += given.get("cache-dependency-path", "").split()
        if "path" in given:
            named.append(given["path"])
    local = [job["uses"] for job in jobs(file).values() if str(job.get("uses", "")).startswith("./")]
    return [name for name in named + local if name not in MADE]


def test_there_are_workflows() -> None:
    assert {"tests", "nightly", "release"} <= set(IDS)


@every_workflow
def test_it_may_only_read(file: Path) -> None:
    assert read(file)["permissions"] == {"contents": "read"}
    more = {name: job["permissions"] for name, job in jobs(file).items() if "permissions" in job}
    assert more == ({"publish": {"id-token": "write"}} if file.stem == "release" else {})
    for step in steps(file):
        if str(step.get("uses", "")).startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
    assert "secrets." not in file.read_text(encoding="utf-8")


@every_workflow
def test_every_action_is_pinned_and_it_says_how_to_pin_more(file: Path) -> None:
    used = [step["uses"] for step in steps(file) if "uses" in step]
    assert used
    ours = r"actions/[a-z-]+@v\d+|pypa/gh-action-pypi-publish@release/v\d+"
    assert all(re.fullmatch(ours, action) for action in used)
    text = file.read_text(encoding="utf-8")
    assert "full commit" in text
    assert "SHA" in text


@every_workflow
def test_runs_do_not_pile_up(file: Path) -> None:
    assert set(read(file)["concurrency"]) == {"group", "cancel-in-progress"}
    # One that calls another must not wait for itself.
    groups = [read(other)["concurrency"]["group"] for other in FILES]
    assert len(set(groups)) == len(groups)
    for name, job in jobs(file).items():
        assert "uses" in job or job["timeout-minutes"] <= 360, name


@every_workflow
def test_no_text_of_a_pull_request_is_put_into_a_command(file: Path) -> None:
    assert not [line for line in commands(file) if "${{" in line]
    assert "pull_request_target" not in file.read_text(encoding="utf-8")


@every_workflow
def test_the_environments_that_it_calls_are_in_tox_ini(file: Path) -> None:
    assert named_environments("\n".join(commands(file))) <= tox_environments()


def test_every_tier_is_called() -> None:
    called = named_environments("\n".join(line for file in FILES for line in commands(file)))
    assert called == {"lint", "tests", "tests-full", "evals", "coverage", "lowest", "nightly"}


@every_workflow
def test_the_files_that_it_names_exist(file: Path) -> None:
    found = paths(file)
    assert found or file.stem == "release"
    for name in found:
        assert (ROOT / name).exists(), name


@every_workflow
def test_a_job_waits_for_jobs_that_exist(file: Path) -> None:
    names = set(jobs(file))
    for job in jobs(file).values():
        assert set(job.get("needs", [])) <= names


def test_torch_for_cpus_is_the_only_other_index() -> None:
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[^\s\"']+", text)) <= {CPU_TORCH}
        if "tox" in text:
            assert read(file)["env"] == {"PIP_EXTRA_INDEX_URL": CPU_TORCH}


def test_the_pythons_are_those_that_the_package_names() -> None:
    tests = jobs(ROOT / ".github" / "workflows" / "tests.yml")
    pythons: list[str] = tests["tests"]["strategy"]["matrix"]["python"]
    assert PYPROJECT["project"]["requires-python"] == f">={pythons[0]}"
    assert tests["lowest"]["steps"][1]["with"]["python-version"] == pythons[0]
    versions = [c.rpartition(" ")[2] for c in PYPROJECT["project"]["classifiers"] if ":: Python :: 3." in c]
    assert versions == pythons


def test_a_release_needs_the_tests_and_the_right_tag() -> None:
    release = jobs(ROOT / ".github" / "workflows" / "release.yml")
    assert (release["build"]["needs"], release["publish"]["needs"]) == (["tests"], ["build"])
    check = next(step["run"] for step in release["build"]["steps"] if step.get("name") == "The tag is the version")
    assert "pyproject.toml" in check
    assert 'test "$GITHUB_REF_NAME" = "v$version"' in check


@pytest.mark.parametrize("file", [*FILES, *FORMS, ROOT / ".pre-commit-config.yaml"], ids=lambda f: f.name)
def test_it_reads_the_same_everywhere(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert read(file)
    assert text.isascii()
    assert "\t" not in text
    assert all(len(line) <= 120 for line in text.splitlines())


@pytest.mark.parametrize("file", [f for f in FORMS if f.stem != "config"], ids=lambda f: f.stem)
def test_a_form_asks_for_what_is_needed(file: Path) -> None:
    form = read(file)
    assert {"name", "description", "body"} <= set(form)
    asked = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in asked}) == len(asked)
    assert all(field["attributes"]["label"] for field in asked)
    if file.stem == "bug_report":
        required = {field["id"] for field in asked if field.get("validations", {}).get("required")}
        assert {"version", "command", "environment"} <= required
        text = file.read_text(encoding="utf-8")
        assert "`flashinterp --version`" in text
        assert "environment.json" in text


def test_the_hooks_are_the_checks_of_tox() -> None:
    hooks = [hook for repo in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert {hook["language"] for hook in hooks} == {"system"}
    checks = [command.removesuffix(" .") for command in tox_commands("lint")]
    assert [hook["entry"] for hook in hooks] == checks
