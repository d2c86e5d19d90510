"""`wf eval` runs what `wf serve` runs: folders that are ternary from birth, packed or not, of every spelling.

The keys are those of published models: BitNet b1.58 2B-4T (packed, and bf16 master weights), Falcon-E.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.integrations.bitnet import pack_weights

from wrinklefree_eval.errors import EvalError
from wrinklefree_eval.models import ModelKind
from wrinklefree_eval.opening import open_model

TEXT = "The cat sat on the mat, and the dog lay by the fire. In 1905 Albert Einstein wrote."
BITNET = ("BitNetConfig", {"hidden_act": "relu2", "rms_norm_eps": 1e-5})
LLAMA = ("LlamaConfig", {})
ONLINE = {"linear_class": "autobitlinear", "quantization_mode": "online"}
CODE = {"AutoConfig": "configuration_bitnet.BitNetConfig", "AutoModelForCausalLM": "modeling_bitnet.BitNet"}
KINDS: dict[str, tuple[tuple[str, dict[str, Any]], dict[str, Any], torch.dtype]] = {
    "2B-4T": (BITNET, {"linear_class": "autobitlinear", "quantization_mode": "offline"}, torch.bfloat16),
    "2B-4T-bf16": (BITNET, ONLINE, torch.bfloat16),
    "bitlinear": (BITNET, {"linear_class": "bitlinear"}, torch.float32),
    "Falcon-E": (LLAMA, {}, torch.bfloat16),
}


@pytest.fixture(params=KINDS)
def folder(request, small_model: tuple[Any, Any], tmp_path: Path) -> Path:
    """A random model of the kind, with the packaged model's tokenizer."""
    (config_class, options), quantization, dtype = KINDS[request.param]
    sizes = {"vocab_size": 49152, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    config = getattr(transformers, config_class)(**sizes, **heads, tie_word_embeddings=True, **options)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    small_model[1].save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    if quantization != ONLINE:
        for name in [name for name in state if "_proj." in name]:
            _pack(state, name, is_inverse=quantization.get("linear_class", "bitlinear") == "bitlinear")
    stored = {name: t if t.dtype == torch.uint8 else t.to(dtype) for name, t in state.items()}
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((tmp_path / "config.json").read_text())
    settings |= {"quantization_config": {"quant_method": "bitnet", **quantization}, "auto_map": CODE}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    return tmp_path


def _pack(state: dict[str, torch.Tensor], name: str, *, is_inverse: bool) -> None:
    scale = state[name].abs().mean()
    state[name] = pack_weights((state[name] / scale).round().clamp(-1, 1))
    state[f"{name}_scale"] = (1 / scale if is_inverse else scale).reshape(1)


def test_every_ternary_folder_is_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In transformers and in the serving engine, which agree; nobody is asked about the model's own code."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    stock, native = open_model(folder, 64, num_threads=1), open_model(folder, 64, ModelKind.NATIVE, 1)
    assert stock.kind is ModelKind.HF
    ids = stock.tokenize(TEXT)
    assert native.tokenize(TEXT) == ids
    assert native.detokenize(ids) == TEXT
    assert native.prefix_ids == stock.prefix_ids
    difference = np.abs(stock.score(ids).logprobs - native.score(ids).logprobs)
    assert difference.max() < 0.05, "embeddings of 8 bits in the engine; another scale would cost nats"
    native.close()


def test_the_serving_engine_answers_tasks(small_checkpoint: Path) -> None:
    from lm_eval.api.instance import Instance

    native, torch_ = (open_model(small_checkpoint, 64, kind, 1) for kind in (ModelKind.NATIVE, None))
    text = "a <|im_start|> that is only text"
    assert native.tokenize(text) == torch_.tokenize(text)
    asked = [Instance("loglikelihood", {}, ("The cat sat on", end), 0) for end in (" the mat", " a x")]
    found, expected = (m.harness(1).loglikelihood(asked, disable_tqdm=True) for m in (native, torch_))
    np.testing.assert_allclose([f[0] for f in found], [e[0] for e in expected], rtol=0.05)
    until = Instance("generate_until", {}, ("Once upon", {"until": [], "max_gen_toks": 3}), 0)
    assert len(native.harness(1).generate_until([until], disable_tqdm=True)) == 1
    assert native.facts()["num_parameters"] > 0
    native.close()


def test_what_the_serving_engine_refuses_is_one_error(small_hf: Path, tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="not ternary"):
        open_model(small_hf, 64, ModelKind.NATIVE, 1)
    with pytest.raises(EvalError, match="there is no file"):
        open_model(tmp_path / "none", 64, ModelKind.NATIVE, 1)
