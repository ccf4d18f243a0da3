"""The child's end of the pipe to the process that started it: JSON objects, one a line."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO


class Channel:
    """Commands come in, answers go out. The end of the commands means: finish and leave."""

    def __init__(self, reader: TextIO, writer: TextIO) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    def of_this_process(cls) -> Channel:
        """Standard input and output, the latter taken out of the reach of anything that prints."""
        writer = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        return cls(sys.stdin, writer)

    def receive(self) -> dict[str, Any] | None:
        """Wait for the next command; None when there are no more."""
        line = self._reader.readline()
        return json.loads(line) if line else None

    def send(self, answer: dict[str, Any]) -> None:
        self._writer.write(json.dumps(answer) + "\n")
        self._writer.flush()
