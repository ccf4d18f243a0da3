"""`featherweight serve`: a page in the browser to try the networks in."""

from __future__ import annotations

import argparse
import webbrowser
from contextlib import ExitStack

from featherweight.terminal import Progress, note
from featherweight.utils import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from featherweight.demo.server import FIRST_PORT, HOST, PORTS

    add = parser.add_argument
    add(
        "weights",
        nargs="*",
        metavar="WEIGHTS",
        help="the networks to choose from: published names, .safetensors files, runs' folders (default: all that are "
        "published)",
    )
    add("--host", default=HOST, help="the address to listen on; 0.0.0.0: all of this machine's (default: %(default)s)")
    add(
        "--port",
        type=_port,
        metavar="N",
        help=f"the port to listen on; 0: any free one (default: the first free one of {FIRST_PORT} to "
        f"{FIRST_PORT + PORTS - 1})",
    )
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("--open", action="store_true", help="open the page in the browser")
    parser.epilog = (
        "Ctrl-C ends it. Pictures stay on this machine and are deleted when the page ends. Browsers give a page the "
        "camera only at 127.0.0.1, at localhost, or behind a proxy that speaks https. Whoever reaches another --host "
        "may use the page: it asks for no password."
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 65535")
    return int(text)


def run(args: argparse.Namespace) -> int:
    from featherweight import weights
    from featherweight.demo import server

    wanted = list(dict.fromkeys(args.weights)) or weights.published()
    if not wanted:
        raise UserError("no weights are published here; train some and name them: featherweight serve RUN")
    with server.listen(args.host, args.port) as sock, ExitStack() as stack:  # first: a taken port is told at once
        progress = stack.enter_context(Progress("starting the page", len(wanted) + 1, "parts"))
        from featherweight.demo.look import Looker
        from featherweight.ship import classifier

        loaded = []
        for one in wanted:
            loaded.append(classifier.load(one, device=args.device))
            progress.step()
        names = [one.card.name for one in loaded]
        lookers = [
            Looker(name if names.count(name) == 1 else f"{name} ({place})", one)
            for name, place, one in zip(names, wanted, loaded, strict=True)
        ]

        def ready(url: str, alone: bool) -> None:
            stack.close()
            print(f"featherweight serve: {url} (Ctrl-C ends it)", flush=True)
            if not alone:
                note("open to every machine that reaches this one; there is no password")
            if args.open and not webbrowser.open(url):
                note("no browser was found to open it in")

        server.serve(lookers, sock, args.host, ready)
    return 0
