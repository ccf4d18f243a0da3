"""predictor.py needs numpy, pillow and onnxruntime alone, starts quickly, and says what the network says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from ship_pictures import PICTURES, bad_files, gradient

import featherweight
from featherweight.ship import predictor as module

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed: the predictor was not tested")
pytest.importorskip("onnx", reason="the extra onnx is not installed: the predictor was not tested")

# Runs the file named first as a program, with everything forbidden that the predictor may not need.
WITHOUT_TORCH = """
import runpy, sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "featherweight", "rich", "scipy", "onnx", "safetensors", "matplotlib"}:
            raise ImportError(f"{name} is forbidden here")
sys.meta_path.insert(0, Forbidden())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, quick_onnx: bytes) -> Path:
    """A folder with nothing but the copied file, an exported network and pictures."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "model.onnx").write_bytes(quick_onnx)
    shutil.copy(module.__file__, folder / "predictor.py")
    (folder / "pictures").mkdir()
    shutil.copy(PICTURES / "chelsea.jpg", folder / "pictures" / "cat.jpg")
    gradient(90, 70).save(folder / "pictures" / "gradient.png")
    (folder / "bad").mkdir()
    bad_files(folder / "bad")
    return folder


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def expected(folder: Path) -> dict[str, tuple[str, float]]:
    network = featherweight.load("feather_quick")
    found = {path.name: network.predict(path) for path in (folder / "pictures").iterdir()}
    return {name: (prediction.label, prediction.confidence) for name, prediction in found.items()}


def same_as_torch(folder: Path, told: str) -> None:
    rows = {Path(row["path"]).name: row for row in json.loads(told)}
    for name, (label, confidence) in expected(folder).items():
        assert rows[name]["label"] == label
        assert rows[name]["confidence"] == pytest.approx(confidence, abs=1e-4)
        assert rows[name]["error"] is None
        assert len(rows[name]["top"]) == 3


def test_the_copied_file_runs_where_torch_is_forbidden(alone: Path) -> None:
    done = run(alone, sys.executable, "-c", WITHOUT_TORCH, "predictor.py", "model.onnx", "pictures", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    same_as_torch(alone, done.stdout)


def test_bad_pictures_and_models_get_one_line_each(alone: Path) -> None:
    done = run(alone, sys.executable, "predictor.py", "model.onnx", "bad", "pictures/cat.jpg", "--top", "1")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == len(list((alone / "bad").iterdir())) >= 12
    assert done.stdout.split("\t")[0] == "pictures/cat.jpg"
    assert done.stdout.split("\t")[1].startswith(f"{expected(alone)['cat.jpg'][0]} ")
    for wrong in ("predictor.py", "nowhere.onnx", "pictures"):
        done = run(alone, sys.executable, "predictor.py", wrong, "pictures/cat.jpg")
        assert done.returncode == 2
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_reader_that_leaves_is_no_failure(alone: Path) -> None:
    command = [sys.executable, "predictor.py", "model.onnx", *(["pictures"] * 300)]
    with subprocess.Popen(command, cwd=alone, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert said == b""
    assert process.returncode == 0


def test_an_onnx_file_of_somebody_else_is_refused() -> None:
    import onnx
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(module.ModelError, match="card is missing"):
        module.Predictor(model.SerializeToString())
    helper.set_model_props(model, {"card": "{}", "classes": '["x"]'})
    with pytest.raises(module.ModelError, match="no network exported by featherweight"):
        module.Predictor(model.SerializeToString())
    assert onnx.__version__


def test_it_starts_in_under_half_a_second(tmp_path: Path) -> None:
    """Processor time of the import, which other work on the machine does not add to; also with onnxruntime."""
    code = (
        "import time; begun = time.process_time(); import featherweight.ship.predictor; import onnxruntime; "
        "import sys; print(time.process_time() - begun); assert 'torch' not in sys.modules"
    )
    root = Path(featherweight.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    seconds = []
    for _ in range(3):
        told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        seconds.append(float(told.stdout))
    assert min(seconds) < 0.5


@pytest.mark.slow
def test_it_runs_in_an_environment_without_torch(alone: Path, tmp_path: Path) -> None:
    """A real virtual environment with the three packages alone; skipped where no package registry is within reach."""
    place = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True, timeout=120)
    python = str(place / ("Scripts" if os.name == "nt" else "bin") / "python")
    wanted = [f"{name}=={version(name)}" for name in ("numpy", "pillow", "onnxruntime")]
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
    installed = subprocess.run([*pip, *wanted], capture_output=True, text=True, timeout=300, check=False)
    if installed.returncode:
        pytest.skip("no package registry within reach: the predictor was NOT tried in an environment without torch")
    done = run(alone, python, "-c", "import torch")
    assert "ModuleNotFoundError" in done.stderr
    done = run(alone, python, "predictor.py", "model.onnx", "pictures", "--json")
    assert done.returncode == 0, done.stderr
    same_as_torch(alone, done.stdout)
