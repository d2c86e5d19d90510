"""What a server's /v1/completions says of a prompt's own tokens (vLLM's `prompt_logprobs`).

Entry i is about token i given those before it, so entry 0 is null, and the prediction at position i - 1 is
entry i. An entry has the top k ids and the token that is there. Ids are sent and read as numbers: strings of
tokens do not name them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

from wf_formats.secrets import redacted
from wrinklefree.errors import RunError

Entry = dict[int, float]
"""Log-probabilities by id."""


class Completions:
    """A client of one model of one server. Raises: RunError that names the server, of every method."""

    def __init__(self, url: str, model: str, api_key: str | None, timeout_s: float) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.url, self.model = url.rstrip("/"), model
        self._client = httpx.Client(headers=headers, timeout=timeout_s)

    def prompt_entries(self, prompt: Sequence[int], top_k: int) -> list[Entry]:
        """One for every token but the first."""
        body = {"prompt": list(prompt), "max_tokens": 1, "temperature": 0, "prompt_logprobs": top_k}
        answer = self._post(f"{self.url}/completions", body)
        try:
            listed = answer["choices"][0]["prompt_logprobs"]
            entries = [_entry(entry) for entry in listed[1:]]
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise self._error(f"its answer has no prompt_logprobs for each token ({error!r})") from error
        if len(entries) != len(prompt) - 1:
            raise self._error(f"it has {len(listed)} prompt_logprobs for {len(prompt)} tokens")
        for index, entry in enumerate(entries):
            if len(entry) < top_k or prompt[index + 1] not in entry:
                raise self._error(
                    f"entry {index + 1} has {len(entry)} of top_k={top_k} ids"
                    + (
                        ""
                        if prompt[index + 1] in entry
                        else f", and not the prompt's own {prompt[index + 1]}"
                    )
                    + "; start it with --max-logprobs at least that"
                )
        return entries

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text without special tokens (vLLM's /tokenize, beside /v1)."""
        body = {"prompt": text, "add_special_tokens": False}
        answer = self._post(f"{self.url.removesuffix('/v1')}/tokenize", body)
        try:
            return [int(number) for number in answer["tokens"]]
        except (KeyError, TypeError, ValueError) as error:
            raise self._error(f"its /tokenize gives no ids ({error!r})") from error

    def _post(self, url: str, body: dict[str, Any]) -> Any:
        try:
            response = self._client.post(url, json={"model": self.model, **body})
            response.raise_for_status()
            return response.json()
        except httpx.HTTPStatusError as error:
            said = redacted(error.response.text[:300])
            raise self._error(f"it answers {error.response.status_code} to {url}: {said}") from error
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise self._error(f"{type(error).__name__}: {redacted(str(error))}") from error

    def _error(self, reason: str) -> RunError:
        return RunError(
            f"the teacher's server {redacted(self.url)} (model.teacher.url): {reason}. Start or mend it; the "
            "same command goes on from the newest checkpoint"
        )


def _entry(listed: dict[str, Any]) -> Entry:
    return {int(number): float(value["logprob"]) for number, value in listed.items()}
