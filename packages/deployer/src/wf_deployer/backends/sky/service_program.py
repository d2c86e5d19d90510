"""SkyServe's part of program.py, which it takes with it: services by their whole name, one at a time."""

from __future__ import annotations

import io
import queue
import runpy
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

_COMMON = runpy.run_path(str(Path(__file__).with_name("program.py")))


def answers(request: dict[str, Any]) -> Iterator[Any]:
    if request["operation"] not in OPERATIONS:
        yield from _COMMON["answers"](request)
        return
    yield from OPERATIONS[request["operation"]](**request["arguments"])


def serve_up(task: str, name: str, cloud: str) -> Iterator[Any]:
    """Returns when SkyServe's controller has the service; its machines come later."""
    from sky import serve
    from sky.client import sdk

    _COMMON["_require_access"](cloud)
    sdk.stream_and_get(serve.up(_COMMON["_task"](task), name))
    yield None


def service(by: str, among: list[str]) -> Iterator[Any]:
    """The service of this very name, or null; without a controller there is none.

    Args: among: as `cluster`.
    """
    found = _services(*among).get(by)
    yield None if found is None else _service(found)


def serve_down(name: str) -> Iterator[Any]:
    """Ends one service, and gives its machines back."""
    from sky import serve
    from sky.client import sdk

    sdk.stream_and_get(serve.down([name]))
    yield None


def service_logs(name: str, replica: int, last: int | None, follow: bool) -> Iterator[Any]:
    from sky import serve

    def print_to(stream: Any) -> None:
        serve.tail_logs(name, "replica", replica_id=replica, follow=follow, output_stream=stream, tail=last)

    yield from _printed_by(print_to)


class _Stream(io.TextIOBase):
    """What is written to it goes to a queue; None is its end."""

    def __init__(self) -> None:
        self.pieces: queue.Queue[str | Exception | None] = queue.Queue()

    def write(self, text: str) -> int:
        self.pieces.put(text)
        return len(text)


def _printed_by(call: Callable[[Any], None]) -> Iterator[str]:
    """What a call prints, as it does; it runs in a thread of its own. Raises: what it raises."""
    stream = _Stream()

    def run() -> None:
        try:
            call(stream)
            stream.pieces.put(None)
        except Exception as error:  # noqa: BLE001  # raised below
            stream.pieces.put(error)

    threading.Thread(target=run, daemon=True).start()
    while (piece := stream.pieces.get()) is not None:
        if isinstance(piece, Exception):
            raise piece
        yield piece


@cache
def _services(*names: str) -> dict[str, Any]:
    from sky import exceptions, serve
    from sky.client import sdk

    try:
        found = sdk.get(serve.status(list(names)))
    except exceptions.ClusterNotUpError:
        found = []
    return {record["name"]: record for record in found if record["name"] in names}


def _service(record: Any) -> dict[str, Any]:
    """SkyServe keeps no time of a submission."""
    return {
        "id": str(record["hash"] or record["controller_job_id"]),
        "name": record["name"],
        "user": record["user_hash"] or "",
        "me": _COMMON["_me"](),
        "endpoint": _COMMON["_endpoint"](),
        "submitted_s": 0,
        "token": _COMMON["_token"](record["yaml_content"]),
        "restarts": 0,
        "state": record["status"].value,
        "url": record["endpoint"],
        "replicas": [
            {"id": replica["replica_id"], "state": replica["status"].value}
            for replica in record["replica_info"]
        ],
        "reason": None,
    }


OPERATIONS = {operation.__name__: operation for operation in (serve_up, service, serve_down, service_logs)}
