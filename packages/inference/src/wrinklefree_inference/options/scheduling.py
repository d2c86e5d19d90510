"""What one native engine takes on, and the cache that it has for that."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from wf_formats.errors import RequestError
from wf_formats.kernel_sizes import PAGE_TOKENS
from wrinklefree_inference.native.pages import pages_for
from wrinklefree_inference.options.engines import CacheGb
from wrinklefree_inference.options.flag import Flag


class CacheType(StrEnum):
    """Numbers of the key-value cache."""

    F16 = "f16"
    INT8 = "int8"


MaxRunning = Annotated[int, Flag("--max-running", "Requests computed together.", minimum=1)]


@dataclass(frozen=True)
class CacheOptions:
    """The key-value cache of the native engine; `num_pages` decides how large it is."""

    tokens: Annotated[
        int | None,
        Flag("--kv-cache-tokens", "Cache for all requests in tokens; 4 contexts if not given.", minimum=32),
    ] = None
    gb: CacheGb = None
    type: Annotated[CacheType, Flag("--kv-cache-type", "f16, or int8 at half the memory.")] = CacheType.F16
    contexts: int = 4

    def __post_init__(self) -> None:
        if self.tokens is not None and self.gb is not None:
            raise RequestError(
                f"give --kv-cache-tokens ({self.tokens}) or --kv-cache-gb ({self.gb}), not both"
            )

    def num_pages(self, context_tokens: int, token_bytes: int) -> int:
        """Pages of the cache.

        Args:
            context_tokens: Longest prompt and answer; `contexts` of them fit if no size was given.
            token_bytes: Of one token's keys and values in all layers.

        Raises:
            RequestError: The cache holds no page.
        """
        tokens = max(self.contexts * context_tokens, PAGE_TOKENS) if self.tokens is None else self.tokens
        if self.gb is not None:
            tokens = int(self.gb * 1e9 / token_bytes)
        if tokens < PAGE_TOKENS:
            raise RequestError(f"the key-value cache holds {tokens} tokens, it needs at least {PAGE_TOKENS}")
        return pages_for(tokens)


@dataclass(frozen=True)
class QueueOptions:
    """What one native engine takes on.

    Attributes:
        max_running: Sequences computed together.
        max_waiting: Requests beyond those that are refused with `EngineBusy`.
        max_batch_tokens: Most tokens of one forward pass.
        prompt_tokens_beside_streams: Most prompt tokens of a forward pass in which streams wait for
            their next token: it bounds the pause between two tokens of a stream.
        max_unread: Tokens of an answer that wait for its reader, beside those of two steps; beyond it the
            answer rests.
        unread_timeout_s: An answer that rests so long is ended.
    """

    max_running: MaxRunning = 32
    max_waiting: Annotated[
        int, Flag("--max-waiting", "Longest queue; beyond it 429 with Retry-After.", minimum=0)
    ] = 128
    max_batch_tokens: Annotated[
        int, Flag("--max-batch-tokens", "Most tokens of one forward pass.", minimum=1)
    ] = 256
    prompt_tokens_beside_streams: int = 64
    max_unread: int = 128
    unread_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("max_running", "prompt_tokens_beside_streams", "max_unread"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_waiting < 0:
            raise RequestError(f"max_waiting must be 0 or more, got {self.max_waiting}")
        if self.max_batch_tokens <= self.max_running:
            raise RequestError(
                f"max_batch_tokens ({self.max_batch_tokens}) must exceed max_running ({self.max_running}), "
                "or prompts would not move while all streams run"
            )
