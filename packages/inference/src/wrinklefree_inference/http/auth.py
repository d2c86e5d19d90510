"""API keys: where they come from and how they are compared."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wrinklefree_inference.http.errors import ApiError

_MIN_CHARS = 4


@dataclass(frozen=True)
class ApiKeys:
    """The keys that open the server; none at all opens it to everybody who can reach it."""

    keys: tuple[bytes, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, given: Iterable[str] = (), path: Path | None = None) -> ApiKeys:
        """Keys from options and from a file with one a line (empty lines and `#` lines are skipped).

        Raises:
            ValueError: A key that no header can carry, a short one, or a file without keys.
        """
        keys = list(given)
        if path is not None:
            lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
            from_file = [line for line in lines if line and not line.startswith("#")]
            if not from_file:
                raise ValueError(f"{path} has no keys: write one a line")
            keys += from_file
        for position, key in enumerate(keys):
            if len(key) < _MIN_CHARS or not key.isascii() or not key.isprintable() or " " in key:
                raise ValueError(  # without the key itself: it would end in a log
                    f"API key {position} must have {_MIN_CHARS} or more printable ASCII characters, no spaces"
                )
        return cls(tuple(key.encode() for key in dict.fromkeys(keys)))

    def __bool__(self) -> bool:
        return bool(self.keys)

    def index_of(self, authorization: Sequence[bytes]) -> int | None:
        """Which key the `Authorization` headers carry; None if there are no keys to ask for.

        All keys are compared, each in constant time, so that the duration tells nothing of them.

        Raises:
            ApiError: 401.
        """
        if not self.keys:
            return None
        if len(authorization) != 1:
            raise _refused("give an API key: Authorization: Bearer KEY")
        scheme, _, token = authorization[0].partition(b" ")
        token = token.strip()
        matches = [hmac.compare_digest(token, key) for key in self.keys]
        if scheme.lower() != b"bearer" or not any(matches):
            raise _refused("incorrect API key")
        return matches.index(True)


def _refused(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
