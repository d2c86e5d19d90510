"""Makes a block-diffusion model of an autoregressive one, in place (docs/diffusion.md, "The model").

1. The tokenizer gets the special token MASK_TOKEN, of the first id that no token has.
2. The embedding matrix, and an output head of its own, have a row for it: one of the rows that padded
   vocabularies (Qwen) keep without a token, else new ones at the end. It is the mean of the rows that have
   a token, as is every new row: a random one stands out so far that int8 activations lose the rest.
3. `config.block_diffusion` says what the model is.

Blocks stay as they are, dense or of BitLinear layers with their SubLN and corrections. What the model has to
learn is training's part.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor, nn

from bitnet_arch.errors import CheckpointError, UnsupportedModelError
from bitnet_arch.families import check_supported
from bitnet_arch.model_tokenizer import check_vocabulary
from wf_formats.bounds import INT32_MAX
from wf_formats.diffusion import MASK_TOKEN, SETTINGS_KEY, BlockDiffusion
from wf_formats.errors import RequestError
from wf_formats.families import family_of
from wf_formats.families.layers import read_layers


def block_diffusion_of(model: Any) -> BlockDiffusion | None:
    """What a model in memory says of itself; None: it is autoregressive.

    Raises: LoadError for entries that are missing, unknown or impossible.
    """
    return BlockDiffusion.from_settings({SETTINGS_KEY: getattr(model.config, SETTINGS_KEY, None)})


def to_block_diffusion(
    model: Any, tokenizer: Any, block_size: int = 32, token_shift: bool = True
) -> BlockDiffusion:
    """Makes `model` a block-diffusion model, and gives `tokenizer` its mask token, both in place.

    A model that is one of this block size and shift already stays as it is.

    Args:
        model: a causal LM of a family that can be converted, dense or converted, with its embeddings here and
            not on the meta device.
        tokenizer: the model's, with a Rust backend.
        block_size: tokens.

    Raises:
        UnsupportedModelError: a family, or windows of attention, that have no form here.
        RequestError: a block that the model has no context for, a block-diffusion model of another kind, a
            tokenizer of another model, one that has a mask token of this name, or a vocabulary that has no
            room for it. Nothing was changed.
    """
    check_supported(model.config)
    if (found := block_diffusion_of(model)) is not None:
        return _agreed(found, block_size, token_shift)
    check_blocks(model.config.to_dict(), block_size)
    used, mask = _used_rows(model, tokenizer), _mask_id(model, tokenizer)
    diffusion = BlockDiffusion(block_size, mask, token_shift)
    _add_rows(model, mask, used)
    tokenizer.add_special_tokens({"mask_token": _added_mask()})
    assert tokenizer.mask_token_id == mask
    setattr(model.config, SETTINGS_KEY, diffusion.to_settings())
    return diffusion


def check_blocks(settings: dict[str, Any], block_size: int) -> None:
    """Whether a model of this config.json could have blocks of this size.

    Raises:
        RequestError: no block size, or one beyond the model's context.
        UnsupportedModelError: layers that see a window only: a mask of blocks has no place for it.
    """
    context = settings.get("max_position_embeddings")
    if type(block_size) is not int or block_size < 1:
        raise RequestError(f"block_size is {block_size!r}, not a whole number of tokens of at least 1")
    if context is not None and block_size > context:
        raise RequestError(
            f"block_size is {block_size}, the model's context {context} tokens: give at most that"
        )
    for index, layer in enumerate(read_layers(settings, family_of(settings.get("model_type")))):
        if layer.window is not None and (context is None or layer.window < context):
            raise UnsupportedModelError(
                f"layer {index} sees {layer.window} tokens of a context of {context} (sliding windows), for "
                "which block diffusion has no form: start from a model without windows, or set "
                f"max_position_embeddings in config.json to {layer.window}"
            )


def _agreed(found: BlockDiffusion, block_size: int, token_shift: bool) -> BlockDiffusion:
    asked = BlockDiffusion(block_size, found.mask_token_id, token_shift)
    if asked != found:
        raise RequestError(
            f"the model is a block-diffusion model of block_size {found.block_size} and token_shift "
            f"{found.token_shift} already, not of {block_size} and {token_shift}: ask for what it is, or "
            "start from the autoregressive model"
        )
    return found


def _added_mask() -> AddedToken:
    return AddedToken(MASK_TOKEN, special=True, normalized=False)


def _used_rows(model: Any, tokenizer: Any) -> Tensor:
    """Ids that have a token and a row, sorted."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise RequestError(
            f"the tokenizer ({type(tokenizer).__name__}) has no tokenizer.json: the mask token needs one"
        )
    num_rows = model.get_input_embeddings().weight.shape[0]
    try:
        check_vocabulary(Path(str(tokenizer.name_or_path)), tokenizer, num_rows)
    except CheckpointError as error:
        raise RequestError(str(error)) from error
    used = sorted(index for index in set(backend.get_vocab().values()) if index < num_rows)
    return torch.tensor(used)


def _mask_id(model: Any, tokenizer: Any) -> int:
    """The id that the tokenizers library will give the mask token."""
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    tokens = {index: token for token, index in backend.get_vocab().items()}
    if (taken := backend.token_to_id(MASK_TOKEN)) is not None:
        raise RequestError(
            f"the tokenizer has a token {MASK_TOKEN} of its own (id {taken}): start from the autoregressive "
            "model's tokenizer, which has none"
        )
    backend.add_special_tokens([_added_mask()])
    index: int = backend.token_to_id(MASK_TOKEN)
    if index in tokens:
        raise RequestError(
            f"the vocabulary has no room for {MASK_TOKEN}: it has gaps, and the tokenizers library would "
            f"give it the id {index} of {tokens[index]!r}; fill the gaps in tokenizer.json with unused tokens"
        )
    if index >= INT32_MAX:
        raise RequestError(
            f"the vocabulary has no room for {MASK_TOKEN}: its id would be {index}, and ids end at "
            f"{INT32_MAX - 1}"
        )
    return index


@torch.no_grad()
def _add_rows(model: Any, mask: int, used: Tensor) -> None:
    """Rows up to the mask token's in embedding and head; its own, and new ones, are means."""
    num_rows = model.get_input_embeddings().weight.shape[0]
    if mask >= num_rows:
        model.resize_token_embeddings(mask + 1, mean_resizing=False)
    matrices: dict[int, nn.Parameter] = {
        id(layer.weight): layer.weight
        for layer in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    for weight in matrices.values():  # one where they are tied
        mean = weight[used.to(weight.device)].mean(dim=0, dtype=torch.float32)
        weight[min(mask, num_rows) : mask + 1] = mean.to(weight.dtype)
