"""The mask token of a block-diffusion model, which no text becomes.

Its tokenizer files have it as a special token, so that whoever reads them knows what the row is. But whatever
spells a special token becomes it, and a mask token in a text asks the model to fill it in. So texts are
encoded by a tokenizer that lacks it: "<|mask|>" in one is nine characters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import tokenizers

from wf_formats.tokenizer.source import TokenizerError


def spec_without(spec: Mapping[str, Any], token_id: int) -> dict[str, Any]:
    """A tokenizer.json without the added token of this id.

    Raises:
        TokenizerError: others were added behind it, which the tokenizers library would number anew.
    """
    added = spec.get("added_tokens") or []
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
