"""One rule set serves both commands: `check` takes a file with an [augmentation] table, `audit` reads that table."""

from __future__ import annotations

from pathlib import Path

import pytest

from featherweight.rules.audit_rules import AuditRules, read_audit_rules
from featherweight.rules.rulesets import load_rule_set, rule_set_names
from featherweight.utils import UserError


def test_the_assignments_table_is_the_defaults() -> None:
    assert read_audit_rules("assignment") == AuditRules()


@pytest.mark.parametrize("name", rule_set_names())
def test_every_shipped_set_reads_in_both_commands(name: str) -> None:
    assert load_rule_set(name).rules
    assert read_audit_rules(name)


def test_an_unknown_key_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[parameters]\nfewer_than = 10\n[augmentation]\nflips = 1\n")
    assert load_rule_set(str(path)).rules["parameters"] == {"fewer_than": 10}
    with pytest.raises(UserError, match="unknown key 'flips'"):
        read_audit_rules(str(path))


@pytest.mark.parametrize(
    "line", ["flip_p = 5", "holes = -1", "hole_size = 0", "std = [0, 0, 0]", "mean = [125, 123, 114]"]
)
def test_a_value_out_of_range_is_told(line: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"\ufeff[augmentation]\n{line}\n", encoding="utf-8")  # with the mark that some editors put first
    with pytest.raises(UserError, match=line.split()[0] + r".* is out of range; it must lie between"):
        read_audit_rules(str(path))
