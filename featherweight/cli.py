"""`featherweight COMMAND …`: choose the command, parse, call, turn bad input into one line and exit code 2.

Each command lives in `featherweight/commands/NAME.py` as `add_arguments(parser)` and `run(args) -> exit code`; only the
chosen one is imported, so help never waits for torch. Exit codes: 0 done, 1 a check failed, 2 bad input.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from featherweight.utils import UserError

COMMANDS = {
    "train": "train a network by a recipe; --resume carries on an interrupted run",
    "eval": "measure a trained network on the test or validation pictures",
    "replay": "repeat the first steps of a recorded run and compare the losses, bit for bit",
    "explain": "figures of a trained network: curves, errors, Grad-CAM, receptive field; and a report",
    "models": "list the networks: parameters, multiply-adds, receptive field, rules met",
    "summary": "the layer table of a network",
    "check": "the assignment's verdict on a network, rule by rule",
    "audit": "measure what an augmentation pipeline really does",
    "predict": "classes for pictures or folders of pictures",
    "export": "write ONNX, also int8, its parity proven on all test pictures; a folder for a model hub",
    "serve": "a page in the browser to try the networks in: a picture, its classes, Grad-CAM",
    "bench": "measure speed: training beside a plain loop, the time to an accuracy, inference",
    "data": "say where the data is, verify it, fetch it",
    "report": "write the README's tables from the records in results/",
}


class Parser(argparse.ArgumentParser):
    """argparse, with its complaints brought down to one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # where it is not UTF-8, "…" becomes "?"
    parser = Parser(prog="featherweight", description="Train, check, explain and ship small image classifiers.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    modules = {}
    for name, about in COMMANDS.items():
        sub = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        if name == chosen:
            modules[name] = importlib.import_module(f"featherweight.commands.{name}")
            modules[name].add_arguments(sub)
    try:
        args = parser.parse_args(arguments)
        code = int(modules[args.command].run(args))
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"featherweight {chosen}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"featherweight {chosen}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output left (`featherweight models | head`): nothing more to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter stumbles over it once more at its end
        return 0
    except OSError as error:  # that no command foresaw: a folder that may not be looked into, a full disk
        place = "" if error.filename is None else f"{str(error.filename)!a}: "
        reason = f"{place}{error.strerror or error}; check the path, who may read and write it, and the disk"
        print(f"featherweight {chosen}: {reason}", file=sys.stderr)
        return 2


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"featherweight {version('featherweight')}"
    except PackageNotFoundError:
        return "featherweight (not installed)"


if __name__ == "__main__":
    sys.exit(main())
