"""Modal as the back end asks it: requests to `program.py`, and its errors in words for the user."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from wf_deployer.backends.fields import read_from_json
from wf_deployer.backends.isolated import IsolatedProgram, LateError, ProgramError
from wf_deployer.backends.looking import ASKING_TIMEOUT_S, NoAnswerError, answer_of, late
from wf_deployer.backends.ownership import Ownership
from wf_deployer.errors import CommandError, CommandRequestError

REQUIREMENT = "modal>=1.6.4,<2"
_PROGRAM = IsolatedProgram(REQUIREMENT, Path(__file__).with_name("program.py"))
T = TypeVar("T")
_TOKEN_VARIABLES = ("MODAL_TOKEN_ID", "MODAL_OAUTH_REFRESH_TOKEN")


class ModalError(NoAnswerError):
    """Modal cannot be asked, or says no."""


class RefusedError(ModalError):
    """Modal's own no: nothing was done."""


class UnknownToModalError(RefusedError):
    """Modal has no such app or call (any more)."""


@dataclass(frozen=True)
class Submitted:
    """What `program.py` writes down while it submits.

    Attributes:
        call_id: None: the call was not made, or it is not known whether it was.
        created_s: Seconds since 1970, by Modal's clock.
    """

    app_id: str
    call_id: str | None
    name: str
    user: str
    workspace: str
    created_s: int


@dataclass(frozen=True)
class Found:
    """A job as Modal shows it.

    Attributes:
        state: pending, running, ended, failed, forgotten (results are kept for 7 days), or unknown.
        exit: What the function returned, of an ended call; from a container, so nobody vouches for it.
        reason: Why it failed, in Modal's words.
    """

    ownership: Ownership
    state: str
    exit: Any = None
    reason: str | None = None


def require_token() -> None:
    """Raises: CommandRequestError if there is certainly no token."""
    file = Path(os.environ.get("MODAL_CONFIG_PATH") or Path.home() / ".modal.toml")
    if not any(os.environ.get(name) for name in _TOKEN_VARIABLES) and not file.is_file():
        raise CommandRequestError(
            f"--cloud modal: neither MODAL_TOKEN_ID nor {file} is there; `uv tool run modal setup` makes one"
        )


def inspect(app: Path) -> dict[str, Any]:
    """What Modal's client reads in an app, without asking Modal."""
    answer: dict[str, Any] = ask({"do": "inspect", "app": str(app)})
    return answer


def submit(app: Path, record: Path) -> None:
    """Makes the image, which may take minutes and is shown, and calls the function; `read_submitted` then.

    Raises:
        CommandError: `record` tells how far it came.
    """
    ask({"do": "submit", "app": str(app), "record": str(record)}, shown=True)


def read_submitted(record: Path) -> Submitted | None:
    """None: no app was made (yet). Raises: CommandError if the file is damaged."""
    return read_from_json(Submitted, record)


def look(app_id: str) -> Found:
    """The job of an app, now. Raises: UnknownToModalError, ModalError."""
    return answer_of("", look_each({"": app_id}, ASKING_TIMEOUT_S))


def look_each(apps: Mapping[str, str], timeout_s: float) -> dict[str, Found | CommandError]:
    """The jobs of apps, asked for by one program. Returns: by the keys of `apps`; an error is of one."""
    return ask_each("look", apps, timeout_s, _found)


def _found(values: dict[str, Any]) -> Found:
    ownership = Ownership(
        id=values["call_id"] or "",
        name=values["name"],
        user=values["user"],
        endpoint=values["workspace"],
        submitted_s=values["created_s"],
        token=values["token"],
    )
    return Found(ownership, values["state"], values.get("exit"), values.get("reason"))


def fetch(volume: str, folder: str, there: Path) -> int:
    """Makes `there` a copy of a folder of a volume. Returns: its files; 0: there is no such folder (yet)."""
    num_files: int = ask({"do": "fetch", "volume": volume, "folder": folder, "there": str(there)})
    return num_files


def ask_to_stop(app_id: str) -> None:
    ask({"do": "ask_to_stop", "app_id": app_id}, timeout_s=ASKING_TIMEOUT_S)


def kill(call_id: str) -> None:
    """Ends this call and its container at once."""
    ask({"do": "kill", "call_id": call_id}, timeout_s=ASKING_TIMEOUT_S)


def logs(call_id: str, created_s: int, last: int | None, follow: bool) -> Iterator[str]:
    """Pieces of what the call printed. Raises: ModalError."""
    request = {"do": "logs", "call_id": call_id, "created_s": created_s}
    yield from stream(request | {"last": last, "follow": follow})


def stream(request: dict[str, Any]) -> Iterator[Any]:
    """The answers to a request as they come. Raises: ModalError."""
    try:
        yield from _PROGRAM.stream(request)
    except ProgramError as error:
        raise _explained(error) from error


def ask(request: dict[str, Any], *, shown: bool = False, timeout_s: float | None = None) -> Any:
    """The one answer to a request. Raises: ModalError, also after `timeout_s`."""
    try:
        return _PROGRAM.ask(request, shown=shown, timeout_s=timeout_s)
    except (ProgramError, LateError) as error:
        raise _explained(error) from error


def ask_each(
    do: str, apps: Mapping[str, str], timeout_s: float, read: Callable[[dict[str, Any]], T]
) -> dict[str, T | CommandError]:
    """A request about each of several apps, to one program. Args: read: makes something of an answer."""
    requests = [{"do": do, "app_id": app_id} for app_id in apps.values()]
    found: dict[str, T | CommandError] = {}
    for key, answer in zip(apps, _PROGRAM.ask_each(requests, timeout_s=timeout_s), strict=True):
        found[key] = _no_answer(answer) if isinstance(answer, CommandError) else read(answer)
    return found


def _no_answer(error: CommandError) -> CommandError:
    """Of a question: what is no wrong request is a ModalError, whatever it is by."""
    told = _explained(error)
    return told if isinstance(told, ModalError | CommandRequestError) else ModalError(str(told))


_REFUSALS = {
    "AlreadyExistsError",
    "ConflictError",
    "ImageBuildError",
    "InvalidError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "UnimplementedError",
    "VersionError",
}
"""Classes of modal.exception, besides those that `_explained` names."""


def _explained(error: CommandError) -> CommandError:
    if isinstance(error, LateError):
        return ModalError(late("Modal", error.timeout_s))
    if not isinstance(error, ProgramError):
        return error
    kinds = {kind.rpartition(".")[2] for kind in error.kinds if kind.startswith("modal.")}
    if "AuthError" in kinds:
        return RefusedError(
            f"Modal does not take the token: {error.reason}; `uv tool run modal setup` makes a new one"
        )
    if "ConnectionError" in kinds:
        return ModalError("Modal does not answer; look at the network, and try again")
    if "NotFoundError" in kinds:
        return UnknownToModalError(f"Modal: {error.reason}")
    if kinds & _REFUSALS:
        return RefusedError(f"Modal: {error.reason}")
    return ModalError(f"Modal: {error.reason}") if "Error" in kinds else error
