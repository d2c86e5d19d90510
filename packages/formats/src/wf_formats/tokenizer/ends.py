"""The tokens that end an answer: what a folder states, and what a GGUF file can hold of it.

A chat model often has several (end of text, end of turn, end of a message that calls a tool), listed in
generation_config.json. GGUF has a key for each of three; llama.cpp and our engine stop at all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from wf_formats.file_names import CONFIG_FILE, GENERATION_CONFIG_FILE
from wf_formats.tokenizer.files import optional_json

logger = logging.getLogger(__name__)

END_ROLES = ("eos", "eot", "eom")
"""`tokenizer.ggml.<role>_token_id`."""


def stated_eos_ids(folder: Path) -> list[int]:
    """eos_token_id of generation_config.json, else of config.json, in its order; one or a list there."""
    for name in (GENERATION_CONFIG_FILE, CONFIG_FILE):
        stated = optional_json(folder / name).get("eos_token_id")
        listed = stated if isinstance(stated, list) else [stated]
        if found := [value for value in listed if type(value) is int]:
            return list(dict.fromkeys(found))
    return []


def end_roles(folder: Path, special_ids: Mapping[str, int], num_tokens: int) -> dict[str, int]:
    """Ids for END_ROLES: the tokenizer's eos first, then what the model's files state.

    What has no place is logged by id.
    """
    stated = [index for index in stated_eos_ids(folder) if 0 <= index < num_tokens]
    first = [special_ids["eos"]] if "eos" in special_ids else []
    ends = list(dict.fromkeys([*first, *stated]))
    if lost := ends[len(END_ROLES) :]:
        logger.warning("GGUF has no place for more than %d end tokens; left out: %s", len(END_ROLES), lost)
    return dict(zip(END_ROLES, ends, strict=False))
