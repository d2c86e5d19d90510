"""generation_config.json: how a model is meant to be sampled, and where an answer ends.

The file is carried from the source to every export, and runtimes take it at its word; so its values are
looked at when a folder is opened. What only steers sampling stops no conversion where its meaning is plain:

    written so                      read as                 because
    50.0, where a whole number is   50
    top_k -1                        0                       vLLM's "off"
    top_p 0                         top_k 1, no top_p       the smallest nucleus is one token
    [2], where one id is            2
    a pad_token_id that is no row   left out, with a warning    nothing is padded while an answer is drawn

Values that no sampler takes, and an end of answers that the vocabulary does not have, are refused.
"""

from __future__ import annotations

import logging
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
_NUMBERS = {**SAMPLING_BOUNDS, "top_p": Bounds(0, 1), "typical_p": SAMPLING_BOUNDS["top_p"]}
_FLAGS = ("do_sample", "use_cache")
_ID = "_token_id"
_PAD, _END = "pad_token_id", "eos_token_id"
_log = logging.getLogger(__name__)


def read_generation(folder: Path, vocab_size: int | None) -> dict[str, Any] | None:
    """The checked contents of a folder's generation_config.json, as they are meant; None without one.

    Args:
        vocab_size: rows of the embedding matrix; None where they are not known.

    Raises:
        LoadError: the file is damaged, or a value is none of its kind or out of its range; names file, key
            and value.
    """
    path = folder / GENERATION_CONFIG_FILE
    if not path.is_file():
        return None
    settings = {key: _plain(key, value) for key, value in read_json(path).items()}
    _pass_over_padding(settings, path, vocab_size)
    for key, value, allowed in _faults(settings, vocab_size):
        raise LoadError(f"{path}: {key} is {value!r:.60}, not {allowed}; correct it or leave it out")
    if settings.get("top_p") == 0:
        settings = {key: value for key, value in settings.items() if key != "top_p"} | {"top_k": 1}
    return settings


def _plain(key: str, value: Any) -> Any:
    """The value in the form that runtimes agree on."""
    if key == _END and isinstance(value, list):
        return [_whole(token) for token in value]
    if not (key in _WHOLE or key.endswith(_ID)):
        return value
    if key.endswith(_ID) and isinstance(value, list) and len(value) == 1:
        value = value[0]
    value = _whole(value)
    return 0 if key == "top_k" and value == -1 else value


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _pass_over_padding(settings: dict[str, Any], path: Path, vocab_size: int | None) -> None:
    """Takes out the id of a token that the model has no row for."""
    pad = settings.get(_PAD)
    if vocab_size is not None and type(pad) is int and not -1 <= pad < vocab_size:
        _log.warning("%s: %s %d is passed over: the vocabulary has %d tokens", path, _PAD, pad, vocab_size)
        del settings[_PAD]


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
    ids = [key for key in given if key.endswith(_ID)]
    yield from token_id_faults(given, ids, vocab_size)
