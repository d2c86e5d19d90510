"""Token ids that config.json and generation_config.json state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from wf_formats.bounds import INT32_MAX, Bounds, is_number


def token_id_faults(
    settings: Mapping[str, Any], keys: Iterable[str], vocab_size: int | None
) -> Iterator[tuple[str, Any, str]]:
    """Token ids that the vocabulary does not have: key, value, what is allowed.

    Old files say -1 where there is no such token; only what ends an answer may be a list.

    Args:
        vocab_size: None where it is not known.
    """
    allowed = Bounds(-1, INT32_MAX if vocab_size is None else vocab_size - 1)
    for key in keys:
        stated = settings.get(key)
        ids = stated if isinstance(stated, list) and key == "eos_token_id" else [stated]
        if any(token is not None and not is_number(token, allowed, is_whole=True) for token in ids):
            of_what = "" if vocab_size is None else f" of the {vocab_size} tokens of the vocabulary"
            yield key, stated, f"an id{of_what}"
