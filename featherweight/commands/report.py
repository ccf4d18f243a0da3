"""`featherweight report`: the records of the published runs → the tables of the README."""

from __future__ import annotations

import argparse
from pathlib import Path

from featherweight.terminal import note, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--readme", type=Path, default=Path("README.md"), help="the file whose marked parts are written (README.md)")
    add("--results", type=Path, default=Path("results"), help="the folder of records (results)")
    add("--check", action="store_true", help="write nothing; exit with 1 when the file differs from the records")
    add("--json", action="store_true", help="print the recipes' figures and what was done as JSON")


def run(args: argparse.Namespace) -> int:
    from featherweight import report
    from featherweight.records import group_by_recipe, load_all
    from featherweight.utils import write_atomic

    records = load_all(args.results)
    before = report.read_readme(args.readme)
    after = report.fill(before, report.tables(records), str(args.readme))
    differs = after != before
    if differs and not args.check:
        write_atomic(args.readme, after)
    groups = report.sort_groups(group_by_recipe(records))
    if args.json:
        print_json(
            {
                "readme": str(args.readme),
                "differs": differs,
                "written": differs and not args.check,
                "records": len(records),
                "recipes": [report.summary(group) for group in groups],
            }
        )
    elif args.check:
        word = "differs from" if differs else "agrees with"
        print(f"{args.readme} {word} the {len(records)} records in {args.results}")
    else:
        print(f"{args.readme}: {'written' if differs else 'nothing to change'} ({len(records)} records)")
    if differs and args.check:
        note(f"run `featherweight report --readme {args.readme} --results {args.results}` to bring it up to date")
    return int(differs and args.check)
