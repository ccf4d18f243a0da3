"""`featherweight serve` without a browser: where it listens, whom it answers, how it ends."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from demo_server import Running, gone, serving

from featherweight.demo import server
from featherweight.demo.guard import FORM_ROOM, Guard
from featherweight.utils import UserError

if importlib.util.find_spec("gradio") is None:  # not imported here: that takes seconds
    pytest.skip("the extra demo is NOT INSTALLED: the page was not tested", allow_module_level=True)

MAX_UPLOAD = 20 << 20


def complaints(said: str) -> list[str]:
    """The lines on standard error, without those of how far the start is, which a busy machine has time for."""
    return [line for line in said.splitlines() if not line.startswith("starting the page: ")]


def ask(page: Running, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str, dict]:
    connection = http.client.HTTPConnection(urlsplit(page.url).netloc, timeout=120)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace"), {k.lower(): v for k, v in answer.getheaders()}
    finally:
        connection.close()


def test_it_answers_with_a_policy_against_everything_outside(page: Running) -> None:
    status, text, headers = ask(page, "GET", "/")
    assert status == 200
    assert "Featherweight" in text
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert "*" not in policy
    fonts = ask(page, "GET", "/theme.css")[1]
    assert "system-ui" in fonts
    assert "@font-face" not in fonts
    assert "@import" not in fonts


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {"Host": "elsewhere.example"}, 403),
        ("/", {"Host": "localhost:1"}, 200),
        ("/config", {"Sec_Fetch_Site": "cross-site"}, 403),
        ("/config", {"Sec_Fetch_Site": "same-site"}, 403),
        ("/config", {"Sec_Fetch_Site": "same-origin"}, 200),
        ("/", {"Sec_Fetch_Site": "cross-site"}, 200),  # a link that somebody follows
        ("/monitoring", {}, 404),
        ("/docs", {}, 404),
        ("/gradio_api/proxy=http://127.0.0.1/", {}, 404),
        ("/gradio_api/file=http://elsewhere.example/x.png", {}, 404),
        ("/gradio_api/file=/etc/passwd", {}, 403),
        (f"/gradio_api/file={__file__}", {}, 403),
    ],
)
def test_who_may_ask_for_what(page: Running, path: str, headers: dict[str, str], status: int) -> None:
    found = ask(page, "GET", path, None, **headers)
    assert found[0] == status, found[1]
    assert "root:" not in found[1]


def form(content: bytes, name: str = "sent.png") -> tuple[bytes, str]:
    head = f'--end\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    return head + content + b"\r\n--end--\r\n", "multipart/form-data; boundary=end"


def test_uploads_over_the_limit_are_refused(page: Running) -> None:
    body, kind = form(b"x" * (MAX_UPLOAD + 1))  # within the room for the form around it: gradio's own limit
    assert ask(page, "POST", "/gradio_api/upload", body, Content_Type=kind)[0] == 413
    body, kind = form(b"x" * 1000)
    status, text, _ = ask(page, "POST", "/gradio_api/upload", body, Content_Type=kind)
    assert status == 200
    assert Path(json.loads(text)[0]).read_bytes() == b"x" * 1000
    # told by the length alone, before any of it is read
    status, text, _ = ask(page, "POST", "/gradio_api/upload", None, Content_Length=str(MAX_UPLOAD + FORM_ROOM + 1))
    assert status == 413
    status, text, _ = ask(page, "POST", "/gradio_api/upload", b"0\r\n\r\n", Transfer_Encoding="chunked")
    assert status == 411


def test_a_sent_drawing_runs_no_script(page: Running) -> None:
    body, kind = form(b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "x.svg")
    path = json.loads(ask(page, "POST", "/gradio_api/upload", body, Content_Type=kind)[1])[0]
    status, _, headers = ask(page, "GET", f"/gradio_api/file={path}")
    assert status == 200
    assert headers["content-security-policy"] == "default-src 'none'; sandbox"


@pytest.mark.parametrize(
    "named", ["/etc/hostname", "../../../../etc/hostname", "http://elsewhere.example/x.png", str(Path(__file__))]
)
def test_a_request_cannot_name_a_file_that_was_not_sent(page: Running, named: str) -> None:
    config = json.loads(ask(page, "GET", "/config")[1])
    number, inputs = next(
        (one["id"], one["inputs"]) for one in config["dependencies"] if one["targets"][0][1] == "input"
    )
    picture = {"path": named, "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}
    for data in ([picture, 0], [{**picture, "url": "data:image/png;base64,AAAA"}, 0]):
        said = judge(page, number, data[: len(inputs)])
        assert 'success":false' in said.replace(" ", ""), said
        assert "not sent" in said or "not uploaded" in said or "error" in said
    assert "elsewhere" not in page.reached.read_text()
    kept = [path for path in (page.errors.parent / "kept").rglob("*") if path.name in ("hostname", Path(named).name)]
    assert kept == []


def judge(page: Running, number: int, data: list) -> str:
    """What the server answers to a request for function `number`, up to its end."""
    asked = json.dumps({"fn_index": number, "data": data, "session_hash": "s", "trigger_id": 1}).encode()
    status, text, _ = ask(page, "POST", "/gradio_api/queue/join", asked, Content_Type="application/json")
    assert status == 200, text
    return ask(page, "GET", "/gradio_api/queue/data?session_hash=s")[1]


def test_a_sent_file_is_judged_by_the_same_request(page: Running) -> None:
    """The request above is refused for the file it names, and for nothing else."""
    body, kind = form(b"Dear diary,\n")
    path = json.loads(ask(page, "POST", "/gradio_api/upload", body, Content_Type=kind)[1])[0]
    config = json.loads(ask(page, "GET", "/config")[1])
    number = next(one["id"] for one in config["dependencies"] if one["targets"][0][1] == "input")
    said = judge(page, number, [{"path": path, "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}, 0])
    assert "x.png is text, not a picture" in said, said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["interrupt", "terminate"])
def test_it_ends_cleanly(tmp_path: Path, number: int) -> None:
    with serving(tmp_path / "kept", "feather_quick", "--port", "0") as running:
        assert running.line == f"featherweight serve: {running.url} (Ctrl-C ends it)\n"
        assert running.url.startswith("http://127.0.0.1:")
        assert list((tmp_path / "kept").iterdir()) != []
        # a page that is open, and hears the server's heart beat
        connection = http.client.HTTPConnection(urlsplit(running.url).netloc, timeout=60)
        connection.request("GET", "/gradio_api/heartbeat/s")
        stream = connection.getresponse()
        assert stream.read(5) == b"data:"
        assert running.end(number) == 0
        stream.close()
        connection.close()
        assert complaints(running.errors.read_text()) == []
        assert gone(tmp_path / "kept")
        outside = [line for line in running.reached.read_text().splitlines() if not line.endswith(" 127.0.0.1")]
        assert outside == []


def test_it_ends_cleanly_before_it_is_ready(tmp_path: Path) -> None:
    """A terminate signal while gradio is being imported: the folder it has made by then goes, too."""
    code = (
        "import os, signal, sys\n"
        "class Signal:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'gradio': os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.meta_path.insert(0, Signal())\n"
        "from featherweight.cli import main; sys.exit(main(['serve', 'feather_quick', '--port', '0']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert (done.returncode, done.stdout, complaints(done.stderr)) == (0, "", [])
    assert list(tmp_path.iterdir()) == []


def featherweight(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "featherweight", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_a_taken_port_is_told_in_one_line(page: Running) -> None:
    port = str(urlsplit(page.url).port)
    done = featherweight("--port", port)
    assert done.returncode == 2
    assert done.stdout == ""
    assert complaints(done.stderr) == [
        f"featherweight serve: port {port} is taken on 127.0.0.1; choose another one with --port, "
        "or any free one with --port 0"
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "70000"], "0 to 65535"),
        (["--port", "http"], "0 to 65535"),
        (["--host", "no such host"], "no address of this machine"),
        (["--host", ""], "no address of this machine"),
        (["--host", "192.0.2.1", "--port", "0"], "cannot listen on 192.0.2.1"),  # an address kept for documents
        (["--port", "0", "no/such/weights"], "no weights at"),
    ],
)
def test_bad_arguments_get_one_line(arguments: list[str], words: str) -> None:
    done = featherweight(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(complaints(done.stderr)) == 1
    assert words in done.stderr


def test_without_a_wish_the_next_free_port_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with server.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(server, "FIRST_PORT", port)
        monkeypatch.setattr(server, "PORTS", 50)
        with server.listen("127.0.0.1", None) as found:
            assert port < found.getsockname()[1] < port + 50
        monkeypatch.setattr(server, "PORTS", 1)
        with pytest.raises(UserError, match="all ports from"):
            server.listen("127.0.0.1", None)


def test_the_address_is_one_a_browser_can_open() -> None:
    with server.listen("0.0.0.0", 0) as sock:
        assert server.address_of(sock) == (f"http://127.0.0.1:{sock.getsockname()[1]}/", False)
    with server.listen("localhost", 0) as sock:
        assert server.address_of(sock)[1]
    if socket.has_ipv6:
        try:
            with server.listen("::1", 0) as sock:
                assert server.address_of(sock) == (f"http://[::1]:{sock.getsockname()[1]}/", True)
        except UserError:
            pytest.skip("this machine has no IPv6")


@pytest.mark.parametrize(
    ("gradio", "words"),
    [
        ("None", "pip install gradio"),
        ("types.SimpleNamespace(__version__='5.49.1')", "gradio 6 or later"),
    ],
)
def test_without_gradio_it_says_how_to_get_it(gradio: str, words: str) -> None:
    code = (
        f"import sys, types; sys.modules['gradio'] = {gradio}\n"
        "from featherweight.cli import main; sys.exit(main(['serve', 'feather_quick', '--port', '0']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(complaints(done.stderr)) == 1
    assert words in done.stderr


def test_uploads_are_refused_while_too_many_are_kept(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a").write_bytes(bytes(70))
    (tmp_path / "b").write_bytes(bytes(30))
    assert server._size(tmp_path) == 100
    sent: list[dict] = []

    async def answer(*_: object) -> None:
        sent.append({"status": 200})

    async def send(message: dict) -> None:
        sent.append(message)

    cases = [
        *((True, "/upload", 0, 507), (False, "/upload", 0, 200), (True, "/queue/join", 0, 200)),
        *((False, "/upload", 10 * FORM_ROOM, 200), (False, "/upload", 10 * FORM_ROOM + 1, 413)),
        *((False, "/queue/join", FORM_ROOM, 200), (False, "/queue/join", FORM_ROOM + 1, 413)),
    ]
    for full, path, length, status in cases:
        headers = [(b"content-length", str(length).encode())]
        scope = {"type": "http", "path": f"/gradio_api{path}", "headers": headers}
        sent.clear()
        guard = Guard(answer, names=None, most_bytes=10 * FORM_ROOM, full=lambda full=full: full)
        asyncio.run(guard(scope, answer, send))  # type: ignore[arg-type]
        assert sent[0]["status"] == status
