"""Secrets are left out of what is written down: records of jobs and runs, printed configurations, errors.

A value is secret by its name (the last word of its key or option is token, password, ...) or by itself
(the prefixes that issuers of keys use, a URL with a password or a signature). What looks like neither
cannot be told from ordinary text and stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

REDACTED = "***"

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET_WORDS = frozenset(
    {"apikey", "auth", "authorization", "bearer", "cookie", "credential", "credentials", "key", "passphrase"}
    | {"passwd", "password", "pat", "pwd", "secret", "token"}
)
_SPECIAL_TOKENS = frozenset(
    {
        "additional",
        "bos",
        "cls",
        "end",
        "eos",
        "image",
        "mask",
        "pad",
        "sep",
        "special",
        "start",
        "text",
        "unk",
    }
)
"""`eos_token` is a word of a vocabulary."""

_ISSUED = re.compile(
    r"""\b(?:
        hf_[A-Za-z0-9]{16,}                       # Hugging Face
      | (?:sk|pk|rk)-[A-Za-z0-9_-]{16,}           # OpenAI, Anthropic and servers that imitate them
      | (?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{16,}
      | gh[opsur]_[A-Za-z0-9]{16,} | github_pat_\w{16,}
      | glpat-[A-Za-z0-9_-]{16,}
      | xox[abeprs]-[A-Za-z0-9-]{10,}
      | A(?:KI|SI)A[A-Z0-9]{16}                   # AWS
      | AIza[A-Za-z0-9_-]{30,}                    # Google
      | ya29\.[A-Za-z0-9_-]{16,}
      | eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*   # JSON web token
    )""",
    re.VERBOSE,
)
_USER_INFO = re.compile(r"(?<=://)[^\s/@]+(?=@)")
_QUERY = re.compile(r"(?<=[?&])([\w.-]+)=([^&\s'\"#]+)")
_SIGNATURES = frozenset(("sig", "signature"))
_SCHEME = re.compile(r"\b(Bearer|Basic)(\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"([-+~]*[\w.@/-]+)=(.*)", re.DOTALL)


def is_secret_name(name: str) -> bool:
    """Whether a key, an option or a variable (`a.api_key`, `--token`, `WANDB_API_KEY`) has a secret value."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words or words[-1] not in _SECRET_WORDS:
        return False
    return not (words[-1] == "token" and len(words) > 1 and words[-2] in _SPECIAL_TOKENS)


def redacted(text: str) -> str:
    """`text` without keys of known issuers, passwords and signatures in URLs, and authorization headers."""
    text = _ISSUED.sub(REDACTED, text)
    text = _USER_INFO.sub(REDACTED, text)
    text = _SCHEME.sub(rf"\1\2{REDACTED}", text)
    return _QUERY.sub(_redacted_parameter, text)


def _redacted_parameter(match: re.Match[str]) -> str:
    name = match[1]
    is_secret = is_secret_name(name) or name.lower().rpartition("-")[2] in _SIGNATURES
    return f"{name}={REDACTED if is_secret else match[2]}"


def redacted_value(name: str, value: Any) -> Any:
    """A value of a configuration, with those below it, as it may be written down under `name`."""
    if isinstance(value, Mapping):
        return {key: redacted_value(str(key), child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_value(name, child) for child in value]
    if type(value) is not str:  # a member of a StrEnum is a choice of ours
        return value
    return REDACTED if value and is_secret_name(name) else redacted(value)


def redacted_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line as it may be written down: `key=value`, `--option=value` and `--option value`."""
    shown: list[str] = []
    follows_secret = False
    for argument in arguments:
        is_value = follows_secret and not argument.startswith("-")
        shown.append(REDACTED if is_value else _redacted_argument(argument))
        follows_secret = argument.startswith("-") and "=" not in argument and is_secret_name(argument)
    return shown


def _redacted_argument(argument: str) -> str:
    match = _ASSIGNMENT.fullmatch(argument)
    if match is None:
        return redacted(argument)
    return f"{match[1]}={redacted_value(match[1], match[2])}"
