"""The page as a server: finds a place to listen, tells its address in one line, ends cleanly when asked to."""

from __future__ import annotations

import errno
import ipaddress
import os
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherweight.utils import UserError

if TYPE_CHECKING:
    from featherweight.demo.look import Looker

HOST = "127.0.0.1"
FIRST_PORT, PORTS = 7860, 100  # where none is asked for, the first free one of these
MAX_KEPT = 1 << 30  # bytes of pictures that were sent and not yet deleted
PATIENCE = 2  # seconds for answers under way when the server ends
OLDEST_GRADIO = 6  # whose `mount_gradio_app` takes theme and style


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that already listens. port: None takes a free one from 7860 on, 0 any free one.

    Raises UserError for a port that is taken or not allowed, and for a host that is no address of this machine.
    """
    try:
        if not host:
            raise OSError("the name is empty")
        family, kind, protocol, _, (address, *_) = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host!r} is no address of this machine ({reason}); leave it out for {HOST}") from error
    for number in range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else (port,):
        sock = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":  # elsewhere it would let two servers share one port
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, number))
            sock.listen(128)
            return sock
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE:
                raise UserError(
                    f"cannot listen on {host}, port {number}: {error.strerror}; choose others with --host and --port"
                ) from error
    taken = f"port {port} is" if port is not None else f"all ports from {FIRST_PORT} to {FIRST_PORT + PORTS - 1} are"
    raise UserError(f"{taken} taken on {host}; choose another one with --port, or any free one with --port 0")


def address_of(sock: socket.socket) -> tuple[str, bool]:
    """The page's address in a browser on this machine, and whether it can be reached from this machine alone."""
    name, port = sock.getsockname()[:2]
    address = ipaddress.ip_address(name.partition("%")[0])
    if address.is_unspecified:  # all addresses of this machine, of which this is one
        address = ipaddress.ip_address("::1" if address.version == 6 else HOST)
        alone = False
    else:
        alone = address.is_loopback
    shown = f"[{address}]" if address.version == 6 else str(address)
    return f"http://{shown}:{port}/", alone


def serve(lookers: Sequence[Looker], sock: socket.socket, host: str, ready: Callable[[str, bool], None]) -> None:
    """Serve the page on `sock` until Ctrl-C or a terminate signal. ready: told the address once it answers.

    host: the name asked for. Whatever people send is kept in a folder of its own, which goes when the server ends.
    Raises UserError where gradio is missing or too old.
    """
    url, alone = address_of(sock)
    names = {"127.0.0.1", "localhost", "::1", host.lower(), str(sock.getsockname()[0])} if alone else None
    own_folder = tempfile.TemporaryDirectory(prefix="featherweight-", ignore_cleanup_errors=True)
    with _ending_is_no_error(), own_folder as folder:
        without_telemetry(Path(folder))
        import_gradio()
        import uvicorn

        from featherweight.demo import page
        from featherweight.demo.guard import FORM_ROOM, Guard

        app = page.build(lookers, Path(folder))
        guarded: Any = Guard(
            app, names=names, most_bytes=page.MAX_UPLOAD + FORM_ROOM, full=lambda: _size(Path(folder)) > MAX_KEPT
        )

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                ready(url, alone)

            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                page.end_streams(app)  # or every open page would hold the server up
                await super().shutdown(sockets)

        config = uvicorn.Config(
            guarded,
            log_level="error",
            access_log=False,
            ws="none",
            lifespan="on",
            server_header=False,
            timeout_graceful_shutdown=PATIENCE,
        )
        Server(config).run(sockets=[sock])


def _size(folder: Path) -> int:
    """Bytes of all files in `folder` and below it; one that goes meanwhile counts nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def without_telemetry(folder: Path) -> None:
    """Set what gradio and the model hub's client read while they are imported: no reports, no look for new versions.

    folder: where gradio is to keep what people send.
    """
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(folder),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
    }
    # of these, each would change the page behind our back
    for name in ("ROOT_PATH", "SHARE", "SSR_MODE", "MCP_SERVER", "WATCH_DIRS", "VIBE_MODE", "LOCAL_DEV_MODE"):
        os.environ.pop(f"GRADIO_{name}", None)


def import_gradio() -> None:
    """Import gradio. Raises UserError, saying how to install it, where it is missing or too old."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of its own parts among each other
            import gradio
    except ImportError as error:
        raise UserError(f"the page needs gradio ({printable_reason(error)}): pip install gradio") from error
    version = getattr(gradio, "__version__", "0")
    if int(version.partition(".")[0]) < OLDEST_GRADIO:
        raise UserError(f"the page needs gradio {OLDEST_GRADIO} or later, not {version}: pip install --upgrade gradio")


def printable_reason(error: ImportError) -> str:
    return str(error).split("\n")[0][:120]


class _Ended(BaseException):
    """Somebody asked for the end. Not an Exception: no library is to catch it."""


@contextmanager
def _ending_is_no_error() -> Iterator[None]:
    """Ctrl-C and a terminate signal end what is inside, whatever it is doing, and then go on after it.

    While uvicorn serves it takes the signals itself, ends in order, and hands them on at last.
    """

    def end(*_: Any) -> None:
        raise _Ended

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = {one: signal.signal(one, end) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        with suppress(_Ended):
            yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
