"""What every request passes before gradio sees it: who may ask, for what, and how much.

A page on one's own machine can be reached by every other page open in the same browser: by its address (told apart by
the Sec-Fetch-Site header that browsers set) or under a foreign name that was made to lead here (told apart by the Host
header). And what is answered must not make the browser ask anyone else, which a Content-Security-Policy says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

FORM_ROOM = 64 << 10  # bytes around the file in an upload, and in any other request
API = "/gradio_api"
# What the page asks for; the rest of gradio's routes (fetching addresses, recordings, monitoring …) stays shut.
PLACES = (*("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", f"{API}/upload", f"{API}/upload_progress"),)
FOLDERS = (
    *("/assets/", "/static/", "/svelte/", f"{API}/queue/", f"{API}/heartbeat/", f"{API}/file=", f"{API}/info"),
    *(f"{API}/app_id", f"{API}/startup-events", f"{API}/cancel", f"{API}/reset", f"{API}/stream/"),
)

# gradio's page needs scripts in the page and compiles some; nothing may come from elsewhere.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
FILE_POLICY = "default-src 'none'; sandbox"  # of what people sent: an SVG with a script stays a picture
HEADERS = {
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """An ASGI application around another one.

    names: the Host names it answers to (None: any); most_bytes: of an upload's body; full: whether no more files can
    be kept.
    """

    def __init__(
        self,
        app: App,
        *,
        names: Collection[str] | None,
        most_bytes: int,
        full: Callable[[], bool] = lambda: False,
    ) -> None:
        self.app, self.names, self.most_bytes, self.full = app, names, most_bytes, full

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a websocket: nothing here speaks it
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refused(scope["path"], headers)
        if refused is not None:
            await _answer(send, *refused)
            return

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*_without_ours(message["headers"]), *_ours(scope["path"])]}
            await send(message)

        await self.app(scope, receive, send_on)

    def _refused(self, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and reason where the request may not be answered."""
        if self.names is not None and _name(headers.get("host", "")) not in self.names:
            return 403, "this page answers on this machine alone; to open it to others: featherweight serve --host"
        if path != "/" and headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return 403, "asked for by another page"
        if path not in PLACES and not path.startswith(FOLDERS):
            return 404, "there is nothing here"
        if "transfer-encoding" in headers:  # a body of unknown length; browsers send none
            return 411, "the length must be told"
        length = headers.get("content-length", "0")  # the server reads no more than that
        most = self.most_bytes if path == f"{API}/upload" else FORM_ROOM
        if not length.isdecimal() or int(length) > most:
            return 413, f"more than {most:,} bytes"
        if path == f"{API}/upload" and self.full():
            return 507, "too many pictures were sent of late; try again in an hour"
        if path.startswith(f"{API}/file=") and path[len(f"{API}/file=") :].lower().startswith(("http:", "https:")):
            return 404, "nothing is fetched from elsewhere"
        return None


def _name(host: str) -> str:
    """`127.0.0.1:7860`, `[::1]:7860` → the name without the port, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _ours(path: str) -> list[tuple[bytes, bytes]]:
    policy = FILE_POLICY if path.startswith(f"{API}/file=") else POLICY
    return [(name.encode(), value.encode()) for name, value in {**HEADERS, "content-security-policy": policy}.items()]


def _without_ours(headers: Any) -> list[tuple[bytes, bytes]]:
    ours = {name for name, _ in _ours("")}
    return [(name, value) for name, value in headers if name.lower() not in ours]


async def _answer(send: Send, status: int, reason: str) -> None:
    body = f"{reason}\n".encode()
    plain = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    # The rest of a refused body is not read: the connection cannot be used again.
    await send({"type": "http.response.start", "status": status, "headers": [*plain, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
