"""The undamaged files: a random two-layer model with its own tokenizer, exported by the product."""

from __future__ import annotations

import shutil
from pathlib import Path

import targets

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCAB = 320


def write_samples(samples: Path) -> None:
    """One folder for each kind of input."""
    for name in ("text", "gguf", "template", "manifest"):
        (samples / name).mkdir(parents=True)
    targets.write_texts(samples / "text")
    targets.write_manifest(samples / "manifest")
    (samples / "template" / "chat_template.jinja").write_text(TEMPLATE)
    checkpoint = samples / "checkpoint"
    _write_checkpoint(checkpoint)
    _export(checkpoint, samples)
    shutil.rmtree(checkpoint)


def _write_checkpoint(folder: Path) -> None:
    from tiny_models import tiny_model

    import bitnet_arch

    sizes = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 256}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": False}
    model = tiny_model(vocab_size=VOCAB, **sizes, **heads)
    bitnet_arch.convert(model, bitnet_arch.ConversionConfig(bitnet_arch.quantizer("group64")), None)
    bitnet_arch.save_checkpoint(model, _tokenizer(), folder, {"stage": "stage1"})


def _tokenizer() -> object:
    import tokenizers
    import transformers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<unk>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 50, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<unk>",
        chat_template=TEMPLATE,
    )


def _export(checkpoint: Path, samples: Path) -> None:
    from wf_converter.gguf_export import prepare_gguf
    from wf_converter.hf_export import prepare_hf

    prepare_gguf(checkpoint, "auto", "f16", None).write(samples / "gguf" / "model.gguf")
    prepare_hf(checkpoint).write(samples / "model")
