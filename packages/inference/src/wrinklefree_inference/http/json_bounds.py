"""How many values a body may have, found in its bytes before any of them becomes an object.

4 MB can be 130,000 messages or 2,000,000 numbers, and to make, check and forget so many objects takes seconds
in which the interpreter does nothing else. What counts them here are searches in C, 15 ms for 4 MB:

1. Take out the escapes `\\\\` and `\\"`; in what is left every `"` begins or ends a text.
2. Fewer quotes, commas and brackets than the bounds: done. Commas and brackets in texts are counted too.
3. Else walk along the quotes, at most to the first bound, and count what is outside of texts.

A body that is no JSON may be counted wrongly, but only after the place where its reader stops.
"""

from __future__ import annotations

from dataclasses import dataclass

from wrinklefree_inference.http.errors import ApiError, invalid

_MOST_NUMBERS = 1 << 19
_DEEPEST = 1000  # about where Python's reader ends


@dataclass(frozen=True)
class JsonBounds:
    """Most values of one body."""

    containers: int = 1 << 14
    """Lists and objects: 2,048 messages with two parts each are 8,194."""
    texts: int = 1 << 16
    """Names too."""
    fields: int = 256
    """Of the body itself; counted if one of the other bounds is passed."""
    items: int = 1 << 16
    """Values separated by commas: token ids above all."""

    @classmethod
    def of(cls, context_tokens: int, max_choices: int) -> JsonBounds:
        """What fits all prompts that may come at once, as token ids; 2^19 of them take 20 ms."""
        return cls(items=min(max(cls.items, context_tokens * max_choices), _MOST_NUMBERS))

    def check(self, body: bytes) -> None:
        """Raise ApiError 400, which names the field where a bound is passed."""
        plain = body.replace(rb"\\", b"").replace(rb"\"", b"")
        is_small = (
            plain.count(b'"') <= 2 * self.texts
            and plain.count(b",") < self.items
            and plain.count(b"[") + plain.count(b"{") <= self.containers
        )
        if not is_small:
            self._walk(plain.split(b'"', 2 * self.texts + 1))

    def _walk(self, parts: list[bytes]) -> None:
        """Parts between quotes: what is outside of texts, a text, outside, ..."""
        num_containers = num_texts = num_commas = num_fields = depth = 0
        field = text = b""
        for number, part in enumerate(parts):
            if number % 2:
                num_texts, text = num_texts + 1, part
            else:
                if depth == 1 and part.lstrip().startswith(b":"):
                    num_fields, field = num_fields + 1, text
                opened = part.count(b"[") + part.count(b"{")
                num_containers, num_commas = num_containers + opened, num_commas + part.count(b",")
                depth += opened - part.count(b"]") - part.count(b"}")
            if depth > _DEEPEST:
                raise invalid("the body is not valid JSON", code="invalid_json")
            if num_fields > self.fields:
                raise _too_many("fields", self.fields)
            if num_texts > self.texts:
                raise _too_many("texts", self.texts, field)
            if num_containers > self.containers:
                raise _too_many("lists and objects", self.containers, field)
            if num_commas >= self.items:
                raise _too_many("values", self.items, field)


def _too_many(what: str, bound: int, field: bytes = b"") -> ApiError:
    param = field[:100].decode("utf-8", "replace") or None
    reason = f"the body has more than {bound} {what}, the most that are read: send less at a time"
    return invalid(f"{param}: {reason}" if param else reason, param, "too_many_values")
