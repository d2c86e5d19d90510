"""Scales, gains, biases and embeddings of the whole model, tuned together towards the full-precision one.

Block by block, errors are only ever measured as distances of hidden states. Here the codes stay and
what multiplies them learns what the errors do to the predictions: it minimizes the Kullback-Leibler
divergence from the full-precision model's next-token distribution to the quantized one's (end-to-end
training of quantization parameters, as EfficientQAT's second phase, arXiv 2407.11062, with the model
itself as teacher; Hinton et al. 2015, arXiv 1503.02531). Each batch is used once.

Memory: 1 byte per weight for the codes, 16 per scale and number of an embedding, and the activations of
one batch. The teacher and the master weights of the blocks are only read: on memory-mapped files they take
none that is not spare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bitnet_arch.families import blocks
from wf_ptq.divergence import Divergence
from wf_ptq.layers import ScaledLinear, embeddings, from_master_weights, install, vectors
from wf_ptq.optimizer import (
    check_finite,
    even_out,
    keep_positive,
    rates_are_to_blame,
    relative_adam,
    set_rates,
)
from wf_ptq.options import DistilOptions
from wf_ptq.streams import BlockRunner, computing_in

StandIns = Callable[[nn.Module], Mapping[str, ScaledLinear]]


class Distiller:
    """Tunes a converted model in place; `write_back` must follow.

    Args:
        model: converted, its master weights already those of the chosen codes and scales.
        teacher: the full-precision model, in the dtype to compute in.
        seed: of the positions that are compared.
        stand_ins: of a block's BitLinears by name: what of their weights is tuned.

    Attributes:
        num_steps: at the end of which the rates have decayed; may be changed between two steps.
    """

    def __init__(
        self,
        model: Any,
        teacher: Any,
        options: DistilOptions,
        seed: int,
        stand_ins: StandIns = from_master_weights,
    ) -> None:
        self._model, self._teacher, self._options, self._seed = model, teacher, options, seed
        self._dtype: torch.dtype = teacher.dtype
        self._run = BlockRunner(model)
        self._teacher_run = BlockRunner(teacher)
        model.requires_grad_(False)
        self._linears: list[ScaledLinear] = []
        for _, block in blocks(model):
            linears = stand_ins(block)
            install(block, linears)
            self._linears += linears.values()
        self._vectors = [vector for _, block in blocks(model) for vector in vectors(block)]
        self._vectors.append(model.model.norm.weight)
        self._embeddings = embeddings(model) if options.rates.embedding > 0 else []
        chosen = (p for linear in self._linears for p in linear.chosen())
        for parameter in [*self._vectors, *self._embeddings, *chosen]:
            parameter.requires_grad_(True)
        self._optimizer = relative_adam(self._linears, self._vectors, options.rates, self._embeddings)
        self.num_steps, self.num_steps_done = options.num_steps, 0

    def step(self, input_ids: Tensor) -> float:
        """One step on [sequences, tokens]; returns the mean divergence in nats before it.

        Raises:
            NotFiniteError: activations or the divergence.
        """
        set_rates(self._optimizer, self.num_steps_done, self.num_steps)
        positions = self._positions(input_ids.numel())
        with torch.no_grad():
            expected = self._predictions(self._teacher, self._teacher_run, input_ids, positions)
        with rates_are_to_blame():
            found = self._predictions(self._model, self._run, input_ids, positions)
        loss = Divergence.apply(found, expected)
        check_finite(loss, "the divergence")
        self._optimizer.zero_grad()
        loss.backward()
        even_out(self._embeddings)
        self._optimizer.step()
        keep_positive(self._linears)
        self.num_steps_done += 1
        return loss.item()

    def write_back(self, keep: Callable[[str, nn.Module], None] | None = None) -> None:
        """Puts the BitLinears back, with master weights of the codes and the tuned scales.

        Args:
            keep: called with name and module of each block as soon as it is whole again.
        """
        self._optimizer.zero_grad()
        self._linears.clear()
        self._model.requires_grad_(False)
        for block_name, block in blocks(self._model):
            for name, module in list(block.named_modules()):
                if isinstance(module, ScaledLinear):
                    module.settle()
                    block.set_submodule(name, module.write_back())
            if keep is not None:
                keep(block_name, block)

    def state(self) -> dict[str, Tensor]:
        """Everything that `load_state` needs to go on to the bit; the tensors are those in use."""
        parameters = self._parameters()
        state = {f"parameter.{i}": parameter.detach() for i, parameter in enumerate(parameters)}
        for i, parameter in enumerate(parameters):
            for key, value in self._optimizer.state[parameter].items():
                state[f"optimizer.{i}.{key}"] = value
        return state | {"num_steps_done": torch.tensor(self.num_steps_done)}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        for i, parameter in enumerate(self._parameters()):
            parameter.copy_(state[f"parameter.{i}"])
            prefix = f"optimizer.{i}."
            self._optimizer.state[parameter] = {
                name.removeprefix(prefix): value.clone()
                for name, value in state.items()
                if name.startswith(prefix)
            }
        self.num_steps_done = int(state["num_steps_done"])

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    def _positions(self, num_tokens: int) -> Tensor:
        generator = torch.Generator().manual_seed(self._seed + self.num_steps_done)
        return torch.randperm(num_tokens, generator=generator)[: self._options.logit_tokens]

    def _predictions(self, model: Any, run: BlockRunner, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Logits of the next token [positions, vocabulary]."""
        hidden = model.model.embed_tokens(input_ids).to(self._dtype)
        for _, block in blocks(model):
            hidden = run(block, hidden)
        chosen = model.model.norm(hidden.flatten(0, 1)[positions])
        with computing_in(self._dtype, hidden.device):
            logits: Tensor = model.get_output_embeddings()(chosen)
        return logits
