"""Whether a tokenizer belongs to a model's vocabulary: every token that anything makes has a row there."""

from __future__ import annotations

from collections.abc import Collection

import tokenizers

from wf_formats.tokenizer.source import TokenizerSource


def num_model_tokens(source: TokenizerSource) -> int:
    """Highest id and one of the tokens that plain text may become; added ones must be written out."""
    if source.known is not None:
        return source.known.num_model_tokens
    return max(source.backend.get_vocab(with_added_tokens=False).values(), default=-1) + 1


def source_beyond(source: TokenizerSource, num_rows: int) -> tuple[str, int] | None:
    """`token_beyond` of a tokenizer with its own template."""
    if source.known is not None and source.known.fits_rows == num_rows:
        return None
    template = source.chat_template or ""
    written = [token for name, token in source.special_tokens.items() if name in template]
    return token_beyond(source.backend, num_rows, template, written)


def token_beyond(
    backend: tokenizers.Tokenizer, num_rows: int, template: str, special: Collection[str]
) -> tuple[str, int] | None:
    """The first token, and its id, that the model has no row for and that something makes.

    Text makes the model's tokens and the added ones that are not special; the post-processor, the chat
    template and the special tokens with a role put in others. A special token that nothing puts in may lie
    beyond (Gemma 3's placeholder for images).

    Args:
        num_rows: of the embedding matrix.
        template: chat templates, as text.
        special: tokens with a role (bos, eos, ...).
    """
    made = {token: index for token, index in backend.get_vocab().items() if index >= num_rows}
    for token in backend.get_added_tokens_decoder().values():
        if token.special and token.content not in template and token.content not in special:
            made.pop(token.content, None)
    put_in = (*backend.encode("").ids, *backend.encode("", "").ids)
    made |= {str(backend.id_to_token(index)): index for index in put_in if index >= num_rows}
    return min(made.items(), key=lambda entry: entry[1], default=None)
