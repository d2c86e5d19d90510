"""The bytes that each token stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wf_formats.tokenizer.sentencepiece import BYTE_TOKENS, SPACE
from wf_formats.tokenizer.source import Pieces, TokenizerSource


def token_bytes(source: TokenizerSource) -> Sequence[bytes]:
    """By id; an added token is its text, an id without token nothing.

    Put together they are the text's UTF-8; with SentencePiece, a space may have been put before it
    (`puts_space_first`).
    """
    if source.known is not None:
        return source.known.table
    added = {index: token.content for index, token in source.backend.get_added_tokens_decoder().items()}
    vocab = source.backend.get_vocab(with_added_tokens=True)
    spell = _byte_level if source.pieces is Pieces.BYTE_LEVEL else _sentencepiece
    table = [b""] * (max(vocab.values(), default=-1) + 1)
    for token, index in vocab.items():
        table[index] = token.encode() if index in added else spell(token)
    return table


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for U+0100 upwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_ALPHABET: Mapping[str, int] = _byte_of_character()
_BYTES: Mapping[str, bytes] = {token: bytes([byte]) for byte, token in enumerate(BYTE_TOKENS)}


def _byte_level(token: str) -> bytes:
    if not all(character in _ALPHABET for character in token):
        return token.encode()
    return bytes(map(_ALPHABET.__getitem__, token))


def _sentencepiece(token: str) -> bytes:
    return _BYTES.get(token) or token.replace(SPACE, " ").encode()
