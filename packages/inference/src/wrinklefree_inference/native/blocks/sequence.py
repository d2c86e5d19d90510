"""A request whose answer is drawn block by block."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wf_formats.block_decoding import BlockDecoding
from wf_formats.diffusion import BlockDiffusion
from wrinklefree_inference.native.request import GenerationRequest, TokenLogprob
from wrinklefree_inference.native.sequence import Sequence, Sink
from wrinklefree_inference.native.stops import TokenDecoder

Ints = NDArray[np.int32]


class BlockSequence(Sequence):
    """Its first `num_tokens` are known and given out; the block at hand begins with the last of these, or is
    the next one. Pages hold finished blocks, and behind them what the latest pass left of the block at hand.

    Attributes:
        num_finished: Tokens of finished blocks that were ever computed; those are computed again after a
            preemption.
        drawn: Tokens of the block at hand that stand behind a masked one, by position in the text, with what
            is told of them. They stay while a preempted sequence has no pages.
    """

    __slots__ = ("_decoding", "_diffusion", "drawn", "num_finished")

    def __init__(
        self,
        request: GenerationRequest,
        decoder: TokenDecoder,
        sink: Sink,
        is_unread: Callable[[], bool],
        diffusion: BlockDiffusion,
        decoding: BlockDecoding,
    ) -> None:
        super().__init__(request, decoder, sink, is_unread)
        self._diffusion, self._decoding = diffusion, decoding
        self.drawn: dict[int, tuple[int, TokenLogprob | None]] = {}
        self.num_finished = 0

    @property
    def start(self) -> int:
        """First token of the block at hand: those before it are of finished blocks."""
        return self.num_tokens // self._diffusion.block_size * self._diffusion.block_size

    @property
    def num_pending(self) -> int:
        """Tokens of finished blocks that are not computed."""
        return self.start - self.num_computed

    @property
    def is_stream(self) -> bool:
        """Whether one block is all that the next pass can compute."""
        return self.num_pending <= self._diffusion.block_size

    @property
    def num_places(self) -> int:
        """To the end of the block at hand."""
        return self.start + self._diffusion.block_size

    @property
    def num_reusable(self) -> int:
        """All finished blocks but one whose logits give the first token of the next."""
        size = self._diffusion.block_size
        return (self.num_tokens - self._diffusion.token_shift) // size * size

    def input_ids(self, count: int) -> Ints:
        """What the next pass computes: so many tokens of finished blocks, or the block at hand."""
        if self.num_pending:
            return self.tokens[self.num_computed : self.num_computed + count]
        ids = np.full(count, self._diffusion.mask_token_id, np.int32)
        ids[: self.num_tokens - self.start] = self.tokens[self.start : self.num_tokens]
        for position, (token_id, _) in self.drawn.items():
            ids[position - self.start] = token_id
        return ids

    def asked(self, count: int) -> list[int]:
        """Positions of the tokens that this pass gives distributions of: the first of a block after finished
        ones (with the shift), or those that are masked in the leftmost sub-block that has any."""
        if self.num_pending:
            is_first = self._diffusion.token_shift and count == self.num_pending
            return [self.num_tokens] if is_first and self.num_tokens == self.start else []
        size, first = self._decoding.sub_block, self.num_tokens - self.start
        end = min(self.start + (first // size + 1) * size, self.num_places)
        return [place for place in range(self.num_tokens, end) if place not in self.drawn]

    def rows_of(self, positions: list[int]) -> Ints:
        """Rows of `input_ids` whose logits predict tokens at these positions."""
        return np.array(positions, np.int32) - np.int32(self.num_computed + self._diffusion.token_shift)

    def is_decoding(self, count: int) -> bool:
        """Whether this pass brings the answer on, and does not compute the prompt alone, or anew what was
        given up."""
        known = max(self.num_prompt, self.num_finished)
        return not self.num_pending or self.num_computed + count > known or bool(self.asked(count))

    def book_finished(self, count: int) -> int:
        """So many tokens of finished blocks have been computed.

        Returns:
            How many of them are the prompt's, without the rest of it in a block that the answer fills.
        """
        self.num_finished = max(self.num_finished, self.num_computed + count)
        whole = self.num_prompt // self._diffusion.block_size * self._diffusion.block_size
        return max(0, min(count, whole - self.num_computed))

    def known_before(self, position: int) -> Ints:
        """Tokens before a position, without those that are masked."""
        drawn = [self.drawn[place][0] for place in sorted(self.drawn) if place < position]
        return np.concatenate([self.tokens[: self.num_tokens], np.array(drawn, np.int32)])

    @property
    def threshold(self) -> float:
        """Of probability, above which tokens are drawn together."""
        return self._decoding.threshold


class Place:
    """A masked token of a block, as what a token is drawn for (`draw_params.Drawn`)."""

    __slots__ = ("position", "sequence")

    def __init__(self, sequence: BlockSequence, position: int) -> None:
        self.sequence, self.position = sequence, position

    @property
    def request(self) -> GenerationRequest:
        """Of its sequence."""
        return self.sequence.request

    @property
    def seed(self) -> int:
        """Of its sequence."""
        return self.sequence.seed

    @property
    def bias(self) -> tuple[Ints, NDArray[np.float32]] | None:
        """Of its sequence."""
        return self.sequence.bias

    @property
    def num_generated(self) -> int:
        """Its index in the answer, whatever was drawn before it."""
        return self.position - self.sequence.num_prompt

    @property
    def history(self) -> Ints:
        """What is known before it."""
        return self.sequence.known_before(self.position)

    @property
    def answer(self) -> Ints:
        """Of this, the answer."""
        return self.history[self.sequence.num_prompt :]
