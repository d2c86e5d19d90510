"""Model files that load and could still answer nothing: refused in one line, with all that is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_files import finish

from wf_formats.gguf import open_gguf
from wrinklefree_inference.engines import open_engine
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.loading import faults_of
from wrinklefree_inference.native.tokenizer import load_tokenizer

MATRICES = {
    "attn_q": (64, 64),
    "attn_k": (64, 64),
    "attn_v": (64, 64),
    "attn_output": (64, 64),
    "ffn_gate": (64, 64),
    "ffn_up": (64, 64),
    "ffn_down": (64, 64),
}
VOCAB_SIZE = 49152


@pytest.fixture
def model(packaged_gguf: Path, tmp_path: Path):
    """Writes a ternary model of one layer with the packaged tokenizer."""

    def write(context_tokens: int = 64, vocab_size: int = VOCAB_SIZE, template: str | None = None) -> Path:
        path = tmp_path / "model.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        for key, value in open_gguf(packaged_gguf).keys.items():
            if key == "tokenizer.chat_template" and template is not None:
                value = template
            if key.startswith("tokenizer."):
                kind = gguf.GGUFValueType.get_type(value)
                item = gguf.GGUFValueType.get_type(value[0]) if isinstance(value, list) else None
                writer.add_key_value(key, value, kind, item)
        writer.add_block_count(1)
        writer.add_context_length(context_tokens)
        writer.add_embedding_length(64)
        writer.add_feed_forward_length(64)
        writer.add_head_count(1)
        writer.add_head_count_kv(1)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(64)
        writer.add_tensor("token_embd.weight", np.full((vocab_size, 64), 0.01, np.float16))
        for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
            writer.add_tensor(f"{name}.weight", np.ones(64, np.float32))
        for name, shape in MATRICES.items():
            writer.add_tensor(f"blk.0.{name}.weight", np.full(shape, 0.0625, np.float16))
        finish(writer)
        return path

    return write


MORE = {"added_tokens_decoder": {"500": {"content": "<turn>", "special": True}}}
CONTEXT = r"its context is 1 token\(s\), a prompt and an answer need 2"
VOCABULARY = r"tokenizer makes 4915\d tokens, its embedding has rows for 1000"


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"context_tokens": 1}, [CONTEXT]),
        ({"vocab_size": 1000}, [VOCABULARY]),
        ({"context_tokens": 1, "vocab_size": 1000}, [CONTEXT, VOCABULARY]),
        ({"template": "{{ 'a' * 10 ** 10 }}"}, ["the chat template needs more than 512 MB"]),
    ],
)
def test_what_could_answer_nothing_is_refused(model, changes, messages):
    path = model(**changes)
    for message in messages:
        with pytest.raises(EngineError, match=message) as error:
            open_engine(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "put_in", "fault"),
    [
        ({}, 1, None),
        ({}, 700, "puts '.*' with id 700 into prompts, its embedding has rows for 500"),
        (MORE | {"chat_template": "{{ messages }}"}, 1, None),
        (MORE | {"chat_template": "<turn>{{ messages }}"}, 1, "puts '<turn>' with id 500"),
        (MORE | {"chat_template": "{{ bos_token }}", "bos_token": "<turn>"}, 1, "puts '<turn>' with id 500"),
    ],
)
def test_what_prompts_can_have_is_in_the_vocabulary(sentencepiece_folder, tmp_path, config, put_in, fault):
    """Of a step after the tokenizer's model, and of the chat template; what nothing writes is no harm."""
    path = sentencepiece_folder(tmp_path, **config) / "tokenizer.json"
    spec = json.loads(path.read_text())
    spec["post_processor"]["special_tokens"]["<s>"]["ids"] = [put_in]
    path.write_text(json.dumps(spec))
    faults = faults_of(64, 500, load_tokenizer(tmp_path))
    assert faults == [] if fault is None else re.search(fault, faults[0])


def test_the_command_says_it_in_one_line(model):
    arguments = ["chat", "--model", str(model(1, 1000)), "--prompt", "x"]
    done = subprocess.run(
        [sys.executable, "-m", "wrinklefree_inference", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: the native engine cannot run ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_context_of_two_tokens_answers_one(model):
    from wrinklefree_inference.engines.base import Sampling

    with open_engine(model(2)) as engine:
        stream = engine.complete("a", Sampling(max_tokens=5, temperature=0.0))
        stream.text()
        assert (stream.usage.prompt_tokens, stream.usage.completion_tokens) == (1, 1)
        with pytest.raises(EngineError, match="exceed the context of 2 tokens"):
            engine.complete("a b c d", Sampling(max_tokens=5)).text()
