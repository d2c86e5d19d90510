"""A small real `AsyncEngine`: a token is a character, the answer a fixed text from where the seed says.

As a program it serves itself: `python toy_engine.py DELAY_S SHUTDOWN_TIMEOUT_S`.
"""

from __future__ import annotations

import asyncio
import math
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from wrinklefree_inference.engines.base import ModelFacts
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.grammar import Grammar, Grammars, Vocabulary
from wrinklefree_inference.native.inbox import Inbox, Slot
from wrinklefree_inference.native.request import (
    BadField,
    Delta,
    EngineBusy,
    EngineStats,
    GenerationRequest,
    RequestTooLong,
    TokenLogprob,
)
from wrinklefree_inference.tool_calls.forms import HERMES, ToolForm

TEXT = "The quick brown fox jumps over the lazy dog — señor 😀. "
END = "\x03"  # the model's end-of-text token
BYTES = Vocabulary(
    tokens=[b"", *(bytes([byte]) for byte in range(256))],
    special_ids=frozenset({0}),
    eos_ids=frozenset({0}),
    encode=lambda text: [byte + 1 for byte in text.encode()],
)


def logprob_of(character: str) -> float:
    return -(ord(character) % 7) / 10 - 0.01


def embedding_of(ids: tuple[int, ...]) -> list[float]:
    """Four numbers of length 1 that say what the prompt was."""
    vector = [float(len(ids)), float(ids[0]), float(sum(ids)), -1.0]
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


class ToyEngine:
    """A prompt with `crash` breaks off, `defect` shows a bug, `end` makes the answer stop by itself.

    A chat with `costly 0.5` takes half a second to render. Grammars are compiled, but the answers are not
    held to them: `script` is what every answer says, if it is set.
    """

    model_id = "org/toy"
    created = 1_700_000_000
    embedding_size = 4
    facts = ModelFacts("toy", 123_456, 2_400_000_000, 512, "ternary")

    def __init__(
        self, delay_s: float = 0.0, max_running: int = 8, max_waiting: int = 4, context_tokens: int = 512
    ) -> None:
        self.context_tokens = context_tokens
        self._delay_s, self._max_waiting = delay_s, max_waiting
        self._places = asyncio.Semaphore(max_running)
        self._max_running = max_running
        self.open: set[ToyStream] = set()
        self.cancelled: list[str] = []
        self.seen: list[GenerationRequest] = []
        self.is_draining = False
        self.is_healthy = True
        self.script: str | None = None
        self.form = HERMES
        self.compiled: list[str] = []
        self.grammars = Grammars(BYTES)

    def tokenize(self, text: str) -> list[int]:
        if "untokenizable" in text:
            raise ValueError("the tokenizer refuses it")
        return [ord(character) for character in text]

    def tool_form(self) -> ToolForm:
        return self.form

    def compile(self, grammar: str, parts: Mapping[str, str]) -> Grammar:
        self.compiled.append(grammar)
        return self.grammars.compile(grammar, parts)

    def tokenize_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> list[int]:
        self.variables = variables
        if any(m["role"] == "system" for m in messages[1:]):
            raise ValueError("the chat template wants the system message first")
        for message in messages:
            if message["content"].startswith("costly "):
                time.sleep(float(message["content"].removeprefix("costly ")))
        offered = "".join(f"tool:{tool['function']['name']}\n" for tool in tools)
        return self.tokenize(offered + "".join(f"{m['role']}:{m['content']}\n" for m in messages))

    def detokenize(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))

    def submit_to(self, inbox: Inbox, number: int, request: GenerationRequest) -> Callable[[], None]:
        if self.is_draining:
            raise EngineError("it is shutting down")
        if max(request.prompt_ids) > sys.maxunicode:
            raise ValueError(f"prompt id {max(request.prompt_ids)} is not in the vocabulary")
        for token_id, _ in request.sampling.logit_bias:
            if token_id > sys.maxunicode:
                raise BadField("logit_bias", f"token id {token_id} is not in the vocabulary")
        if len(request.prompt_ids) + request.max_answer_tokens > self.context_tokens:
            raise RequestTooLong("prompt and answer exceed the context")
        if "defect" in self.detokenize(request.prompt_ids):
            raise KeyError("a defect that quotes the prompt: private words")
        if len(self.open) >= self._max_running + self._max_waiting:
            raise EngineBusy(1.5, self._max_waiting)
        self.seen.append(request)
        stream = ToyStream(self, request)
        self.open.add(stream)
        stream.task = asyncio.create_task(stream.pump(Slot(inbox, number)))
        return stream.cancel

    def stats(self) -> EngineStats:
        running = min(len(self.open), self._max_running)
        return EngineStats(
            running=running,
            waiting=len(self.open) - running,
            queue_limit=self._max_waiting,
            kv_pages_total=100,
            cancelled_total=len(self.cancelled),
            healthy=self.is_healthy,
        )

    async def drain(self, timeout_s: float) -> None:
        self.is_draining = True
        try:
            async with asyncio.timeout(timeout_s):
                while self.open:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            await self.close()

    async def close(self) -> None:
        for stream in list(self.open):
            stream.is_cut = True

    async def answer(self, stream: ToyStream) -> AsyncIterator[Delta]:
        request, sampling = stream.request, stream.request.sampling
        prompt = self.detokenize(request.prompt_ids)
        async with self._places:
            num_prompt, cached = len(request.prompt_ids), len(request.prompt_ids) // 32 * 32
            if request.embeds:
                await asyncio.sleep(self._delay_s)
                packed = struct.pack("<4f", *embedding_of(request.prompt_ids))
                yield Delta("", finish_reason="stop", prompt_tokens=num_prompt, embedding=packed)
                return
            text, held = "", []
            if not sampling.max_tokens:
                yield self._delta([], sampling.logprobs, "length", (cached, num_prompt, 0))
            for position in range(sampling.max_tokens):
                await asyncio.sleep(self._delay_s)
                if stream.is_cut or ("crash" in prompt and position == 3):
                    raise EngineError("the decoder failed" if not stream.is_cut else "closed")
                character = self._character((sampling.seed or 0) + position)
                if "end" in prompt and position == 5 and not sampling.ignore_eos:
                    character = END
                held.append(character)
                facts = (cached, num_prompt, position + 1)
                tail = "".join(held)
                stop = next((s for s in sampling.stop if s in text + tail and len(s) >= 1), None)
                if character == END or stop is not None:
                    kept = [] if stop is not None else held[:-1]
                    if stop is not None:
                        rest = (text + tail)[: (text + tail).index(stop)][len(text) :]
                        kept = list(rest)
                    yield self._delta(kept, sampling.logprobs, "stop", facts)
                    return
                is_last = position + 1 == sampling.max_tokens
                may_stop = any(tail.endswith(s[:n]) for s in sampling.stop for n in range(1, len(s)))
                if may_stop and not is_last:
                    continue
                text += tail
                yield self._delta(held, sampling.logprobs, "length" if is_last else None, facts)
                held = []

    def _character(self, index: int) -> str:
        if self.script is not None:
            return (self.script + END)[index]
        return TEXT[index % len(TEXT)]

    @staticmethod
    def _delta(
        characters: list[str], logprobs: int | None, reason: str | None, facts: tuple[int, ...]
    ) -> Delta:
        tokens = tuple(_logprob(character, logprobs) for character in characters if logprobs is not None)
        ids = tuple(map(ord, characters))
        return Delta("".join(characters), ids, tokens, reason, *facts)  # type: ignore[arg-type]


class ToyStream:
    """One answer; cancelling it counts unless it had ended."""

    task: asyncio.Task[None]

    def __init__(self, engine: ToyEngine, request: GenerationRequest) -> None:
        self.engine, self.request, self.is_cut = engine, request, False

    async def pump(self, slot: Slot) -> None:
        try:
            async for delta in self.engine.answer(self):
                if delta.finish_reason is not None:
                    self.engine.open.discard(self)
                slot.put(delta)
                slot.inbox.wake()
        except EngineError as error:
            self.engine.open.discard(self)
            slot.put(error)
            slot.inbox.wake()

    def cancel(self) -> None:
        if self in self.engine.open:
            self.engine.open.discard(self)
            self.engine.cancelled.append(self.request.id)
            self.task.cancel()


def _logprob(character: str, num_top: int) -> TokenLogprob:
    others = [character, *"abcdefghijklmnopqrstuvwxyz"][:num_top]
    top = tuple((ord(c), c, c.encode(), logprob_of(c)) for c in others)
    return TokenLogprob(ord(character), character, character.encode(), logprob_of(character), top)


async def _main(delay_s: float, shutdown_timeout_s: float) -> None:
    from wrinklefree_inference.http import logs
    from wrinklefree_inference.http.app import create_server
    from wrinklefree_inference.http.listening import bind, url_of
    from wrinklefree_inference.http.run import DrainingServer
    from wrinklefree_inference.options import ListenOptions

    logs.configure("json")
    engine = ToyEngine(delay_s)
    listener = bind(ListenOptions(port=0))
    server = create_server(engine)
    running = DrainingServer(
        server,
        engine.drain,
        shutdown_timeout_s,
        lambda: print(url_of(listener), flush=True),  # noqa: T201
    )
    await running.serve([listener])
    print(f"stopped after {time.process_time():.1f} s", flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(_main(float(sys.argv[1]), float(sys.argv[2])))
