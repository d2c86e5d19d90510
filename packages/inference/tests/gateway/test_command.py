"""`gateway` as users start it, up to what starts processes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wrinklefree_inference.cli import app
from wrinklefree_inference.commands.flags import arguments_of, build, flags_of
from wrinklefree_inference.gateway.run import shares, worker_arguments
from wrinklefree_inference.options import (
    CacheOptions,
    CacheType,
    HttpOptions,
    ListenOptions,
    LogForm,
    NativeServerOptions,
    ServedEngineOptions,
    Speculate,
)

run = CliRunner().invoke
pytestmark = pytest.mark.usefixtures("own_log")
URL = "--worker-url=http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --model FILE to start servers, or --worker-url URL"),
        (["--workers", "3", URL], "--workers 3 starts servers of a model: give it with --model"),
        (["--model", "http://127.0.0.1:9"], "say --worker-url http://127.0.0.1:9"),
        ([URL, "--context", "64"], "--context has no effect with --worker-url (only with --model)"),
        ([URL, "--worker-url", "http://127.0.0.1:9/v1"], "http://127.0.0.1:9 is given twice"),
        (["--worker-url", "127.0.0.1:9"], "'127.0.0.1:9' is not a server's URL"),
        (["--worker-url", "http://me:secret@x"], "--worker-url http://x holds a key: give it by $WF_WORKER"),
        (["--worker-url", "http://x/y?z"], "--worker-url 'http://x/y?z' must end after host and port"),
        (["--model", "m", "--worker-api-key", "abcd"], "--worker-api-key is for servers of --worker-url"),
        ([URL, "--worker-api-key", "k\n"], "the API key must be printable ASCII"),
        ([URL, "--host", "0.0.0.0"], "host 0.0.0.0 can be reached from other machines"),
        ([URL, "--policy", "best"], "'best' is not one of 'cache_aware'"),
        (["--model", "m", "--workers", "0"], "Invalid value for '--workers'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(arguments: list[str], message: str) -> None:
    refused = run(app, ["gateway", *arguments])
    assert refused.exit_code == 2
    assert message in " ".join(refused.stderr.replace("│", " ").split())
    assert "secret" not in refused.stderr


def test_a_taken_port_is_told_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = run(app, ["gateway", URL, "--port", str(port)])
    assert refused.exit_code == 1
    assert refused.stderr == f"error: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_without_uv_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    refused = run(app, ["gateway", URL, "--port", "0"])
    assert refused.exit_code == 2
    assert refused.stderr.endswith("error: there is no uv on PATH: install it, or call wf by `uv run wf`\n")


def test_what_uv_cannot_give_is_told_in_its_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho 'error: No solution found\n  cause: offline' >&2\nexit 1\n")
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    refused = run(app, ["gateway", URL, "--port", "0"])
    assert refused.exit_code == 2
    assert refused.stderr.endswith("error: uv cannot give smg>=1.13,<2: No solution found cause: offline\n")


def test_cores_are_shared() -> None:
    assert shares(None, 3, cores=8) == [3, 3, 2]
    assert shares(None, 4, cores=2) == [1, 1, 1, 1]
    assert shares(5, 2, cores=4) == [5, 5]


def test_a_worker_gets_our_options_without_address_keys_and_origins() -> None:
    face = NativeServerOptions(
        "-m.gguf",
        ListenOptions("0.0.0.0", 80, ["secret-key"], Path("keys.txt")),
        ServedEngineOptions(64, None, Path("-a b.gguf"), "name"),
        CacheOptions(type=CacheType.INT8),
        http=HttpOptions(2.0, ["https://page"], log_format=LogForm.JSON, max_connections=9),
    )
    assert worker_arguments(face, 3) == [
        "--model=-m.gguf",
        "--context=64",
        "--threads=3",
        "--adapter=-a b.gguf",
        "--model-id=name",
        "--kv-cache-type=int8",
        "--max-body-mb=2.0",
        "--log-format=json",
    ]


def test_arguments_make_the_same_options_again() -> None:
    """Of every flag of `serve`: a value other than its default."""
    flags = flags_of(NativeServerOptions)
    others = {"api_key": ["a-key", "b-key"], "allow_origin": ["https://a", "https://b"], "kv_cache_gb": None}
    given = {name: others.get(name, _other_than(field.default, field.kind)) for name, field in flags.items()}
    options = build(NativeServerOptions, given, model="m")
    words = [word.partition("=") for word in arguments_of(options)]
    named = {field.flag.flag: field for field in flags.values()}
    again: dict[str, object] = {name: field.default for name, field in flags.items()}
    for flag, _, text in words:
        field = named[flag]
        if isinstance(given[field.flag.name], list):
            again[field.flag.name] = [*(again[field.flag.name] or []), text]
        else:
            again[field.flag.name] = type(given[field.flag.name])(text) if text else True
    assert build(NativeServerOptions, again, model="m") == options


def _other_than(default: object, kind: object) -> object:
    """A value of an option's type."""
    match default:
        case bool():
            return not default
        case CacheType():
            return CacheType.INT8
        case LogForm():
            return LogForm.JSON
        case int() | float():
            return type(default)(default * 2)
        case str():
            return "127.0.0.2"
    for type_, value in ((Speculate, Speculate.DRAFT), (Path, Path("x y")), (int, 64), (float, 64.0)):
        if type_ in getattr(kind, "__args__", ()):
            return value
    return "text"
