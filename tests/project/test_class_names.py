"""A public class has a name of its own: of two that share one, a reader cannot tell which is meant."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from tests.project.files import ROOT


def shared(package: Path) -> list[str]:
    """Each public class name that two modules of a package define, with both places."""
    places = defaultdict(list)
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(f"{file.relative_to(package.parent).as_posix()}:{node.lineno}")
    return [f"{name}: {' and '.join(at)}" for name, at in sorted(places.items()) if len(at) > 1]


def test_every_public_class_has_a_name_of_its_own() -> None:
    assert shared(ROOT / "flashinterp") == [], "rename one of each: the name should say what sets it apart"


def test_a_shared_name_is_found_with_both_places(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "a.py").write_text("class Run:\n    pass\n\n\nclass _Place:\n    pass\n")
    (package / "b.py").write_text("x = 1\n\n\nclass Run:\n    pass\n\n\nclass _Place:\n    pass\n")
    assert shared(package) == ["Run: package/a.py:1 and package/b.py:4"]
