"""Which tokens the next forward pass computes.

Each step, in this order:

1. A stream whose reader is far behind gives up its place and its pages until the reader has caught up.
2. Every running stream gets its next token in, oldest first. A stream that enters a new page takes
   one; when none is left, cached prefixes go first, then a sequence is preempted, the youngest of the client
   that runs most: its pages are released and it is computed again later. The text it has streamed stays
   valid, because the next tokens depend on the tokens so far, the seed and the count alone.
3. Requests are admitted while a place is free and the pages of all their tokens fit, with one page to
   spare for each running stream. The client that runs least comes first, among equals preempted requests,
   then clients take turns. If the one whose turn it is does not fit, nobody behind it is admitted either:
   small requests never starve a large one. Where places or pages are missing, clients that run at least two
   more than the client whose turn it is give back their youngest (`places.py`).
4. What is left of the token budget goes to prompts: equal shares for the clients (a short prompt's rest
   is shared out again), first come first served within a client. The budget is smaller while streams
   run, which bounds the time between their tokens; it is never zero, so a long prompt always moves.

A model that draws blocks of tokens (`blocks`) computes them whole: what is said of a token above holds for a
block, budgets are whole blocks, and streams take turns where not all their blocks fit into a pass.

Pages are taken as they are needed instead of reserving prompt + max_tokens, because clients leave
max_tokens at large values and stop early: reserving would run a fraction of the streams. The price is
the recomputation of a preempted sequence, most of which its own still cached pages save. The oldest
sequence is never preempted for another one and fits alone, so there is always progress.

A prompt whose next page is being computed by a running request waits for it and then shares it, unless
that one waits itself, behind another prompt of its client. A running prompt that reaches a page which
somebody else has computed meanwhile takes that page over.
"""

from __future__ import annotations

import itertools
import time

from wf_formats.kernel_sizes import PAGE_TOKENS
from wrinklefree_inference.native.fair_queue import FairQueue
from wrinklefree_inference.native.fair_shares import prompt_shares, taking_turns
from wrinklefree_inference.native.pages import PageCache, extend_digests, pages_for
from wrinklefree_inference.native.places import giver_to, in_turn, youngest_of_largest
from wrinklefree_inference.native.request import RequestTooLong
from wrinklefree_inference.native.sequence import Sequence, StepPlan
from wrinklefree_inference.options import QueueOptions


class Scheduler:
    """The running and the waiting requests of one decoder; used by one thread.

    Args:
        cache: The decoder's pages.
        context_tokens: Most tokens of a prompt with its answer.
        block_size: Tokens that are computed together; a page has a whole number of blocks.
    """

    def __init__(
        self,
        cache: PageCache,
        context_tokens: int,
        queue: QueueOptions | None = None,
        block_size: int = 1,
    ) -> None:
        self.cache = cache
        self.queue = queue or QueueOptions()
        self.block_size = block_size
        self.context_tokens = min(context_tokens, cache.num_pages * PAGE_TOKENS) // block_size * block_size
        self.running: list[Sequence] = []  # oldest first
        self.preempted: list[Sequence] = []  # oldest first
        self.paused: dict[Sequence, float] = {}  # since when (`time.monotonic`) the reader is behind
        self.waiting = FairQueue()
        self.is_admitting = True
        self.num_preemptions = 0
        self.hit_tokens = 0
        self._promised: dict[bytes, Sequence] = {}  # pages that running prompts are going to publish
        self._arrivals = itertools.count()
        self._turn = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would compute anything."""
        return bool(self.running or self.preempted or self.waiting) or any(
            not sequence.is_unread() for sequence in self.paused
        )

    @property
    def begun(self) -> list[Sequence]:
        """All that has been running, whether it is now or not."""
        return [*self.running, *self.preempted, *self.paused]

    def emptied(self) -> Scheduler:
        """A new one with the requests that have not begun; the cache knows nothing any more."""
        cache = PageCache(self.cache.num_pages)
        new = Scheduler(cache, self.context_tokens, self.queue, self.block_size)
        new.waiting, new._arrivals = self.waiting, self._arrivals
        new.num_preemptions, new.hit_tokens = self.num_preemptions, self.hit_tokens
        return new

    def check_fits(self, prompt_tokens: int, max_tokens: int) -> None:
        """Raise RequestTooLong if a request can never be answered."""
        if prompt_tokens + max_tokens > self.context_tokens:
            raise RequestTooLong(
                f"{prompt_tokens} prompt tokens and max_tokens {max_tokens} exceed the "
                f"{self.context_tokens} tokens that one request may have: shorten one of them"
            )

    def add(self, sequence: Sequence) -> None:
        """Queue a request that `check_fits` has passed."""
        sequence.arrival = next(self._arrivals)
        self.waiting.append(sequence)

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, answered or cancelled, wherever it stands."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)
        elif sequence in self.preempted:
            self.preempted.remove(sequence)
        elif sequence in self.paused:
            del self.paused[sequence]
        else:
            self.waiting.remove(sequence)

    def plan(self) -> StepPlan:
        """Choose the tokens of the next forward pass; all pages they need are assigned."""
        self._pause_unread()
        preemptions = self.num_preemptions
        self._make_room()
        if self.is_admitting and self.num_preemptions == preemptions:
            self._admit()
        most, beside = (
            tokens // self.block_size
            for tokens in (self.queue.max_batch_tokens, self.queue.prompt_tokens_beside_streams)
        )
        streams = [sequence for sequence in self.running if sequence.is_stream]
        has_prompts = len(streams) < len(self.running)
        streams = taking_turns(streams, most - has_prompts, self._turn)
        budget = most - len(streams)
        if streams:
            budget = min(budget, max(beside, 1))
        return [(sequence, self.block_size) for sequence in streams] + self._share_out(budget)

    def room_for_guesses(self, sequence: Sequence, count: int) -> int:
        """Give a stream the pages for `count` tokens behind its known ones.

        Returns:
            How many fit: those beyond its pages only where every stream finds a page besides.
        """
        missing = pages_for(sequence.num_tokens + count) - sequence.num_pages
        if missing > 0 and missing + len(self.running) > self.cache.num_available:
            return min(count, sequence.num_pages * PAGE_TOKENS - sequence.num_tokens)
        sequence.add_pages(self.cache.take(max(missing, 0)))
        return count

    def advance(self, plan: StepPlan) -> None:
        """Book a forward pass that has been computed."""
        for sequence, count in plan:
            sequence.num_computed += count
            if sequence.num_computed // PAGE_TOKENS > sequence.num_published:
                self._publish(sequence)

    def _pause_unread(self) -> None:
        """Let streams rest whose reader is behind, and go on with those whose reader has caught up."""
        for sequence in [sequence for sequence in self.running if sequence.is_unread()]:
            self.running.remove(sequence)
            self._release(sequence)
            self.paused[sequence] = time.monotonic()
        for sequence in [sequence for sequence in self.paused if not sequence.is_unread()]:
            del self.paused[sequence]
            self._set_aside(sequence)

    def _make_room(self) -> None:
        """Give every stream the page that its next token falls into, preempting where none is left."""
        for sequence in list(self.running):
            while (
                sequence.num_pages * PAGE_TOKENS < sequence.num_places
                and not self.cache.num_available
                and sequence in self.running
            ):
                self._preempt(youngest_of_largest(self.running))
            if sequence in self.running and sequence.num_pages * PAGE_TOKENS < sequence.num_places:
                sequence.add_pages(self.cache.take(1))

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._release(sequence)
        self._set_aside(sequence)
        self.num_preemptions += 1

    def _set_aside(self, sequence: Sequence) -> None:
        self.preempted.append(sequence)
        self.preempted.sort(key=_arrival)

    def _admit(self) -> None:
        while self.preempted or self.waiting:
            heads = in_turn(self.running, self.preempted, self.waiting.heads())
            if not self._has_place() and giver_to(heads[0], self.running) is None:
                return  # nor is there one for the others, whose clients run more
            candidate = next((head for head in heads if not self._is_held_back(head)), None)
            if candidate is None or not self._place(candidate):
                return

    def _has_place(self) -> bool:
        return len(self.running) < self.queue.max_running

    def _place(self, candidate: Sequence) -> bool:
        """Let a request run, on what others give back if need be."""
        while not (self._has_place() and self._start(candidate)):
            giver = giver_to(candidate, self.running)
            if giver is None:
                return False
            self._preempt(giver)
        if candidate in self.preempted:
            self.preempted.remove(candidate)
        else:
            self.waiting.pop(candidate)
        return True

    def _is_held_back(self, sequence: Sequence) -> bool:
        """Whether a running request is about to publish the next page that this one lacks."""
        extend_digests(sequence.digests, sequence.tokens[: sequence.num_tokens])
        if not self._promised:
            return False
        missing = next((d for d in self._shareable(sequence) if not self.cache.has(d)), b"")
        owner = self._promised.get(missing)
        return owner is not None and owner is self._first_prompt_of(owner.request.client)

    def _first_prompt_of(self, client: str) -> Sequence | None:
        """The prompt of a client that gets its tokens in first."""
        mine = (s for s in self.running if s.request.client == client and not s.is_stream)
        return next(mine, None)

    def _start(self, sequence: Sequence) -> bool:
        """Run a request if the pages of its known tokens fit."""
        pages = self.cache.match(self._shareable(sequence))
        num_missing = pages_for(sequence.num_places) - len(pages)
        if num_missing + len(self.running) > self.cache.num_available:
            self.cache.release(pages)
            return False
        sequence.add_pages(pages + self.cache.take(num_missing))
        sequence.num_published = len(pages)
        sequence.num_computed = len(pages) * PAGE_TOKENS
        if sequence.cached_prompt_tokens is None:
            sequence.cached_prompt_tokens = sequence.num_computed
            self.hit_tokens += sequence.num_computed
        self._promised.update(dict.fromkeys(sequence.digests[len(pages) :], sequence))
        self.running.append(sequence)
        self.running.sort(key=_arrival)
        return True

    @staticmethod
    def _shareable(sequence: Sequence) -> list[bytes]:
        """Digests of the pages that may come from the cache: the last known token is always computed."""
        return sequence.digests[: sequence.num_reusable // PAGE_TOKENS]

    def _share_out(self, budget: int) -> StepPlan:
        """The next tokens of prompts, so many blocks."""
        for sequence in self.running:
            if not sequence.is_stream:
                self._take_over(sequence)
        self._turn += 1
        prompts = [sequence for sequence in self.running if not sequence.is_stream]
        return prompt_shares(prompts, budget, self._turn, self.block_size)

    def _take_over(self, sequence: Sequence) -> None:
        """Use the pages that others have published since this sequence started."""
        num_shareable = sequence.num_reusable // PAGE_TOKENS
        while sequence.num_computed == sequence.num_published * PAGE_TOKENS < num_shareable * PAGE_TOKENS:
            index = sequence.num_published
            found = self.cache.match(sequence.digests[index : index + 1])
            if not found:
                return
            self.cache.release([int(sequence.pages[index])])
            sequence.pages[index] = found[0]
            sequence.num_published += 1
            sequence.num_computed += PAGE_TOKENS
            if sequence.num_generated == 0:
                sequence.cached_prompt_tokens = (sequence.cached_prompt_tokens or 0) + PAGE_TOKENS
                self.hit_tokens += PAGE_TOKENS

    def _publish(self, sequence: Sequence) -> None:
        """Make the pages that have become full findable."""
        extend_digests(sequence.digests, sequence.tokens[: sequence.num_computed])
        for index in range(sequence.num_published, sequence.num_computed // PAGE_TOKENS):
            digest = sequence.digests[index]
            sequence.pages[index] = self.cache.publish(int(sequence.pages[index]), digest)
            self._promised.pop(digest, None)
        sequence.num_published = sequence.num_computed // PAGE_TOKENS

    def _release(self, sequence: Sequence) -> None:
        for digest in sequence.digests[sequence.num_published :]:
            if self._promised.get(digest) is sequence:
                del self._promised[digest]
        self.cache.release(sequence.forget_pages())


def _arrival(sequence: Sequence) -> int:
    return sequence.arrival
