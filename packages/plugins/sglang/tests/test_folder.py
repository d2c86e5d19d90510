"""What is served, what is refused before SGLang loads it, and that nothing of a folder is passed over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from wf_formats.errors import LoadError
from wf_formats.safetensors_file import open_folder
from wrinklefree_sglang.folder import CheckedFolder, cache_tokens, check_everything_is_read, check_folder
from wrinklefree_sglang.names import METHODS


def changed(folder: Path, **settings: object) -> str:
    """Sets entries of config.json."""
    config = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_a_block_diffusion_model_is_refused(diffusion_files_of: dict[str, Path]) -> None:
    with pytest.raises(LoadError, match=r"block-diffusion model .* which SGLang would misread"):
        check_folder(str(diffusion_files_of["folder"]))


@pytest.mark.parametrize("method", METHODS)
def test_exports_are_served(method: str, exported: dict[str, Path]) -> None:
    assert (
        json.loads((exported[method] / "config.json").read_text())["quantization_config"]["quant_method"]
        == method
    )
    assert check_folder(str(exported[method])).config.num_layers == 2


def test_a_training_checkpoint_is_to_be_exported(exported: dict[str, Path]) -> None:
    with pytest.raises(LoadError, match=r"'wrinklefree'; served .*`wf export --format compressed-tensors"):
        check_folder(str(exported["wrinklefree"]))


def test_so_is_one_with_sub_norms(copied: Callable[[str], Path]) -> None:
    """transformers' own name for float master weights."""
    online = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    with pytest.raises(LoadError, match=r"float master weights .* export it first, by `wf export"):
        check_folder(changed(copied("bitnet"), quantization_config=online))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"quantization_config": None}, "quant_method is None; served are compressed-tensors"),
        ({"quantization_config": "awq"}, "quant_method is None; served are"),
        ({"quantization_config": {"quant_method": "awq"}}, "quant_method is 'awq'; served are"),
        ({"dtype": "float64"}, "dtype 'float64' was not tried in SGLang, but float32, bfloat16, float16;"),
        ({"model_type": "mistral"}, "model_type 'mistral' was not tried in SGLang, but llama, bitnet;"),
        (
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            "rotary scaling 'linear' was not tried in SGLang",
        ),
    ],
)
def test_what_was_not_tried_is_refused(
    settings: dict[str, object], told: str, copied: Callable[[str], Path]
) -> None:
    with pytest.raises(LoadError, match=told):
        check_folder(changed(copied("compressed-tensors"), **settings))


def test_a_name_of_the_hub_is_to_be_fetched() -> None:
    with pytest.raises(LoadError, match="'org/model' is no folder here; fetch the model first: wf pull"):
        check_folder("org/model")


def test_a_folder_that_lacks_a_tensor_is_refused(copied: Callable[[str], Path]) -> None:
    """SGLang itself would serve random numbers in its place."""
    folder = copied("compressed-tensors")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.input_layernorm.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(LoadError, match=r"model.layers.1.input_layernorm.weight"):
        check_folder(str(folder))


def names_in_sglang(folder: Path) -> set[str]:
    """Parameters of a loaded model: ternary linears have gone to buffers, the head is the embedding."""
    return {name for name in open_folder(folder).shapes if "proj" not in name} | {"lm_head.weight"}


@pytest.mark.parametrize("method", METHODS)
def test_all_of_an_export_is_read(method: str, exported: dict[str, Path]) -> None:
    check_everything_is_read(exported[method], names_in_sglang(exported[method]))


@pytest.mark.parametrize("linear", ["self_attn.v_proj", "mlp.gate_proj", "mlp.down_proj"])
def test_a_bias_without_a_place_is_named(linear: str, copied: Callable[[str], Path]) -> None:
    """SGLang's Llama has none in its feed-forward part, and passes over those of the folder."""
    folder, joined = copied("compressed-tensors"), {"v_proj": "qkv_proj", "gate_proj": "gate_up_proj"}
    tensors = load_file(folder / "model.safetensors")
    name, known = f"model.layers.0.{linear}.bias", names_in_sglang(folder)
    tensors[name] = tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(LoadError, match=f"SGLang's class of the model lacks {name}"):
        check_everything_is_read(folder, known)
    parent, last = linear.split(".")
    check_everything_is_read(folder, known | {f"model.layers.0.{parent}.{joined.get(last, last)}.bias"})


@pytest.fixture
def folder(exported: dict[str, Path]) -> CheckedFolder:
    """2 layers of 2 key-value heads of 64 in float32: 2,048 bytes a token; a context of 512."""
    return check_folder(str(exported["bitnet"]))


@pytest.mark.parametrize(
    ("context", "free_mb", "tokens"),
    [(None, 1000, 2048), (100, 1000, 400), (None, 4.096, 1000), (None, 2.1, 512)],
)
def test_the_cache_holds_four_contexts_or_half_of_the_memory(
    context: int | None, free_mb: float, tokens: int, folder: CheckedFolder
) -> None:
    assert cache_tokens(folder, context, int(free_mb * 1e6)) == tokens


def test_a_context_that_does_not_fit_is_refused(folder: CheckedFolder) -> None:
    with pytest.raises(LoadError, match=r"one context of 512 tokens takes 0.0 GB, .*--context-length 488"):
        cache_tokens(folder, None, 2_000_000)
