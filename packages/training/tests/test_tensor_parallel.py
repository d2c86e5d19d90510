"""Two processes with parts of every matrix: losses, weights and checkpoints of one, and what is refused."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import bitnet_arch
from bitnet_arch.tensor_parallel import check_divisible

OPTIONS = [
    "training.max_steps=3",
    "training.schedule.decay=1",
    "training.schedule.warmup=1",
    "training.checkpoint.every_steps=2",
    "training.zclip.warmup_steps=2",
]
PARALLEL = [*OPTIONS, "distributed=tensor_parallel_experimental"]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for path in sorted(folder.glob("model*.safetensors")) for n, t in load_file(path).items()}


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, byte_tokenizer: Any
) -> Callable[[str], Path]:
    """Folders of dense models whose halves are whole groups of 64, each with 4 query and 2 key heads."""

    def make(family: str) -> Path:
        folder, tokenizer = tmp_path_factory.mktemp(family), byte_tokenizer()
        sizes = {"hidden_size": 128, "intermediate_size": 128, "max_position_embeddings": 256}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
        make_model = request.getfixturevalue(family)
        make_model(vocab_size=len(tokenizer), **sizes, **heads).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    transformers.utils.logging.disable_progress_bar()
    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "model"),
    [
        ("tiny_llama", ["model.scheme=tensor"]),  # with SubLN
        ("tiny_qwen3", ["model.scheme=group64"]),  # with norms of queries and keys
        ("tiny_qwen2", ["model.scheme=none", "training.accept_from=[stage1]"]),  # with biases
    ],
)
def test_two_processes_with_parts_equal_one(
    cli: Any, models: Callable[[str], Path], family: str, model: list[str]
) -> None:
    """Losses of three steps, gradient norms and weights to 1e-4; and each goes on from the other's."""
    scheme, *accept = model
    name = f"model.name={models(family)}"
    for experiment in ("alone", "both"):
        assert cli("stage1_subln", name, scheme, experiment=experiment).code == 0
    accept = accept or ["training.accept_from=[stage1]"]
    alone = cli("stage2_pretrain", name, scheme, *accept, *OPTIONS, experiment="alone")
    both = cli.in_ranks("stage2_pretrain", name, scheme, *accept, *PARALLEL, experiment="both")
    assert (alone.code, both.code) == (0, 0)
    for step, loss in alone.losses.items():
        assert math.isclose(float(loss), float(both.losses[step]), rel_tol=1e-4), step
    assert both.summary["tokens"] == alone.summary["tokens"]
    one, two = (_weights(run.folder / "final") for run in (alone, both))
    assert one.keys() == two.keys()
    started = _weights(cli.folder("stage1_subln", "alone") / "final")
    for key, weight in one.items():
        assert not torch.equal(weight, started[key]), key
        torch.testing.assert_close(two[key], weight, rtol=1e-4, atol=1e-5)
    shutil.rmtree(both.folder / "final")
    resumed = cli("stage2_pretrain", name, scheme, *accept, *OPTIONS, experiment="both")
    assert resumed.code == 0
    assert math.isclose(float(resumed.losses[3]), float(alone.losses[3]), rel_tol=1e-4)
    shutil.rmtree(alone.folder / "final")
    resumed = cli.in_ranks("stage2_pretrain", name, scheme, *accept, *PARALLEL, experiment="alone")
    assert resumed.code == 0
    assert "resuming from" in cli.log("alone").read_text()
    torch.testing.assert_close(_weights(resumed.folder / "final"), two, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_processes_with_parts_are_near_one_in_bf16(cli: Any) -> None:
    """Their sums are rounded to bfloat16."""
    for experiment in ("alone", "both"):
        assert cli("stage1_subln", experiment=experiment).code == 0
    options = ["training.accept_from=[stage1]", "training.precision=bf16"]
    alone = cli("stage2_pretrain", *options, *OPTIONS, experiment="alone")
    both = cli.in_ranks("stage2_pretrain", *options, *PARALLEL, experiment="both")
    assert (alone.code, both.code) == (0, 0)
    for step, loss in alone.losses.items():
        assert math.isclose(float(loss), float(both.losses[step]), rel_tol=3e-3), step


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["distributed.devices=1"], "with one process: set distributed.devices=2 or more"),
        (["optimizer=muon"], "with moments or updates of whole matrices"),
        (["optimizer.state=int8"], "with moments or updates of whole matrices"),
        (["training.precision=int8"], "whose gradients are rounded by rows"),
        (["training.ema_decay=0.9"], "with training.ema_decay=0.9"),
        (["model.scheme=group64", "training.qk_clip.threshold=9"], "which looks at all heads"),
        (["training.trained=low_rank"], "corrections are not cut"),
    ],
)
def test_what_needs_whole_matrices_is_refused(
    cli_from_stage1: Any, overrides: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli_from_stage1("stage2_pretrain", *PARALLEL, *overrides).code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("scheme", "options", "num_ranks", "said"),
    [
        ("none", {}, 3, "4 attention heads cannot be divided between 3 processes"),
        ("none", {"num_key_value_heads": 1}, 2, "1 key-value heads cannot be divided between 2 processes"),
        ("group64", {"hidden_size": 64}, 2, r"layers.0.self_attn.o_proj: a part of 32 of its 64 inputs cuts"),
        ("none", {"attention_bias": True}, 2, "self_attn.o_proj has a bias, which each process would add"),
    ],
)
def test_models_that_cannot_be_cut_are_refused_by_name(
    tiny_llama: Any, scheme: str, options: dict[str, Any], num_ranks: int, said: str
) -> None:
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 1}
    model = tiny_llama(**{**sizes, **options})
    if scheme != "none":
        model = bitnet_arch.convert(model, bitnet_arch.ConversionConfig(bitnet_arch.quantizer(scheme)))
    with pytest.raises(bitnet_arch.UnsupportedModelError, match=said):
        check_divisible(model, num_ranks)
