"""A headless Chromium for the tests, spoken to in the DevTools protocol over a pipe: no driver, no port, no package.

What the page asked for, and what the browser complained of, is kept from the first moment on.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 120  # seconds: the machine may be busy with other things
# Names lead nowhere and addresses outside are unreachable, as on a machine without a network.
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"

# The middle of an element, or null while it moves (a picture above it is still loading) or something covers it.
_AT_REST = """async selector => {
    const find = () => document.querySelector(selector), place = e => JSON.stringify(e.getBoundingClientRect());
    const element = find();
    if (!element) return null;
    element.scrollIntoView({block: 'center', behavior: 'instant'});
    const before = place(element);
    for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame);
    const r = element.getBoundingClientRect(), x = r.x + r.width / 2, y = r.y + r.height / 2;
    const there = document.elementFromPoint(x, y);
    return r.width && find() === element && place(element) === before && element.contains(there) ? {x, y} : null }"""


def find_chromium() -> str | None:
    return next((found for found in map(shutil.which, NAMES) if found), None)


class Browser:
    """One page. profile: an empty folder; flags: more of Chromium's own."""

    def __init__(self, profile: Path, *flags: str) -> None:
        program = find_chromium()
        assert program is not None
        hears, self._to = os.pipe()
        self._from, speaks = os.pipe()
        switches = [
            *("--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run"),
            *("--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--hide-scrollbars"),
            *(["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []),  # root has no sandbox
            *flags,
        ]
        # Chromium reads its orders from descriptor 3 and answers on 4.
        shell = f'exec "$0" "$@" 3<&{hears} 4>&{speaks}'
        self._log = open(profile / "chromium.log", "wb")  # noqa: SIM115 - closed in `close`
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", shell, program, *switches],
            pass_fds=(hears, speaks),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        os.close(hears)
        os.close(speaks)
        self._count = 0
        self._answers: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self.addresses: list[str] = []  # of all requests, in order
        self.complaints: list[str] = []  # errors on the console, violated policies, exceptions nobody caught
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        target = self._send("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._send("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for room in ("Page", "Network", "Runtime", "Log", "DOM"):
            self.send(f"{room}.enable")
        # Frames and workers are targets of their own: their requests count, too.
        self.send("Target.setAutoAttach", {"autoAttach": True, "waitForDebuggerOnStart": False, "flatten": True})

    def send(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """One order to the page, and its answer. Raises RuntimeError with what the browser says against it."""
        return self._send(method, params, self._session)

    def _send(self, method: str, params: dict[str, Any] | None = None, session: str | None = None) -> dict[str, Any]:
        number, waiting = self._post(method, params, session)
        try:
            answer = waiting.get(timeout=PATIENCE)
        except queue.Empty:
            raise TimeoutError(f"no answer to {method}") from None
        finally:
            del self._answers[number]
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _post(
        self, method: str, params: dict[str, Any] | None, session: str | None
    ) -> tuple[int, queue.SimpleQueue[dict[str, Any]]]:
        self._count += 1
        number, waiting = self._count, queue.SimpleQueue[dict[str, Any]]()
        self._answers[number] = waiting
        order = {"id": number, "method": method, "params": params or {}} | ({"sessionId": session} if session else {})
        os.write(self._to, json.dumps(order).encode() + b"\0")
        return number, waiting

    def _read(self) -> None:
        rest = b""
        while part := os.read(self._from, 1 << 16):
            *whole, rest = (rest + part).split(b"\0")
            for text in whole:
                message = json.loads(text)
                if "id" in message:
                    if message["id"] in self._answers:
                        self._answers[message["id"]].put(message)
                else:
                    self._note(message["method"], message["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Target.attachedToTarget":
            if params["targetInfo"]["type"] != "page":
                self._post("Network.enable", None, params["sessionId"])
        elif method == "Network.requestWillBeSent":
            self.addresses.append(params["request"]["url"])
        elif method in ("Network.webSocketCreated", "Network.webTransportCreated"):
            self.addresses.append(params["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"].get("exception", params)))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def outside(self, home: str) -> list[str]:
        """The addresses asked for that are neither below `home` nor held in the page itself."""
        ours = urlsplit(home)[:2]
        held = ("data:", "blob:", "about:")
        return [one for one in self.addresses if not one.startswith(held) and urlsplit(one)[:2] != ours]

    def open(self, address: str) -> None:
        self.send("Page.navigate", {"url": address})

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        wanted = {"expression": script, "returnByValue": True, "awaitPromise": True, "userGesture": True}
        answer = self.send("Runtime.evaluate", wanted)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, script: str, patience: float = PATIENCE) -> Any:
        """The value of an expression, once it is true. Raises TimeoutError with the page's text."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            with contextlib.suppress(RuntimeError):  # of a page that is being left
                if (value := self.run(script)) not in (None, False, "", 0):  # an element comes as {}
                    return value
            time.sleep(0.05)
        text = self.run("document.body.innerText")
        raise TimeoutError(f"never true: {script}\ncomplaints: {self.complaints}\nthe page says:\n{text}")

    def text(self, selector: str) -> str:
        return self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def click(self, selector: str) -> None:
        """A click with the mouse on the middle of an element, once it is there, at rest and under nothing else."""
        place = self.wait(f"({_AT_REST})({json.dumps(selector)})")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", {"type": kind, "button": "left", "clickCount": 1, **place})

    def choose_files(self, selector: str, paths: Sequence[Path]) -> None:
        """As if somebody had chosen files in the dialogue of a file field."""
        self.wait(f"document.querySelector({json.dumps(selector)}) !== null")
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", {"nodeId": root, "selector": selector})["nodeId"]
        self.send("DOM.setFileInputFiles", {"nodeId": node, "files": [str(path) for path in paths]})

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        wanted = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", wanted)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        answer = self.send("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        with contextlib.suppress(OSError, RuntimeError, TimeoutError):
            self._send("Browser.close")
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        self._reader.join(20)  # ends at the end of the pipe
        os.close(self._from)
        self._log.close()
