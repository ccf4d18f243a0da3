"""`featherweight summary MODEL`: the layer table of a network."""

from __future__ import annotations

import argparse
import shutil
from typing import Any

from featherweight import terminal
from featherweight.commands.check import RUNS_IT, add_limits, answers, resolve, show, verify_line
from featherweight.rules.load import Sandbox
from featherweight.utils import UserError

WIDE = 110  # columns from which on the wide table fits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = RUNS_IT.replace("Checking", "Summing up")
    parser.add_argument("model", metavar="MODEL", help="a registered name, path/to/file.py:CLASS or path/to/file.py")
    parser.add_argument(
        "--input-size", type=_side, default=32, metavar="PIXELS", help="side of the picture (default: 32)"
    )
    parser.add_argument("--channels", type=_channels, default=3, help="channels of the picture (default: 3)")
    parser.add_argument(
        "--verify", action="store_true", help="also measure the receptive field by the gradient of one unit"
    )
    add_limits(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def _side(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 4096:
        raise argparse.ArgumentTypeError("must be from 1 to 4096")
    return value


def _channels(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1024:
        raise argparse.ArgumentTypeError("must be from 1 to 1024")
    return value


def run(args: argparse.Namespace) -> int:
    wanted = resolve(args.model)
    if len(wanted) != 1:
        raise UserError(f"{args.model} holds {len(wanted)} files; sum up one at a time")
    shape = [1, args.channels, args.input_size, args.input_size]
    request = {"task": "summary", "input_shape": shape, "verify": args.verify}
    with Sandbox(args.time_limit, args.memory_limit) as sandbox:
        found = answers(wanted[0], request, sandbox)
    if len(found) > 1:
        raise UserError(f"{args.model} holds several networks; choose one: {', '.join(r['model'] for r in found)}")
    result = found[0]
    if "error" in result:
        raise UserError(f"{result['model']}: {result['error']}")
    if args.json:
        terminal.print_json(result)
    else:
        _print(result, shape)
    verify = result.get("verify")
    return 1 if verify and verify["measured"] is not None and not verify["agrees"] else 0


def _print(result: dict[str, Any], shape: list[int]) -> None:
    terminal_width = max(80, shutil.get_terminal_size((80, 24)).columns)
    wide = terminal_width >= WIDE
    columns = ["#", "name", "kind", "output", "parameters", "mult-adds", "k/s/d/g", "jump", "field"]
    rows = [
        [
            str(number),
            layer["name"],
            layer["kind"] if wide else _short(layer["kind"].removesuffix("2d")),
            "x".join(map(str, layer["output_shape"])),
            _count(layer["parameters"], wide),
            _count(layer["multiply_adds"], wide),
            _window(layer),
            show(layer["jump"]),
            show(layer["receptive_field"]),
        ]
        for number, layer in enumerate(result["layers"], 1)
    ]
    right = ["#", "parameters", "mult-adds", "param", "m-adds", "jump", "field"]
    if not wide:  # shorter headings, and no numbers, so that 80 columns suffice
        columns[4:6] = ["param", "m-adds"]
        columns, rows = columns[1:], [row[1:] for row in rows]
        # Three spaces between columns; names get what the others leave, so that no cell takes a second line.
        others = sum(max(map(len, column)) + 3 for column in list(zip(columns, *rows, strict=True))[1:])
        for row in rows:
            row[0] = _short(row[0], max(6, min(12, terminal_width - others - 2)))
    picture = "x".join(map(str, shape[1:]))
    terminal.print_table(
        columns,
        rows,
        title=f"{result['model']}, input {picture}; k/s/d/g: kernel/stride/dilation/groups",
        right=right,
    )
    _print_totals(result)


def _print_totals(result: dict[str, Any]) -> None:
    frozen = f" and {result['frozen_parameters']:,} frozen" if result["frozen_parameters"] else ""
    print(f"parameters       {result['parameters']:,} trainable{frozen} ({result['weight_bytes'] / 1024:,.0f} KiB)")
    print(f"multiply-adds    {result['multiply_adds']:,} a picture")
    print(
        f"activations      {result['activation_bytes'] / 1024:,.0f} KiB in all, at most "
        f"{result['peak_activation_bytes'] / 1024:,.0f} KiB at once, a picture"
    )
    field = result["receptive_field"]
    beside = result["receptive_field_with_pooling"]
    text = "no limited field" if field is None else f"{show(field)} pixels {_where(result['map_ends'])}"
    print(f"receptive field  {text}" + (f" ({show(beside)} with it)" if beside is not None else ""))
    if result["exact"] is False:
        print("                 the largest of several: branches with different jumps meet")
    if result["whole_map"]:
        print(f"whole map        also reached through {', '.join(result['whole_map'])}; not in the figure")
    verify = result.get("verify")
    if verify:
        print(verify_line(verify))


def _where(end: dict[str, str]) -> str:
    """Of which map the receptive field is told."""
    if end["kind"] == "none":
        return f"in the map that comes out of {end['where']}, without pooling"
    names = {"average": "global pooling", "maximum": "the global maximum"}
    return f"just before {names.get(end['kind'], end['where'] + ', which is no global pooling')}"


def _short(name: str, most: int = 12) -> str:
    return name if len(name) <= most else "…" + name[-(most - 1) :]


def _count(number: int, wide: bool) -> str:
    """A count in full, or in a narrow table with at most five characters where it is large."""
    if not number:
        return "-"
    if wide or number < 100_000:
        return f"{number:,}" if wide else str(number)
    return f"{number / 1e6:.2f}M" if number < 1e8 else f"{number / 1e9:.2f}G"


def _window(layer: dict[str, Any]) -> str:
    if layer["kernel"] is None:
        return ""
    parts = [layer["kernel"], layer["stride"], layer["dilation"]] + ([layer["groups"]] if layer["groups"] else [])
    return "/".join(show(part) for part in parts)
