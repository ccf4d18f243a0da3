"""`featherweight models`: the registered networks with their facts, each computed from the network itself."""

from __future__ import annotations

import argparse
from typing import Any

from featherweight import terminal
from featherweight.commands.check import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rules",
        default="assignment",
        metavar="NAME_OR_FILE",
        help="the rule set that `rules met` speaks of (default: assignment)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list, an entry a network, and nothing else")


def run(args: argparse.Namespace) -> int:
    from featherweight.rules.rulesets import load_rule_set

    rules = load_rule_set(args.rules)
    found = []
    with terminal.Progress("measuring", len(_names()), "networks") as progress:
        for name in _names():
            found.append(facts(name, args.rules))
            progress.step()
    if args.json:
        terminal.print_json(found)
        return 0
    rows = [
        [
            f["name"],
            f"{f['parameters']:,}",
            f"{f['multiply_adds']:,}",
            show(f["receptive_field"]),
            "all"
            if f["rules_passed"]
            else f"{f['rules_met']} of {f['rules_checked']}; not {', '.join(f['rules_failed'])}",
        ]
        for f in found
    ]
    terminal.print_table(
        ["name", "parameters", "multiply-adds", "field", f"rules met ({rules.name})"],
        rows,
        right=["parameters", "multiply-adds", "field"],
    )
    return 0


def _names() -> list[str]:
    from featherweight import models

    return models.names()


def facts(name: str, rule_set: str = "assignment") -> dict[str, Any]:
    """Parameters, multiply-adds, receptive field and rules met of one registered network."""
    import torch

    from featherweight import models
    from featherweight.rules.checks import Examined
    from featherweight.rules.layers import one
    from featherweight.rules.rulesets import load_rule_set
    from featherweight.rules.verdict import check

    torch.set_num_threads(1)
    network = models.build(name)
    rules = load_rule_set(rule_set)
    seen = Examined(network, rules)
    verdict = check(network, rules)
    failed = verdict.failed()
    figure = seen.reception.figure
    return {
        "name": name,
        "parameters": seen.cost.parameters,
        "multiply_adds": seen.cost.multiply_adds,
        "receptive_field": one(figure.size) if figure else None,
        "rules_passed": verdict.passed,
        "rules_met": len(verdict.rules) - len(failed),
        "rules_checked": len(verdict.rules),
        "rules_failed": failed,
    }
