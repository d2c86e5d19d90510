"""The steps of a tokenizer.json around its model: known types, bounded in what they ask for.

A step is an object with a `type`; `Sequence` holds further ones. Bounds are far above what models need:
Llama 3's pattern has 140 characters, o200k's 600; a replacement never makes text four times as long.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np

from wf_formats.tokenizer.source import TokenizerError

MAX_DEPTH, MAX_STEPS = 4, 64
MAX_TEXT = 1 << 12
"""Characters of a text or pattern in a step."""
MAX_REPEATS = 1 << 10
"""Product of the repetition counts of a pattern, which is compiled that many times."""
MAX_GROWTH = 16
"""By which all replacements of a part together lengthen text."""
MAX_NUMBER = 1 << 20
MAX_NESTING, MAX_ENTRIES = 16, 1 << 10

_TYPES = {
    "normalizer": (
        "Sequence BertNormalizer ByteLevel Lowercase NFC NFD NFKC NFKD Nmt Precompiled Prepend Replace Strip "
        "StripAccents"
    ),
    "pre_tokenizer": (
        "Sequence BertPreTokenizer ByteLevel CharDelimiterSplit Digits FixedLength Metaspace Punctuation "
        "Split UnicodeScripts Whitespace WhitespaceSplit"
    ),
    "post_processor": "Sequence BertProcessing ByteLevel RobertaProcessing TemplateProcessing",
    "decoder": "Sequence BPEDecoder ByteFallback ByteLevel CTC Fuse Metaspace Replace Strip WordPiece",
}
_LISTS = ("normalizers", "pretokenizers", "processors", "decoders")
_REPEAT = re.compile(r"(?<!\\x)(?<!\\o)\{(\d*),?(\d*)\}")


def check_steps(part: str, definition: Any) -> None:
    """Checks one part.

    Args:
        part: its key in tokenizer.json.
        definition: its value; None is no step.

    Raises:
        TokenizerError: an unknown type, or a value that is none or absurd.
    """
    steps = [] if definition is None else list(flattened(part, definition))
    if len(steps) > MAX_STEPS:
        raise TokenizerError(f"{part} has {len(steps)} steps; allowed are {MAX_STEPS}")
    for step in steps:
        _check_values(part, step)
        _check_step(part, step)
    if (growth := prod(max(1.0, _growth(step)) for step in steps)) > MAX_GROWTH:
        raise TokenizerError(f"{part} makes text up to {growth:.0f} times as long; allowed is {MAX_GROWTH}")


def flattened(part: str, definition: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """The steps of a part in their order, sequences resolved; raises TokenizerError for what is none."""
    kind = definition.get("type") if isinstance(definition, dict) else None
    if not isinstance(kind, str) or kind not in _TYPES[part].split():
        raise TokenizerError(f"{part} is of the unknown type {kind!r:.60}; known are {_TYPES[part]}")
    if kind != "Sequence":
        yield definition
        return
    steps = next((definition[name] for name in _LISTS if name in definition), None)
    if not isinstance(steps, list) or depth == MAX_DEPTH:
        raise TokenizerError(f"{part} has a sequence without steps, or sequences deeper than {MAX_DEPTH}")
    for step in steps:
        yield from flattened(part, step, depth + 1)


def _check_values(part: str, value: Any, depth: int = 0) -> None:
    """Numbers and lists anywhere in a step."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if depth > MAX_NESTING or len(children) > MAX_ENTRIES:
        raise TokenizerError(f"{part} is nested deeper than {MAX_NESTING}, or has over {MAX_ENTRIES} entries")
    for child in children:
        _check_values(part, child, depth + 1)
    if isinstance(value, int | float) and not 0 <= value <= MAX_NUMBER:
        raise TokenizerError(f"{part} has the number {value!r:.60}; allowed are 0 to {MAX_NUMBER}")


def _check_step(part: str, step: Mapping[str, Any]) -> None:
    for name, value in step.items():
        if isinstance(value, str) and name != "precompiled_charsmap" and len(value) > MAX_TEXT:
            raise TokenizerError(f"{part} has a text of {len(value)} characters; allowed are {MAX_TEXT}")
    if "pattern" in step or step["type"] == "Replace":
        _check_pattern(part, step.get("pattern"))
    if step["type"] == "TemplateProcessing":
        _check_template(part, step)
    if step["type"] == "Precompiled":
        _check_charsmap(part, step.get("precompiled_charsmap"))
    if step["type"] == "FixedLength" and not step.get("length", 1):
        raise TokenizerError(f"{part} cuts text into pieces of length 0")
    if part == "decoder" and step.get("stop"):  # the library fails on pieces that are shorter
        raise TokenizerError(f"{part} takes {step['stop']!r:.60} characters off the end of each piece")


def _check_template(part: str, step: Mapping[str, Any]) -> None:
    """Every special token that is put in is defined."""
    known = step.get("special_tokens")
    for name in ("single", "pair"):
        pieces = step.get(name) or []
        if not isinstance(pieces, list):
            raise TokenizerError(f"{part} has {pieces!r:.60} as its {name}, not a list")
        for piece in pieces:
            token = piece.get("SpecialToken") if isinstance(piece, dict) else None
            index = token.get("id") if isinstance(token, dict) else None
            if token is not None and not (
                isinstance(known, dict) and isinstance(index, str) and index in known
            ):
                raise TokenizerError(f"{part} puts in {token!r:.60}, which its special_tokens do not define")


def _check_pattern(part: str, pattern: Any) -> None:
    text = next(iter(pattern.values()), None) if isinstance(pattern, dict) and len(pattern) == 1 else pattern
    if not isinstance(text, str) or not 0 < len(text) <= MAX_TEXT:
        raise TokenizerError(
            f"{part} has the pattern {pattern!r:.60}: 1 to {MAX_TEXT} characters are allowed"
        )
    if isinstance(pattern, dict) and "Regex" in pattern and (repeats := _repeats(text)) > MAX_REPEATS:
        raise TokenizerError(
            f"{part} repeats parts of its pattern {repeats} times; allowed are {MAX_REPEATS}"
        )


def _repeats(regex: str) -> int:
    counts = (max(int(count or 1) for count in match.groups()) for match in _REPEAT.finditer(regex))
    return prod(max(1, count) for count in counts)


def _check_charsmap(part: str, charsmap: Any) -> None:
    """A double array of SentencePiece: its size in bytes (4 bytes, little-endian), the array, texts.

    A unit leads to the 256 units at its own place xor its offset; where it says that a value stands
    there, this is a place in the texts (darts-clone's format).
    """
    try:
        data = base64.b64decode(charsmap or "", validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise TokenizerError(f"{part}: precompiled_charsmap is damaged: {error}") from error
    size = int.from_bytes(data[:4], "little")
    if size % 4 or not 0 < size <= len(data) - 4:
        raise TokenizerError(f"{part}: precompiled_charsmap is damaged: {size} bytes of array in {len(data)}")
    units = np.frombuffer(data, "<u4", size // 4, 4)
    targets = np.arange(len(units)) ^ (units >> 10 << ((units & 0x200) >> 6))
    values = units[targets[(units & 0x100 != 0) & (targets < len(units))]] & 0x7FFFFFFF
    if (targets | 0xFF).max() >= len(units) or values.max(initial=0) >= len(data) - 4 - size:
        raise TokenizerError(f"{part}: precompiled_charsmap is damaged: it leads outside itself")


def _growth(step: Mapping[str, Any]) -> float:
    """How many characters of text at most come out of one."""
    if step["type"] != "Replace":
        return 1.0
    pattern, content = step["pattern"], step.get("content")
    if not isinstance(content, str):
        raise TokenizerError(f"Replace puts {content!r:.60} in place of {pattern!r:.60}, not a text")
    return len(content) / len(pattern["String"]) if "String" in pattern else float(len(content))
