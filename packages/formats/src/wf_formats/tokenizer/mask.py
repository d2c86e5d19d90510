"""The mask token of a block-diffusion model, which no text becomes.

Its tokenizer files have it as a special token, so that whoever reads them knows what the row is. But whatever
spells a special token becomes it, and a mask token in a text asks the model to fill it in. So texts are
encoded by a tokenizer that lacks it: "<|mask|>" in one is eight characters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import tokenizers

from wf_formats.diffusion import MASK_TOKEN
from wf_formats.tokenizer.source import TokenizerError


def spec_without(spec: Mapping[str, Any], token_id: int) -> dict[str, Any]:
    """A tokenizer.json without the added token of this id.

    Raises:
        TokenizerError: it is another token, or others were added behind it, which the tokenizers library
            would number anew.
    """
    added = spec.get("added_tokens") or []
    names = {entry["id"]: entry["content"] for entry in added}
    own = [index for index, content in names.items() if content == MASK_TOKEN]
    if names.get(token_id, MASK_TOKEN) != MASK_TOKEN or (own and own != [token_id]):
        raise TokenizerError(
            f"the model's mask token is {token_id}, the tokenizer's {MASK_TOKEN} "
            f"{own[0] if own else 'is missing'}: take both from one checkpoint"
        )
    kept = [entry for entry in added if entry["id"] != token_id]
    if len(kept) < len(added) and (behind := [entry for entry in kept if entry["id"] > token_id]):
        raise TokenizerError(
            f"tokenizer.json: {behind[0]['content']!r:.60} was added behind the mask token (id {token_id}), "
            "which has to be the last: add tokens to the autoregressive model, then convert it"
        )
    return {**spec, "added_tokens": kept}


def backend_without(backend: tokenizers.Tokenizer, token_id: int) -> tokenizers.Tokenizer:
    """The same for a tokenizer in memory; the one given stays as it is."""
    return tokenizers.Tokenizer.from_str(json.dumps(spec_without(json.loads(backend.to_str()), token_id)))
