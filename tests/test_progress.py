"""Every command that takes long says how far it is: a bar on a terminal, plain lines elsewhere, nothing on standard
output; and nothing at all where it is soon done."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pseudo_terminal import Terminal

from featherweight import models, terminal
from featherweight.cli import main
from featherweight.explain import gallery
from featherweight.terminal import Progress

Answer = tuple[int, str, str]  # exit code, standard output, standard error


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is told from the first moment on, and at every step."""
    monkeypatch.setattr(terminal, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0.0)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run a command; on_terminal: with standard error on a terminal, and standard output elsewhere."""

    def run(*arguments: str, on_terminal: bool) -> Answer:
        if not on_terminal:
            code = main(list(arguments))
            told = capsys.readouterr()
            return code, told.out, told.err
        made = Terminal()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", made.stream)
            code = main(list(arguments))
        return code, capsys.readouterr().out, made.screen()

    return run


@pytest.fixture(scope="module")
def digits_run(untrained_digits: Path) -> Path:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: no digits to measure on")
    return untrained_digits


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for number in range(5):
        Image.new("RGB", (40, 40), (50 * number, 90, 30)).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path / "pictures"


def told(title: str, total: int, what: str) -> re.Pattern[str]:
    """A part of the work under way, with its rate and the time left."""
    rate = r"([\d,.]+/s|[\d.]+ s each)"
    return re.compile(rf"{title}: [\d,]+ of {total:,} {what}, {rate}, (\d+ s|\d+:\d\d) left")


def check(run: Callable[..., Answer], command: list[str], *parts: tuple[str, int, str]) -> Any:
    """The command tells of each part on a terminal and elsewhere, and prints one JSON value and nothing else."""
    for on_terminal in (True, False):
        code, out, err = run(*command, "--json", on_terminal=on_terminal)
        assert code in (0, 1), err
        answer = json.loads(out)
        for title, total, what in parts:
            if on_terminal:  # a bar is drawn ten times a second, so of quick work perhaps only its end is seen
                assert re.search(rf"[━╸╺ ]{{12}} {title}: [\d,]+ of {total:,} {what}", err), err
            else:
                assert told(title, total, what).search(err), err
                assert "━" not in err
    return answer


@pytest.mark.usefixtures("impatient")
def test_predict_on_a_folder(run: Callable[..., Answer], digits_run: Path, pictures: Path) -> None:
    answer = check(run, ["predict", str(digits_run), str(pictures)], ("predicting", 5, "pictures"))
    assert len(answer) == 5


@pytest.mark.usefixtures("impatient")
def test_eval(run: Callable[..., Answer], digits_run: Path) -> None:
    command = ["eval", str(digits_run), "--batch-size", "100", "--device", "cpu"]
    check(run, command, ("measuring", 355, "pictures"))


@pytest.mark.usefixtures("impatient")
def test_explain(run: Callable[..., Answer], digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [entry for entry in gallery.FIGURES if entry[0] in ("confusion matrix", "accuracy by class")]
    monkeypatch.setattr(gallery, "FIGURES", tuple(chosen))
    command = ["explain", str(digits_run), "--device", "cpu", "--out", str(tmp_path / "figures")]
    check(run, command, (r"[a-z ]+", 3, "steps"))


@pytest.mark.usefixtures("impatient")
def test_check_of_several_and_models(run: Callable[..., Answer]) -> None:
    check(run, ["check", "feather_quick", "c1c2c3c4_strided"], ("checking", 2, "networks"))
    check(run, ["models"], ("measuring", len(models.names()), "networks"))


@pytest.mark.usefixtures("impatient")
def test_data(run: Callable[..., Answer]) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: there are no digits")
    command = ["data", "--dataset", "digits", "--verify", "--statistics"]
    check(run, command, ("[a-z ]+", 9, "steps"))


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_audit(run: Callable[..., Answer]) -> None:
    check(run, ["audit", "batched", "--draws", "300"], ("measuring", 600, "steps"))


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_export(run: Callable[..., Answer], digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed: exports were not tested")
    from featherweight.ship import parity

    monkeypatch.setattr(parity, "ROUNDS", 2)
    command = ["export", str(digits_run), "--out", str(tmp_path)]
    code, out, err = run(*command, "--json", on_terminal=True)
    assert code == 0, err
    assert json.loads(out)
    for title, total, what in (("measuring parity", 710, "pictures"), ("measuring latencies", 8, "turns")):
        assert re.search(rf"[━╸╺ ]{{12}} {title}: [\d,]+ of {total:,} {what}", err), err
    assert re.search(r"writing the network as ONNX: \d+ s so far", err)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_train(run: Callable[..., Answer], tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: no digits to train on")
    command = ["train", "--recipe", "digits", "--epochs", "2", "--device", "cpu", "--out"]
    _, out, err = run(*command, str(tmp_path / "a"), "--json", on_terminal=True)
    assert json.loads(out)["epochs"] == 2
    assert re.search(r"[━╸╺ ]{12} epoch 2/2: \d+ %", err)
    assert "epoch   2/2  loss" in err
    assert re.search(r"measuring on the test pictures: \d+ of 355", err)
    _, out, err = run(*command, str(tmp_path / "b"), on_terminal=False)
    assert "test accuracy" in out
    assert "epoch   2/2  loss" in err
    assert "━" not in err


# ---- the bar and the lines themselves ----


def test_lines_tell_rate_and_time_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "PATIENCE_SECONDS", 2.0)
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with Progress("predicting", 100) as bar:
        for _ in range(9):
            now[0] += 1.0
            bar.step(10)
    assert capsys.readouterr().err.splitlines() == [
        "predicting: 20 of 100 pictures, 10/s, 8 s left",
        "predicting: 70 of 100 pictures, 10/s, 3 s left",
    ]
    with Progress("silent", 100, lines=False) as bar:
        now[0] += 10.0
        bar.step()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "steps", "expected"),
    [
        ((1000, "pictures"), [(10.0, 1)], "it: 1 of 1,000 pictures, 10.0 s each, 2:46:30 left"),
        ((50, "turns"), [(4.0, 10)], "it: 10 of 50 turns, 2.5/s, 16 s left"),
        ((None, "files"), [(4.0, 10)], "it: 10 files, 2.5/s"),
        ((12, "steps"), [], "it: 0 of 12 steps, 0 s so far"),
        ((170_500_000, "bytes"), [(8.0, 12_000_000)], "it: 12.0 of 170.5 MB (7 %), 1.50 MB/s, 1:46 left"),
        ((None, "bytes"), [(2.5, 5_000_000)], "it: 5.0 MB, 2.00 MB/s"),
        ((4, "steps"), [(1.0, 4)], "it: 4 of 4 steps, 4.0/s"),
        ((None, ""), [], "it: 0 s so far"),
    ],
)
def test_what_is_told(
    options: tuple[int | None, str],
    steps: list[tuple[float, int]],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with Progress("it", *options) as bar:
        for seconds, count in steps:
            now[0] += seconds
            bar.step(count)
        assert str(bar) == expected


def test_the_time_left_runs_down_between_steps_and_does_not_count_what_was_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with Progress("it", 100, done=50) as bar:
        now[0] = 10.0
        bar.to(60)  # 10 in 10 s
        assert str(bar) == "it: 60 of 100 pictures, 1.0/s, 40 s left"
        now[0] = 15.0
        bar.to(60)  # still
        assert str(bar) == "it: 60 of 100 pictures, 1.0/s, 35 s left"
        now[0] = 99.0
        assert str(bar).endswith(", 0 s left")


def test_quick_work_is_not_told_on_a_terminal_and_slow_work_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for patience, shown in ((60.0, False), (0.05, True)):
        made = Terminal()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", made.stream)
            with Progress("working", 3, "steps", patience=patience) as bar:
                bar.step()
                if shown:  # nothing is done meanwhile: the bar comes by itself
                    deadline = time.monotonic() + 30
                    while b"working" not in made.received and time.monotonic() < deadline:
                        time.sleep(0.02)
        screen = made.screen()
        assert ("working: 1 of 3 steps" in screen) is shown
        assert shown or made.received == b""


def test_a_terminal_that_cannot_go_back_gets_lines(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    made = Terminal()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", made.stream)
        with Progress("working", 3, "steps") as bar:
            bar.step()
    assert re.fullmatch(r"working: 1 of 3 steps, [\d,.]+/s, 0 s left\s*", made.screen())
    assert b"\x1b" not in made.received


def test_one_bar_at_a_time(impatient: None, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("outer", 3, "steps") as outer, Progress("inner", 9) as inner:
        inner.step()
        outer.step()
    with contextlib.suppress(ZeroDivisionError), Progress("failing", 3, "steps") as bar:
        bar.step()
        raise ZeroDivisionError
    with Progress("after", 3, "steps") as bar:
        bar.step()
    lines = [line.split(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["outer", "failing", "after"]


def test_notices_and_output_stay_whole_beside_a_bar(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error on the terminal, standard output elsewhere: the latter gets its lines, and only those."""
    made, elsewhere = Terminal(), io.StringIO()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", made.stream)
        patched.setattr(sys, "stdout", elsewhere)
        with Progress("working", 3, "steps"):
            terminal.note("a notice")
            print("a result")
    assert elsewhere.getvalue() == "a result\n"
    assert "a notice\n" in made.screen()


SLOW = """
import sys, time
from featherweight.terminal import Progress
with Progress("working", 40, "steps") as progress:
    for _ in range(40):
        time.sleep(float(sys.argv[1]))
        progress.step()
print("{}")
"""


@pytest.mark.parametrize(("pause", "shown"), [(0.1, True), (0.001, False)])
def test_a_process_of_its_own_on_a_real_pseudo_terminal(pause: float, shown: bool) -> None:
    """With the true two seconds of silence, nothing replaced: 4 s of work are told, 0.04 s are not."""
    made = Terminal()
    done = subprocess.run(
        [sys.executable, "-c", SLOW, str(pause)],
        stdout=subprocess.PIPE,
        stderr=made.stream,
        env={**os.environ, "TERM": "xterm"},
        timeout=60,
        check=True,
    )
    screen = made.screen()
    assert done.stdout == b"{}\n"
    assert bool(told("working", 40, "steps").search(screen)) is shown
    assert shown or screen == ""
    if shown:
        assert not re.search(r"working: [0-9] of 40", screen)  # the first second's steps went by in silence
