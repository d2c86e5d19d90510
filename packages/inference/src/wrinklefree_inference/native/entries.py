"""What is told of a token: text, bytes, log-probability, and the most probable tokens in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wrinklefree_inference.native.request import TokenLogprob


class Entries:
    """Args: token_bytes gives the UTF-8 bytes of one token."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self.token_bytes = token_bytes

    def of(
        self,
        token_id: int,
        logprob: float | None,
        top_ids: Sequence[int] = (),
        top_logprobs: Sequence[float] = (),
    ) -> TokenLogprob:
        top = zip(top_ids, top_logprobs, strict=True)
        alternatives = tuple((other, *self._text_and_bytes(other), value) for other, value in top)
        return TokenLogprob(token_id, *self._text_and_bytes(token_id), logprob, alternatives)

    def _text_and_bytes(self, token_id: int) -> tuple[str, bytes]:
        data = self.token_bytes(token_id)
        return data.decode("utf-8", errors="replace"), data
