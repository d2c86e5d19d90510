"""Services on Modal as the back end asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wf_deployer.backends.looking import ASKING_TIMEOUT_S, answer_of
from wf_deployer.backends.modal.client import ask, ask_each, stream
from wf_deployer.backends.ownership import Ownership
from wf_deployer.errors import CommandError


@dataclass(frozen=True)
class FoundService:
    """A service as Modal shows it. Attributes: url: where it answers."""

    ownership: Ownership
    is_stopped: bool
    url: str | None


def deploy(app: Path, record: Path, model: Path | None, volume: str, folder: str) -> None:
    """Sends the model, makes the image, which may take minutes and is shown, and deploys the app."""
    sent = None if model is None else str(model)
    values = {"app": str(app), "record": str(record), "model": sent, "volume": volume, "folder": folder}
    ask({"do": "deploy", **values}, shown=True)


def look(app: str) -> FoundService:
    """A service by the id or the name of its app. Raises: UnknownToModalError, ModalError."""
    return answer_of("", look_each({"": app}, ASKING_TIMEOUT_S))


def look_each(apps: Mapping[str, str], timeout_s: float) -> dict[str, FoundService | CommandError]:
    """Services by ids or names of their apps, asked for by one program. Returns: as `client.look_each`."""
    return ask_each("look_service", apps, timeout_s, _found)


def _found(values: dict[str, Any]) -> FoundService:
    ownership = Ownership(
        id=values["app_id"],
        name=values["name"],
        user=values["user"],
        endpoint=values["workspace"],
        submitted_s=values["created_s"],
        token=values["token"],
    )
    return FoundService(ownership, values["is_stopped"], values["url"])


def stop(app_id: str, volume: str | None, folder: str) -> None:
    """Ends exactly this app, and removes the folder of a volume of models, if there is one."""
    request = {"do": "stop_service", "app_id": app_id, "volume": volume, "folder": folder}
    ask(request, timeout_s=ASKING_TIMEOUT_S)


def logs(app_id: str, created_s: int, last: int | None, follow: bool) -> Iterator[str]:
    """Pieces of what its containers printed."""
    request = {"do": "service_logs", "app_id": app_id, "created_s": created_s}
    yield from stream(request | {"last": last, "follow": follow})
