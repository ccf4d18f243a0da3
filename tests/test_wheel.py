"""The built wheel, installed elsewhere, works without the checkout: recipes and weights are inside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as the wheel installs it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    files = ["pyproject.toml", "setup.py", "README.md", "LICENSE", "featherweight", "recipes", "weights", "results"]
    subprocess.run(["cp", "-r", *[str(ROOT / name) for name in files], str(source)], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [
        *pip,
        "wheel",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--wheel-dir",
        str(source / "dist"),
        str(source),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (source / "dist").glob("featherweight-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)], check=True)
    return target


def run(installed: Path, cwd: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "featherweight", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_stands_alone(installed: Path, tmp_path: Path) -> None:
    where = "import featherweight.config as c; print(c.__file__); print(*c.recipe_names()); print(c.RECIPES)"
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    told = subprocess.run(
        [sys.executable, "-c", where], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    file, names, recipes = told.stdout.splitlines()
    assert file.startswith(str(installed))
    assert recipes.startswith(str(installed))
    assert set(names.split()) == {path.stem for path in (ROOT / "recipes").glob("*.toml")}
    for folder, kind in (("weights", "*.safetensors"), ("results", "*.json")):
        ours = {path.name for path in (installed / "featherweight" / f"{folder}_data").glob(kind)}
        assert ours == {path.name for path in (ROOT / folder).glob(kind)}


@pytest.mark.slow
def test_the_wheel_checks_trains_and_evaluates(installed: Path, tmp_path: Path) -> None:
    assert json.loads(run(installed, tmp_path, "check", "feather_quick", "--json"))["passed"] is True
    record = json.loads(
        run(installed, tmp_path, "train", "--recipe", "digits", "--epochs", "1", "--out", "mine", "--json")
    )
    found = json.loads(run(installed, tmp_path, "eval", "mine", "--json"))
    assert found["accuracy"] == pytest.approx(record["test_accuracy"])
