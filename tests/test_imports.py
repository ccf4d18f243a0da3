"""Imports point downwards only, and what must stay light stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "featherweight"
FLOORS = (
    ("utils", "config", "terminal"),
    ("models", "datasets", "augment", "fused"),
    ("weights", "evaluation", "rules", "records", "report"),
    ("training", "explain", "ship"),
    ("bench", "demo"),
    ("commands",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Single files, not folders, that neighbours on their floor may use.
SHARED_FILES = {"utils", "config", "terminal", "records", "report", "weights"}


def _imports(path: Path) -> set[str]:
    """The rooms of this package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "featherweight":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("featherweight.")}
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in _imports(path) - {room}:
        same = FLOOR[other] == FLOOR[room]
        assert FLOOR[other] < FLOOR[room] or (same and other in SHARED_FILES), f"{room} imports {other}"


@pytest.mark.parametrize("room", ["rules", "explain"])
def test_rules_and_explain_take_any_network(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        assert "models" not in _imports(path), path


def test_only_explain_imports_matplotlib() -> None:
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in FILES
        if "import matplotlib" in path.read_text(encoding="utf-8")
        or "from matplotlib" in path.read_text(encoding="utf-8")
    }
    assert users <= {"explain"}


@pytest.mark.parametrize(
    "module", ["featherweight", "featherweight.cli", "featherweight.config", "featherweight.models"]
)
def test_what_must_stay_light_does_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
