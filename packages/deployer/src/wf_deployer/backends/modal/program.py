"""Speaks to Modal; runs in an environment that has Modal's client and nothing of ours (isolated.py).

A request is {"do": one of `_REQUESTS`, ...}. Everything is chosen by the ids that were written down when the
job was submitted. Whether they are ours is not decided here: `look` says what Modal knows, and ownership.py
compares. Neither apps of jobs nor other calls are ever stopped; a service is an app of its own, which is.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import modal

_MANY_LINES = 10_000
_CANCEL_TAG = "wf-cancel"
_ENDS = (
    modal.exception.ExecutionError,
    modal.exception.FunctionTimeoutError,
    modal.exception.InputCancellation,
    modal.exception.InternalFailure,
    modal.exception.RemoteError,
    RuntimeError,
)
"""What a call ends by, as against what an answer of Modal's fails by; the last is of job_app.py."""


def answers(request: dict[str, Any]) -> Iterator[Any]:
    """What isolated_child.py calls."""
    yield from _REQUESTS[request.pop("do")](**request)


def inspect(app: str) -> Iterator[dict[str, Any]]:
    """Imports an app, as submitting it does; asks nobody. Answers: the client's version."""
    _load(app)
    yield {"version": modal.__version__}


def submit(app: str, record: str) -> Iterator[dict[str, Any]]:
    """Makes the image and calls the function. Answers: as is written to `record`, first without the call.

    The app ends when its call does; that this process ends, or is killed, does it no harm.
    """
    os.environ["MODAL_LOGS_TIMEOUT"] = "0"  # `wf logs` shows what the call prints
    modal.config.logger.setLevel("ERROR")
    loaded = _load(app)
    modal.Client.from_env().hello()
    with Path(f"{record}.lock").open("w") as lock, ExitStack() as shown:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until this process ends: it is still submitting
        shown.enter_context(modal.enable_output())
        with loaded.app.run(detach=True) as running:
            shown.close()  # the image is made
            shutil.rmtree(Path(app).with_name("checkout"), ignore_errors=True)
            found = {"app_id": running.app_id, "call_id": None, **_owner(running)}
            _write(record, found)
            found["call_id"] = loaded.train.spawn().object_id
            running.set_tags({**running.get_tags(), "wf-call": found["call_id"]})
            _write(record, found)
    yield found


def deploy(app: str, record: str, model: str | None, volume: str, folder: str) -> Iterator[dict[str, Any]]:
    """Sends the model, makes the image and deploys the app. Answers: as is written to `record`."""
    modal.config.logger.setLevel("ERROR")
    loaded = _load(app)
    modal.Client.from_env().hello()
    with Path(f"{record}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with modal.enable_output():
            if model is not None:
                _send(Path(model), volume, folder)
            try:
                running = loaded.app.deploy()
            except Exception:
                _remove(volume if model is not None else None, folder)
                raise
        found = {"app_id": running.app_id, "call_id": None, **_owner(running)}
        _write(record, found)
    yield found


def _send(model: Path, volume: str, folder: str) -> None:
    """Into a folder of a volume of models, of this service alone."""
    with modal.Volume.from_name(volume, create_if_missing=True).batch_upload() as batch:
        if model.is_dir():
            batch.put_directory(model, f"/{folder}")
        else:
            batch.put_file(model, f"/{folder}/{model.name}")


def look_service(app_id: str) -> Iterator[dict[str, Any]]:
    """Answers: whose app it is, whether it is there, and where it answers. Args: app_id: or its name."""
    app = modal.App.lookup(app_id)
    owner, state = _owner(app), app.info().lifecycle.state
    is_there = state not in ("stopped", "stopping")
    url = modal.Function.from_name(owner["name"], "serve").get_web_url() if is_there else None
    token = app.get_tags().get("wf-token")
    yield {"app_id": app.app_id, "token": token, **owner, "is_stopped": not is_there, "url": url}


def stop_service(app_id: str, volume: str | None, folder: str) -> Iterator[None]:
    """Ends the app of one service, and its containers; then the model that was sent for it goes."""
    modal.App.lookup(app_id).stop()
    _remove(volume, folder)
    yield None


def _remove(volume: str | None, folder: str) -> None:
    """The model of a service that is gone, if one was sent."""
    if volume is not None:
        with suppress(modal.exception.NotFoundError):  # it was gone already
            modal.Volume.from_name(volume).remove_file(f"/{folder}", recursive=True)


def service_logs(app_id: str, created_s: float, last: int | None, follow: bool) -> Iterator[str]:
    yield from _lines(modal.App.lookup(app_id), created_s, last, lambda: follow)


def look(app_id: str) -> Iterator[dict[str, Any]]:
    """Answers: whose app it is, and how its call is."""
    app = modal.App.lookup(app_id)
    tags = app.get_tags()
    found = {
        "app_id": app_id,
        "call_id": tags.get("wf-call"),
        "run": tags.get("wf-run"),
        "token": tags.get("wf-token"),
        **_owner(app),
    }
    yield found | (_result(found["call_id"]) if found["call_id"] else {"state": "unknown"})


def ask_to_stop(app_id: str) -> Iterator[None]:
    """Marks the app; its function sees it, lets training save and ends."""
    app = modal.App.lookup(app_id)
    app.set_tags({**app.get_tags(), _CANCEL_TAG: "asked"})
    yield None


def fetch(volume: str, folder: str, there: str) -> Iterator[int]:
    """Copies a folder of a volume. Answers: how many files it has; 0: there is none (yet)."""
    os.makedirs(there)
    found = modal.Volume.from_name(volume)
    num_files = 0
    with suppress(modal.exception.NotFoundError):
        for entry in list(found.iterdir(f"/{folder}", recursive=True)):
            if entry.type == modal.volume.FileEntryType.FILE:
                below = os.path.relpath(f"/{entry.path}", f"/{folder}")
                if not below.startswith(".."):
                    _copy(found, entry.path, os.path.join(there, below))
                    num_files += 1
    yield num_files


def _copy(volume: Any, path: str, target: str) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with Path(target).open("wb") as file:
        for piece in volume.read_file(path):
            file.write(piece)


def kill(call_id: str) -> Iterator[None]:
    """Ends this call and the container that runs it."""
    modal.FunctionCall.from_id(call_id).cancel(terminate_containers=True)
    yield None


def logs(call_id: str, created_s: float, last: int | None, follow: bool) -> Iterator[str]:
    """Answers: pieces of what the call printed."""
    call = modal.FunctionCall.from_id(call_id)
    goes_on = ("pending", "running")
    yield from _lines(call, created_s, last, lambda: follow and _result(call_id)["state"] in goes_on)


def _lines(printer: Any, created_s: float, last: int | None, follows: Callable[[], bool]) -> Iterator[str]:
    """What was printed, and what will be, if `follows` says so then."""
    newest = None
    for entry in _printed(printer, created_s, last):
        newest = max(newest or entry.timestamp, entry.timestamp)
        yield entry.message
    if follows():
        for entry in printer.logs.stream():
            if newest is None or entry.timestamp > newest:  # it may begin with what we have
                yield entry.message


def _printed(printer: Any, created_s: float, last: int | None) -> Iterator[Any]:
    if last is not None:
        return printer.logs.tail(min(last, _MANY_LINES))
    since = datetime.fromtimestamp(created_s, UTC) - timedelta(minutes=1)
    return printer.logs.fetch(since=since)


def _owner(app: Any) -> dict[str, Any]:
    info = app.info()
    return {
        "name": info.description,
        "user": info.lifecycle.created_by,
        "workspace": _workspace(),
        "created_s": int(info.lifecycle.created_at.timestamp()),
    }


@cache
def _workspace() -> str:
    """Its name, asked for once in a process."""
    workspace = modal.Workspace.from_context()
    workspace.hydrate()
    return workspace.name or ""


def _result(call_id: str) -> dict[str, Any]:
    """How a call is: pending, running, ended (`exit` is what the function returned), failed or forgotten."""
    call = modal.FunctionCall.from_id(call_id)
    try:
        exit_values = call.get(timeout=0)
    except TimeoutError:
        return {"state": "running" if list(call.logs.tail(1)) else "pending"}
    except modal.exception.OutputExpiredError:
        return {"state": "forgotten"}
    except _ENDS as error:
        return {"state": "failed", "reason": f"{type(error).__name__}: {error}"}
    return {"state": "ended", "exit": exit_values}


def _load(app: str) -> ModuleType:
    """The file as a module, as Modal's own command does."""
    sys.dont_write_bytecode = True
    spec = importlib.util.spec_from_file_location(Path(app).stem, app)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(Path(app).parent))
    spec.loader.exec_module(module)
    return module


def _write(path: str, value: Any) -> None:
    temporary = Path(f"{path}.tmp")
    temporary.write_text(json.dumps(value) + "\n")
    os.replace(temporary, path)


_REQUESTS: dict[str, Callable[..., Iterator[Any]]] = {
    "inspect": inspect,
    "submit": submit,
    "look": look,
    "ask_to_stop": ask_to_stop,
    "fetch": fetch,
    "kill": kill,
    "logs": logs,
    "deploy": deploy,
    "look_service": look_service,
    "stop_service": stop_service,
    "service_logs": service_logs,
}
