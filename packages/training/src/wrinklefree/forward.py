"""One forward pass of a Hugging Face causal LM that stops before the vocabulary projection.

Objectives decide what to do with the hidden states; logits over a vocabulary of 49152 cost as much
as several blocks, so they are computed once, in chunks, and only by the objective that needs them.
The model is still called as a whole (with no position kept for the head), because FSDP gathers the
weights of the root module in its forward hook.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]


@dataclass
class ForwardResult:
    """Hidden states of one model on one batch.

    hidden_states: layers + 1 tensors [batch, tokens, hidden]: the embeddings, the output of every
        block but the last, and the last block's output after the final norm.
    head_weight: the vocabulary projection [vocabulary, hidden].
    """

    hidden_states: tuple[Tensor, ...]
    head_weight: Tensor

    @property
    def last_hidden_state(self) -> Tensor:
        return self.hidden_states[-1]


def run_forward(model: Any, batch: Batch) -> ForwardResult:
    """Hidden states for `input_ids` and `position_ids` ([batch, tokens]).

    No attention mask is passed: the restart of position_ids at 0 tells transformers where a packed
    document begins.
    """
    output = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        use_cache=False,
        output_hidden_states=True,
        logits_to_keep=torch.empty(0, dtype=torch.long, device=batch["input_ids"].device),
    )
    return ForwardResult(output.hidden_states, head_weight(model))


def head_weight(model: Any) -> Tensor:
    """The head's weight. Raises ValueError for a head with a bias, which the loss would ignore."""
    head: nn.Linear = model.get_output_embeddings()
    if head.bias is not None:
        raise ValueError("the vocabulary projection has a bias; the chunked loss knows none")
    return head.weight
