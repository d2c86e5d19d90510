"""Modal's client on a table of calls of two users, in this process: what job_app.py and program.py use of it.

`Modal.module()` stands in for the module `modal`, `Modal.program()` for the environment that it lives in.
Cancelling a call does so, whosever it is, and stopping an app too: calls of others live only if nobody asks.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from wf_deployer.backends.isolated import ProgramError
from wf_deployer.backends.modal import client
from wf_deployer.errors import CommandError

PROGRAM = Path(client.__file__).with_name("program.py")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Error(Exception):
    __module__ = "modal.exception"


def error_class(name: str, base: type = Error) -> type:
    return type(name, (base,), {"__module__": "modal.exception"})


EXCEPTION = SimpleNamespace(
    Error=Error,
    **{
        name: error_class(name)
        for name in (
            "AuthError",
            "ConnectionError",
            "ExecutionError",
            "InternalFailure",
            "InvalidError",
            "NotFoundError",
            "RemoteError",
            "ServiceError",
        )
    },
    OutputExpiredError=error_class("OutputExpiredError"),
    FunctionTimeoutError=error_class("FunctionTimeoutError"),
    InputCancellation=error_class("InputCancellation", BaseException),
)


FILE_TYPES = SimpleNamespace(FILE=1, DIRECTORY=2)
"""Of modal.volume."""


def checked_tags(tags: dict[str, str]) -> dict[str, str]:
    """By the rule of modal's `check_tag_dict`, which names of apps follow too."""
    for text in (*tags, *tags.values()):
        if not re.fullmatch(r"[a-zA-Z0-9._-]{1,63}", text):
            raise EXCEPTION.InvalidError(f"Invalid tag: {text!r}")
    return tags


@dataclass
class App:
    """An app of the table."""

    name: str
    user: str
    created_at: datetime = NOW
    tags: dict[str, str] = field(default_factory=dict)
    is_stopped: bool = False
    is_deployed: bool = False


@dataclass
class Call:
    """A call of the table: state is pending, running, ended, or the name of the error that it ended by."""

    app_id: str
    user: str
    state: str = "running"
    returned: Any = None
    log: list[str] = field(default_factory=list)
    is_deaf: bool = False


@dataclass
class Entry:
    message: str
    timestamp: float


class Modal:
    """The table; `raises` is (name of a request, exception) for what goes wrong, `asked` the requests."""

    def __init__(self) -> None:
        self.user, self.workspace = "alice", "lab"
        self.apps: dict[str, App] = {}
        self.calls: dict[str, Call] = {}
        self.asked: list[str] = []
        self.raises: dict[str, BaseException] = {}
        self.first_state = "running"
        self.volumes: dict[str, dict[str, bytes]] = {"wf-models": {"/bob/a.gguf": b"bob's"}}
        self.notes: list[tuple[Any, ...]] = []
        self.apps["ap-bob9"] = App("wf-serve", "bob", is_deployed=True)
        for number, state in enumerate(("running", "pending"), start=1):
            self.apps[f"ap-bob{number}"] = App("wf-train", "bob")
            self.calls[f"fc-bob{number}"] = Call(f"ap-bob{number}", "bob", state)

    def ask(self, name: str) -> None:
        self.asked.append(name)
        if (error := self.raises.get(name)) is not None:
            raise error

    def noted(self, *what: Any) -> Any:
        """A decorator."""
        self.notes.append(what)
        return lambda decorated: decorated

    def foreign(self) -> dict[str, Any]:
        calls = {key: call.state for key, call in self.calls.items() if call.user == "bob"}
        return calls | {
            key: (app.tags, app.is_stopped) for key, app in self.apps.items() if app.user == "bob"
        }

    def program(self) -> Program:
        return Program(self)

    def module(self) -> ModuleType:
        """A fresh module `modal`."""
        table = self
        module = ModuleType("modal")

        class FakeImage:
            """Notes what is called on it."""

            def __init__(self, steps: tuple[Any, ...] = ()) -> None:
                self.steps = steps

            def __getattr__(self, name: str) -> Any:
                return lambda *args, **options: FakeImage((*self.steps, (name, args, options)))

        class FakeFunction:
            def __init__(self, app: FakeApp, call: Any, options: dict[str, Any]) -> None:
                self.app, self.run, self.options = app, call, options

            def spawn(self) -> Any:
                table.ask("spawn")
                call_id = f"fc-{len(table.calls) + 10}"
                assert self.app.app_id is not None
                log = ["begun\n"] if table.first_state == "running" else []
                table.calls[call_id] = Call(self.app.app_id, table.user, table.first_state, log=log)
                return SimpleNamespace(object_id=call_id)

        class FakeApp:
            def __init__(self, name: str, tags: dict[str, str] | None = None) -> None:
                checked_tags({"name": name})
                self.name, self.tags = name, checked_tags(tags or {})
                self.app_id: str | None = None

            def function(self, **options: Any) -> Any:
                return lambda call: FakeFunction(self, call, options)

            def deploy(self) -> FakeApp:
                table.ask("deploy")
                self.app_id = f"ap-{len(table.apps) + 10}"
                table.apps[self.app_id] = App(self.name, table.user, tags=dict(self.tags), is_deployed=True)
                return self

            @property
            def logs(self) -> FakeLogs:
                return FakeLogs(Call(self.app_id or "", table.user, log=["serving\n", "asked\n"]))

            def run(self, detach: bool) -> Any:
                assert detach
                return self

            def __enter__(self) -> FakeApp:
                table.ask("run")
                self.app_id = f"ap-{len(table.apps) + 10}"
                table.apps[self.app_id] = App(self.name, table.user, tags=dict(self.tags))
                return self

            def __exit__(self, *raised: object) -> None:
                table.ask("disconnect")

            @staticmethod
            def lookup(app_id: str) -> FakeApp:
                """By id, whatever its state, or by the name of a deployed one."""
                table.ask("lookup")
                named = [key for key, app in table.apps.items() if app.is_deployed and app.name == app_id]
                app_id = named[0] if named else app_id
                if app_id not in table.apps:
                    raise EXCEPTION.NotFoundError(f"no app {app_id}")
                app = FakeApp(table.apps[app_id].name)
                app.app_id = app_id
                return app

            def get_tags(self) -> dict[str, str]:
                table.ask("get_tags")
                return dict(table.apps[self.app_id or ""].tags)

            def set_tags(self, tags: dict[str, str]) -> None:
                table.ask("set_tags")
                checked_tags(tags)
                table.apps[self.app_id or ""].tags = dict(tags)
                for call in table.calls.values():
                    if call.app_id == self.app_id and "wf-cancel" in tags and not call.is_deaf:
                        call.state = "ended"
                        call.returned = {"returncode": 143, "cancelled": True, "ended_s": 5.0}

            def info(self) -> Any:
                app = table.apps[self.app_id or ""]
                state = "stopped" if app.is_stopped else "deployed"
                lifecycle = SimpleNamespace(created_by=app.user, created_at=app.created_at, state=state)
                return SimpleNamespace(description=app.name, lifecycle=lifecycle)

            def stop(self) -> None:
                table.ask("stop")
                table.apps[self.app_id or ""].is_stopped = True

        class FakeLogs:
            def __init__(self, call: Call) -> None:
                self.entries = [Entry(text, float(i)) for i, text in enumerate(call.log)]

            def tail(self, count: int) -> Iterator[Entry]:
                return iter(self.entries[-count:])

            def fetch(self, since: datetime) -> Iterator[Entry]:
                assert since.tzinfo is not None
                return iter(self.entries)

            def stream(self) -> Iterator[Entry]:
                return iter([*self.entries, Entry("later\n", 1e9)])

        class FakeCall:
            def __init__(self, call_id: str) -> None:
                if call_id not in table.calls:
                    raise EXCEPTION.NotFoundError(f"no call {call_id}")
                self.call = table.calls[call_id]
                self.logs = FakeLogs(self.call)

            @classmethod
            def from_id(cls, call_id: str) -> FakeCall:
                table.ask("from_id")
                return cls(call_id)

            def get(self, timeout: float) -> Any:
                assert timeout == 0
                if self.call.state in ("pending", "running"):
                    raise TimeoutError
                if self.call.state == "ended":
                    return self.call.returned
                raise getattr(EXCEPTION, self.call.state)(self.call.returned or "")

            def cancel(self, terminate_containers: bool) -> None:
                table.ask("cancel")
                assert terminate_containers
                self.call.state, self.call.returned = "RemoteError", "Input was cancelled by user"

        class FakeVolume:
            """Its files are in `table.volumes`; options of its mount are noted."""

            def __init__(self, name: str, **options: Any) -> None:
                self.name, self.options = name, options

            def with_mount_options(self, **options: Any) -> FakeVolume:
                return FakeVolume(self.name, **options)

            def commit(self) -> None:
                table.ask("commit")

            def batch_upload(self) -> FakeVolume:
                return self

            def __enter__(self) -> FakeVolume:
                return self

            def __exit__(self, *raised: object) -> None: ...

            def iterdir(self, path: str, recursive: bool) -> Iterator[Any]:
                table.ask("iterdir")
                assert recursive
                names = [name for name in table.volumes.get(self.name, {}) if name.startswith(f"{path}/")]
                if not names:
                    raise EXCEPTION.NotFoundError(f"no {path}")
                yield SimpleNamespace(path=path.strip("/"), type=FILE_TYPES.DIRECTORY)
                yield from (SimpleNamespace(path=name.strip("/"), type=FILE_TYPES.FILE) for name in names)

            def read_file(self, path: str) -> Iterator[bytes]:
                data = table.volumes[self.name][f"/{path}"]
                yield from (data[:1], data[1:])

            def put_file(self, source: Path, path: str) -> None:
                table.ask("put")
                table.volumes.setdefault(self.name, {})[path] = source.read_bytes()

            def put_directory(self, source: Path, path: str) -> None:
                for file in source.iterdir():
                    self.put_file(file, f"{path}/{file.name}")

            def remove_file(self, path: str, recursive: bool) -> None:
                table.ask("remove")
                assert recursive
                files = table.volumes.get(self.name, {})
                for name in [name for name in files if name.startswith(f"{path}/")]:
                    del files[name]

        class Manager:
            def __enter__(self) -> None: ...

            def __exit__(self, *raised: object) -> None: ...

        module.App = FakeApp
        module.Image = FakeImage()
        module.FunctionCall = FakeCall
        module.volume = SimpleNamespace(FileEntryType=FILE_TYPES)
        module.Volume = SimpleNamespace(from_name=lambda name, create_if_missing=False: FakeVolume(name))
        module.Function = SimpleNamespace(
            from_name=lambda app, name: SimpleNamespace(get_web_url=lambda: f"https://lab--{app}-{name}.run")
        )
        module.concurrent = lambda max_inputs: table.noted("concurrent", max_inputs)
        module.web_server = lambda port, startup_timeout: table.noted("web_server", port, startup_timeout)
        module.Secret = SimpleNamespace(from_name=lambda name, required_keys: (name, required_keys))
        module.Retries = lambda **options: options
        module.Client = SimpleNamespace(from_env=lambda: SimpleNamespace(hello=lambda: table.ask("hello")))
        module.Workspace = SimpleNamespace(
            from_context=lambda: SimpleNamespace(name=table.workspace, hydrate=lambda: table.ask("workspace"))
        )
        module.enable_output = Manager
        module.config = SimpleNamespace(logger=logging.getLogger("fake-modal"))
        module.exception = EXCEPTION
        module.__version__ = "1.6.4"
        return module


class Program:
    """`IsolatedProgram` without an environment: program.py in this process."""

    def __init__(self, modal: Modal) -> None:
        self.modal = modal

    def ask(self, request: Any, *, shown: bool = False, timeout_s: float | None = None) -> Any:
        (answer,) = list(self.stream(request))
        return answer

    def ask_each(self, requests: Any, *, timeout_s: float) -> list[Any]:
        answers: list[Any] = []
        with self._installed() as program:
            for request in requests:
                try:
                    answers += list(self._answers(program, request))
                except CommandError as error:
                    answers.append(error)
        return answers

    def stream(self, request: Any, **options: Any) -> Iterator[Any]:
        with self._installed() as program:
            yield from self._answers(program, request)

    def _answers(self, program: Any, request: Any) -> Iterator[Any]:
        try:
            yield from program(dict(request))
        except Exception as error:
            kinds = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]
            raise ProgramError(kinds, str(error)) from error

    @contextmanager
    def _installed(self) -> Iterator[Any]:
        """A fresh program."""
        sys.modules["modal"] = self.modal.module()
        kept_path = list(sys.path)
        try:
            yield runpy.run_path(str(PROGRAM))["answers"]
        finally:
            sys.path[:] = kept_path
            for name in ("modal", "app"):
                sys.modules.pop(name, None)


def load_app(path: Path, modal: ModuleType) -> ModuleType:
    """A generated app as a module, `modal` being what it imports."""
    spec = importlib.util.spec_from_file_location("app_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["modal"] = modal
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["modal"]
    return module
