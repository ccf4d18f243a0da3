"""`featherweight serve` as its own process, watched: what it says, and whom it tries to reach."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from featherweight import models, weights
from featherweight.weights import Card

PATIENCE = 120  # seconds: the machine may be busy with other things
ODD_CLASSES = ('<b>plus</b> & "minus"', "${1+1} {{value}}", "circle")

# Whatever the process looks up or connects to goes into a file, a line each.
WATCHED = """
import sys
seen = open(sys.argv[1], "a", buffering=1)
def watch(event, what):
    if event == "socket.connect" and isinstance(what[1], tuple):
        seen.write(f"connect {what[1][0]}\\n")
    elif event == "socket.getaddrinfo":
        seen.write(f"look up {what[0]}\\n")
sys.addaudithook(watch)
from featherweight.cli import main
sys.exit(main(sys.argv[2:]))
"""


@dataclass
class Running:
    process: subprocess.Popen[str]
    url: str
    line: str  # what it said when it was ready
    errors: Path
    reached: Path

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Running]:
    """The page, ready. folder: an empty one, which is also the process's folder for temporary files."""
    folder.mkdir()
    errors, reached = folder.with_suffix(".err"), folder.with_suffix(".seen")
    with open(errors, "w") as sink:
        process = subprocess.Popen(
            [sys.executable, "-c", WATCHED, str(reached), "serve", *arguments],
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
            env={**os.environ, "TMPDIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "True"},
        )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = re.search(r"http://\S+", line)
            assert found, f"it said {line!r} and {errors.read_text()}"
            yield Running(process, found[0], line, errors, reached)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdout.close()


def odd_weights(folder: Path) -> Path:
    """Weights of another network with other classes, for larger pictures; never trained."""
    torch.manual_seed(1)
    network = models.build("c1c2c3c4_strided", classes=len(ODD_CLASSES))
    card = Card(
        name="odd",
        model="c1c2c3c4_strided",
        classes=ODD_CLASSES,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        input_size=48,
        dataset="nothing",
        recipe="none",
    )
    return weights.save(folder, network, card)


def gone(folder: Path, patience: float = 10) -> bool:
    """Whether the folder is empty, soon at least."""
    end = time.monotonic() + patience
    while time.monotonic() < end and list(folder.iterdir()):
        time.sleep(0.1)
    return not list(folder.iterdir())
