"""The verdict on a network by a rule set. Training asks `check_network` before it spends compute."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from featherweight.rules.checks import RULES, Examined, RuleResult, accuracy
from featherweight.rules.rulesets import RuleSet, load_rule_set


@dataclass(frozen=True)
class Verdict:
    """All rules that could be judged; `not_measured` names the others and why. passed: no judged rule failed."""

    passed: bool
    rules: list[RuleResult]
    not_measured: dict[str, str] = field(default_factory=dict)

    def failed(self) -> list[str]:
        return [result.rule for result in self.rules if not result.passed]

    def as_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "rules": [asdict(result) for result in self.rules],
            "not_measured": self.not_measured,
        }


def check_network(network: nn.Module, rule_set_name: str = "assignment") -> Verdict:
    """The verdict on a network by a rule set's name or file; leaves the network as it was.

    Raises UserError for an unknown rule set and for a network that does not run on the rule set's picture.
    """
    return check(network, load_rule_set(rule_set_name))


def check(
    network: nn.Module, rules: RuleSet, record: dict[str, Any] | None = None, require_accuracy: bool = False
) -> Verdict:
    """The verdict on a network. `record`: the result record that the accuracy rule judges.

    Without a record the accuracy is not measured, which fails only if `require_accuracy`.
    """
    examined = Examined(network, rules)
    results: list[RuleResult] = []
    not_measured: dict[str, str] = {}
    for rule, settings in rules.rules.items():
        if rule != "accuracy":
            results.append(RULES[rule](examined, settings))
        elif record is not None or require_accuracy:
            results.append(accuracy(examined.cost.parameters, settings, record))
        else:
            not_measured[rule] = "no result record was given (--record)"
    return Verdict(all(result.passed for result in results), results, not_measured)
