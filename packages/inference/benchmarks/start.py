"""Seconds from the start of a server's process until it listens and until the first token of an answer.

    python packages/inference/benchmarks/start.py b.gguf s.gguf [--beside /other/checkout/.venv/bin/python]

Each round starts one server after the other: with nothing kept (`afresh`), with an empty cache (`first`),
and with the packed model kept (`kept`); with `--beside` also that of another checkout. The order turns from
round to round, medians count, and of ratios the median over rounds. Beside them stand the floors: an
interpreter that does nothing, one that imports numpy. Then two servers of the same kept model run at once:
`shared_megabytes` is what each pays for its pages of the file (Pss), and what it has of them (Rss).

Wall time is that of whoever has the machine; `processor_s` is what the process took until the first token.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ternary_kernels.large_pages import mappings
from wf_formats.environment import OtherProcesses, environment

FLOORS = {"python": "pass", "numpy": "import numpy"}


@dataclass(frozen=True)
class Way:
    """One way to start a server."""

    python: str
    cache: Path | None
    is_emptied: bool = False

    def variables(self) -> dict[str, str]:
        """Of its process; another environment has its own modules."""
        inherited = dict(os.environ)
        if self.python != sys.executable:
            inherited.pop("PYTHONPATH", None)
        if self.cache is None:
            return inherited | {"WF_PACKED_CACHE": "0"}
        return inherited | {"WF_PACKED_CACHE": "1", "WRINKLEFREE_CACHE": str(self.cache)}


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    begun_s: float
    port: int

    def first_token_s(self) -> float:
        """Seconds from its start until the first piece of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        body = {"model": _first_model(connection), "stream": True, "max_tokens": 1, "temperature": 0}
        messages = [{"role": "user", "content": "Hello"}]
        data, headers = json.dumps(body | {"messages": messages}), {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", data, headers)
        response = connection.getresponse()
        assert response.status == 200, response.read()
        for line in response:  # a random model's first token need not have text: its chunk comes all the same
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["finish_reason"]:
                return time.perf_counter() - self.begun_s
        raise RuntimeError("the answer has no end")

    def processor_s(self) -> float:
        """Of the process and all its threads so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _first_model(connection: http.client.HTTPConnection) -> str:
    connection.request("GET", "/v1/models")
    return str(json.loads(connection.getresponse().read())["data"][0]["id"])


@contextmanager
def serving(way: Way, model: Path) -> Iterator[tuple[Server, float]]:
    """A server, and the seconds until it listens."""
    command = [way.python, "-m", "wrinklefree_inference", "serve", "--model", str(model), "--port", "0"]
    variables, begun_s = way.variables(), time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=variables)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            listening_s = time.perf_counter() - begun_s
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if found is None:
                log.seek(0)
                raise RuntimeError(f"the server did not start: {log.read()[-2000:]}")
            yield Server(process, begun_s, int(found[1])), listening_s
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def started(way: Way, model: Path) -> dict[str, float]:
    """One start."""
    if way.is_emptied and way.cache is not None:
        for file in way.cache.rglob("*"):
            if file.is_file():
                file.unlink()
    with serving(way, model) as (server, listening_s):
        first_token_s = server.first_token_s()
        return {
            "listening_s": listening_s,
            "first_token_s": first_token_s,
            "processor_s": server.processor_s(),
        }


def floor(program: str) -> dict[str, float]:
    """An interpreter that runs a program of one line."""
    before, begun_s = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {"first_token_s": time.perf_counter() - begun_s, "processor_s": used}


def shared(way: Way, model: Path) -> dict[str, Any]:
    """MB of the kept file in each of two servers, after an answer of each."""
    with serving(way, model) as (one, _), serving(way, model) as (two, _):
        for server in (one, two):
            server.first_token_s()
        return {
            name: [_megabytes(server.process.pid, name) for server in (one, two)] for name in ("Rss", "Pss")
        }


def _megabytes(pid: int, name: str) -> float:
    """Of the mappings of kept files."""
    found = mappings(Path(f"/proc/{pid}/smaps").read_text())
    return round(sum(one.sizes[name] for one in found if one.path.endswith(".wfpacked")) / 2**20, 1)


def measured(model: Path, ways: dict[str, Way], rounds: int) -> dict[str, Any]:
    """Medians of all ways, and of their ratios to `kept`."""
    started(ways["kept"], model)  # fills its cache
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in (*ways, *FLOORS)}
    for number in range(rounds):
        names = list(runs)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            runs[name].append(floor(FLOORS[name]) if name in FLOORS else started(ways[name], model))
    result: dict[str, Any] = {"model": model.name, "rounds": rounds}
    for name, found in runs.items():
        medians = {key: round(statistics.median(run[key] for run in found), 3) for key in found[0]}
        ratios = {
            f"{key}_beside_kept": round(
                statistics.median(
                    run[key] / kept[key] for run, kept in zip(found, runs["kept"], strict=True)
                ),
                2,
            )
            for key in ("first_token_s", "processor_s")
        }
        result[name] = medians | ratios
    return result | {"shared_megabytes": shared(ways["kept"], model)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", help="GGUF files or folders")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside", help="python of another checkout's environment")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, OtherProcesses() as others:
        ways = {
            "kept": Way(sys.executable, Path(folder) / "kept"),
            "first": Way(sys.executable, Path(folder) / "first", is_emptied=True),
            "afresh": Way(sys.executable, None),
        }
        if options.beside:
            ways["beside"] = Way(options.beside, None)
        found = [measured(model, ways, options.rounds) for model in options.models]
    facts = environment("numpy", "tokenizers", "starlette", "pydantic", "uvicorn")
    print(json.dumps({"starts": found, "busy_cores_of_others": round(others.cores, 2)} | facts, indent=2))


if __name__ == "__main__":
    main()
