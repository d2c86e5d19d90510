"""Stage 1 and its source: what cannot be used is said before anything is written; what came stays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import bitnet_arch
from bitnet_arch.tokenizers import load_tokenizer
from wrinklefree.compose.composing import compose_config
from wrinklefree.stages.prospects import Targets, check_prospects

SETTINGS = {
    "vocab_size": 260,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GENERATION = {"eos_token_id": [2, 5], "temperature": 0.6, "top_p": 0.95}


@pytest.fixture
def source(dense_dir: Path, tmp_path: Path) -> Path:
    """A copy of the dense model to spoil."""
    return Path(shutil.copytree(dense_dir, tmp_path / "source"))


@pytest.fixture
def stage1(cli: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """stage1(folder, *overrides): exit code and what was said."""

    def run(folder: Path, *overrides: str) -> tuple[int, str]:
        done = cli("stage1_subln", f"model.name={folder}", *overrides)
        return done.code, capsys.readouterr().err

    return run


def edit_state(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def edit_json(path: Path, **values: object) -> None:
    contents = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(contents | values))


def edit_config(folder: Path, **values: object) -> None:
    edit_json(folder / "config.json", **values)


def edit_tokenizer(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    spec = json.loads((folder / "tokenizer.json").read_text())
    edit(spec)
    (folder / "tokenizer.json").write_text(json.dumps(spec))


def with_a_merge(spec: dict[str, Any]) -> None:
    """Without any a tokenizer fits no GGUF file."""
    spec["model"] |= {"vocab": spec["model"]["vocab"] | {"th": 259}, "merges": [["t", "h"]]}


def unigram(spec: dict[str, Any]) -> None:
    """Of the same tokens."""
    vocab = [[token, -1.0] for token in spec["model"]["vocab"]]
    spec["model"] = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False}
    spec["decoder"] = {"type": "Fuse"}


@pytest.fixture
def family(dense_dir: Path, tmp_path: Path) -> Callable[[Any], Path]:
    """Factory: folder of a random model of a configuration, with the byte tokenizer and one merge."""

    def make(config: Any) -> Path:
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
        for file in dense_dir.glob("tokenizer*"):
            shutil.copy(file, tmp_path / "model")
        edit_tokenizer(tmp_path / "model", with_a_merge)
        return tmp_path / "model"

    return make


NORM = "model.norm.weight"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 269060552\n"
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "original_max_position_embeddings": 64, "factor": -2.0}
PUT_IN = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [259], "tokens": ["<s>"]}},
}
SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "NaN": (lambda f: edit_state(f, lambda s: s[NORM].fill_(float("nan"))), "holds NaN or Inf"),
    "missing": (lambda f: edit_state(f, lambda s: s.pop(NORM)), "model.norm.weight is missing"),
    "no tokenizer.json": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "has no tokenizer"),
    "vocabulary": (lambda f: edit_config(f, vocab_size=100), "shape [259, 64], expected [100, 64]"),
    "quantized": (
        lambda f: edit_config(f, quantization_config={"quant_method": "awq"}),
        "quantized already (AWQ)",
    ),
    "multimodal": (
        lambda f: edit_config(f, model_type="llava", text_config={"model_type": "llama"}),
        "multimodal",
    ),
    "experts": (lambda f: edit_config(f, model_type="mixtral", num_local_experts=8), "mixture of experts"),
    "encoder": (lambda f: edit_config(f, model_type="t5", is_encoder_decoder=True), "encoder-decoder"),
    "context": (lambda f: edit_config(f, max_position_embeddings=1), "max_position_embeddings=1"),
    "window": (lambda f: edit_config(f, sliding_window=-5), "sliding_window=-5"),
    "pickle": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "with safetensors"),
    "index": (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "JSON list"),
    "config": (lambda f: (f / "config.json").write_text("[]"), "JSON list"),
    "no eos": (lambda f: edit_json(f / "tokenizer_config.json", eos_token=None), "has no eos_token, which"),
    "sampling": (
        lambda f: edit_json(f / "generation_config.json", temperature="hot"),
        "generation_config.json: temperature is 'hot'",
    ),
    "end": (
        lambda f: edit_json(f / "generation_config.json", eos_token_id=[2, 259]),
        "generation_config.json: eos_token_id is [2, 259]",
    ),
    "put in": (lambda f: edit_tokenizer(f, lambda s: s.update(post_processor=PUT_IN)), "with id 259"),
    "YaRN": (lambda f: edit_config(f, rope_parameters=YARN), "config.json: rope factor is -2.0"),
    "long": (lambda f: edit_config(f, max_position_embeddings=10**18), "max_position_embeddings is 10000000"),
    "heads": (lambda f: edit_config(f, num_attention_heads=0), "config.json: num_attention_heads is 0"),
    "dtype": (lambda f: edit_config(f, dtype=["float32"]), "config.json: dtype is ['float32']"),
    "null": (lambda f: edit_config(f, use_cache=None), "'use_cache'"),
    "weights of LFS": (lambda f: (f / "model.safetensors").write_text(POINTER), "`git lfs pull`"),
    "tokenizer of LFS": (lambda f: (f / "tokenizer.json").write_text(POINTER), "`git lfs pull`"),
    "BOM": (lambda f: (f / "config.json").write_text("{}", "utf-8-sig"), "byte order mark"),
    "converted": (lambda f: _convert(f), "is converted already"),
}


def _convert(folder: Path) -> None:
    model, tokenizer = bitnet_arch.load_dense("path", str(folder))
    bitnet_arch.convert(model, bitnet_arch.ConversionConfig(bitnet_arch.quantizer("group64"), False))
    shutil.rmtree(folder)
    bitnet_arch.save_checkpoint(model, tokenizer, folder, {})


@pytest.mark.parametrize("case", SPOILED)
def test_a_source_that_cannot_be_used_leaves_nothing(
    case: str,
    source: Path,
    stage1: Callable[..., tuple[int, str]],
    cli: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoil, message = SPOILED[case]
    spoil(source)
    caplog.set_level("INFO", "wrinklefree")
    code, said = stage1(source)
    assert code == 2
    assert message in said
    assert "Traceback" not in said
    assert not cli.folder("stage1_subln").exists()
    if case == "no eos":
        assert not any("works" in line for line in caplog.messages)


def test_losses_that_are_no_numbers_are_an_error(
    source: Path, stage1: Callable[..., tuple[int, str]], cli: Any
) -> None:
    """Finite weights whose products are not."""
    edit_state(source, lambda s: s["model.layers.0.mlp.up_proj.weight"].fill_(3e38))
    for overrides in ([], ["model.scheme=group64"]):
        code, said = stage1(source, *overrides)
        assert code == 1
        assert "the held-out loss of the model (dense) is nan: its weights make numbers" in said
        assert not (cli.folder("stage1_subln") / "final").exists()


@pytest.mark.parametrize(
    ("overrides", "sub_norm"),
    [
        ([], True),
        (["model.scheme=tensor"], True),
        (["model.scheme=group64"], False),
        (["model.scheme=group128"], False),
        (["model.scheme=group64", "model.sub_norm=true"], True),
        (["model.sub_norm=false"], False),
        (["model.scheme=mine"], None),
    ],
)
def test_sub_norm_follows_the_scheme(overrides: list[str], sub_norm: bool | None) -> None:
    config = compose_config(["training=stage1_subln", "model=smollm2_135m", *overrides])
    assert config.model.sub_norm is sub_norm


def test_group_scales_alone_are_enough(
    source: Path, stage1: Callable[..., tuple[int, str]], cli: Any
) -> None:
    """model.scheme=group64 on a Llama; what came with the model is there at the end."""
    (source / "generation_config.json").write_text(json.dumps(GENERATION))
    edit_state(source, lambda s: s.update({"lm_head.weight": s["model.embed_tokens.weight"] * 2}))
    assert stage1(source, "model.scheme=group64")[0] == 0
    final = cli.folder("stage1_subln") / "final"
    conversion = bitnet_arch.read_meta(final)["conversion"]
    assert (conversion["scheme"], conversion["sub_norm"]) == ("group64", False)
    kept = json.loads((final / "generation_config.json").read_text())
    assert {key: kept.get(key) for key in GENERATION} == GENERATION
    state = load_file(final / "model.safetensors")
    assert torch.equal(state["lm_head.weight"], state["model.embed_tokens.weight"] * 2)


@pytest.mark.parametrize(
    ("config", "overrides", "works", "warned"),
    [
        (transformers.LlamaConfig(**SETTINGS), [], 4, False),
        (transformers.LlamaConfig(**SETTINGS), ["model.scheme=group64"], 4, False),
        (transformers.Qwen3Config(**SETTINGS), ["model.scheme=group64"], 4, False),
        (transformers.Qwen3Config(**SETTINGS), [], 1, True),
    ],
    ids=["llama-tensor", "llama-group64", "qwen3-group64", "qwen3-tensor"],
)
def test_stage_1_says_what_can_become_of_the_model(
    config: Any,
    overrides: list[str],
    works: int,
    warned: bool,
    family: Callable[[Any], Path],
    stage1: Callable[..., tuple[int, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "wrinklefree")
    assert stage1(family(config), *overrides)[0] == 0
    lines = [
        message for message in caplog.messages if message.startswith(("export to", "the native", "llama.cpp"))
    ]
    assert len(lines) == 4
    assert sum(line.endswith(": works") for line in lines) == works
    assert any("will not be exportable" in message for message in caplog.messages) is warned


@pytest.mark.parametrize("name", ["longrope", "yarn"])
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_a_model_is_judged_as_transformers_understands_it(name: str, key: str, source: Path) -> None:
    """What the first Phi-3 of long contexts call yarn is longrope."""
    factors = {"short_factor": [1.0] * 8, "long_factor": [1.5] * 8}
    settings = SETTINGS | {"original_max_position_embeddings": 128, "torch_dtype": "float32"}
    settings |= {"model_type": "phi3", "pad_token_id": 0, key: {"type": name, **factors}}
    (source / "config.json").write_text(json.dumps(settings))
    edit_tokenizer(source, with_a_merge)
    understood = bitnet_arch.open_dense("path", str(source)).understood
    assert understood["rope_parameters"]["rope_type"] == "longrope"
    reasons = Targets(understood, load_tokenizer(source), "group64", False).reasons()
    assert set(reasons.values()) == {None}, reasons


def test_a_tokenizer_closes_what_cannot_hold_it(
    source: Path, stage1: Callable[..., tuple[int, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """Unigram fits neither GGUF nor the native engine; a Hugging Face folder keeps it as it is."""
    caplog.set_level("INFO", "wrinklefree")
    edit_tokenizer(source, unigram)
    assert stage1(source, "model.scheme=group64")[0] == 0
    assert "export to GGUF: no, tokenizer.json: a Unigram model is not BPE" in " ".join(caplog.messages)
    assert "the native engine: no, tokenizer.json: its decoder" in " ".join(caplog.messages)
    assert "export to a Hugging Face folder: works" in caplog.messages
    code, said = stage1(source, "model.scheme=tensor", "model.sub_norm=false", "experiment=nowhere")
    assert code == 2, "no export has that, and no engine the tokenizer"
    assert "model.allow_unservable=true" in said


@pytest.mark.parametrize(
    ("scheme", "says"),
    [
        (
            "tensor",
            "the native engine alone will serve it, from its checkpoint; model.scheme=group64 "
            "model.sub_norm=false would make it exportable",
        ),
        ("mine", "nothing here exports or serves them"),
    ],
)
def test_what_the_native_engine_serves_alone_is_one_warning_with_the_fix(
    scheme: str, says: str, dense_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = transformers.Qwen3Config(**SETTINGS).to_dict()
    check_prospects(Targets(settings, load_tokenizer(dense_dir), scheme, True), allow_unservable=False)
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1
    assert says in warned[0]


def test_what_nothing_can_serve_is_refused_unless_asked_for(
    family: Callable[[Any], Path], stage1: Callable[..., tuple[int, str]], cli: Any
) -> None:
    """A scaling that only transformers computes, in a form that has no packed folder."""
    nowhere = ["model.scheme=group64", "model.sub_norm=true"]
    rope = {"rope_type": "proportional", "rope_theta": 1e4, "partial_rotary_factor": 1.0}
    folder = family(transformers.LlamaConfig(**SETTINGS, rope_parameters=rope))
    code, said = stage1(folder, *nowhere)
    assert code == 2
    assert "model.sub_norm=false" in said
    assert "model.allow_unservable=true" in said
    assert not cli.folder("stage1_subln").exists()
    assert stage1(folder, *nowhere, "model.allow_unservable=true")[0] == 0
