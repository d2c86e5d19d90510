"""A router that is started as `router_program.py` is: `begun`, a line of arguments, workers in turns."""

from __future__ import annotations

import json
import os
import sys
import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.parse import urlsplit

sys.stdout.write("begun\n")
sys.stdout.flush()
ARGUMENTS = json.loads(sys.stdin.readline())
URLS = ARGUMENTS[1 : ARGUMENTS.index("--host")]
PORT = int(ARGUMENTS[ARGUMENTS.index("--port") + 1])
METRICS_PORT = int(ARGUMENTS[ARGUMENTS.index("--prometheus-port") + 1])
KEY = f"Bearer {ARGUMENTS[ARGUMENTS.index('--api-key') + 1]}"
turns = count()


def ask(url: str, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = HTTPConnection(urlsplit(url).netloc, timeout=5)
    headers = {"Authorization": KEY, "Content-Type": "application/json"}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def is_healthy(url: str) -> bool:
    try:
        return ask(url, "GET", "/health")[0] == 200
    except OSError:
        return False


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/metrics":
            return self.send(200, b"# TYPE smg_x_total counter\nsmg_x_total 1\n")
        if self.headers["Authorization"] != KEY:
            return self.send(401, b"{}")
        workers = [{"url": url, "is_healthy": is_healthy(url)} for url in URLS]
        return self.send(200, json.dumps({"workers": workers}).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for _ in URLS:
            try:
                return self.send(*ask(URLS[next(turns) % len(URLS)], "POST", self.path, body))
            except OSError:
                continue
        return self.send(503, b'{"error": {"message": "no worker"}}')

    def send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=end_with_input, daemon=True).start()
metrics = ThreadingHTTPServer(("127.0.0.1", METRICS_PORT), Handler)
threading.Thread(target=metrics.serve_forever, daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
