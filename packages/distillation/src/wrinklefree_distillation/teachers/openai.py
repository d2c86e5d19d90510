"""A teacher on a server: the top k of its predictions, with what is left as one further outcome."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wrinklefree.capture import Capture, ForwardResult, Shape, View
from wrinklefree.config.errors import ConfigError
from wrinklefree.config.model import TeacherConfig
from wrinklefree.config.ranges import number
from wrinklefree.config.root import TrainConfig
from wrinklefree.teachers.base import Teacher
from wrinklefree_distillation.options import PromptApi

if TYPE_CHECKING:
    from torch import Tensor

    from wrinklefree_distillation.completions import Completions

API_KEY_VARIABLE = "OPENAI_API_KEY"
_PROBE = "The quick brown fox, 1234: naïve café — 日本語\n\tdef f(x): return x**2"


@dataclass
class OpenAITeacherConfig(TeacherConfig):
    """A server with /v1/completions that tells log-probabilities of prompts."""

    kind: str = "openai"
    url: str = "http://127.0.0.1:8000/v1"
    """Of the API. A key is read from the variable OPENAI_API_KEY."""
    model: str | None = None
    """As the server calls it."""
    api: PromptApi = PromptApi.prompt_logprobs
    """prompt_logprobs: vLLM; echo: servers that answer `echo` with `logprobs` (wf serve, older vLLM)."""
    top_k: int = number(20, least=1)
    """Ids of each prediction; vLLM gives 20 unless started with --max-logprobs, and OpenAI's rule for echo
    is 5."""
    timeout_s: float = number(120.0, above=0)
    check_tokenizer: bool = True
    """prompt_logprobs: compare ids by the server's /tokenize at the start; false for a server that has none.
    With echo every answer shows its tokens, and they are always compared."""


class OpenAITeacher(Teacher):
    config = OpenAITeacherConfig
    provides = Capture(predictions=True)

    def __init__(self, completions: Completions, top_k: int, checks_tokenizer: bool) -> None:
        self.completions, self.top_k, self.checks_tokenizer = completions, top_k, checks_tokenizer
        self.shape = Shape(0, 0, None, 0, 0, sparse_temperature=1.0)

    @classmethod
    def check(cls, config: OpenAITeacherConfig, run: TrainConfig) -> None:
        if config.model is None:
            raise ConfigError(
                "model.teacher.kind=openai needs the server's name of the model: model.teacher.model=NAME"
            )

    @classmethod
    def load(cls, config: OpenAITeacherConfig, run: TrainConfig) -> OpenAITeacher:
        from wrinklefree_distillation.completions import PromptLogprobs
        from wrinklefree_distillation.echoed import Echoed

        assert config.model is not None
        key = os.environ.get(API_KEY_VARIABLE)
        is_echo = config.api is PromptApi.echo
        client = Echoed if is_echo else PromptLogprobs
        completions = client(config.url, config.model, key, config.timeout_s)
        return cls(completions, config.top_k, is_echo or config.check_tokenizer)

    def check_tokenizer(self, tokenizer: Any) -> None:
        if self.checks_tokenizer:
            self.completions.check_tokenizer(tokenizer, _PROBE)

    def forward(self, view: View, capture: Capture) -> ForwardResult:
        from wrinklefree.predictions import SparsePredictions

        ids, weights = self._empty(view)
        for sequence, (tokens, positions) in enumerate(
            zip(view["input_ids"], view["position_ids"], strict=True)
        ):
            starts = [i for i, position in enumerate(positions.tolist()) if position == 0 or i == 0]
            for start, stop in zip(starts, [*starts[1:], len(tokens)], strict=True):
                self._fill(tokens[start:stop], ids[sequence, start:stop], weights[sequence, start:stop])
        device = view["input_ids"].device
        return ForwardResult(
            0, predictions=SparsePredictions(ids.to(device), weights.to(device), has_tail=True)
        )

    def _empty(self, view: View) -> tuple[Tensor, Tensor]:
        """One id more than k: the prompt's own token may be beyond them."""
        import torch

        size = (*view["input_ids"].shape, self.top_k + 1)
        return torch.zeros(size, dtype=torch.long), torch.zeros(size)

    def _fill(self, tokens: Tensor, ids: Tensor, weights: Tensor) -> None:
        """Of one document; nothing is known after its last token."""
        import torch

        if len(tokens) < 2:
            return
        for place, entry in enumerate(self.completions.prompt_entries(tokens.tolist(), self.top_k)):
            kept = len(entry)
            ids[place, :kept] = torch.tensor(list(entry))
            weights[place, :kept] = torch.tensor(list(entry.values())).exp()
