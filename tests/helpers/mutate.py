"""Damaged and hostile variants of a file, from a seeded generator: the same number gives the same bytes."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Sequence
from typing import Any

NUMBERS = (0, -1, 1, 2, 255, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**64, 10**400, -(10**30), 0.5, 1e-46, 1e308)
TEXTS = (
    "",
    "\0",
    "\ud800",
    "a" * 70_000,
    "../../etc/passwd",
    "/etc/passwd",
    "é\u202e",
    "1e999",
    "{{",
    "(a+)+$",
)
OTHERS = (None, True, [], {}, [[]], [None] * 3000, {"a": {"b": {}}}, float("nan"), float("inf"))


def bytes_of(data: bytes, rng: random.Random, pieces: Sequence[bytes] = ()) -> bytes:
    """One to four changes: bits, bytes, cuts, repeats, swaps, numbers at a place.

    Args:
        pieces: put in besides.
    """
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        _change(changed, rng, pieces)
    return bytes(changed)


def _change(data: bytearray, rng: random.Random, pieces: Sequence[bytes]) -> None:
    at = rng.randrange(len(data)) if data else 0
    length = min(rng.choice((1, 2, 4, 8, 64, 1024)), max(1, len(data) - at))
    match rng.randrange(8 if pieces else 7):
        case 7:
            data[at : at + length % 8] = rng.choice(pieces)
        case 0:
            data[at:] = b""
        case 1:
            data[at : at + length] = rng.randbytes(length)
        case 2:
            data[at : at + length] = data[at : at + length] * 2
        case 3:
            data[at : at + length] = b""
        case 4:
            value = rng.choice(NUMBERS[:10]) & (2**64 - 1) if data else 0
            data[at : at + 8] = struct.pack("<Q", value)
        case 5:
            data[at : at + length] = rng.choice((b"\0", b"\xff", b"\n", b'"', b"[", b"{")) * length
        case _:
            if data:
                data[at] ^= 1 << rng.randrange(8)


def json_of(data: bytes, rng: random.Random, values: Sequence[Any] = ()) -> bytes:
    """One to three values or keys of a JSON text replaced, dropped or nested; sometimes bytes instead.

    Args:
        values: what is put in as often as what any JSON text may hold.
    """
    if rng.random() < 0.2:
        return bytes_of(data, rng)
    value = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        value = _replaced(copy.deepcopy(value), rng, values)
    if rng.random() < 0.03:
        return b"[" * 100_000
    return json.dumps(value).encode()


def one_value_of(value: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """An object with one place in one of its values changed."""
    changed = copy.deepcopy(value)
    name = rng.choice(list(changed))
    changed[name] = _replaced(changed[name], rng, ())
    return changed


def _replaced(value: Any, rng: random.Random, values: Sequence[Any]) -> Any:
    """A value with one place in it changed; places near the top are likelier."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.15:
        if values and rng.random() < 0.5:
            return rng.choice(values)
        return rng.choice((rng.choice(NUMBERS), rng.choice(TEXTS), rng.choice(OTHERS)))
    key: Any = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    match rng.randrange(6):
        case 0:
            del value[key]
        case 1 if isinstance(value, dict):
            value[rng.choice(TEXTS)] = value.pop(key)
        case 2 if isinstance(value, list):
            value.extend(value[:1000])
        case _:
            value[key] = _replaced(value[key], rng, values)
    return value


PIECES = (
    "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "{{ 'a' * 10**10 }}",
    "{{ 10 ** 10 ** 10 }}",
    "{{ 'ab' | center(10**10) }}",
    "{{ '%0999999999d' % 1 }}",
    "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "{% set n = namespace(s='aa') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "{{ '\\ud800' }}",
    "{{ messages.__class__.__mro__ }}",
    "{{ ([1] * 100000) | tojson }}",
    "{{ range(99999) | list | join(range(99999) | list | string) }}",
    "{% for m in messages recursive %}{{ loop([m]) }}{% endfor %}",
    "{{ messages[0].content | indent(10**9) }}",
    "{{ 'x' | replace('', 'y' * 99999) | replace('', 'y' * 99999) }}",
    "{% if ",
    "{{ raise_exception('no') }}",
    "{{ '{:>9999999999}'.format(1) }}",
    "{{ lipsum(n=100000) }}",
    "{% set a = ['x'] %}{% for i in range(50) %}{% set a = a + a %}{% endfor %}{{ a }}",
)


def template_of(data: bytes, rng: random.Random) -> bytes:
    """A chat template with hostile pieces at random places, or with changed bytes."""
    if rng.random() < 0.3:
        return bytes_of(data, rng)
    text = data.decode()
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(PIECES) + text[at:] if rng.random() < 0.7 else rng.choice(PIECES)
    return text.encode()
