"""API keys: how they are compared."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from wrinklefree_inference.http.errors import ApiError


@dataclass(frozen=True)
class ApiKeys:
    """The keys that open the server; none at all opens it to everybody who can reach it."""

    keys: tuple[bytes, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, keys: Iterable[str]) -> ApiKeys:
        """Keys that `wrinklefree_inference.keys` has checked."""
        return cls(tuple(key.encode() for key in keys))

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
