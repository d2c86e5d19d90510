"""Heads of block-diffusion models' files: what those who refuse such models look at."""

from __future__ import annotations

import json
from pathlib import Path

CONFIG = {
    "model_type": "block_diffusion",
    "base_model_type": "llama",
    "architectures": ["BlockDiffusionForCausalLM"],
    "block_diffusion": {"block_size": 8, "mask_token_id": 259, "token_shift": True},
    "vocab_size": 260,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}


def write_folder(folder: Path) -> Path:
    """With weight files of nothing."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").touch()
    return folder


def write_gguf(path: Path) -> Path:
    """Without tensors."""
    import gguf
    from gguf_files import finish

    writer = gguf.GGUFWriter(path, "block-diffusion-llama")
    for name in ("block_size", "mask_token_id"):
        writer.add_uint32(f"block-diffusion-llama.{name}", CONFIG["block_diffusion"][name])  # type: ignore[index]
    writer.add_bool("block-diffusion-llama.token_shift", True)
    finish(writer)
    return path
