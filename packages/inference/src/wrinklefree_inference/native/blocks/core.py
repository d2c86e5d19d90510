"""One step of the engine for block diffusion: a pass over blocks, and draws of masked tokens."""

from __future__ import annotations

import time
from typing import cast

import numpy as np

from wf_formats.diffusion import exclude_token
from wrinklefree_inference.native.blocks.draws import draw_places, spans_of
from wrinklefree_inference.native.blocks.sequence import BlockSequence, Place
from wrinklefree_inference.native.core import Core, TokenizerLike
from wrinklefree_inference.native.deltas import StepEvent, joined
from wrinklefree_inference.native.draw_params import Sampler
from wrinklefree_inference.native.forward import Part, batch_of
from wrinklefree_inference.native.runner import Floats, Ints, ModelRunner
from wrinklefree_inference.native.scheduler import Scheduler
from wrinklefree_inference.native.sequence import StepPlan


class BlockCore(Core):
    """Its sequences are `BlockSequence`s.

    Args:
        mask_token_id: Never drawn, and no part of any distribution.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: ModelRunner,
        tokenizer: TokenizerLike,
        sample: Sampler,
        mask_token_id: int,
    ) -> None:
        super().__init__(scheduler, runner, tokenizer, sample)
        self._mask_token_id = mask_token_id

    def step(self) -> list[StepEvent]:
        """Compute one forward pass: finished blocks, and those at hand.

        Returns:
            What it added to the answers: of each all that nothing is masked before any more.
        """
        counters, start_s = self.counters, time.perf_counter()
        plan = self.scheduler.plan()
        if not plan:  # all readers are behind
            return []
        places, tokens, starts, contexts, pages, outputs = _arrays(plan)
        forward_s = time.perf_counter()
        logits = self.runner.forward(tokens, starts, contexts, pages, outputs)
        counters.forward_s += time.perf_counter() - forward_s
        self._book(plan)
        exclude_token(logits, self._mask_token_id)
        events = self._fill(places, logits) if places else []
        counters.steps += 1
        counters.last_step_s = time.perf_counter() - start_s
        counters.step_s += counters.last_step_s
        return events

    def _book(self, plan: StepPlan) -> None:
        """A pass that has been computed."""
        finished: StepPlan = []
        for sequence, count in plan:
            if cast("BlockSequence", sequence).is_decoding(count):
                if not (sequence.num_passes or sequence.num_pending):  # the prompt's rest is in this block
                    self.counters.prompt_tokens += sequence.num_prompt - sequence.num_computed
                sequence.num_passes += 1
                self.counters.decoding_passes += 1
            if sequence.num_pending:
                finished.append((sequence, count))
                self.counters.prompt_tokens += cast("BlockSequence", sequence).book_finished(count)
        self.scheduler.advance(finished)

    def _fill(self, places: list[Place], logits: Floats) -> list[StepEvent]:
        """Draw masked tokens; where the sampler refuses a row, its sequence ends and the others go on."""
        start_s = time.perf_counter()
        try:
            drawn, draws = draw_places(self._sample, places, logits)
        except ValueError as error:
            spans = list(spans_of(places))
            if len(spans) == 1:
                return [(places[0].sequence, self._give_up(places[0].sequence, error))]
            return [
                event for first, end in spans for event in self._fill(places[first:end], logits[first:end])
            ]
        text_s = time.perf_counter()
        for row, (place, token_id) in enumerate(zip(drawn, draws[0].tolist(), strict=True)):
            place.sequence.drawn[place.position] = token_id, self._entry(place.sequence, draws, row)
        events = [
            event for first, _ in spans_of(places) for event in self._give_out_known(places[first].sequence)
        ]
        self.counters.sample_s += text_s - start_s
        self.counters.text_s += time.perf_counter() - text_s
        return events

    def _give_out_known(self, sequence: BlockSequence) -> list[StepEvent]:
        """All tokens up to the first that is masked, as one delta."""
        events: list[StepEvent] = []
        while not sequence.is_done and sequence.num_tokens in sequence.drawn:
            event = self._append(sequence, *sequence.drawn.pop(sequence.num_tokens))
            self.counters.generated_tokens += 1
            if event is not None:
                events.append((sequence, event))
        return joined(events)


def _arrays(plan: StepPlan) -> tuple[list[Place], Ints, Ints, Ints, Ints, Ints]:
    """Places whose distributions a pass gives, and the arguments of `ModelRunner.forward`."""
    blocks = [(cast("BlockSequence", sequence), count) for sequence, count in plan]
    parts = [
        Part(sequence.input_ids(count), sequence.num_computed, sequence.pages) for sequence, count in blocks
    ]
    tokens, starts, contexts, pages = batch_of(parts)
    places: list[Place] = []
    outputs = [np.empty(0, np.int32)]
    for (sequence, count), start in zip(blocks, starts[:-1], strict=True):
        asked = sequence.asked(count)
        places += [Place(sequence, position) for position in asked]
        outputs.append(start + sequence.rows_of(asked))
    return places, tokens, starts, contexts, pages, np.concatenate(outputs)
