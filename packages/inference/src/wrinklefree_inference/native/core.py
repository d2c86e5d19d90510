"""One step of the engine: plan, one forward pass, one draw per complete sequence, text.

Where tokens were guessed (`speculation`) and a draw gives the guess, the next draw of that sequence follows
in the same step, of the logits after the guess.

The decoder, the sampler and the tokenizer come in through small protocols, so that all of this runs in tests
with a model written in numpy.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from wrinklefree_inference.native.constraint import ConstraintFailed, Words, accept, mask_of
from wrinklefree_inference.native.counters import Counters
from wrinklefree_inference.native.deltas import StepEvent, delta_of, joined
from wrinklefree_inference.native.draw_params import DrawParams, Draws, Sampler
from wrinklefree_inference.native.echo import Echo, EchoPart, echo_parts
from wrinklefree_inference.native.embedding import PooledPart, pool, pooled_parts
from wrinklefree_inference.native.entries import Entries
from wrinklefree_inference.native.forward import forward_arrays
from wrinklefree_inference.native.reach import reach_of
from wrinklefree_inference.native.request import AnswerFailed, Delta, FinishReason, TokenLogprob
from wrinklefree_inference.native.runner import Floats, ModelRunner, NoRunner
from wrinklefree_inference.native.scheduler import Scheduler
from wrinklefree_inference.native.sequence import Sequence, StepPlan
from wrinklefree_inference.native.speculation.speculator import Speculator
from wrinklefree_inference.native.stops import Piece


class TokenizerLike(Protocol):
    """What turns tokens into text: `native.tokenizer`."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""

    def token_bytes(self, token_id: int, /) -> bytes:
        """UTF-8 bytes of one token."""


class Core:
    """Scheduler, decoder, sampler and text; used by one thread."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: ModelRunner,
        tokenizer: TokenizerLike,
        sample: Sampler,
        new_speculator: Callable[[], Speculator | None] = lambda: None,
    ) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self.counters = Counters()
        self._tokenizer = tokenizer
        self._sample = sample
        self._new_speculator = new_speculator
        self._speculator = new_speculator()
        self._entries = Entries(tokenizer.token_bytes)
        self._echo = Echo(self._entries, sample)
        self._params = DrawParams([])

    def start_anew(self) -> list[Sequence]:
        """Forget all that was computed, after a failed step.

        Returns:
            The sequences that had begun, whose state nobody knows; those that wait are kept.
        """
        begun = self.scheduler.begun
        self.scheduler = self.scheduler.emptied()
        self._speculator = self._new_speculator()
        self._params = DrawParams([])
        return begun

    def release(self) -> None:
        """Let the decoders go; no step follows."""
        self.runner = NoRunner()
        self._speculator, self._new_speculator = None, lambda: None

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, answered or cancelled, wherever it stands; nothing of it is kept here."""
        sequence.is_done = True
        self.scheduler.finish(sequence)
        if self._speculator is not None:
            self._speculator.forget(sequence)
        if sequence in self._params.drawn:
            self._params = DrawParams([])

    def step(self) -> list[StepEvent]:
        """Compute one forward pass.

        Returns:
            What it added to the answers, in the order in which it is to be delivered.
        """
        counters, start_s = self.counters, time.perf_counter()
        plan = self.scheduler.plan()
        if not plan:  # all readers are behind
            return []
        if self._speculator is not None:
            counters.guessed_tokens += self._speculator.begin(plan, self.scheduler)
        drawn = [sequence for sequence, count in plan if sequence.is_drawn_after(count)]
        num_rows = sum(1 + len(sequence.guesses.computed) for sequence in drawn)
        tokens, starts, contexts, pages, outputs = forward_arrays(plan)
        echoed, pooled = echo_parts(plan, starts), pooled_parts(plan, starts)
        outputs = np.concatenate([outputs, *(part.rows for part in echoed)])
        reach = reach_of(drawn) if len(outputs) == num_rows else None
        forward_s = time.perf_counter()
        logits = self.runner.forward(tokens, starts, contexts, pages, outputs, reach)
        sample_s = time.perf_counter()
        counters.forward_s += sample_s - forward_s
        counters.prompt_tokens += sum(
            count for sequence, count in plan if sequence.num_computed < sequence.num_prompt
        )
        self.scheduler.advance(plan)
        events = self._pool(pooled)
        events += self._give_out(echoed, logits[num_rows:])
        events += self._end_without_answer(plan)
        for sequence in drawn:
            sequence.num_passes += 1
        counters.decoding_passes += len(drawn)
        events += self._draw_all(drawn, logits[:num_rows])
        counters.steps += 1
        counters.last_step_s = time.perf_counter() - start_s
        counters.step_s += counters.last_step_s
        if self._speculator is not None:
            self._speculator.end(counters.last_step_s)
        return events

    def _pool(self, parts: list[PooledPart]) -> list[StepEvent]:
        """Embeddings whose prompts are complete."""
        events: list[StepEvent] = []
        for part in parts:
            event = pool(part, self.runner.hidden_states(part.rows))
            if event is not None:
                self.finish(part.sequence)
                events.append((part.sequence, event))
        return events

    def _give_out(self, parts: list[EchoPart], logits: Floats) -> list[StepEvent]:
        """Prompts, as far as they are asked for and computed."""
        events: list[StepEvent] = []
        for part in parts:
            own, logits = logits[: len(part.rows)], logits[len(part.rows) :]
            try:
                events.append((part.sequence, self._echo.delta(part, own)))
            except ValueError as error:
                events.append((part.sequence, self._give_up(part.sequence, error)))
        return events

    def _end_without_answer(self, plan: StepPlan) -> list[StepEvent]:
        """The last delta of prompts that are complete and alone wanted."""
        ended = [
            sequence
            for sequence, _ in plan
            if not (sequence.wants_answer or sequence.num_pending or sequence.is_done)
        ]
        for sequence in ended:
            self.finish(sequence)
        return [(sequence, delta_of(sequence, Piece(), "length")) for sequence in ended]

    def _draw_all(self, drawn: list[Sequence], logits: Floats) -> list[StepEvent]:
        """One token for each, then one more for those that drew what had been guessed and computed.

        Args:
            logits: For each sequence, the row of its last known token and those of its guesses.
        """
        if len(logits) == len(drawn):
            return self._draw_next(drawn, logits)
        numbers = [1 + len(sequence.guesses.computed) for sequence in drawn]
        rows = dict(zip(drawn, itertools.accumulate(numbers, initial=0), strict=False))
        events: list[StepEvent] = []
        while drawn:
            events = joined(events + self._draw_next(drawn, logits[list(rows.values())]))
            drawn = [sequence for sequence in drawn if sequence.guesses.is_ahead and not sequence.is_done]
            self.scheduler.advance([(sequence, 1) for sequence in drawn])
            rows = {sequence: rows[sequence] + 1 for sequence in drawn}
        return events

    def _draw_next(self, drawn: list[Sequence], logits: Floats) -> list[StepEvent]:
        """One token for each that has not failed."""
        masks, events = self._masks(drawn, logits.shape[1])
        if any(sequence.is_done for sequence in drawn):
            logits = logits[[not sequence.is_done for sequence in drawn]]
            drawn = [sequence for sequence in drawn if not sequence.is_done]
        return events + self._draw(drawn, logits, masks) if drawn else events

    def _masks(self, drawn: list[Sequence], vocab: int) -> tuple[dict[Sequence, Words], list[StepEvent]]:
        """Of the sequences whose next token is constrained; those that have none of it end."""
        masks: dict[Sequence, Words] = {}
        events: list[StepEvent] = []
        for sequence in drawn:
            constraint = sequence.request.constraint
            if constraint is None or sequence.is_done:
                continue
            try:
                masks[sequence] = mask_of(constraint, vocab)
            except ConstraintFailed as error:
                events.append((sequence, self._give_up(sequence, error)))
        return masks, events

    def _draw(self, drawn: list[Sequence], logits: Floats, masks: dict[Sequence, Words]) -> list[StepEvent]:
        start_s = time.perf_counter()
        if self._params.drawn != drawn:
            self._params = DrawParams(drawn)
        arguments = self._params.arguments(masks)
        try:
            draws = self._sample(logits, **arguments)
        except ValueError:
            return self._draw_each(drawn, logits, arguments)
        text_s = time.perf_counter()
        self.counters.sample_s += text_s - start_s
        events = self._add(drawn, draws)
        self.counters.text_s += time.perf_counter() - text_s
        return events

    def _draw_each(self, drawn: list[Sequence], logits: Floats, arguments: dict[str, Any]) -> list[StepEvent]:
        """One row at a time, after the sampler has refused one (a NaN, a penalty that overflows).

        A draw depends on its row alone, so the other answers are those of a step without a refusal.
        """
        events: list[StepEvent] = []
        for i, sequence in enumerate(drawn):
            row = slice(i, i + 1)
            try:
                draws = self._sample(logits[row], **{name: value[row] for name, value in arguments.items()})
            except ValueError as error:
                events.append((sequence, self._give_up(sequence, error)))
            else:
                events += self._add([sequence], draws)
        return events

    def _give_up(self, sequence: Sequence, error: ValueError) -> AnswerFailed:
        self.finish(sequence)
        reason = re.sub(r"\Arow \d+: ", "", str(error))
        return AnswerFailed(f"no token can be drawn after {sequence.num_generated} of the answer: {reason}")

    def _add(self, drawn: list[Sequence], draws: Draws) -> list[StepEvent]:
        events: list[StepEvent] = []
        for i, (sequence, token_id) in enumerate(zip(drawn, draws[0].tolist(), strict=True)):
            event = self._append(sequence, token_id, self._entry(sequence, draws, i))
            if event is not None:
                events.append((sequence, event))
        self.counters.generated_tokens += len(drawn)
        return events

    def _entry(self, sequence: Sequence, draws: Draws, row: int) -> TokenLogprob | None:
        """What is told of a drawn token, if anything is."""
        if sequence.request.sampling.logprobs is None:
            return None
        tokens, logprobs, top_ids, top_logprobs = draws
        others = top_ids[row].tolist(), top_logprobs[row].tolist()
        return self._entries.of(int(tokens[row]), float(logprobs[row]), *others)

    def _append(
        self, sequence: Sequence, token_id: int, entry: TokenLogprob | None
    ) -> Delta | AnswerFailed | None:
        """Add a drawn token to a sequence; None if there is nothing to show yet."""
        constraint = sequence.request.constraint
        try:
            is_over = constraint is not None and accept(constraint, token_id)
        except ConstraintFailed as error:
            return self._give_up(sequence, error)
        sequence.tokens[sequence.num_tokens] = token_id
        sequence.num_tokens += 1
        sequence.guesses.note(token_id)
        self.counters.accepted_tokens += sequence.guesses.is_ahead
        piece, reason = self._piece(sequence, token_id, entry, is_over)
        if reason is not None:
            self.finish(sequence)
        elif not piece.text and not piece.token_ids:
            return None
        return delta_of(sequence, piece, reason)

    def _piece(
        self, sequence: Sequence, token_id: int, entry: TokenLogprob | None, is_over: bool
    ) -> tuple[Piece, FinishReason | None]:
        sampling, assembler = sequence.request.sampling, sequence.assembler
        if token_id in self._tokenizer.eos_ids and (is_over or not sampling.ignore_eos):
            # Who reads an echoed prompt tells it from the answer by the number of tokens, this one included.
            end = Piece("", (token_id,), (entry,)) if sampling.echo and entry else Piece()
            return assembler.finish() + end, "stop"
        piece = assembler.push(token_id, entry)
        if piece.is_stopped:
            return piece, "stop"
        if not is_over and sequence.num_generated < sampling.max_tokens:
            return piece, None
        last = assembler.finish()
        return piece + last, "stop" if is_over or last.is_stopped else "length"
