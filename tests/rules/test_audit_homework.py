"""Students' pipelines, each with one slip: caught under its rule, nothing else accused. Sound ones: not accused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from featherweight.rules import audit_worker
from featherweight.rules.audit_judge import judge
from featherweight.rules.audit_rules import AuditRules

FOLDER = Path(__file__).resolve().parent.parent / "homework" / "pipelines"
MOVES = {"shift", "scale", "rotate"}

# file: (the rules it must fail, the rules it may fail as a consequence)
SLIPS: dict[str, tuple[set[str], set[str]]] = {
    "hole_black": ({"hole_fill"}, set()),
    "hole_raw_mean": ({"hole_fill"}, set()),
    "hole_one_wide": ({"hole_size"}, set()),
    "hole_old_names": ({"hole_size", "hole_fill", "hole_count"}, set()),
    "hole_two": ({"hole_count"}, {"hole_size"}),
    "hole_sticking_out": ({"hole_place"}, set()),
    "cutout_centre": ({"hole_place"}, set()),
    "hole_before_turning": ({"hole_size"}, {"hole_count", "hole_place"}),
    "no_hole": ({"hole_rate"}, set()),
    "wrong_std": ({"statistics"}, set()),
    "train_and_test_statistics": ({"statistics"}, set()),
    "half_half": ({"statistics"}, set()),
    "evaluation_differs": ({"same_normalisation"}, set()),
    "evaluation_augments": ({"evaluation"}, set()),
    "no_flip": ({"flip"}, set()),
    "flip_always": ({"flip"}, set()),
    "no_affine": (MOVES, set()),
    "unnormalised": ({"range"}, {"statistics", "hole_fill"}),
    "statistics_on_bytes": ({"range"}, {"statistics", "hole_fill"}),
    "swapped_channels": ({"channel_order"}, set()),
    "thrown_away": ({"augmented"}, {"flip", "hole_rate", *MOVES}),
    "same_every_time": ({"augmented"}, {"flip", "hole_rate", *MOVES}),
    "workers_alike": ({"workers"}, set()),
    "private_generator": ({"workers"}, set()),
}
SOUND = ("sound_albumentations", "sound_callable", "sound_padded", "sound_pil", "sound_tensor", "sound_wrapped")
ADVICE = {
    "hole_black": "nearly black",
    "hole_raw_mean": "raw mean",
    "wrong_std": "average of per-image deviations",
    "train_and_test_statistics": "training and test set together",
    "swapped_channels": "swap",
    "half_half": "one half",
    "thrown_away": "thrown away",
    "same_every_time": "seeded anew",
    "hole_one_wide": "one pixel wide",
    "workers_alike": "seeded alike",
    "hole_old_names": "ignores",
}


def _audit(name: str, draws: int = 120) -> dict[str, Any]:
    """Measured in this process, to save the start of one for each file; test_audit_command.py goes the whole way."""
    path = FOLDER / f"{name}.py"
    source = {"kind": "file", "path": str(path), "name": "train_transforms", "where": name}
    evaluation = source | {"name": "test_transforms"} if "test_transforms" in path.read_text().split() else None
    forks = name in ("workers_alike", "private_generator", "sound_callable", "sound_albumentations")
    spec = {"train": source, "evaluation": evaluation, "draws": draws, "workers": forks}
    return judge(audit_worker.measure(spec), AuditRules())


def test_every_file_is_in_the_table() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == set(SLIPS) | set(SOUND)


@pytest.mark.parametrize("name", SLIPS)
def test_slip_is_caught_under_its_rule(name: str) -> None:
    must, may = SLIPS[name]
    verdict = _audit(name)
    failed = {item["rule"] for item in verdict["rules"] if not item["passed"]}
    assert must <= failed <= must | may
    assert verdict["passed"] is False
    if name in ADVICE:
        assert ADVICE[name] in " ".join(item["advice"] for item in verdict["rules"])


@pytest.mark.parametrize("name", SOUND)
def test_sound_pipeline_is_not_accused(name: str) -> None:
    verdict = _audit(name)
    assert [item for item in verdict["rules"] if not item["passed"]] == []
    assert verdict["passed"] is True
    assert len(verdict["rules"]) >= 14  # judged, not skipped


def test_a_pipeline_to_be_reseeded_is_told_so_and_not_accused() -> None:
    verdict = _audit("sound_albumentations")
    workers = next(item for item in verdict["rules"] if item["rule"] == "workers")
    assert workers["measured"].startswith("100% alike; reseeded ")
    assert any("set_random_seed" in note for note in verdict["notes"])
