"""A block-diffusion model behind the API: a checkpoint, the native engine, the official client."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bitnet_arch import ConversionConfig, convert, quantizer, save_checkpoint
from bitnet_arch.diffusion_model import to_block_diffusion
from wf_formats.errors import RequestError
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.http.app import create_server
from wrinklefree_inference.native.async_engine import AsyncNativeEngine
from wrinklefree_inference.native.blocks.limits import check_options, depends_on_kind
from wrinklefree_inference.native.loading import load_native_model
from wrinklefree_inference.native.model import NativeModel
from wrinklefree_inference.options import EngineOptions, NativeOptions, Speculate

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
ASK: dict[str, Any] = {"model": "blocks", "messages": [{"role": "user", "content": "A story, please"}]}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def folder(tiny_llama: Any, byte_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ternary checkpoint of random numbers, blocks of 8; beside it `before`, the autoregressive one."""
    model, tokenizer = tiny_llama(vocab_size=259, num_hidden_layers=1), byte_tokenizer(TEMPLATE)
    convert(model, ConversionConfig(quantizer("tensor")), torch.randint(3, 259, (8, 64)))
    made: Path = tmp_path_factory.mktemp("diffusion") / "blocks"
    before = made.parent / "before"
    save_checkpoint(model, tokenizer, before, {"stage": "stage3"})
    to_block_diffusion(model, tokenizer, 8)
    save_checkpoint(model, tokenizer, made, {"stage": "stage4"})
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> NativeModel:
    return load_native_model(folder, EngineOptions(context_tokens=256, num_threads=1))


@pytest.fixture
def ask(model: NativeModel, talk: Callable[..., Any]) -> Callable[..., Any]:
    """`ask(coroutine_function)` runs it with the clients of a new server."""

    def run(work: Callable[[Any], Awaitable[Any]]) -> Any:
        engine = AsyncNativeEngine(model)
        try:
            return talk(create_server(engine), work)
        finally:
            engine._worker.close()

    return run


def test_a_checkpoint_is_loaded_as_what_it_is(model):
    assert model.diffusion is not None
    assert (model.diffusion.block_size, model.diffusion.mask_token_id) == (8, 259)
    assert model.new_guesser is None


def test_chat_whole_and_streamed(ask):
    """The same text, several tokens in an event; usage and /metrics tell the passes."""
    options = ASK | {"max_tokens": 40, "temperature": 0, "extra_body": {"threshold": 0, "ignore_eos": True}}

    async def work(http):
        whole = await http.openai.chat.completions.create(**options)
        usage = {"stream_options": {"include_usage": True}}
        stream = await http.openai.chat.completions.create(**options, stream=True, **usage)
        chunks = [chunk async for chunk in stream]
        return whole, chunks, (await http.plain.get("/metrics")).text

    whole, chunks, metrics = ask(work)
    text = whole.choices[0].message.content
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    details = whole.usage.completion_tokens_details
    assert whole.usage.completion_tokens == 40
    assert 40 / 7 < details.decoding_passes <= 14
    assert chunks[-1].usage == whole.usage.model_copy(
        update={"prompt_tokens_details": chunks[-1].usage.prompt_tokens_details}
    )
    assert len(chunks) < 20
    assert f"wf_engine_decoding_passes_total {2 * details.decoding_passes}.0" in metrics


def test_ollama_is_told_what_is_served(ask):
    async def work(http):
        return (await http.plain.post("/api/show", json={"model": ASK["model"]})).json()

    assert ask(work)["capabilities"] == ["completion"]


def test_log_probabilities_and_choices(ask):
    async def work(http):
        return await http.openai.chat.completions.create(
            **ASK, max_tokens=20, n=2, seed=1, logprobs=True, top_logprobs=2, extra_body={"ignore_eos": True}
        )

    both = ask(work).choices
    assert both[0].message.content != both[1].message.content
    for choice in both:
        assert len(choice.logprobs.content) == 20
        assert all(len(entry.top_logprobs) == 2 for entry in choice.logprobs.content)


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        ("chat/completions", {"response_format": SCHEMA}, "response_format", "block-diffusion model, which"),
        ("chat/completions", {"tools": [TOOL]}, "tools", "block-diffusion model, which draws"),
        ("chat/completions", {"threshold": 1.5}, "threshold", "must be in [0, 1]"),
        ("chat/completions", {"sub_block": 0}, "sub_block", "must be in [1, "),
        ("completions", {"prompt": "a", "echo": True}, "echo", "the probability of a text has a bound alone"),
        ("completions", {"prompt": [5, 259]}, "prompt", "prompt id 259 is the mask token"),
        ("embeddings", {"input": "a text"}, "input", "this is a block-diffusion model: what its states say"),
    ],
)
def test_what_blocks_cannot_do_is_a_400_that_names_the_field(ask, path, body, param, message):
    async def work(http):
        messages = {"messages": ASK["messages"]} if path.startswith("chat") else {}
        return await http.plain.post(f"/v1/{path}", json={"model": "blocks", **messages, **body})

    reply = ask(work)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert message in error["message"]
    assert error["param"].startswith(param)


def test_options_are_for_models_of_one_kind(model, folder):
    for options, message in (
        (
            NativeOptions(speculate=Speculate.NGRAM),
            "--speculate: nothing guesses for a block-diffusion model",
        ),
        (NativeOptions(draft_model=folder), "--draft-model: nothing guesses for a block-diffusion model"),
    ):
        with pytest.raises(RequestError, match=message):
            check_options(options, model.diffusion)
    assert (
        check_options(NativeOptions(speculate=Speculate.OFF, threshold=0.5), model.diffusion).threshold == 0.5
    )
    for given, name in (({"threshold": 0.5}, "--threshold 0.5"), ({"sub_block": 4}, "--sub-block 4")):
        with pytest.raises(RequestError, match=f"{name} is for block-diffusion models, and this one is auto"):
            check_options(NativeOptions(**given), None)


def test_models_of_two_kinds_are_refused_before_either_is_read(folder, monkeypatch):
    monkeypatch.setattr("wrinklefree_inference.native.loading._read", lambda *_, **__: pytest.fail("read"))
    before, drafted = folder.parent / "before", {"packs_afresh": True}
    with pytest.raises(EngineError, match="blocks cannot guess for the model: it is a block-diffusion"):
        load_native_model(before, NativeOptions(draft_model=folder, **drafted))
    with pytest.raises(RequestError, match="--draft-model: nothing guesses for a block-diffusion model"):
        load_native_model(folder, NativeOptions(draft_model=before, **drafted))


def test_the_kind_is_asked_for_first_only_where_an_option_depends_on_it():
    assert not any(map(depends_on_kind, (EngineOptions(), NativeOptions())))
    for given in ({"threshold": 0.5}, {"sub_block": 4}, {"speculate": Speculate.NGRAM}):
        assert depends_on_kind(NativeOptions(**given))


def test_a_start_imports_no_reader_of_model_files():
    program = (
        "import sys; from wrinklefree_inference.native.loading import import_kernels; import_kernels(); "
        "print(*(m for m in sys.modules if m.startswith('wf_formats.models.')))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["wf_formats.models.source"]
