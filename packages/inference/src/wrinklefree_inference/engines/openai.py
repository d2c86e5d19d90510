"""Any OpenAI-compatible server by URL: ours, llama.cpp's, SGLang, vLLM, a user's own bitnet.cpp."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, cast
from urllib.parse import urlsplit
from weakref import finalize

import openai
from openai.types import CompletionUsage

from wf_formats.errors import RequestError
from wrinklefree_inference.addresses import trusts_environment
from wrinklefree_inference.engines.base import AnswerStream, Message, ModelFacts, Sampling
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.options import ClientOptions


class OpenAIEngine:
    """Client of one model of one server.

    Args:
        url: Base URL with or without the trailing `/v1`.
        options: Key, id of the model and longest wait.

    Raises:
        RequestError: The URL is none, or no header can carry the key.
    """

    def __init__(self, url: str, options: ClientOptions | None = None) -> None:
        options = options or ClientOptions()
        self.url = _checked(url).rstrip("/").removesuffix("/v1")
        self._model = options.model
        self._client = openai.OpenAI(
            base_url=f"{self.url}/v1",
            api_key=_header(options.api_key or "none"),  # the client insists on one
            timeout=options.timeout_s,
            max_retries=0,
            http_client=openai.DefaultHttpxClient(trust_env=trusts_environment(self.url)),
        )
        finalize(self, self._client.close)  # of an engine that is dropped instead of closed

    @cached_property
    def facts(self) -> ModelFacts:
        """What `/v1/models` says; llama.cpp adds sizes, vLLM and SGLang the context."""
        with self._explained():
            listed = list(self._client.models.list())
        chosen = next((m for m in listed if self._model in (None, m.id)), None)
        if chosen is None:
            known = ", ".join(m.id for m in listed) or "none"
            raise EngineError(f"{self.url} has no model {self._model!r} (it lists: {known})")
        extra = chosen.model_extra or {}
        meta: dict[str, Any] = extra.get("meta") or {}
        return ModelFacts(
            name=chosen.id,
            size_bytes=meta.get("size"),
            num_parameters=meta.get("n_params"),
            context_tokens=meta.get("n_ctx") or extra.get("max_model_len"),
            weight_type=meta.get("ftype"),
        )

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> AnswerStream:
        """The assistant's next turn, streamed."""
        return AnswerStream(self._chat(messages, sampling))

    def complete(self, prompt: str, sampling: Sampling) -> AnswerStream:
        """The continuation of plain text, streamed."""
        return AnswerStream(self._complete(prompt, sampling))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _chat(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str | tuple[int, int]]:
        with self._explained():
            chunks = self._client.chat.completions.create(
                messages=cast("Any", list(messages)), **self._request(sampling)
            )
            with chunks:
                yield from self._pieces((c.usage, c.choices, "delta") for c in chunks)

    def _complete(self, prompt: str, sampling: Sampling) -> Iterator[str | tuple[int, int]]:
        with self._explained():
            chunks = self._client.completions.create(prompt=prompt, **self._request(sampling))
            with chunks:
                yield from self._pieces((c.usage, c.choices, "text") for c in chunks)

    def _request(self, sampling: Sampling) -> dict[str, Any]:
        return {
            "model": self._model or self.facts.name,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed if sampling.seed is not None else openai.omit,
            "stop": list(sampling.stop) or openai.omit,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    @staticmethod
    def _pieces(
        chunks: Iterable[tuple[CompletionUsage | None, list[Any], str]],
    ) -> Iterator[str | tuple[int, int]]:
        usage: CompletionUsage | None = None
        for chunk_usage, choices, field in chunks:
            usage = chunk_usage or usage
            for choice in choices:
                text = choice.text if field == "text" else choice.delta.content
                if text:
                    yield text
        if usage is not None:
            yield (usage.prompt_tokens, usage.completion_tokens)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the client's errors into ours, with the URL in them."""
        try:
            yield
        except openai.APITimeoutError as error:
            raise EngineError(f"{self.url} did not answer in time") from error
        except openai.APIConnectionError as error:
            raise EngineError(
                f"no server answers at {self.url} ({error.__cause__}): start one, for example with "
                "`wf serve --model MODEL.gguf`"
            ) from error
        except openai.APIStatusError as error:
            raise EngineError(f"{self.url} refused the request: {error.message}") from error
        except openai.APIError as error:  # an error event in the middle of a stream
            raise EngineError(f"{self.url} broke off the answer: {error.message}") from error


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise RequestError(f"{url!r} is not a server's URL: {error}") from error
    if not is_whole:
        raise RequestError(f"{url!r} is not a server's URL: give one like http://127.0.0.1:8080")
    return url


def _header(key: str) -> str:
    if not key.isascii() or not key.isprintable():
        raise RequestError("the API key must be printable ASCII")  # without the key: it would end in a log
    return key
