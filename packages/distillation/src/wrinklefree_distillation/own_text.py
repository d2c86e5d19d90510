"""Text that the student writes while it is trained, as batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from transformers import GenerationConfig

from data_handler.packing import IGNORED_LABEL
from wrinklefree.capture import View
from wrinklefree.distributed import gather_from_ranks, own_share, rank
from wrinklefree.drawing import end_ids, exceeded_context, left_padded, place_of_end
from wrinklefree.errors import RunError

Written = tuple[list[int], int]
"""A prompt's tokens with the student's behind them, and how many are the prompt's."""


@dataclass(frozen=True)
class Writing:
    """How much is written and when; see OnPolicyDistillConfig."""

    every_steps: int
    num_sequences: int
    prompt_tokens: int
    new_tokens: int
    temperature: float


class OwnText:
    """Prompts that were seen, what the student made of them, and whose turn it is.

    Args:
        student: the causal language model that is trained.
    """

    def __init__(self, student: Any, how: Writing, seed: int) -> None:
        self.student, self.how, self.seed = student, how, seed
        self.prompts: deque[list[int]] = deque(maxlen=how.num_sequences)
        self.written: list[Written] = []
        self.written_at = -1
        """Step; -1: nothing was written."""
        self.num_taken = 0

    def batch(self, data: View, step: int) -> View:
        """As many rows of the student's text as the data has. Raises: RunError (no prompt, or too long)."""
        self.prompts.extend(prompts_of(data, self.how.prompt_tokens))
        if self._is_due(step):
            self._write(data["input_ids"].device, step)
        places = range(self.num_taken, self.num_taken + len(data["input_ids"]))
        self.num_taken += len(places)
        rows = [self.written[place % len(self.written)] for place in places]
        return {name: x.to(data["input_ids"].device) for name, x in laid_out(rows).items()}

    def _is_due(self, step: int) -> bool:
        if step == self.written_at:  # a further pass of the same step
            return False
        is_small = len(self.written) < self.how.num_sequences
        return self.written_at < 0 or is_small or step - self.written_at >= self.how.every_steps

    def _write(self, device: torch.device, step: int) -> None:
        if not self.prompts:
            raise RunError("on_policy_distill: no document of the data has a beginning to go on with")
        self.written = continued(
            self.student, list(self.prompts), self.how, f"{self.seed} {step} {rank()}", device
        )
        self.written_at, self.num_taken = step, 0

    def state_dict(self) -> dict[str, Any]:
        own = {
            "prompts": list(self.prompts),
            "written": [list(pair) for pair in self.written],
            "written_at": self.written_at,
            "num_taken": self.num_taken,
        }
        return {"ranks": gather_from_ranks(own)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        own = own_share(state["ranks"], "texts of the student")
        self.prompts.clear()
        self.prompts.extend(own["prompts"])
        self.written = [(list(ids), num_prompt) for ids, num_prompt in own["written"]]
        self.written_at, self.num_taken = own["written_at"], own["num_taken"]


def prompts_of(data: View, text_tokens: int) -> list[list[int]]:
    """The beginning of each document: of a record all before its first answer, of text `text_tokens`, but
    not its end.

    A record has its first label after the second token, and filling has none.
    """
    found = []
    for ids, positions, labels in zip(data["input_ids"], data["position_ids"], data["labels"], strict=True):
        starts = (positions == 0).nonzero().squeeze(1).tolist()
        for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
            labelled = (labels[start:stop] != IGNORED_LABEL).nonzero().squeeze(1)
            if not len(labelled):
                continue
            first = int(labelled[0])
            length = min(text_tokens, stop - start - 1) if first <= 1 else first
            found.append(ids[start : start + length].tolist())
    return found


@torch.no_grad()
def continued(
    student: Any,
    prompts: Sequence[list[int]],
    how: Writing,
    seed: str,
    device: torch.device,
) -> list[Written]:
    """What the student makes of each prompt, up to its end of text or `new_tokens`.

    The random numbers are those of `seed` alone, and the run's own stay as they are.
    """
    ids, mask = left_padded(prompts)
    width, ends = ids.shape[1], end_ids(student)
    _check_context(student, width, how.new_tokens)
    was_training = student.training
    student.eval()
    with torch.random.fork_rng():
        torch.manual_seed(Random(seed).getrandbits(63))
        answers = student.generate(
            ids.to(device), attention_mask=mask.to(device), generation_config=_drawing(how, ends)
        )
    student.train(was_training)
    own = (_until_end(row, ends) for row in answers[:, width:].tolist())
    return [(prompt + answer, len(prompt)) for prompt, answer in zip(prompts, own, strict=True)]


def _drawing(how: Writing, ends: set[int]) -> GenerationConfig:
    """From the student's whole distribution: nothing of the model's own how."""
    return GenerationConfig(
        do_sample=True,
        temperature=how.temperature,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        max_new_tokens=how.new_tokens,
        eos_token_id=sorted(ends) or None,
        pad_token_id=0,
    )


def _check_context(student: Any, prompt_tokens: int, new_tokens: int) -> None:
    if context := exceeded_context(student, prompt_tokens + new_tokens):
        raise RunError(
            f"on_policy_distill: a prompt of {prompt_tokens} tokens and new_tokens={new_tokens} exceed the "
            f"model's context of {context}: lower new_tokens or training.sequence_length_tokens"
        )


def _until_end(ids: list[int], ends: set[int]) -> list[int]:
    """The first end is the student's own, what comes after it is filling."""
    stop = place_of_end(ids, ends)
    return ids if stop is None else ids[: stop + 1]


def laid_out(rows: Sequence[Written]) -> View:
    """A batch [rows, longest]: labels at the student's tokens alone; filling is a document of its own."""
    shape = (len(rows), max(len(ids) for ids, _ in rows))
    input_ids, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED_LABEL)
    position_ids = torch.arange(shape[1]).repeat(len(rows), 1)
    for row, (ids, num_prompt) in enumerate(rows):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        labels[row, num_prompt : len(ids)] = input_ids[row, num_prompt : len(ids)]
        position_ids[row, len(ids) :] -= len(ids)
    return {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
