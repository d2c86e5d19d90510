"""Values that reach Hydra's override grammar as they are: the one place that quotes them; and in messages.

The grammar reads `1e5`, `true` and `null` as something else than text, takes commas and brackets for
lists, and refuses `=`, `~` and letters outside ASCII. A quoted value is text, whatever is in it. Rules:
hydra.cc/docs/advanced/override_grammar/basic (quoted values), omegaconf (escaped interpolations).
"""

from __future__ import annotations

import json
import re
from typing import Any

_BEFORE_QUOTE = re.compile(r"(\\*)('|\Z)")
_INTERPOLATION = re.compile(r"(\\*)\$\{")


def override(key: str, value: str) -> str:
    """`key=value` whose value arrives as this text."""
    return f"{key}={quoted(value)}"


def shown(value: Any) -> str:
    """A value in a message: text in quotes; null, true and false as an override has them."""
    return repr(value) if isinstance(value, str) else json.dumps(value)


def quoted(value: str) -> str:
    """`value` as a string of the grammar, in single quotes; `${` in it is text as well.

    Backslashes count as escapes only before a quote, the closing one too, or before `${`.
    """
    plain = _INTERPOLATION.sub(lambda match: rf"{match[1] * 2}\${{", value)
    return "'" + _BEFORE_QUOTE.sub(_escaped, plain) + "'"


def _escaped(match: re.Match[str]) -> str:
    return match[1] * 2 + (r"\'" if match[2] else "")
