"""What block diffusion cannot do in this engine, by name."""

from __future__ import annotations

from typing import Any

from wf_formats.block_decoding import BlockDecoding
from wf_formats.diffusion import BlockDiffusion
from wf_formats.errors import RequestError
from wrinklefree_inference.native.request import BadField, GenerationRequest
from wrinklefree_inference.options import EngineOptions, NativeOptions, QueueOptions, Speculate

NO_GRAMMAR = (
    "this is a block-diffusion model, which draws tokens before those on their left are known: no grammar "
    "can say what may come; leave out response_format and tools, or serve an autoregressive model"
)
NO_SCORES = (
    "this is a block-diffusion model: the probability of a text has a bound alone (docs/diffusion.md), which "
    "`wf eval` computes from the checkpoint"
)


def check_engine(diffusion: BlockDiffusion, context_tokens: int, queue: QueueOptions | None) -> None:
    """Raise RequestError where the model's blocks do not fit the engine."""
    size, most = diffusion.block_size, (queue or QueueOptions()).max_batch_tokens
    if (reason := diffusion.why_not_served()) is not None:
        raise RequestError(reason)
    if context_tokens < size:
        raise RequestError(
            f"a context of {context_tokens} tokens has no room for a block of {size}: give --context {size} "
            "or more"
        )
    if most < 2 * size:
        raise RequestError(
            f"--max-batch-tokens {most} has no room for two blocks of {size} tokens, one of an answer and "
            f"one of a prompt: give {2 * size} or more"
        )


def depends_on_kind(options: EngineOptions) -> bool:
    """Whether `check_options` may refuse one kind of model."""
    if not isinstance(options, NativeOptions):
        return False
    asked = options.threshold, options.sub_block, options.speculate, options.draft_model
    return any(value is not None for value in asked)


def check_options(options: EngineOptions, diffusion: BlockDiffusion | None) -> BlockDecoding:
    """How much of a block one pass draws.

    Args:
        diffusion: None: the model is autoregressive.

    Raises:
        RequestError: An option is for models of the other kind.
    """
    if not isinstance(options, NativeOptions):
        return BlockDecoding()
    given = {"threshold": options.threshold, "sub_block": options.sub_block}
    asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name, value in asked.items() if diffusion is None else ():
        raise RequestError(
            f"--{name.replace('_', '-')} {value} is for block-diffusion models, and this one is "
            "autoregressive: leave it out"
        )
    guesses = options.guesses_by if options.speculate or options.draft_model else Speculate.OFF
    if diffusion is not None and guesses is not Speculate.OFF:
        given_as = "--draft-model" if options.draft_model else "--speculate"
        raise RequestError(
            f"{given_as}: nothing guesses for a block-diffusion model, whose passes draw several tokens "
            "themselves; leave it out"
        )
    return BlockDecoding(**asked)


def check_request(diffusion: BlockDiffusion, request: GenerationRequest) -> None:
    """Raise RequestError (a BadField where a field is to blame) for what a request asks in vain."""
    if diffusion.mask_token_id in request.prompt_ids:
        raise RequestError(f"prompt id {diffusion.mask_token_id} is the mask token, which no text has")
    if request.embeds:
        raise RequestError(
            "this is a block-diffusion model: what its states say of a text depends on where it is cut into "
            "blocks; serve an autoregressive model for embeddings"
        )
    if request.sampling.echo:
        raise BadField("echo", NO_SCORES)
    if request.constraint is not None:
        raise BadField("response_format", NO_GRAMMAR)


def check_autoregressive_request(request: GenerationRequest) -> None:
    """Raise BadField for what is of block diffusion alone."""
    for field in ("threshold", "sub_block"):
        if getattr(request.sampling, field) is not None:
            raise BadField(field, "for block-diffusion models, and this one is autoregressive: leave it out")
