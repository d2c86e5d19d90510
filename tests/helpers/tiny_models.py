"""Tiny random models and their tokenizers: the one definition for tests of all packages."""

from __future__ import annotations

from typing import Any


def tiny_model(config_class: str = "LlamaConfig", **extra: object) -> Any:
    """A random causal LM in evaluation mode: hidden 256, ffn 512, 2 layers, tied; always the same weights.

    Args:
        config_class: of transformers.
        extra: settings that differ.
    """
    import torch
    import transformers

    options: dict[str, object] = {
        "vocab_size": 512,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    } | extra
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**options)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def byte_tokenizer(template: str | None = None) -> Any:
    """Of 259 tokens: <unk>, <s>, </s> and the 256 bytes."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=template,
    )


def save_small_llama(folder: str) -> None:
    """With `byte_tokenizer`, for runs that take seconds."""
    tokenizer = byte_tokenizer()
    sizes = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 256}
    tiny_model("LlamaConfig", vocab_size=len(tokenizer), **sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
