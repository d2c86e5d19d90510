"""generation_config.json: how a model is meant to be sampled, and where an answer ends.

The file is carried unchanged from the source to every export, and runtimes take it at its word; so its values
are looked at when a folder is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wf_formats.bounds import INT32_MAX, Bounds, is_number
from wf_formats.errors import LoadError
from wf_formats.file_names import GENERATION_CONFIG_FILE
from wf_formats.json_file import read_json
from wf_formats.token_ids import token_id_faults

SAMPLING_BOUNDS = {
    "temperature": Bounds(0, 100, note="0 is greedy"),
    "top_p": Bounds(0, 1, is_open=True),
    "top_k": Bounds(0, INT32_MAX, note="0 is off"),
    "min_p": Bounds(0, 1, note="0 is off"),
    "repetition_penalty": Bounds(0.01, 10, note="1 is off"),
}
"""What may be asked of drawing a token, of the engines as of a file."""
_COUNTS = Bounds(0, INT32_MAX)
_WHOLE = {
    "top_k": SAMPLING_BOUNDS["top_k"],
    **dict.fromkeys(("max_length", "max_new_tokens", "min_length", "min_new_tokens"), _COUNTS),
    **dict.fromkeys(("num_beams", "num_return_sequences"), Bounds(1, INT32_MAX)),
}
_NUMBERS = {**SAMPLING_BOUNDS, "typical_p": SAMPLING_BOUNDS["top_p"]}
_FLAGS = ("do_sample", "use_cache")


def read_generation(folder: Path, vocab_size: int | None) -> dict[str, Any] | None:
    """The checked contents of a folder's generation_config.json; None without one.

    Args:
        vocab_size: rows of the embedding matrix; None where they are not known.

    Raises:
        LoadError: the file is damaged, or a value is none of its kind or out of its range; names file, key
            and value.
    """
    path = folder / GENERATION_CONFIG_FILE
    if not path.is_file():
        return None
    settings = read_json(path)
    for key, value, allowed in _faults(settings, vocab_size):
        raise LoadError(f"{path}: {key} is {value!r:.60}, not {allowed}; correct it or leave it out")
    return settings


def _faults(settings: Mapping[str, Any], vocab_size: int | None) -> Iterator[tuple[str, Any, str]]:
    """Key, value and what is allowed; null means the same as leaving a key out."""
    given = {key: value for key, value in settings.items() if value is not None}
    for key, bounds in {**_NUMBERS, **_WHOLE}.items():
        is_whole = key in _WHOLE
        if key in given and not is_number(given[key], bounds, is_whole):
            yield key, given[key], f"a {'whole ' if is_whole else ''}number {bounds}"
    for key in _FLAGS:
        if not isinstance(given.get(key, False), bool):
            yield key, given[key], "true or false"
    ids = [key for key in given if key.endswith("_token_id")]
    yield from token_id_faults(given, ids, vocab_size)
