"""A server that is started as `wf serve` is: one model, its name as every answer, a stream without end."""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OPTIONS = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)

PAGE = b"""# TYPE wf_engine_running gauge
wf_engine_running 3
# TYPE wf_http_requests_total counter
wf_http_requests_total{endpoint="/health",status="200",worker="inner"} 2
"""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/health":
            return self.answer({"status": "ok"})
        if self.headers["Authorization"] != f"Bearer {os.environ['WF_API_KEY']}":
            return self.answer({"error": {"message": "incorrect API key"}}, 401)
        if self.path == "/metrics":
            return self.send(PAGE, "text/plain")
        model = {"id": OPTIONS["--model"], "max_model_len": 512}
        return self.answer({"object": "list", "data": [model]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({"port": OPTIONS["--port"], "pid": os.getpid(), "key": self.headers["Authorization"]})

    def answer(self, value: object, status: int = 200) -> None:
        self.send(json.dumps(value).encode(), "application/json", status)

    def send(self, body: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if OPTIONS["--model"] == "bad":
    sys.stderr.write("a warning\nerror: bad is no model: take another\n")
    sys.exit(2)
if OPTIONS["--model"] == "silent":
    time.sleep(600)
server = ThreadingHTTPServer(("127.0.0.1", int(OPTIONS["--port"])), Handler)
sys.stderr.write("loaded\n")
sys.stdout.write(f"serving {OPTIONS['--model']} at http://127.0.0.1:{OPTIONS['--port']}/v1\n")
sys.stdout.flush()
server.serve_forever()
