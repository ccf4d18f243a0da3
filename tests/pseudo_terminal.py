"""A terminal for the tests, to see what a command draws on one."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import termios
import threading


class Terminal:
    """A pseudo-terminal of 100 columns; `screen` is all that was written to it, without the control sequences."""

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self.received = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                block = os.read(self.master, 65536)
            except OSError:  # the other end was closed
                return
            if not block:
                return
            self.received += block

    def screen(self) -> str:
        self.stream.close()
        self._reader.join()
        os.close(self.master)
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.received.decode()).replace("\r", "\n")
