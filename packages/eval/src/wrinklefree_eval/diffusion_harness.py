"""A block-diffusion model as an lm-eval model: answers by the bound on their likelihood, texts by block
decoding.

An answer's log-likelihood is minus the bound of -log p(answer | question): blocks are counted from the
question's first token, and its last, unfinished block is known. Passes of an answer: one over the finished
blocks (where there are any), and copies with masks: 2^n - 1, at most `samples`, n the most tokens that a
block of it may mask. One token needs 1; the first token of a block under the token shift none, so it is
exact; up to 4 tokens have no sampling error with 16 samples.

Whether an answer is what greedy decoding gives (`acc` of lambada) is told by as many further passes as the
answer has tokens, at most: within its tokens the likeliest masked one of a sub-block is filled in at a time,
until one is another token than the answer's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from bitnet_arch.block_decoding import Draw, decode_blocks, drawn_with, greedy
from bitnet_arch.block_scoring import is_greedy
from data_handler.conversations import ConversationTemplate
from wf_formats.block_decoding import BlockDecoding
from wf_formats.tokenizer.mask import backend_without
from wrinklefree_eval.answers import Answer
from wrinklefree_eval.chatting import prompt_room
from wrinklefree_eval.harness import DEFAULT_GENERATED_TOKENS
from wrinklefree_eval.models import BoundModel
from wrinklefree_eval.token_lm import TokenLM

_OF_LIKELIHOOD = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")
"""Metrics of lm-eval that are likelihoods, and here bounds on them."""


class DiffusionLM(TokenLM):
    """Multiple choice, rolling log-likelihood and generation.

    Args:
        model: Scores and generates.
        make_template: Its chat template, asked for when a task needs it.
    """

    scoring = "Scoring by the bound"

    def __init__(self, model: BoundModel, make_template: Callable[[], ConversationTemplate]) -> None:
        super().__init__()
        self._model, self._make_template = model, make_template
        self._prefix_ids = model.prefix_ids
        self.decoding = BlockDecoding()
        self._num_answers = self._num_passes = 0
        self._backend = backend_without(model.tokenizer.backend_tokenizer, model.diffusion.mask_token_id)
        self.max_length = model.context_tokens - 1  # as the engines': the same windows of the same texts

    @property
    def eot_token_id(self) -> int:
        return int(self._model.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context: BOS if there is one, as in HFLM."""
        bos = self._model.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        return self._model.path.name

    def _parsed(self, text: str) -> list[int]:
        """Without the mask token."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def _scored(self, ids: list[int], start: int, asks_greedy: bool) -> tuple[float, bool]:
        """The bound of the answer."""
        before = self._model.num_passes
        bound = -float(self._model.bound(ids, start).nats.sum())
        self._num_answers += 1
        self._num_passes += self._model.num_passes - before
        return bound, asks_greedy and is_greedy(self._model.model, ids, start, self.decoding.sub_block)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy (or, if the task says so, drawn) answers up to a stop text, by block decoding."""
        texts = []
        for prompt, options in tqdm(
            [request.args for request in requests], disable=disable_tqdm, desc="Decoding blocks"
        ):
            until = options.get("until") or []
            stops = [until] if isinstance(until, str) else list(until)
            max_tokens = options.get("max_gen_toks", DEFAULT_GENERATED_TOKENS)
            ids = self.tok_encode(prompt)[-prompt_room(self.max_length, max_tokens) :]
            temperature = options.get("temperature", 0.0) if options.get("do_sample") else 0.0
            texts.append(self._text(ids, max_tokens, temperature, stops))
        return texts

    def labelled(
        self, scores: dict[str, dict[str, Any]], answers: list[Answer]
    ) -> tuple[dict[str, dict[str, Any]], list[Answer], dict[str, Any]]:
        """With metrics of likelihood named as the bounds that they are, and how all was got."""
        model = self._model
        how = {
            "likelihood": "bound (diffusion)",
            "samples": model.samples,
            "seed": model.seed,
            "passes_per_answer": self._num_passes / max(1, self._num_answers),
            "generation": f"block decoding, threshold {self.decoding.threshold:g}, "
            f"sub-blocks of {self.decoding.sub_block}",
        }
        return (
            {task: _renamed(values) for task, values in scores.items()},
            [replace(answer, metrics=_renamed(answer.metrics)) for answer in answers],
            {"tasks_by": how},
        )

    def _text(self, ids: list[int], max_tokens: int, temperature: float, stops: list[str]) -> str:
        generator = torch.Generator().manual_seed(self._model.seed)
        draw: Draw = greedy
        if temperature > 0:
            draw = drawn_with(lambda _: float(torch.rand((), generator=generator)), temperature)
        found = decode_blocks(
            self._model.model, ids, max_tokens, self.decoding, draw, end_ids={self.eot_token_id}
        )
        text = self._model.detokenize(found.token_ids)
        ends = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """perplexity -> perplexity_bound, perplexity_stderr -> perplexity_bound_stderr."""
    found = {}
    for name, value in values.items():
        metric = name.removesuffix("_stderr")
        new = f"{metric}_bound{name[len(metric) :]}" if metric in _OF_LIKELIHOOD else name
        found[new] = value
    return found
