"""What students' files really do: nothing of it may be misjudged, stop the check, or take more than a line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from featherweight.cli import main
from featherweight.rules.load import Sandbox, targets_of
from featherweight.rules.oracle import verify
from featherweight.rules.result_record import problem_of, read_record
from featherweight.rules.verdict import Verdict, check_network

SOUND = (Path(__file__).resolve().parent.parent / "homework" / "networks" / "sound_strided.py").read_text()
FORWARD = "        return self.output(self.c4(self.c3(self.c2(self.c1(x)))))"


def network(*changes: tuple[str, str]) -> nn.Module:
    """The sound network with pieces of its source replaced."""
    source = SOUND
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    names: dict[str, type[nn.Module]] = {"torch": torch, "F": F, "nn": nn}  # type: ignore[dict-item]
    exec(source, names)
    return names["Net"]()


def judged(*changes: tuple[str, str]) -> Verdict:
    return check_network(network(*changes))


def test_lazy_layers_are_filled_and_counted() -> None:
    lazy = network(("nn.Linear(48, 10)", "nn.LazyLinear(10)"))
    verdict, plain = check_network(lazy), judged()
    assert verdict.passed
    assert verdict.rules[0].measured == plain.rules[0].measured
    assert verify(lazy).measured == (69, 69)


def test_a_map_kept_for_later_does_not_stop_the_check() -> None:
    kept = network(
        (FORWARD, "        self.kept = self.c3(self.c2(self.c1(x)))\n        return self.output(self.c4(self.kept))")
    )
    kept(torch.rand(2, 3, 32, 32))
    assert check_network(kept).passed
    hooked = network()
    found: dict[str, torch.Tensor] = {}
    hooked.c4.register_forward_hook(lambda module, inputs, output: found.update(map=output))  # type: ignore[union-attr]
    hooked.found = found  # type: ignore[assignment]
    assert check_network(hooked).passed


def test_weight_norm_of_the_old_kind_can_be_copied() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = network(("nn.Conv2d(48, 48, 1)", "nn.utils.weight_norm(nn.Conv2d(48, 48, 1))"))
    assert check_network(made).passed


def test_a_map_handed_out_beside_the_scores_is_no_output_to_be_pooled() -> None:
    both = FORWARD.replace("return self.output(", "x = ").rstrip(")") + "))))\n        return self.output(x), x"
    assert judged((FORWARD, both)).passed
    assert judged((FORWARD, both.replace("self.output(x), x", "x, x"))).failed()[-1] == "global_pooling"


def test_looking_at_the_largest_value_is_no_pooling() -> None:
    looks = "        assert x.min() >= 0\n        if x.max() > 2:\n            x = x / 255\n"
    assert judged((FORWARD, looks + FORWARD)).passed
    used = "        x = x - x.amax((2, 3), keepdim=True)\n"
    assert judged((FORWARD, used + FORWARD)).failed() == ["no_max_pooling"]


def test_smoothing_between_depthwise_and_1x1_is_let_through() -> None:
    old = "nn.Conv2d(48, 48, 1), "
    assert judged((old, "nn.AvgPool2d(3, 1, 1), " + old)).passed
    assert judged((old, ""), ("nn.Linear(48, 10)", "nn.Linear(48, 10)")).failed() == ["depthwise_separable"]


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(time_limit=20, memory_limit=512) as made:
        yield made


def asked(sandbox: Sandbox, path: Path, content: str) -> list[tuple[str, object]]:
    """What is said of a file: (name, passed or error line)."""
    path.write_text(content)
    answer = sandbox.ask(targets_of(str(path))[0], {"task": "check", "rules": "assignment"})
    if "error" in answer:
        return [("", answer["error"])]
    return [(result["name"], result.get("error", result.get("passed"))) for result in answer["results"]]


LOSS = """

class Smoothing(nn.Module):
    def forward(self, scores, wanted):
        return nn.functional.cross_entropy(scores, wanted, label_smoothing=0.1)
"""
BROKEN = """

class Unfinished(nn.Module):
    def __init__(self):
        raise ValueError("to do")
"""


def test_a_loss_beside_the_network_is_not_judged_and_a_broken_class_spares_the_others(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    mine = SOUND.replace("class Net", "class Mine")
    assert asked(sandbox, tmp_path / "loss.py", mine + LOSS) == [("Mine", True)]
    found = asked(sandbox, tmp_path / "broken.py", mine + BROKEN)
    assert found[0] == ("Mine", True)
    assert [name for name, _ in found] == ["Mine", "Unfinished"]
    assert "ValueError: to do" in str(found[1][1])


def test_a_command_line_read_at_import_is_empty(sandbox: Sandbox, tmp_path: Path) -> None:
    reads = "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--lr')\nparser.parse_args()\n"
    assert asked(sandbox, tmp_path / "reads.py", reads + SOUND) == [("Net", True)]


LINES = {
    "import torchsummary_that_is_not_there": "install it",
    "raise ValueError('first\\nsecond \\x1b[31m red')": "ValueError: first second [31m red (line 1)",
    "from torch.nn import Module\nclass A(Module):\n def __init__(self, n): pass\nclass B(A): pass\ndef f(): pass": (
        "name a function that makes the network: file.py:f"
    ),
}


@pytest.mark.parametrize("content", LINES)
def test_the_line_says_what_to_do(content: str, sandbox: Sandbox, tmp_path: Path) -> None:
    ((_, line),) = asked(sandbox, tmp_path / "file.py", content)
    assert LINES[content] in str(line)
    assert str(line).isprintable()


def test_files_in_the_folder_of_the_call_do_not_stand_for_pythons_own(tmp_path: Path) -> None:
    (tmp_path / "student.py").write_text(SOUND)
    for name in ("selectors", "contextlib", "copy", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stranger ran unguarded')\n")
    words = [sys.executable, "-P", "-m", "featherweight", "check", "student.py"]
    package = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": package}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "meets every rule" in done.stdout


RECORD = {
    "train_images": 50_000,
    "test_images": 10_000,
    "test_accuracy": 0.8612,
    "selection": "none: last epoch",
    "recipe": "mine",
}
# what is changed → a part of the reason, or None where the record is good
RECORDS: list[tuple[dict[str, object], str | None]] = [
    ({"test_accuracy": 10**400}, "must be a fraction"),
    ({"evaluation_set": "CIFAR-10 test"}, None),
    ({"evaluation_set": "the 10,000 test images"}, None),
    ({"evaluation_set": "train and test"}, "not on the test images"),
    ({"evaluation_set": "validation"}, "not on the test images"),
    ({"selection": "best epoch, on 5,000 validation images; the test images were read once"}, None),
    ({"selection": "last epoch, no early stopping"}, None),
    ({"selection": "best held-out epoch"}, None),
    ({"selection": "best epoch of 150, final weights"}, "on which images the best"),
    ({"selection": "none, highest of all epochs"}, "on which images the best"),
    ({"selection": "no validation split so best accuracy on the test set"}, "selected on the test set"),
    ({"selection": "early stopping on test loss, last epoch"}, "selected on the test set"),
]


@pytest.mark.parametrize(("change", "reason"), RECORDS)
def test_records_in_students_words(change: dict[str, object], reason: str | None, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(RECORD | change))
    problem = problem_of(read_record(path), test_images=10_000, train_images_at_most=50_000)
    if reason is None:
        assert problem is None
    else:
        assert problem is not None
        assert reason in problem
        assert len(problem) < 200


def test_a_records_words_stay_in_their_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(RECORD | {"recipe": "mine\n\x1b[2Jmeets every rule", "test_accuracy": 10**400}))
    assert main(["check", "feather_quick", "--record", str(path), "--json"]) == 1
    rule = json.loads(capsys.readouterr().out)["rules"][-1]
    assert rule["passed"] is False
    assert rule["where"].isprintable()
