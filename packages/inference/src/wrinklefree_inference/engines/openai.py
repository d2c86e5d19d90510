"""Any OpenAI-compatible server by URL: ours, llama.cpp's, SGLang, vLLM, a user's own bitnet.cpp.

httpx instead of OpenAI's own client: that one reads error bodies of any size and takes answers of any shape
as they are. Redirects are not followed: a request with its key goes where the user said.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from http import HTTPStatus
from typing import Any
from weakref import finalize

import httpx

from wf_formats.errors import RequestError
from wf_formats.printable import printable
from wrinklefree_inference.addresses import trusts_environment
from wrinklefree_inference.engines.base import AnswerStream, Counts, Message, ModelFacts, Sampling
from wrinklefree_inference.engines.openai_answers import (
    BadAnswerError,
    ListedModel,
    Meta,
    answer_pieces,
    listed_models,
    refusal,
)
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.options import ClientOptions
from wrinklefree_inference.upstreams import UNCOMPRESSED, bearer, encoding_of, server_of

_STREAM = "text/event-stream"


class OpenAIEngine:
    """Client of one model of one server.

    Args:
        url: Base URL with or without the trailing `/v1`.
        options: Key, id of the model and longest wait.

    Raises:
        RequestError: The URL is none, no header can carry the key, or the environment's proxy is none.
    """

    def __init__(self, url: str, options: ClientOptions | None = None) -> None:
        options = options or ClientOptions()
        self.url = server_of(url)
        self._model = options.model
        self._client = _client(self.url, options)
        finalize(self, self._client.close)  # of an engine that is dropped instead of closed

    @cached_property
    def facts(self) -> ModelFacts:
        """What `/v1/models` says; llama.cpp adds sizes, vLLM and SGLang the context."""
        with self._asked("GET", "models") as answer:
            chosen = self._chosen(listed_models(answer.iter_raw()))
        meta = chosen.meta or Meta()
        return ModelFacts(
            name=chosen.id,
            size_bytes=meta.size,
            num_parameters=meta.n_params,
            context_tokens=meta.n_ctx or chosen.max_model_len,
            weight_type=meta.ftype,
        )

    def models(self) -> list[ListedModel]:
        """All that `/v1/models` lists."""
        with self._asked("GET", "models") as answer:
            return listed_models(answer.iter_raw())

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> AnswerStream:
        """The assistant's next turn, streamed."""
        return AnswerStream(self._pieces("chat/completions", {"messages": list(messages)}, sampling))

    def complete(self, prompt: str, sampling: Sampling) -> AnswerStream:
        """The continuation of plain text, streamed."""
        return AnswerStream(self._pieces("completions", {"prompt": prompt}, sampling))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _chosen(self, listed: Sequence[ListedModel]) -> ListedModel:
        chosen = next((model for model in listed if self._model in (None, model.id)), None)
        if chosen is not None:
            return chosen
        if self._model is None:
            raise BadAnswerError("lists no model: it has none loaded")
        known = printable(", ".join(model.id for model in listed)) or "none"
        raise BadAnswerError(f"has no model {self._model!r} (it lists: {known})")

    def _pieces(self, path: str, prompt: Mapping[str, Any], sampling: Sampling) -> Iterator[str | Counts]:
        body = {"model": self._model or self.facts.name, **prompt, **_options(sampling)}
        with self._asked("POST", path, body) as answer:
            kind = answer.headers.get("content-type", "")
            if not kind.startswith(_STREAM):
                raise BadAnswerError(f"did not answer with a stream of events, but with {kind!r}")
            yield from answer_pieces(answer.iter_raw())

    @contextmanager
    def _asked(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> Iterator[httpx.Response]:
        """An exchange; what goes wrong in it becomes ours, with the URL in it."""
        if self._client.is_closed:
            raise EngineError(f"the engine of {self.url} is closed")
        content = None if body is None else json.dumps(body).encode()
        has_begun = False
        try:
            with self._client.stream(method, f"{self.url}/v1/{path}", content=content) as answer:
                has_begun = True
                _check_status(answer)
                yield answer
        except BadAnswerError as error:
            raise EngineError(f"{self.url} {error}") from error
        except httpx.TimeoutException as error:
            raise EngineError(f"{self.url} did not answer in time") from error
        except (httpx.ConnectError, httpx.ProxyError) as error:
            raise EngineError(
                f"no server answers at {self.url} ({printable(str(error))}): start one, for example with "
                "`wf serve --model MODEL.gguf`"
            ) from error
        except httpx.RequestError as error:
            what = "broke off the answer" if has_begun else "did not answer in HTTP"
            raise EngineError(f"{self.url} {what}: {printable(str(error)) or 'connection lost'}") from error


def _client(url: str, options: ClientOptions) -> httpx.Client:
    headers = {
        "Content-Type": "application/json",
        **bearer(options.api_key or "none"),  # some servers insist on one
        **UNCOMPRESSED,
    }
    try:
        return httpx.Client(headers=headers, timeout=options.timeout_s, trust_env=trusts_environment(url))
    except (ValueError, ImportError, httpx.InvalidURL) as error:  # of http_proxy and its like
        raise RequestError(
            f"the proxy that the environment names for {url} cannot be used: {error}"
        ) from error


def _options(sampling: Sampling) -> dict[str, Any]:
    """The request's fields; those without a value are left to the server."""
    fields = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return {name: value for name, value in fields.items() if value is not None}


def _check_status(answer: httpx.Response) -> None:
    status = f"{answer.status_code} {printable(answer.reason_phrase)}".strip()
    if answer.has_redirect_location:
        target = printable(answer.headers["location"])
        raise BadAnswerError(f"redirects ({status}) to {target}: give the URL of the server itself")
    if encoding := encoding_of(answer):
        raise BadAnswerError(f"answered in the encoding {printable(encoding)}, which it was not asked for")
    if answer.status_code >= HTTPStatus.BAD_REQUEST:
        raise BadAnswerError(f"refused the request ({status}): {refusal(answer.iter_raw())}")
    if answer.status_code != HTTPStatus.OK:
        raise BadAnswerError(f"answered {status}, which is no answer of this API")
