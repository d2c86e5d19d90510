"""What a server's /v1/completions says of a prompt's own tokens, in one of two ways (`PromptApi`).

Entry i is about token i given those before it, so nothing is known of token 0, and the prediction at position
i - 1 is entry i. An entry has the top k ids and the token that is there. What is missing or no number is an
error that names token and position.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from wf_formats.secrets import redacted
from wrinklefree.errors import RunError

Entry = dict[int, float]
"""Log-probabilities by id."""
LOWEST_LOGPROB = -9999.0
"""OpenAI's number for minus infinity, which JSON has not."""


class Completions(ABC):
    """A client of one model of one server. Raises: RunError that names the server, of every method."""

    most_hint: str
    """What to do where a server gives fewer ids than asked for."""

    def __init__(self, url: str, model: str, api_key: str | None, timeout_s: float) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.url, self.model = url.rstrip("/"), model
        self._client = httpx.Client(headers=headers, timeout=timeout_s)

    @abstractmethod
    def check_tokenizer(self, tokenizer: Any, probe: str) -> None:
        """Compare the student's tokens with the server's. Args: probe is a text to compare them on."""

    @abstractmethod
    def _fields(self, top_k: int) -> dict[str, Any]:
        """What asks for the entries."""

    @abstractmethod
    def _read(self, choice: Any, prompt: Sequence[int]) -> list[Entry]:
        """One for every token but the first.

        Raises: KeyError, IndexError, TypeError, ValueError, AttributeError (an answer of another form),
            RunError (one that says what it must not).
        """

    def prompt_entries(self, prompt: Sequence[int], top_k: int) -> list[Entry]:
        """One for every token but the first."""
        body = {"prompt": list(prompt), "max_tokens": 1, "temperature": 0, **self._fields(top_k)}
        answer = self._post(f"{self.url}/completions", body)
        try:
            entries = self._read(answer["choices"][0], prompt)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            fields = " with ".join(self._fields(top_k))
            raise self.error(f"its answer to {fields} has no entry for each token ({error!r})") from error
        if len(entries) != len(prompt) - 1:
            raise self.error(f"it has {len(entries) + 1} entries for {len(prompt)} tokens")
        for place, entry in enumerate(entries, 1):
            self._check_entry(place, prompt[place], entry, top_k)
        return entries

    def _check_entry(self, place: int, token: int, entry: Entry, top_k: int) -> None:
        what = f"entry {place}, of the prompt's token {token},"
        for number, logprob in entry.items():
            if not math.isfinite(logprob) or logprob <= LOWEST_LOGPROB:
                raise self.error(f"{what} has the log-probability {logprob} for token {number}")
        if token not in entry:
            raise self.error(f"{what} has not that token; {self.most_hint}")
        if len(entry) < top_k:
            raise self.error(f"{what} has {len(entry)} of top_k={top_k} ids; {self.most_hint}")

    def _post(self, url: str, body: Mapping[str, Any]) -> Any:
        try:
            response = self._client.post(url, json={"model": self.model, **body})
            response.raise_for_status()
            return response.json()
        except httpx.HTTPStatusError as error:
            said = redacted(error.response.text[:300])
            raise self.error(f"it answers {error.response.status_code} to {url}: {said}") from error
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise self.error(f"{type(error).__name__}: {redacted(str(error))}") from error

    def error(self, reason: str) -> RunError:
        return RunError(
            f"the teacher's server {redacted(self.url)} (model.teacher.url): {reason}. Start or mend it; the "
            "same command goes on from the newest checkpoint"
        )


class PromptLogprobs(Completions):
    """vLLM's `prompt_logprobs`. Ids are sent and read as numbers."""

    most_hint = "start it with --max-logprobs at least that"

    def check_tokenizer(self, tokenizer: Any, probe: str) -> None:
        own, other = tokenizer.encode(probe, add_special_tokens=False), self.tokenize(probe)
        if own != other:
            raise RunError(
                f"model.teacher: the server {self.url} has another tokenizer: {probe!r} is {own} for the "
                f"student and {other} for the teacher; choose one with the student's tokenizer"
            )

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text without special tokens (vLLM's /tokenize, beside /v1)."""
        body = {"prompt": text, "add_special_tokens": False}
        answer = self._post(f"{self.url.removesuffix('/v1')}/tokenize", body)
        try:
            return [int(number) for number in answer["tokens"]]
        except (KeyError, TypeError, ValueError) as error:
            raise self.error(f"its /tokenize gives no ids ({error!r})") from error

    def _fields(self, top_k: int) -> dict[str, Any]:
        return {"prompt_logprobs": top_k}

    def _read(self, choice: Any, prompt: Sequence[int]) -> list[Entry]:
        return [_entry(listed) for listed in choice["prompt_logprobs"][1:]]


def _entry(listed: dict[str, Any]) -> Entry:
    return {int(number): float(value["logprob"]) for number, value in listed.items()}
