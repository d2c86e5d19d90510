"""Our HTTP server: where it listens, its limits, what a client may ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from wf_formats.errors import RequestError
from wrinklefree_inference.addresses import is_loopback
from wrinklefree_inference.options.flag import KEY_HINT, Flag


class LogForm(StrEnum):
    """Form of the log lines."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True)
class ListenOptions:
    """Where a server listens and who may use it."""

    host: Annotated[str, Flag("--host", "Address; other than loopback needs a key.")] = "127.0.0.1"
    port: Annotated[int, Flag("--port", "0 takes a free one.", minimum=0, maximum=65535)] = 8080
    api_key: Annotated[
        list[str] | None,
        Flag(
            "--api-key",
            f"Key that requests must carry; several may be given. {KEY_HINT} or --api-key-file.",
            envvar="WF_API_KEY",
        ),
    ] = None
    api_key_file: Annotated[Path | None, Flag("--api-key-file", "File with one key a line.")] = None

    def __post_init__(self) -> None:
        if not (is_loopback(self.host) or self.api_key or self.api_key_file):
            raise RequestError(
                f"host {self.host} can be reached from other machines: set an API key, or listen on 127.0.0.1"
            )


@dataclass(frozen=True)
class HttpOptions:
    """Our HTTP server, in front of an engine or of another server.

    Attributes:
        max_inflight: Most requests between their first and last byte, running, waiting and being read; when
            there are so many, a client with less than its share is let in nevertheless.
    """

    max_body_mb: Annotated[
        float, Flag("--max-body-mb", "Longest request body (1e6 bytes).", minimum=0.001)
    ] = 4.0
    allow_origins: Annotated[
        list[str] | None,
        Flag("--allow-origin", "Web page that may call (CORS), https://HOST; several may be given."),
    ] = None
    shutdown_timeout_s: Annotated[
        float, Flag("--shutdown-timeout", "Seconds for running answers to end.", minimum=0)
    ] = 30.0
    log_format: Annotated[LogForm, Flag("--log-format", "Form of the log.")] = LogForm.TEXT
    header_timeout_s: Annotated[
        float, Flag("--header-timeout", "Seconds for a request's head to arrive.", minimum=0.1)
    ] = 10.0
    body_timeout_s: Annotated[
        float, Flag("--body-timeout", "Seconds for a request's body to arrive.", minimum=0.1)
    ] = 30.0
    keep_alive_timeout_s: Annotated[
        float, Flag("--keep-alive-timeout", "Seconds between an answer and the next request.", minimum=1)
    ] = 5.0
    write_timeout_s: Annotated[
        float,
        Flag("--write-timeout", "Seconds that a client may take nothing of its answer.", minimum=0.1),
    ] = 60.0
    max_connections: Annotated[
        int | None,
        Flag(
            "--max-connections",
            "Most connections; if not given 4096, or what the limit of open files leaves.",
            minimum=1,
        ),
    ] = None
    max_connections_per_client: Annotated[
        int | None,
        Flag(
            "--max-connections-per-client",
            "Most connections from one address (IPv6: 64 bits of it); if not given half of all.",
            minimum=1,
        ),
    ] = None
    max_inflight: int = 256

    def __post_init__(self) -> None:
        numbers = [name for name, value in vars(self).items() if type(value) in (int, float)]
        for name in (name for name in numbers if name != "shutdown_timeout_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise RequestError(f"{name} must be above 0, got {getattr(self, name)}")

    @property
    def body_bytes(self) -> int:
        """Longest body, whether its length is announced or not."""
        return round(self.max_body_mb * 1e6)


@dataclass(frozen=True)
class AnswerOptions:
    """What one client may ask for, and as which model; max_output_tokens None leaves it to the context."""

    max_output_tokens: Annotated[
        int | None,
        Flag(
            "--max-output-tokens",
            "Longest answer, whatever is asked for; all that fits if not given.",
            minimum=1,
        ),
    ] = None
    max_choices: Annotated[
        int, Flag("--max-choices", "Most answers (n or best_of x prompts) of a request.", minimum=1)
    ] = 16
    aliases: Annotated[
        list[str] | None, Flag("--alias", "Another name of the model for clients; several may be given.")
    ] = None
    is_strict: Annotated[bool, Flag("--strict", "Refuse fields of requests that are not known.")] = False

    def __post_init__(self) -> None:
        for alias in self.aliases or ():
            if not (alias.strip() and alias.isprintable()):
                raise RequestError(f"--alias must be a name, got {alias!r}")
