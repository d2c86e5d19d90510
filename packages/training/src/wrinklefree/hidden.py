"""Values that are shown as `***` and still tell one run from another.

Text that looks like a password or a key (wf_formats.secrets) is in no file of a run; but it may be a place or
a name, so another one makes another run. Recorded is a digest that is slow to compute (scrypt, RFC 7914, 16
MiB of memory, 0.1 s), salted with the key of the configuration and all that is shown: a password that can be
guessed costs as much for each guess, and a list that was made for one run fits no other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_COST, _BLOCK_SIZE, _BYTES = 2**14, 8, 8


def hidden_digests(real: Mapping[str, Any], shown: Mapping[str, Any]) -> dict[str, str]:
    """Of what is not shown as it is, by key. Args: JSON values by key; those of `shown` count."""
    return {key: _digest(key, real[key], value) for key, value in shown.items() if real[key] != value}


def _digest(key: str, real: Any, shown: Any) -> str:
    salt = json.dumps([key, shown]).encode()
    password = json.dumps(real).encode()
    return hashlib.scrypt(password, salt=salt, n=_COST, r=_BLOCK_SIZE, p=1, dklen=_BYTES).hex()
