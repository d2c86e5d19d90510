"""Tiny random checkpoints of both families, with real (tiny) tokenizers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny_models
import torch

VOCAB = 512
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_phi3() -> Callable[..., object]:
    """Factory of random Phi-3 models: fused linears."""
    return lambda **extra: tiny_models.tiny_model("Phi3Config", **extra)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Callable[..., object]:
    """Factory: a byte-level BPE tokenizer of 512 tokens, trained on Python's own documentation."""
    import pydoc_data.topics as topics

    import transformers
    from tokenizers import Tokenizer, decoders, models, processors, trainers

    from wf_formats.tokenizer.rules import rule_named

    texts = [*topics.topics.values()][:20]

    def make(kind: str = "smollm", add_bos: bool = False):
        rule = rule_named(kind)
        tokenizer = Tokenizer(models.BPE(ignore_merges=rule.ignores_merges))
        tokenizer.pre_tokenizer = rule.pre_tokenizer()
        tokenizer.decoder = decoders.ByteLevel()
        if add_bos:
            tokenizer.post_processor = processors.TemplateProcessing(
                single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
            )
        from tokenizers.pre_tokenizers import ByteLevel

        trainer = trainers.BpeTrainer(
            vocab_size=VOCAB,
            special_tokens=SPECIAL,
            initial_alphabet=ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token="<|im_start|>",
            eos_token="<|im_end|>",
            unk_token="<|endoftext|>",
            pad_token="<|im_end|>",
            chat_template=CHAT_TEMPLATE,
        )

    return make


@pytest.fixture(scope="session")
def ids() -> list[int]:
    """96 random token ids."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(3, VOCAB, (96,), generator=generator).tolist()


@dataclass(frozen=True)
class Case:
    """A converted tiny model: root fixture, config overrides and weight scheme."""

    name: str
    base: str
    scheme: str
    overrides: dict


NARROW = {"hidden_size": 192, "intermediate_size": 448, "num_attention_heads": 3}
NARROW |= {"num_key_value_heads": 1}
CASES = {
    case.name: case
    for case in (
        Case("llama-tensor", "tiny_llama", "tensor", {}),
        Case("llama-tensor-192", "tiny_llama", "tensor", NARROW),
        Case("llama-group64", "tiny_llama", "group64", {}),
        Case("llama-group64-untied", "tiny_llama", "group64", {"tie_word_embeddings": False}),
        Case("mistral-group64", "tiny_mistral", "group64", {"head_dim": 64}),
        Case("mistral-group64-wide", "tiny_mistral", "group64", {}),
        Case("mistral-tensor", "tiny_mistral", "tensor", {"head_dim": 64}),
        Case("qwen2-group128", "tiny_qwen2", "group128", {}),
        Case("qwen3-group64", "tiny_qwen3", "group64", {}),
        Case("phi3-group64", "tiny_phi3", "group64", {}),
    )
}


def spread_weights(model) -> None:
    """Gives a random model weights of trained size, so that its log-probs spread over several nats.

    transformers' initialisation (std 0.02) answers almost uniformly: a wrong scale would hide.
    Row norms, biases and norms vary too, or a permutation error could go unseen.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.3 * noise)
            elif "embed" in name or "lm_head" in name:
                parameter.copy_(0.15 * noise)
            else:
                parameter.copy_(0.08 * noise)


@pytest.fixture(scope="session")
def spread():
    """`spread_weights`, for tests that make their own models."""
    return spread_weights


@pytest.fixture(scope="session")
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer, ids
) -> Callable[..., Path]:
    """Factory (cached): folder of a converted tiny model, by the name of a case or with overrides."""
    import bitnet_arch

    made: dict[str, Path] = {}

    def make(name: str, scheme: str | None = None, **overrides) -> Path:
        key = f"{name}-{scheme}-{sorted(overrides.items())}"
        if key not in made:
            case = CASES[name]
            model = request.getfixturevalue(case.base)(**(case.overrides | overrides))
            spread_weights(model)
            config = bitnet_arch.ConversionConfig(bitnet_arch.quantizer(scheme or case.scheme))
            bitnet_arch.convert(model, config, torch.tensor([ids] * 6))
            kinds = {
                "tiny_llama": "smollm",
                "tiny_mistral": "tekken",
                "tiny_qwen2": "qwen2",
                "tiny_qwen3": "qwen2",
            }
            folder = tmp_path_factory.mktemp("checkpoints") / name
            tokenizer = tiny_tokenizer(kinds.get(case.base, "qwen2"))
            bitnet_arch.save_checkpoint(model, tokenizer, folder, {"stage": "stage2", "step": 3})
            made[key] = folder
        return made[key]

    return make


def scaled_plans(tensors, pick, factor):
    """GGUF tensor plans with the scales of the picked ternary matrices multiplied by `factor`.

    Args:
        pick: called with a name without its suffix, like "blk.0.attn_q".
    """
    import numpy as np

    names = {tensor.name for tensor in tensors}
    changed = []
    for tensor in tensors:
        stem, _, suffix = tensor.name.rpartition(".")
        in_blocks = suffix == "weight" and f"{stem}.scale" not in names
        if pick(stem) and suffix == "scale":
            tensor = _with_data(tensor, lambda data: data * np.float32(factor))
        elif pick(stem) and in_blocks and tensor.type_name in ("q2_0", "q4_0"):
            tensor = _with_data(tensor, lambda data: _scale_blocks(data, factor))
        changed.append(tensor)
    return changed


def _with_data(tensor, change):
    produce = tensor.produce
    return dataclasses.replace(tensor, produce=lambda: change(produce()))


def _scale_blocks(data, factor):
    """Multiplies the fp16 at the head of each 18-byte block."""
    import numpy as np

    blocks = data.reshape(-1, 18).copy()
    scales = blocks[:, :2].copy().view(np.float16).astype(np.float32) * factor
    blocks[:, :2] = scales.astype(np.float16).view(np.uint8)
    return blocks


@pytest.fixture(scope="session")
def with_wrong_scales():
    """`scaled_plans`, for mutation tests."""
    return scaled_plans
