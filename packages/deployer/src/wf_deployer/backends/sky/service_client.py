"""SkyServe as the back end sees it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wf_deployer.backends.ownership import Ownership
from wf_deployer.backends.sky.client import OWNERSHIP_FIELDS, SkyClient, SkyJob


@dataclass(frozen=True)
class SkyService(SkyJob):
    """A service of SkyServe. Attributes: url: where it answers; replicas: number and state of each copy."""

    url: str | None = None
    replicas: tuple[tuple[int, str], ...] = ()


class SkyServeClient(SkyClient):
    """Raises: as `SkyClient`."""

    path = Path(__file__).with_name("service_program.py")

    def serve_up(self, task: str, name: str) -> None:
        """Returns when SkyServe's controller runs and has the service; progress goes to standard error."""
        self._ask("serve_up", shown=True, task=task, name=name, cloud=self._infra.cloud)

    def serve_down(self, name: str) -> None:
        self._ask("serve_down", name=name)

    def service_logs(self, name: str, replica: int, last: int | None, follow: bool) -> Iterator[str]:
        return self._stream("service_logs", name=name, replica=replica, last=last, follow=follow)


def sky_service(found: dict[str, Any]) -> SkyService:
    """Of a program's answer."""
    ownership = Ownership(**{key: found[key] for key in OWNERSHIP_FIELDS})
    replicas = tuple((replica["id"], replica["state"]) for replica in found["replicas"])
    return SkyService(ownership, found["me"], found["state"], url=found["url"], replicas=replicas)
