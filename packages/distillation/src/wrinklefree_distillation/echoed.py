"""OpenAI's way to a prompt's log-probabilities: `echo` with `logprobs`, and `max_tokens` of 1.

The answer's lists `tokens`, `token_logprobs` and `top_logprobs` begin with the prompt. They name tokens by
their texts, so each text has to be that of one of the student's tokens alone. Of a token that is no whole
character OpenAI writes the bytes (`bytes:\\xe2`); vLLM can name all by number (`token_id:17`, started with
--return-tokens-as-token-ids). A text that several tokens have, or none, is an error where it comes up.

As the prompt is sent as ids, the texts that come back show with every answer that the server's ids are the
student's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bitnet_arch.model_tokenizer import save_tokenizer
from wf_formats.tokenizer import read_tokenizer, token_bytes
from wrinklefree_distillation.completions import Completions, Entry

_NUMBER = re.compile(r"token_id:(\d+)")


class Echoed(Completions):
    most_hint = "lower model.teacher.top_k to what it gives (5 by OpenAI's rule)"

    def __init__(self, url: str, model: str, api_key: str | None, timeout_s: float) -> None:
        super().__init__(url, model, api_key, timeout_s)
        self.names: list[str] = []
        """By id."""
        self.ids: dict[str, int | None] = {}
        """By name; None where several tokens have it."""

    def check_tokenizer(self, tokenizer: Any, probe: str) -> None:
        """Learn what the student's tokens are called, and have the server say those of a text."""
        self.names = names_of(tokenizer)
        for number, name in enumerate(self.names):
            self.ids[name] = None if name in self.ids else number
        self.prompt_entries(tokenizer.encode(probe, add_special_tokens=False), 1)

    def _fields(self, top_k: int) -> dict[str, Any]:
        return {"echo": True, "logprobs": top_k}

    def _read(self, choice: Any, prompt: Sequence[int]) -> list[Entry]:
        lists = [choice["logprobs"][name] for name in ("tokens", "token_logprobs", "top_logprobs")]
        num_told = min(map(len, lists))
        if num_told < len(prompt):
            raise self.error(f"it tells {num_told} of the prompt's {len(prompt)} tokens")
        rows = list(zip(prompt, *lists, strict=False))
        for place, (token, name, _, _) in enumerate(rows):
            self._check_name(place, token, name)
        return [self._entry(place, *row) for place, row in enumerate(rows) if place]

    def _check_name(self, place: int, token: int, name: str) -> None:
        number = _NUMBER.fullmatch(name)
        if (int(number[1]) != token) if number else (name != self.names[token]):
            raise self.error(
                f"token {place} of the prompt, {token}, is {self.names[token]!r} for the student and "
                f"{name!r} for the teacher: it has another tokenizer, or puts tokens of its own before the "
                "prompt"
            )

    def _entry(
        self, place: int, token: int, name: str, logprob: float | None, top: dict[str, float] | None
    ) -> Entry:
        if logprob is None or top is None:
            raise self.error(f"entry {place}, of the prompt's token {token} ({name!r}), is null")
        others = {self._id(place, other): float(value) for other, value in top.items() if other != name}
        return others | {token: float(logprob)}

    def _id(self, place: int, name: str) -> int:
        if number := _NUMBER.fullmatch(name):
            return int(number[1])
        found = self.ids.get(name)
        if found is None:
            many = (
                "several of the student's tokens have" if name in self.ids else "no token of the student has"
            )
            raise self.error(f"entry {place} names a token {name!r}, which {many} as its text")
        return found


def names_of(tokenizer: Any) -> list[str]:
    """What each token of a tokenizer of transformers is called in `logprobs`, by id."""
    with TemporaryDirectory() as folder:
        save_tokenizer(tokenizer, folder)
        return [_name(data) for data in token_bytes(read_tokenizer(Path(folder)))]


def _name(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
