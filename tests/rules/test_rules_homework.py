"""Small files with one slip each, and sound ones: slips are caught by the right rule, the sound are not accused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from featherweight.rules.oracle import verify
from featherweight.rules.result_record import read_record
from featherweight.rules.rulesets import load_rule_set
from featherweight.rules.stranger import every, run_file
from featherweight.rules.verdict import check, check_network

HOMEWORK = Path(__file__).resolve().parent.parent / "homework"

# file → the rules that it fails, and what is measured for the first of them
NETWORKS: dict[str, tuple[list[str], object]] = {
    "sound_strided": ([], None),
    "sound_functional": ([], None),
    "sound_residual": ([], None),
    "sound_dilated": ([], None),
    "sound_excited": ([], None),
    "sound_channel_maximum": ([], None),
    "slip_too_many_parameters": (["parameters"], 270_722),
    "slip_hidden_parameters": (["parameters"], 280_874),
    "slip_field_doubled_jump": (["receptive_field"], 39),
    "slip_field_with_pooling": (["receptive_field"], 29),
    "slip_max_module": (["no_max_pooling"], 1),
    "slip_max_functional": (["no_max_pooling"], 1),
    "slip_max_adaptive": (["no_max_pooling"], 1),
    "slip_max_fractional": (["no_max_pooling"], 1),
    "slip_max_unfolded": (["no_max_pooling"], 1),
    "slip_max_windows": (["no_max_pooling"], 1),
    "slip_max_shifted": (["no_max_pooling"], 1),
    "slip_global_max": (["no_max_pooling", "global_pooling"], 1),
    "slip_block_missing": (["blocks"], 4),
    "slip_block_unused": (["blocks"], 4),
    "slip_stride_1x1": (["strided_convolutions"], 2),
    "slip_two_strides": (["strided_convolutions"], 2),
    "slip_depthwise_alone": (["depthwise_separable"], 0),
    "slip_grouped": (["depthwise_separable"], 0),
    "slip_dilated_1x1": (["dilated"], 0),
    "slip_pool_partial": (["global_pooling"], "9 of 16 positions"),
    "slip_pool_hard_coded": (["global_pooling"], "global at 32 only"),
    "slip_pool_sliced": (["global_pooling"], "9 of 16 positions"),
    "slip_flattened": (["global_pooling"], "no global pooling"),
}

# record → whether it passes, and a part of the reason
RECORDS: dict[str, tuple[bool, str]] = {
    "sound_last_epoch": (True, ""),
    "sound_validation": (True, ""),
    "sound_hashes": (True, ""),
    "sound_dataset": (True, ""),
    "slip_training_set": (False, "scored on the training images"),
    "slip_training_split": (False, "scored on the training images"),
    "slip_training_list": (False, "scored on the training images"),
    "slip_other_dataset": (False, "another data set: CIFAR-100"),
    "slip_hash_spelt": (False, "both sets have the hash"),
    "slip_same_hash": (False, "both sets have the hash"),
    "slip_drop_last": (False, "last batch dropped"),
    "slip_best_on_test": (False, "selected on the test set"),
    "slip_selection_unsaid": (False, "does not say how the epoch was selected"),
    "slip_percent": (False, "must be a fraction"),
    "slip_train_and_test": (False, "the test images are among them"),
    "slip_rounded_up": (False, ""),
    "slip_other_network": (False, "another network"),
    "slip_no_count": (False, "how many images were scored"),
}


def network_of(name: str) -> torch.nn.Module:
    ((_, network),) = every(run_file(HOMEWORK / "networks" / f"{name}.py"))
    return network


def test_every_file_is_in_the_tables() -> None:
    assert {path.stem for path in (HOMEWORK / "networks").glob("*.py")} == set(NETWORKS)
    assert {path.stem for path in (HOMEWORK / "records").glob("*.json")} == set(RECORDS)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_judged_right(name: str) -> None:
    failing, measured = NETWORKS[name]
    verdict = check_network(network_of(name))
    assert verdict.failed() == failing
    assert verdict.passed is (not failing)
    if failing:
        first = next(result for result in verdict.rules if result.rule == failing[0])
        assert first.measured == measured
        assert first.where
        assert first.advice.endswith(".")


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in ("slip_max_fractional", "slip_hidden_parameters")])
def test_their_fields_are_measured_alike(name: str) -> None:
    result = verify(network_of(name))
    assert result.measured is None or result.agrees, result
    if name not in ("slip_max_adaptive", "slip_max_windows", "slip_max_unfolded"):
        assert result.measured == result.expected, result


@pytest.mark.parametrize("name", RECORDS)
def test_records_are_judged_right(name: str) -> None:
    passes, reason = RECORDS[name]
    record = read_record(HOMEWORK / "records" / f"{name}.json")
    verdict = check(network_of("sound_strided"), load_rule_set("assignment"), record)
    assert verdict.failed() == ([] if passes else ["accuracy"])
    result = verdict.rules[-1]
    assert reason in result.where
    assert result.measured == record["test_accuracy"]


def test_without_a_record_the_accuracy_is_not_measured() -> None:
    rules = load_rule_set("assignment")
    network = network_of("sound_strided")
    assert "accuracy" in check(network, rules).not_measured
    assert check(network, rules, require_accuracy=True).failed() == ["accuracy"]
