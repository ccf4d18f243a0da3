"""Shared fixtures. Tests that need CIFAR-10 take `cifar10_dir`, which skips them, loudly, only where it is absent."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for a newer version at import otherwise

_PLACES = (os.environ.get("FEATHERWEIGHT_DATA"), "data", "../shared/data")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No progress is told of long work, unless a test asks for it: how long it takes depends on the machine."""
    monkeypatch.setattr("featherweight.terminal.PATIENCE_SECONDS", 3600.0)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Two threads wait for each other at every operation where another process takes a core: a tenfold slower test."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder ($XDG_CACHE_HOME) that holds the compiled operations and nothing else: to compile them takes ten
    seconds, and a test that looks at a home without data is not about that."""
    import shutil

    from featherweight.fused.build import library

    folder = tmp_path_factory.mktemp("kernels")
    made = library()
    if made is not None and Path(made._name).is_file():
        (folder / "featherweight").mkdir()
        shutil.copy(made._name, folder / "featherweight")
    return folder


@pytest.fixture(scope="session")
def cifar10_dir() -> Path:
    """The folder that holds `cifar-10-batches-py`."""
    root = Path(__file__).resolve().parent.parent
    for place in filter(None, _PLACES):
        folder = root / place
        if (folder / "cifar-10-batches-py" / "test_batch").is_file():
            return folder
    pytest.skip("CIFAR-10 is not on this machine (set FEATHERWEIGHT_DATA): a test that needs it did not run")


@pytest.fixture(scope="session")
def untrained_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with the weights of an untrained feather_quick for digits, named `little`."""
    import torch

    from featherweight import models, weights
    from featherweight.datasets import CLASSES, STATISTICS

    torch.manual_seed(0)
    folder, statistics = tmp_path_factory.mktemp("untrained") / "run", STATISTICS["digits"]
    card = weights.Card(
        name="little",
        model="feather_quick",
        classes=CLASSES["digits"],
        mean=statistics.mean,
        std=statistics.std,
        input_size=32,
        dataset="digits",
        recipe="little",
    )
    weights.save(folder / "model.safetensors", models.build("feather_quick"), card)
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly which tests did not run, and for want of what."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    )
    for reason, count in reasons.items():
        terminalreporter.write_line(f"WARNING: {count} skipped: {reason}", red=True, bold=True)
