"""Fixtures shared by every package's tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # transformers compiles bitnet helpers: 8-18 s a process
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads slow a shared machine tenfold
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for _name in ("no_proxy", "NO_PROXY"):  # the tests' own clients ask servers on this machine
    os.environ[_name] = ",".join(filter(None, (os.environ.get(_name), "127.0.0.1,localhost,::1")))


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


def write_f32(source: Path, path: Path, num_layers: int) -> None:
    """Dequantize the first layers of a llama GGUF into another one."""
    import gguf

    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(path, "llama")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = num_layers if key == "llama.block_count" else field.contents()
        item = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, value, field.types[0], item)
    for tensor in reader.tensors:
        if not tensor.name.startswith("blk.") or int(tensor.name.split(".")[1]) < num_layers:
            weight = gguf.dequantize(tensor.data, tensor.tensor_type)
            writer.add_tensor(tensor.name, weight.reshape(tensor.shape[::-1].tolist()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tiny(config_class: str, **extra: object) -> object:
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


@pytest.fixture(scope="session")
def tiny_llama() -> Callable[..., object]:
    """Factory of random Llama models: hidden 256, ffn 512, 2 layers, tied; keywords override the config."""
    return lambda **extra: _tiny("LlamaConfig", **extra)


@pytest.fixture(scope="session")
def tiny_qwen3() -> Callable[..., object]:
    """Factory of random Qwen3 models: heads x head_dim (4 x 128) is twice the hidden size, QK-norm."""
    return lambda **extra: _tiny("Qwen3Config", **{"head_dim": 128} | extra)


@pytest.fixture(scope="session")
def tiny_qwen2() -> Callable[..., object]:
    """Factory of random Qwen2.5 models: biases on q, k and v."""
    return lambda **extra: _tiny("Qwen2Config", **extra)


@pytest.fixture(scope="session")
def tiny_mistral() -> Callable[..., object]:
    """Factory of random Mistral models: no biases, a window over the whole context, wide heads."""
    return lambda **extra: _tiny("MistralConfig", **{"head_dim": 128, "sliding_window": 512} | extra)
