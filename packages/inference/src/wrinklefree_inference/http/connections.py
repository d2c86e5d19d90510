"""How many connections there may be, in all and from one client, and which one makes room for a new one.

Every connection takes a descriptor of the process. The limit in all stays below the descriptors that the
process may open (it raises its soft limit as far as needed and allowed), so that accepting never fails for
lack of them. When a limit is reached, an idle connection makes room, one without a request that has begun: of
the same client, or in all of the client with most. First goes the oldest that has never asked anything, then
the one that has been idle for longest. If none is idle, the new one is refused.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from typing import Protocol

from uvicorn.server import ServerState

from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.options import HttpOptions

MOST_CONNECTIONS = 4096
"""Unless the option says otherwise."""
ACCEPTED_AT_ONCE = 64
"""asyncio accepts as many in a row before the first of them is counted."""
_OWN_DESCRIPTORS = 64  # files of the model, logs, the event loop
_RESERVED = _OWN_DESCRIPTORS + ACCEPTED_AT_ONCE


class Connection(Protocol):
    """What the table needs to know of a connection."""

    network: str
    """Of its client (`addresses.network_of`)."""
    since_s: float
    """Since when it is in its present state (`time.monotonic()`)."""

    @property
    def has_asked(self) -> bool:
        """It has carried a request."""

    @property
    def is_idle(self) -> bool:
        """No request is being answered, or its body read."""

    def give_way(self) -> None:
        """Close at once."""


@dataclass(frozen=True)
class ConnectionLimits:
    """Most connections, in all and from one client."""

    total: int
    per_client: int

    @classmethod
    def of(cls, http: HttpOptions, other_descriptors: int = 0) -> ConnectionLimits:
        """The limits of a server; raises the process's soft limit of descriptors if need be.

        Args:
            http: May give either number.
            other_descriptors: What the server's requests open besides their connection.

        Raises:
            EngineError: This process may not open so many.
        """
        reserved = _RESERVED + other_descriptors
        may_open = _descriptors(reserved + (http.max_connections or MOST_CONNECTIONS))
        total = http.max_connections or min(MOST_CONNECTIONS, may_open - reserved)
        if not 0 < total <= may_open - reserved:
            raise EngineError(
                f"this process may open {may_open} files, {reserved} of which are not for connections: raise "
                f"that limit (ulimit -n {reserved + max(total, 256)}) or give a --max-connections that fits"
            )
        return cls(total, min(total, http.max_connections_per_client or max(1, total // 2)))


def _descriptors(wanted: int) -> int:
    """How many files this process may open, after raising its soft limit to `wanted` as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < wanted:
        soft = wanted if hard == unlimited else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == unlimited else soft


class ConnectionTable(ServerState):
    """What uvicorn's connections share: here limits and time-outs too."""

    def __init__(self, limits: ConnectionLimits, options: HttpOptions) -> None:
        super().__init__()
        self.limits, self.options = limits, options
        self._admitted: dict[str, dict[Connection, None]] = {}  # by client, in the order of their coming
        self._num_admitted = 0

    def admit(self, connection: Connection) -> bool:
        """Count a new connection; False if there is no room for it."""
        network = connection.network
        num_own = len(self._admitted.get(network, ()))
        if num_own >= self.limits.per_client and not self._make_room(network):
            return False
        if self._num_admitted >= self.limits.total and not self._make_room_anywhere():
            return False
        self._admitted.setdefault(network, {})[connection] = None
        self._num_admitted += 1
        connection.since_s = time.monotonic()
        return True

    def leave(self, connection: Connection) -> None:
        """It is closed; nothing happens if it was not admitted."""
        own = self._admitted.get(connection.network, {})
        if connection in own:
            del own[connection]
            self._num_admitted -= 1
            if not own:
                del self._admitted[connection.network]

    def _make_room_anywhere(self) -> bool:
        """Of the client with most connections that has an idle one."""
        by_size = sorted(self._admitted, key=lambda network: -len(self._admitted[network]))
        return any(self._make_room(network) for network in by_size)

    def _make_room(self, network: str) -> bool:
        chosen = next((one for one in self._admitted[network] if not one.has_asked and one.is_idle), None)
        if chosen is None:
            idle = (one for one in self._admitted[network] if one.is_idle)
            chosen = min(idle, key=lambda one: one.since_s, default=None)
        if chosen is None:
            return False
        self.leave(chosen)
        chosen.give_way()
        return True
