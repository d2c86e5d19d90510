"""Text to tokens and back for the native engine, without torch or transformers.

    load_tokenizer(path)   the tokenizer in a GGUF file or a Hugging Face folder
    Tokenizer              ids and text, exact bytes of each token, chat template, tokens that end an answer
    StreamDecoder          text of tokens that come one at a time, incomplete characters held back

Ids equal transformers' for the same files. Text is the UTF-8 of the tokens' bytes, malformed parts
replaced; transformers' `clean_up_tokenization_spaces` is not imitated, it would falsify what was written.

SentencePiece's tokenizers put a space before text, which belongs to no text: decoding a whole takes it away.
An answer is no whole but goes on after its prompt, so its first space is text and stays: prompt and answer
put together are what the model wrote.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wf_formats.chat_template import ChatTemplate
from wf_formats.tokenizer import (
    TokenizerError,
    TokenizerSource,
    read_tokenizer,
    rust_panics,
    token_bytes,
)
from wf_formats.tokenizer.vocabulary import num_model_tokens, source_beyond
from wrinklefree_inference.native.grammar import Vocabulary
from wrinklefree_inference.native.request import RequestTooLong

__all__ = ["StreamDecoder", "Tokenizer", "TokenizerError", "load_tokenizer"]

END_OF_TURN = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|end|>",
    "<end_of_turn>",
)
"""Special tokens that end an answer in the models that have them, whether or not the files say so."""

_BEFORE = "\x02"
"""A character that no token has in common with others."""


class Tokenizer:
    """A byte-level or SentencePiece tokenizer."""

    def __init__(self, source: TokenizerSource):
        self._backend = source.backend
        added = source.backend.get_added_tokens_decoder()
        self.special_ids = frozenset(index for index, token in added.items() if token.special)
        """Tokens that are no text: left out of what is shown."""
        ends = (source.backend.token_to_id(name) for name in END_OF_TURN)
        self.eos_ids = source.eos_ids | {index for index in ends if index in self.special_ids}
        """Tokens that end an answer."""
        self.special_tokens: Mapping[str, str] = dict(source.special_tokens)
        """`bos_token`, `eos_token`, ... as chat templates know them."""
        self._bytes = token_bytes(source)
        self._puts_space_first = source.puts_space_first
        self.num_model_tokens = num_model_tokens(source)
        self._source, template = source, source.chat_template
        self._chat_template = (
            None
            if template is None
            else ChatTemplate(template, source.special_tokens, is_tried=source.known is not None)
        )

    @property
    def num_tokens(self) -> int:
        """Highest id and one."""
        return len(self._bytes)

    def token_beyond(self, num_rows: int) -> tuple[str, int] | None:
        """A token, and its id, that a prompt can have and a model of so many tokens has not."""
        return source_beyond(self._source, num_rows)

    def encode(self, text: str, add_special: bool = True, max_tokens: int | None = None) -> list[int]:
        """Ids of a text; names of special tokens in it become those tokens, as in transformers.

        Args:
            add_special: put the tokens around it that the model expects (bos, eos).
            max_tokens: of a text that is much longer not everything is cut up.

        Raises:
            RequestTooLong: the text has far more than `max_tokens`; a little more is for the caller to see.
        """
        if max_tokens is not None:
            check_length(self._cut, text, max_tokens)
        return self._cut(text, add_special)

    def _cut(self, text: str, add_special: bool = False) -> list[int]:
        # `encode` keeps the interpreter's lock: 7 s for a megabyte of digits, in which nobody else is served.
        with rust_panics("the tokenizer's splitting rule, on this text,"):
            return list(self._backend.encode_batch_fast([text], add_special_tokens=add_special)[0].ids)

    def decode(self, ids: Iterable[int], skip_special: bool = True, continues: bool = False) -> str:
        """Text of ids, malformed UTF-8 replaced by U+FFFD.

        Args:
            skip_special: leave special tokens out.
            continues: they go on after others, so a space that they begin with is text.
        """
        skipped = self.special_ids if skip_special else frozenset[int]()
        data = b"".join(self.token_bytes(index) for index in ids if index not in skipped)
        if self._puts_space_first and not continues:
            data = data.removeprefix(b" ")
        return data.decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Exact bytes of a token; none for an id without token (spare rows of the embedding matrix)."""
        return self._bytes[token_id] if 0 <= token_id < len(self._bytes) else b""

    def difference_to(self, other: Tokenizer) -> tuple[int, bytes, bytes] | None:
        """The first id that means something else there, with both meanings; None if all mean the same."""
        for token_id in range(max(self.num_tokens, other.num_tokens)):
            own, its = self.token_bytes(token_id), other.token_bytes(token_id)
            if own != its:
                return token_id, own, its
        return None

    def special_id(self, text: str) -> int | None:
        """Id of the special token of that text, if there is one."""
        index = self._backend.token_to_id(text)
        return index if index in self.special_ids else None

    def vocabulary(self, num_rows: int) -> Vocabulary:
        """What a grammar has to know of the tokens of a model with so many rows."""
        return Vocabulary(
            tokens=[self.token_bytes(index) for index in range(num_rows)],
            special_ids=frozenset(index for index in self.special_ids if index < num_rows),
            eos_ids=frozenset(index for index in self.eos_ids if index < num_rows),
            encode=self._encode_inside,
        )

    def _encode_inside(self, text: str) -> list[int]:
        """Ids of a text in the middle of another, before which no space is put."""
        if not self._puts_space_first:
            return self._cut(text)
        ids, num_bytes = self._cut(_BEFORE + text), 0
        while num_bytes < len(_BEFORE) + 1:
            num_bytes += len(self.token_bytes(ids.pop(0)))
        return ids

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
        tools: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of a conversation in the model's template, which may know `variables` and `tools` besides.

        Raises:
            ValueError: the model has no template, or it refuses the messages.
        """
        if self._chat_template is None:
            raise TokenizerError("the model has no chat template: send plain prompts instead")
        return self._chat_template.render(messages, add_generation_prompt, variables, tools)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        max_tokens: int | None = None,
        variables: Mapping[str, Any] | None = None,
        tools: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Ids of a conversation; the template itself writes bos where the model wants it.

        Raises:
            ValueError: as `render_chat`.
            RequestTooLong: as `encode`.
        """
        text = self.render_chat(messages, add_generation_prompt, variables, tools)
        return self.encode(text, False, max_tokens)


class StreamDecoder:
    """Text of tokens that come one at a time, after others.

    The concatenation of everything `push` and `flush` return is `tokenizer.decode` of all the ids, which
    continue a text.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True):
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special else frozenset[int]()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The characters that this token completes."""
        if token_id in self._skipped:
            return ""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """What is left of an incomplete character (U+FFFD); the decoder can be used anew after."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def check_length(cut: Callable[[str], list[int]], text: str, max_tokens: int) -> None:
    """Raise RequestTooLong for a text whose beginning alone has more than twice `max_tokens` tokens.

    Beginnings of doubling length are cut up, so that a text of any length is refused for the price of a short
    one. Twice, because the last word of a beginning may be cut up otherwise than in the whole.
    """
    num_chars = 8 * max_tokens
    while num_chars < len(text):
        num_tokens = len(cut(text[:num_chars]))
        if num_tokens > 2 * max_tokens:
            raise RequestTooLong(
                f"the first {num_chars} of {len(text)} characters are {num_tokens} tokens already and exceed "
                f"the context of {max_tokens}: shorten the text"
            )
        num_chars *= 2


def load_tokenizer(path: Path | str) -> Tokenizer:
    """The tokenizer in a GGUF file or a Hugging Face folder.

    Raises:
        TokenizerError: it is missing, damaged or of a kind that is not supported.
        GgufError: the GGUF file is damaged (a ValueError, as TokenizerError is).
        OSError: the file is missing or cannot be read.
    """
    return Tokenizer(read_tokenizer(Path(path)))
