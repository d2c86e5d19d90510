"""A hub on loopback: the few endpoints that publishing and pulling use, with a memory, and faults on demand.

What is committed is kept as the hub would keep it: files by commit, large ones by SHA-256. A large file
counts as sent only when its bytes arrived, by Git LFS or by the content store (`store=True`, whose chunks
are only counted).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.utils
import pytest

TOKEN = "hf_" + "t" * 30
CUT = -1
"""A fault: the connection ends in the middle of the request."""


@dataclass
class Repository:
    private: bool = False
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})
    messages: list[str] = field(default_factory=list)

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[branch]]

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        contents = self.files(branch) | files
        oid = hashlib.sha1(repr((len(self.commits), sorted(contents))).encode()).hexdigest()
        self.commits[oid], self.branches[branch] = contents, oid
        self.messages.append(message)
        return oid


@dataclass
class Hub:
    """Attributes: faults are answered, in their order, to requests whose `METHOD path` has the key in it:
    a status, a status with a reason, or CUT. writable are owners whose repositories the token may write.
    tells_oids: whether it says before a commit what it has, as not every hub does.
    cut_bodies: how many bytes of a file are sent before the connection ends, each as often as it stands here.
    sent_bytes: of files' bodies."""

    url: str = ""
    writable: tuple[str, ...] = ("me",)
    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[int | tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    requests: list[str] = field(default_factory=list)
    authorizations: set[str | None] = field(default_factory=set)
    stored_bytes: int = 0
    tells_oids: bool = True
    cut_bodies: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    sent_bytes: int = 0

    def fault(self, request: str) -> int | tuple[int, str] | None:
        for key, faults in self.faults.items():
            if key in request and faults:
                return faults.pop(0)
        return None


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def connected(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Hub]:
    """A hub that the hub's client is pointed to, with a cache in `folder`; nobody waits between tries."""
    with serving() as running:
        constants = huggingface_hub.constants
        resolve = f"{running.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", resolve)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        huggingface_hub.utils.disable_progress_bars()
        yield running
        huggingface_hub.close_session()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        self.hub.requests.append(request)
        fault = self.hub.fault(request)
        if fault == CUT:
            self.rfile.read(min(1000, int(self.headers.get("Content-Length") or 0)))
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        body = self._body()
        if fault is not None:
            status, reason = fault if isinstance(fault, tuple) else (fault, "")
            self._answer(status, {"error": reason} if reason else None, {"X-Error-Message": reason})
            return
        for pattern, answer in _ROUTES:
            if found := re.fullmatch(pattern, request):
                answer(self, body, *found.groups())
                return
        self._answer(404, {"error": f"{request} is not served"})

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815  # as the base class calls them

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, value: Any = None, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            if text:
                self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _may_write(self, repository: str) -> bool:
        authorization = self.headers.get("Authorization")
        self.hub.authorizations.add(authorization)
        if authorization != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        elif repository.partition("/")[0] not in self.hub.writable:
            self._answer(403, {"error": "no rights"}, {"X-Error-Message": "no rights"})
        else:
            return True
        return False

    def whoami(self, _: bytes) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid credentials"}, {"X-Error-Message": "Invalid credentials"})
        else:
            self._answer(200, {"name": "me", "type": "user", "orgs": []})

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if not self._may_write(name):
            return
        url = {"url": f"{self.hub.url}/{name}"}
        if name in self.hub.repositories:
            self._answer(409, url | {"error": "You already created this model repo"})
            return
        self.hub.repositories[name] = Repository(private=wanted.get("visibility") == "private")
        self._answer(200, url)

    def info(self, _: bytes, name: str, revision: str) -> None:
        found = self.hub.repositories.get(name)
        if found is None:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif revision not in found.branches:
            self._answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        else:
            about = {"id": name, "sha": found.branches[revision], "private": found.private}
            self._answer(200, about | {"tags": [], "downloads": 0})

    def branch(self, _: bytes, name: str, branch: str) -> None:
        if self._may_write(name):
            found = self.hub.repositories[name]
            found.branches[branch] = found.branches["main"]
            self._answer(201)

    def resolve(self, _: bytes, name: str, revision: str, path: str) -> None:
        found = self.hub.repositories[name]
        commit = found.branches.get(revision, revision)
        data = found.commits[commit].get(path)
        if data is None:
            self._answer(404, None, {"X-Error-Code": "EntryNotFound"})
        elif self.command == "GET" and (cuts := self.hub.cut_bodies[path]):
            self._cut_off(data[self._start() :], cuts.pop(0))
        else:
            rest = data[self._start() :]
            self.hub.sent_bytes += len(rest) if self.command == "GET" else 0
            headers = {"ETag": _oid(data, _is_large(path)), "X-Repo-Commit": commit}
            if len(rest) < len(data):
                headers["Content-Range"] = f"bytes {self._start()}-{len(data) - 1}/{len(data)}"
            self._answer(206 if len(rest) < len(data) else 200, rest, headers)

    def _start(self) -> int:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "bytes=0-")
        assert found is not None
        return int(found[1])

    def _cut_off(self, data: bytes, num_bytes: int) -> None:
        self.send_response(206 if self._start() else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:num_bytes])
        self.wfile.flush()
        self.hub.sent_bytes += num_bytes
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def validate(self, body: bytes) -> None:
        has_license = "\nlicense: made-up" not in json.loads(body)["content"]
        errors = [] if has_license else [{"message": '"license" must be one of a list'}]
        self._answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def paths_info(self, body: bytes, name: str, revision: str) -> None:
        files = self._files(name, revision)
        asked = parse_qs(body.decode())["paths"]
        self._answer(200, [_row(path, files[path]) for path in asked if path in files])

    def tree(self, _: bytes, name: str, revision: str) -> None:
        self._answer(200, [_row(path, data) for path, data in self._files(name, revision).items()])

    def _files(self, name: str, revision: str) -> dict[str, bytes]:
        found = self.hub.repositories[name]
        return found.commits[found.branches.get(revision, revision)]

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        if not self._may_write(name):
            return
        there = self.hub.repositories[name].files(revision)
        files = []
        for file in json.loads(body)["files"]:
            path = file["path"]
            is_large = _is_large(path)
            oid = _oid(there[path], is_large) if self.hub.tells_oids and path in there else None
            mode = "lfs" if is_large else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._answer(200, {"files": files})

    def batch(self, body: bytes, name: str) -> None:
        if not self._may_write(name):
            return
        objects = []
        for wanted in json.loads(body)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.blobs:
                entry["actions"] = {
                    "upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}?signature=secret"}
                }
            objects.append(entry)
        self._answer(200, {"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.blobs[oid] = body
        self._answer(200)

    def write_token(self, _: bytes, name: str, revision: str) -> None:
        if self._may_write(name):
            token = {"accessToken": "x", "exp": 1 << 33, "casUrl": self.hub.url}
            headers = {"X-Xet-Access-Token": "x", "X-Xet-Token-Expiration": str(1 << 33)}
            self._answer(200, token, headers | {"X-Xet-Cas-Url": self.hub.url})

    def xorb(self, body: bytes) -> None:
        self.hub.stored_bytes += len(body)
        self._answer(200, {"was_inserted": True})

    def shard(self, _: bytes) -> None:
        self._answer(200, {"result": 1})

    def no_chunk(self, _: bytes) -> None:
        self._answer(404)

    def commit(self, body: bytes, name: str, branch: str) -> None:
        if not self._may_write(name):
            return
        lines = [json.loads(line) for line in body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        found = self.hub.repositories[name]
        if header.get("parentCommit") not in (None, found.branches[branch]):
            self._answer(412, {"error": "A commit has happened since"})
            return
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs.get(value["oid"], value["oid"].encode())
        oid = found.commit(branch, files, header["summary"])
        url = f"{self.hub.url}/{name}/commit/{oid}"
        self._answer(200, {"commitUrl": url, "commitOid": oid, "success": True})


def _row(path: str, data: bytes) -> dict[str, Any]:
    """A file as the hub describes it."""
    row = {"type": "file", "path": path, "oid": _oid(data, False), "size": len(data)}
    if _is_large(path):
        lfs = {"oid": _oid(data, True), "size": len(data), "pointerSize": 134}
        row |= {"lfs": lfs, "oid": "0" * 40}
    return row


def _is_large(path: str) -> bool:
    return path.endswith((".gguf", ".safetensors"))


def _oid(data: bytes, is_large: bool) -> str:
    """As huggingface_hub compares it: SHA-256 of large files, git's of others."""
    if is_large:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


_REPOSITORY = r"([\w.-]+/[\w.-]+)"
_ROUTES = (
    (r"GET /api/whoami-v2", _Handler.whoami),
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"GET /api/models/{_REPOSITORY}/revision/(.+)", _Handler.info),
    (rf"POST /api/models/{_REPOSITORY}/branch/(.+)", _Handler.branch),
    (rf"POST /api/models/{_REPOSITORY}/paths-info/(.+)", _Handler.paths_info),
    (rf"GET /api/models/{_REPOSITORY}/tree/(.+)", _Handler.tree),
    (rf"POST /api/models/{_REPOSITORY}/preupload/(.+)", _Handler.preupload),
    (rf"POST /api/models/{_REPOSITORY}/commit/(.+)", _Handler.commit),
    (rf"GET /api/models/{_REPOSITORY}/xet-write-token/(.+)", _Handler.write_token),
    (rf"(?:GET|HEAD) /{_REPOSITORY}/resolve/([^/]+)/(.+)", _Handler.resolve),
    (rf"POST /{_REPOSITORY}.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /lfs/(\w+)", _Handler.put),
    (r"POST /v1/xorbs/.*", _Handler.xorb),
    (r"POST /(?:v1/)?shards?.*", _Handler.shard),
    (r"GET /v1/chunks/.*", _Handler.no_chunk),
)
