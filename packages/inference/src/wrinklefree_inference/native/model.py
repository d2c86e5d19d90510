"""A loaded model: decoder, tokenizer and sampler, and what is made of them.

`ternary_kernels` is imported when a model is loaded, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from wf_formats.block_decoding import BlockDecoding
from wf_formats.chat_template import TemplateUnfitError
from wf_formats.diffusion import BlockDiffusion
from wf_formats.errors import RequestError
from wrinklefree_inference.engines.base import ModelFacts
from wrinklefree_inference.native.blocks.core import BlockCore
from wrinklefree_inference.native.blocks.limits import (
    check_autoregressive_request,
    check_engine,
    check_request,
)
from wrinklefree_inference.native.blocks.sequence import BlockSequence
from wrinklefree_inference.native.core import Core, TokenizerLike
from wrinklefree_inference.native.draw_params import Sampler
from wrinklefree_inference.native.grammar import Grammars, Vocabulary
from wrinklefree_inference.native.pages import PageCache
from wrinklefree_inference.native.request import BadField, GenerationRequest, SamplingParams
from wrinklefree_inference.native.runner import ModelRunner, NoRunner
from wrinklefree_inference.native.scheduler import Scheduler
from wrinklefree_inference.native.sequence import Sequence, Sink
from wrinklefree_inference.native.speculation.guesser import Guesser
from wrinklefree_inference.native.speculation.speculator import Speculator
from wrinklefree_inference.native.stops import TokenDecoder
from wrinklefree_inference.options import QueueOptions
from wrinklefree_inference.tool_calls.history import for_template
from wrinklefree_inference.tool_calls.template import TemplateTools


class TextTokenizer(TokenizerLike, Protocol):
    """The tokenizer of a model (`native.tokenizer.load_tokenizer`)."""

    def encode(self, text: str, add_special: bool = ..., max_tokens: int | None = ...) -> list[int]:
        """Ids of a text; RequestTooLong if it has far more than `max_tokens`."""

    def decode(self, ids: list[int], /) -> str:
        """Text of ids."""

    def apply_chat_template(
        self,
        messages: list[dict[str, Any]],
        *,
        max_tokens: int | None = ...,
        variables: Mapping[str, Any] | None = ...,
        tools: Mapping[str, Any] | None = ...,
    ) -> list[int]:
        """Ids of a conversation and the beginning of the assistant's turn; the template finds `variables`."""

    def render_chat(self, messages: list[dict[str, Any]], *, tools: Mapping[str, Any] | None = ...) -> str:
        """The text of that."""

    def special_id(self, text: str, /) -> int | None:
        """Id of the special token of that text, if there is one."""

    def vocabulary(self, num_rows: int, /) -> Vocabulary:
        """The tokens of a model with so many rows."""


@dataclass(frozen=True)
class NativeModel:
    """What an engine runs.

    Attributes:
        new_decoder: Makes what turns the tokens of one answer into text as they come; called with True, it
            shows special tokens too.
        new_guesser: Makes what guesses the next tokens of one core; None: nothing does.
        diffusion: Of a block-diffusion model; None: the model is autoregressive.
        decoding: How much of its blocks one pass draws, where a request does not say.
        context_tokens: Longest prompt and answer together.
    """

    name: str
    runner: ModelRunner
    tokenizer: TextTokenizer
    new_decoder: Callable[..., TokenDecoder]
    sample: Sampler
    context_tokens: int
    vocab_size: int
    hidden_size: int
    new_guesser: Callable[[], Guesser] | None = None
    num_parameters: int | None = None
    weight_type: str | None = None
    size_bytes: int | None = None
    diffusion: BlockDiffusion | None = None
    decoding: BlockDecoding = field(default_factory=BlockDecoding)

    @property
    def facts(self) -> ModelFacts:
        """What is known of it."""
        return ModelFacts(
            self.name,
            size_bytes=self.size_bytes,
            num_parameters=self.num_parameters,
            context_tokens=self.context_tokens,
            weight_type=self.weight_type,
            block_size=None if self.diffusion is None else self.diffusion.block_size,
        )

    def released(self) -> NativeModel:
        """The same without its decoder, whose memory is free once nobody else holds it."""
        return replace(self, runner=NoRunner(), new_guesser=None)

    def new_core(self, queue: QueueOptions | None = None) -> Core:
        """A scheduler with all pages of the decoder, and its step.

        Raises:
            RequestError: Blocks of the model do not fit context, pages or passes.
        """
        cache = PageCache(self.runner.num_pages)
        if self.diffusion is not None:
            check_engine(self.diffusion, self.context_tokens, queue)
            scheduler = Scheduler(cache, self.context_tokens, queue, self.diffusion.block_size)
            mask = self.diffusion.mask_token_id
            return BlockCore(scheduler, self.runner, self.tokenizer, self.sample, mask)
        scheduler = Scheduler(cache, self.context_tokens, queue)
        return Core(scheduler, self.runner, self.tokenizer, self.sample, self._new_speculator)

    def _new_speculator(self) -> Speculator | None:
        return None if self.new_guesser is None else Speculator(self.new_guesser())

    def new_sequence(
        self, request: GenerationRequest, sink: Sink, is_unread: Callable[[], bool] = lambda: False
    ) -> Sequence:
        """The state of a new request.

        Raises:
            ValueError: The prompt is empty or has ids that the model does not know.
            BadField: `logit_bias` has such ids, or a field asks what a model of this kind cannot do.
        """
        self.check_ids(request.prompt_ids)
        for token_id, _ in request.sampling.logit_bias:
            if not 0 <= token_id < self.vocab_size:
                reason = f"token id {token_id} is not in the vocabulary of {self.vocab_size} tokens"
                raise BadField("logit_bias", reason)
        if self.diffusion is not None:
            check_request(self.diffusion, request)
            decoding = self._decoding_of(request.sampling)
            return BlockSequence(request, self.new_decoder(), sink, is_unread, self.diffusion, decoding)
        check_autoregressive_request(request)
        # A grammar lets special tokens stand only where they say something (the beginning of a call).
        decoder = self.new_decoder() if request.constraint is None else self.new_decoder(True)
        return Sequence(request, decoder, sink, is_unread)

    def _decoding_of(self, sampling: SamplingParams) -> BlockDecoding:
        own, default = sampling, self.decoding
        return BlockDecoding(
            default.threshold if own.threshold is None else own.threshold,
            default.sub_block if own.sub_block is None else own.sub_block,
        )

    def check_ids(self, ids: SequenceOf[int]) -> None:
        """Raise ValueError unless `ids` are a prompt."""
        if not ids:
            raise RequestError("the prompt has no tokens: give it at least one")
        for token_id in (min(ids), max(ids)):
            if not 0 <= token_id < self.vocab_size:
                raise RequestError(
                    f"prompt id {token_id} is not in the vocabulary of {self.vocab_size} tokens"
                )

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text, with the special tokens that the model expects before it."""
        return self.tokenizer.encode(text, True, self.context_tokens)

    def tokenize_chat(
        self,
        messages: SequenceOf[Mapping[str, Any]],
        variables: Mapping[str, Any] | None = None,
        tools: SequenceOf[Mapping[str, Any]] = (),
    ) -> list[int]:
        """Ids of a conversation in the model's chat template, up to the assistant's turn.

        Args:
            messages: OpenAI's, with the arguments of calls as objects.
            variables: What the template may know besides.
            tools: What the assistant may call, OpenAI's.
        """
        turns = [dict(message) for message in messages]
        of_tools: dict[str, Any] = {}
        if tools or any("tool_calls" in turn or turn["role"] == "tool" for turn in turns):
            turns, of_tools = for_template(turns, tools, self.template_tools)
        return self.tokenizer.apply_chat_template(
            turns, max_tokens=self.context_tokens, variables=variables, tools=of_tools
        )

    @cached_property
    def template_tools(self) -> TemplateTools:
        """What the chat template knows of tools.

        Raises:
            ValueError: The model has no template, or it goes beyond its limits.
        """

        def render(messages: SequenceOf[Mapping[str, Any]], tools: Mapping[str, Any]) -> str | None:
            turns = [dict(message) for message in messages]
            try:
                return self.tokenizer.render_chat(turns, tools=tools)
            except TemplateUnfitError:
                return None

        return TemplateTools.of(render).with_special(self.tokenizer.special_id)

    @cached_property
    def grammars(self) -> Grammars:
        """What answers can be held to."""
        return Grammars(self.tokenizer.vocabulary(self.vocab_size))
