"""`featherweight check MODEL…`: the verdict on networks, rule by rule; a line each where there are several."""

from __future__ import annotations

import argparse
import csv
import io
import shutil
from typing import Any

from featherweight import terminal
from featherweight.rules.load import MEMORY_LIMIT, TIME_LIMIT, Sandbox, Target, looks_like_file, targets_of
from featherweight.rules.result_record import read_record
from featherweight.rules.rulesets import load_rule_set, rule_set_names
from featherweight.rules.wording import one_line
from featherweight.utils import UserError, require_place, write_atomic

RUNS_IT = (
    "Checking a file RUNS it, with your rights: do not check a file you would not run. It runs in a separate "
    "process with a time and a memory limit, which guards against accidents, not against malice."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = RUNS_IT
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="a registered name, path/to/file.py:CLASS, path/to/file.py, or a folder of such files",
    )
    parser.add_argument(
        "--rules",
        default="assignment",
        metavar="NAME_OR_FILE",
        help=f"rule set: {', '.join(rule_set_names())}, or a .toml file (default: assignment)",
    )
    parser.add_argument("--record", metavar="RESULT.json", help="the run's result record, for the accuracy rule")
    parser.add_argument("--require-accuracy", action="store_true", help="fail where no record is given")
    parser.add_argument(
        "--verify", action="store_true", help="also measure the receptive field by the gradient of one unit"
    )
    add_limits(parser)
    parser.add_argument("--csv", metavar="FILE", help="also write the verdicts as a CSV file")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def add_limits(parser: argparse.ArgumentParser) -> None:
    """The limits of the process that runs a file."""
    parser.add_argument(
        "--time-limit",
        type=seconds,
        default=TIME_LIMIT,
        metavar="SECONDS",
        help=f"for each file (default: {TIME_LIMIT:g})",
    )
    parser.add_argument(
        "--memory-limit",
        type=megabytes,
        default=MEMORY_LIMIT,
        metavar="MB",
        help=f"for each file, on top of torch's own (default: {MEMORY_LIMIT})",
    )


def seconds(text: str) -> float:
    """A time limit as argparse reads it."""
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError("must be over 0 and under a million")
    return value


def megabytes(text: str) -> int:
    """A memory limit as argparse reads it."""
    value = int(text)
    if not 64 <= value <= 1 << 20:
        raise argparse.ArgumentTypeError("must be from 64 to 1048576")
    return value


def run(args: argparse.Namespace) -> int:
    rules = load_rule_set(args.rules)  # a wrong name or file is told before anything is run
    record = None if args.record is None else read_record(args.record)
    wanted = [target for text in args.models for target in resolve(text)]
    if record is not None and len(wanted) > 1:
        raise UserError("--record belongs to one network; check the others without it")
    request = {
        "task": "check",
        "rules": args.rules,
        "record": record,
        "require_accuracy": args.require_accuracy,
        "verify": args.verify,
    }
    require_place(args.csv)
    single = len(wanted) == 1
    results: list[dict[str, Any]] = []
    with (
        Sandbox(args.time_limit, args.memory_limit) as sandbox,
        terminal.Progress("checking", len(wanted), "networks", lines=args.json) as progress,
    ):
        for target in wanted:
            found = answers(target, request, sandbox)
            single = single and len(found) == 1
            results.extend(found)
            if not single and not args.json:
                for result in found:
                    print(_line(result), flush=True)
            progress.step()
    if args.csv is not None:
        write_atomic(args.csv, _csv(results, list(rules.rules)))
    if single:
        return _report_one(results[0], args.json, rules.title or rules.name)
    passed = all(result.get("passed", False) and _measured_alike(result) for result in results)
    if args.json:
        terminal.print_json({"passed": passed, "rule_set": rules.name, "models": results})
    else:
        right = sum(result.get("passed", False) for result in results)
        terminal.note(f"{right} of {len(results)} pass the rules of {rules.name}")
    return 0 if passed else 1


def resolve(text: str) -> list[Target | str]:
    """A registered name as it is; otherwise the files. A name wins over a file of the same name."""
    from featherweight import models

    if text in models.names():
        return [text]
    if looks_like_file(text):
        return list(targets_of(text))
    raise UserError(
        f"no network is called {text!r}; choose one of {', '.join(models.names())}, or give path/to/file.py:CLASS"
    )


def answers(target: Target | str, request: dict[str, Any], sandbox: Sandbox) -> list[dict[str, Any]]:
    """The results of one target, each with `model` and a verdict or an `error`; a registered one is judged here."""
    if isinstance(target, str):
        import torch

        from featherweight import models
        from featherweight.rules.stranger import judge

        torch.set_num_threads(1)  # one small picture: a second thread costs more to wake than it saves
        return [{"model": target, **judge(models.build(target), request)}]
    answer = sandbox.ask(target, request)
    text = one_line(target.text, 4096)  # a file's name may hold a line end, or bytes that are no text
    if "error" in answer:
        return [{"model": text, "error": answer["error"]}]
    found = []
    for result in answer["results"]:
        name = result.pop("name")
        found.append({"model": text if target.name else f"{text}:{name}", **result})
    return found


def _measured_alike(result: dict[str, Any]) -> bool:
    """False where --verify measured another receptive field than the arithmetic says."""
    verify = result.get("verify")
    return verify is None or verify["agrees"] or verify["measured"] is None


def _report_one(result: dict[str, Any], as_json: bool, title: str) -> int:
    if "error" in result:
        raise UserError(f"{result['model']}: {result['error']}")
    if as_json:
        terminal.print_json(result)
    else:
        _print_one(result, title)
    return 0 if result["passed"] and _measured_alike(result) else 1


def _print_one(result: dict[str, Any], title: str) -> None:
    wide = shutil.get_terminal_size((80, 24)).columns >= 110
    rows = [
        ["yes" if rule["passed"] else "NO", rule["rule"], show(rule["measured"]), rule["required"], rule["where"]]
        for rule in result["rules"]
    ]
    columns = ["met", "rule", "measured", "required", "where"][: 5 if wide else 4]
    terminal.print_table(columns, [row[: len(columns)] for row in rows], title=f"{result['model']}: {title}")
    for rule in result["rules"]:
        if not rule["passed"]:
            print(f"{rule['rule']}: {rule['where']}. {rule['advice']}")
        elif rule["rule"] == "receptive_field" and not wide:
            print(f"{rule['rule']}: {rule['where']}")
    for rule, reason in result["not_measured"].items():
        print(f"{rule}: not measured, {reason}")
    if "verify" in result:
        print(verify_line(result["verify"]))
    failed = [rule["rule"] for rule in result["rules"] if not rule["passed"]]
    print(
        f"{result['model']} meets every rule that was measured."
        if not failed
        else f"{result['model']} fails {len(failed)} of {len(result['rules'])} rules: {', '.join(failed)}."
    )


def verify_line(verify: dict[str, Any]) -> str:
    if verify["measured"] is None:
        return f"receptive field not measured: {verify['note']}"
    says = "agrees with" if verify["agrees"] else "DISAGREES with"
    note = f" ({verify['note']})" if verify["note"] else ""
    return f"receptive field measured by gradients: {show(verify['measured'])}, {says} the arithmetic{note}"


def show(value: Any) -> str:
    """A measured value for people."""
    if isinstance(value, bool) or value is None:
        return "-" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return "x".join(show(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _line(result: dict[str, Any]) -> str:
    if "error" in result:
        return f"ERROR {result['model']}: {result['error']}"
    failed = [f"{rule['rule']} ({show(rule['measured'])})" for rule in result["rules"] if not rule["passed"]]
    if not _measured_alike(result):
        failed.append(verify_line(result["verify"]))
    return f"PASS  {result['model']}" if not failed else f"FAIL  {result['model']}: {', '.join(failed)}"


def _csv(results: list[dict[str, Any]], rules: list[str]) -> str:
    """One row a network: passed, the rules failed, the error, and each rule's measured value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "passed", "failed", "error", *rules])
    for result in results:
        judged = {rule["rule"]: rule for rule in result.get("rules", [])}
        failed = [rule for rule, outcome in judged.items() if not outcome["passed"]]
        values = [show(judged[rule]["measured"]).replace(",", "") if rule in judged else "" for rule in rules]
        passed = "" if "error" in result else "yes" if result["passed"] else "no"
        writer.writerow([result["model"], passed, " ".join(failed), result.get("error", ""), *values])
    return text.getvalue()
