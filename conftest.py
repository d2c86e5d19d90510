"""Fixtures shared by every package's tests."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent / "tests" / "helpers"))
import diffusion_files
import tiny_models
from gguf_files import finish

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # transformers compiles bitnet helpers: 8-18 s a process
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads slow a shared machine tenfold
os.environ.setdefault("WF_PACKED_CACHE", "0")  # tests fill no cache of the user's
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Bytecode is kept, whatever the environment says: without it each of the tests' many processes compiles what
# it imports, 7 s of processor time for PyTorch and transformers.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
for _name in ("no_proxy", "NO_PROXY"):  # the tests' own clients ask servers on this machine
    os.environ[_name] = ",".join(filter(None, (os.environ.get(_name), "127.0.0.1,localhost,::1")))


@pytest.fixture(scope="session", autouse=True)
def _commands_made_once() -> Iterator[None]:
    """typer's CliRunner makes all commands of an application anew at each call, half the time of a test."""
    from typer import testing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(testing, "_get_command", cache(testing._get_command))
        yield


@pytest.fixture(scope="session")
def workspace_root() -> Path:
    return Path(__file__).parent


@pytest.fixture(scope="session")
def shared_data(workspace_root: Path) -> Path:
    """Real text: $WRINKLEFREE_SHARED_DATA, or `shared/data` beside the checkout."""
    folder = Path(os.environ.get("WRINKLEFREE_SHARED_DATA", workspace_root.parent / "shared" / "data"))
    if not (folder / "MANIFEST.json").is_file():
        pytest.skip(f"the shared text folder is missing: {folder} (set WRINKLEFREE_SHARED_DATA)")
    return folder


@pytest.fixture
def strange_targets(tmp_path: Path) -> dict[str, Path]:
    """Names of what is no earlier report."""
    (tmp_path / "thesis.txt").write_text("keep")
    (tmp_path / "other.json").write_text('{"model": 1}')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "thesis.txt")
    names = ("thesis.txt", "other.json", "list.json", "folder", "link")
    return {name: tmp_path / name for name in names} | {"device": Path(os.devnull)}


@pytest.fixture(scope="session")
def packaged_model_dir() -> Path:
    """Hugging Face folder of the packaged SmolLM2-135M-Instruct, made once in the user's cache."""
    import bitnet_arch

    return bitnet_arch.packaged_model_dir()


@pytest.fixture(scope="session")
def packaged_gguf() -> Path:
    """SmolLM2-135M-Instruct in Q4_1, as shipped."""
    from wf_formats.packaged import packaged_gguf

    return packaged_gguf()


@pytest.fixture(scope="session")
def f32_writer() -> Callable[[Path, Path, int], None]:
    """`write_f32`, for tests."""
    return write_f32


@pytest.fixture(scope="session")
def small_gguf(packaged_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two layers of the packaged model in fp32: quick, and exact in any runtime."""
    path = tmp_path_factory.mktemp("gguf") / "two-layers-f32.gguf"
    write_f32(packaged_gguf, path, num_layers=2)
    return path


@cache
def _gguf_reader(path: Path) -> Any:
    """gguf-py takes seconds to read the packaged model's vocabulary."""
    import gguf

    return gguf.GGUFReader(path)


@pytest.fixture(scope="session")
def packaged_reader(packaged_gguf: Path) -> Any:
    """The packaged model, opened by gguf-py."""
    return _gguf_reader(packaged_gguf)


def write_f32(source: Path, path: Path, num_layers: int) -> None:
    """Dequantize the first layers of a llama GGUF into another one.

    Read by our reader, at once; gguf-py, whose codecs and writer it goes through, takes seconds for the keys.
    """
    import gguf

    from wf_formats.gguf import open_gguf

    opened, writer = open_gguf(source), gguf.GGUFWriter(path, "llama")
    for key, value in opened.keys.items():
        if key != "general.architecture":
            kept = num_layers if key == "llama.block_count" else value
            item = gguf.GGUFValueType.get_type(kept[0]) if isinstance(kept, list) else None
            writer.add_key_value(key, kept, gguf.GGUFValueType(opened.kinds[key]), item)
    for name, tensor in opened.tensors.items():
        if not name.startswith("blk.") or int(name.split(".")[1]) < num_layers:
            weight = gguf.dequantize(opened.data(name), gguf.GGMLQuantizationType(tensor.ggml_type))
            writer.add_tensor(name, weight.reshape(tensor.shape))
    finish(writer)


@pytest.fixture(scope="session")
def diffusion_files_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`folder` and `gguf` with the head of a block-diffusion model: blocks of 8 tokens, no weights."""
    place = tmp_path_factory.mktemp("diffusion")
    gguf = diffusion_files.write_gguf(place / "model.gguf")
    return {"folder": diffusion_files.write_folder(place / "folder"), "gguf": gguf}


@pytest.fixture(scope="session")
def mutate() -> ModuleType:
    """tests/helpers/mutate.py: damaged variants of files, the same for the same seed."""
    return importlib.import_module("mutate")


@pytest.fixture(scope="session")
def module_of() -> Callable[[Path], ModuleType]:
    """tests/helpers/modules.py: a script or another file as a module."""
    found: Callable[[Path], ModuleType] = importlib.import_module("modules").module_of
    return found


@pytest.fixture(scope="session")
def byte_tokenizer() -> Callable[..., Any]:
    """Factory of tokenizers of 259 tokens, with a chat template if one is given."""
    return tiny_models.byte_tokenizer


@pytest.fixture(scope="session")
def tiny_llama() -> Callable[..., object]:
    """Factory of random Llama models: hidden 256, ffn 512, 2 layers, tied; keywords override the config."""
    return lambda **extra: tiny_models.tiny_model("LlamaConfig", **extra)


@pytest.fixture(scope="session")
def tiny_qwen3() -> Callable[..., object]:
    """Factory of random Qwen3 models: heads x head_dim (4 x 128) is twice the hidden size, QK-norm."""
    return lambda **extra: tiny_models.tiny_model("Qwen3Config", **{"head_dim": 128} | extra)


@pytest.fixture(scope="session")
def tiny_qwen2() -> Callable[..., object]:
    """Factory of random Qwen2.5 models: biases on q, k and v."""
    return lambda **extra: tiny_models.tiny_model("Qwen2Config", **extra)


@pytest.fixture(scope="session")
def tiny_mistral() -> Callable[..., object]:
    """Factory of random Mistral models: no biases, a window over the whole context, wide heads."""
    return lambda **extra: tiny_models.tiny_model(
        "MistralConfig", **{"head_dim": 128, "sliding_window": 512} | extra
    )


def trained_bpe(num_tokens: int) -> dict[str, Any]:
    """A SentencePiece-like BPE model, as tokenizer.json has it, trained on Python's documentation.

    Tokens are <unk>, <s>, </s>, the 256 bytes, characters, what merges make of them and runs of spaces; the
    merges are all ways to split each token into two, as in the models' own files.
    """
    from pydoc_data import topics

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    runs = ["\u2581" * length for length in (2, 4, 3)]
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens - len(runs), special_tokens=special, show_progress=False
    )
    text = [*topics.topics.values()][:10], ["naïve café Привет, мир!   \u2581  \n\n\n你好" * 9] * 9
    tokenizer.train_from_iterator([line for part in text for line in part], trainer)
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    vocab = model["vocab"] | {run: num_tokens - len(runs) + i for i, run in enumerate(runs)}
    pairs = [
        sorted(
            ((t[:i], t[i:]) for i in range(1, len(t)) if t[:i] in vocab and t[i:] in vocab),
            key=lambda pair: (vocab[pair[0]], vocab[pair[1]]),
        )
        for t in dict.fromkeys([*runs, *("".join(merge) for merge in model["merges"])])
    ]
    return model | {"vocab": vocab, "merges": [list(pair) for ways in pairs for pair in ways]}


_ESCAPE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
SENTENCEPIECE_STEPS: dict[str, dict[str, Any]] = {
    "llama2": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, _ESCAPE],
        },
        "pre_tokenizer": None,
    },
    "mistral": {
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": "first",
            "split": False,
        },
    },
    "gemma": {
        "normalizer": _ESCAPE,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
    },
}
"""What stands before the model in the tokenizer.json of Llama 2, TinyLlama, Mistral 0.1, Phi-3; of Mistral
0.3; of Gemma."""


def sentencepiece_spec(kind: str, model: dict[str, Any], added: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A tokenizer.json of a kind of SENTENCEPIECE_STEPS."""
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if kind != "gemma":
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    first = {"<unk>": {}, "<s>": {}, "</s>": {}}
    ids = model["vocab"] | {token: len(model["vocab"]) + i for i, token in enumerate(added)}
    bos, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": ids[token], "content": token, "special": True} | flags | changes
            for token, changes in (first | added).items()
        ],
        **SENTENCEPIECE_STEPS[kind],
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, text],
            "pair": [bos, text, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model,
    }


@pytest.fixture(scope="session")
def sentencepiece_folder() -> Callable[..., Path]:
    """Factory: folder, kind of SENTENCEPIECE_STEPS, added tokens with their flags, config -> the folder."""
    models: dict[int, dict[str, Any]] = {}

    def make(
        folder: Path,
        kind: str = "llama2",
        added: dict[str, dict[str, Any]] | None = None,
        num_tokens: int = 500,
        **config: object,
    ) -> Path:
        if num_tokens not in models:
            models[num_tokens] = trained_bpe(num_tokens)
        folder.mkdir(parents=True, exist_ok=True)
        spec = sentencepiece_spec(kind, models[num_tokens], added or {})
        (folder / "tokenizer.json").write_text(json.dumps(spec))
        named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | config
        (folder / "tokenizer_config.json").write_text(json.dumps(named))
        return folder

    return make
