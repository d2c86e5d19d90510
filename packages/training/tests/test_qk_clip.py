"""QK-clip: logits as attention computes them, who shrinks by how much, and a run."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor

import bitnet_arch
from bitnet_arch import ConversionConfig, convert, quantizer
from bitnet_arch.attention_logits import LogitWatch
from bitnet_arch.low_rank import install_low_rank
from wf_formats.errors import NotFiniteError, RequestError
from wrinklefree.forward import recompute_activations, run_forward
from wrinklefree.model_checks import check_norms
from wrinklefree.qk_clip import check_finite, check_watchable, head_factors, scale_heads

HEADS, KEY_HEADS, TAU = 8, 2, 1.0
SIZES = {
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_HEADS,
    "num_hidden_layers": 1,
    "head_dim": 32,
}
FIRST, SECOND = slice(0, 4), slice(4, 8)
"""Query heads of the two key heads."""


def test_a_group_shrinks_by_what_all_of_its_heads_need() -> None:
    largest = torch.tensor([400.0, 100.0, 50.0, 225.0, 400.0, 1600.0])
    queries, keys = head_factors(largest, 2, 100.0)
    assert keys.tolist() == [1.0, pytest.approx(math.sqrt(100 / 225))], (
        "a head below the threshold: keys stay"
    )
    shrunk = queries * keys.repeat_interleave(3) * largest
    torch.testing.assert_close(shrunk, largest.clamp(max=100.0))
    assert queries[1:3].tolist() == [1.0, 1.0]
    assert bool((queries <= 1).all())
    of_one, of_its_key = head_factors(torch.tensor([400.0, 50.0]), 2, 100.0)
    assert of_one.tolist() == of_its_key.tolist() == [0.5, 1.0], "without sharing, both by the root"


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_logits_that_are_not_finite_are_refused_by_layer_and_head(value: float) -> None:
    """Two infinite ones of a group made NaN of their keys, one alone weights of 0."""
    largest = torch.full((3, 4), 50.0)
    check_finite(largest)
    largest[1, 2:] = value
    with pytest.raises(NotFiniteError, match="an attention logit of layer 1, head 2 is not finite"):
        check_finite(largest)


def made(config_class: str, scheme: str, **options: Any) -> Any:
    model = tiny_models.tiny_model(config_class, **SIZES, **options)
    if scheme != "none":
        model = convert(model, ConversionConfig(quantizer(scheme)))
    bitnet_arch.use_kernels(model)
    return model.train()


@torch.no_grad()
def enlarge(attention: Any, heads: list[int], factor: float) -> None:
    """Query heads whose logits are to be too large."""
    linear = attention.qkv_proj if hasattr(attention, "qkv_proj") else attention.q_proj
    for head in heads:
        rows = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
        linear.weight[rows] *= factor
        if linear.bias is not None:
            linear.bias[rows].normal_(generator=torch.Generator().manual_seed(head)).mul_(factor)


def shown(model: Any, watch: LogitWatch) -> Tensor:
    """[heads] of the only layer, in a pass with two documents."""
    ids = torch.randint(0, 512, (2, 64), generator=torch.Generator().manual_seed(1))
    positions = torch.cat([torch.arange(40), torch.arange(24)]).expand(2, -1)
    watch.is_on = True
    run_forward(model, {"input_ids": ids, "position_ids": positions})
    return watch.take()[0]


@pytest.mark.parametrize(
    ("config_class", "scheme", "corrected"),
    [
        ("LlamaConfig", "none", False),
        ("LlamaConfig", "group64", False),
        ("LlamaConfig", "group64", True),
        ("Qwen2Config", "group64", False),
        ("Phi3Config", "group128", False),
    ],
)
def test_logits_come_to_the_threshold_and_other_heads_stay(
    config_class: str, scheme: str, corrected: bool
) -> None:
    model = made(config_class, scheme)
    attention = model.model.layers[0].self_attn
    if corrected:
        install_low_rank(model, 4)
        for name in ("lrc_u", "lrc_v"):
            getattr(attention.q_proj, name).data.normal_(0, 0.05)
    check_watchable(model)
    check_norms(model.config.model_type)
    watch = LogitWatch(model)
    watch.begin()
    quiet = shown(model, watch)
    enlarge(attention, [1, *range(4, 8)], 3 * TAU / quiet.clamp(min=1e-3).min().item())
    before = shown(model, watch)
    over = before > TAU
    assert over.tolist() == [head in (1, 4, 5, 6, 7) for head in range(HEADS)]
    values = {name: parameter.clone() for name, parameter in attention.named_parameters()}
    scale_heads(attention, *head_factors(before, KEY_HEADS, TAU))
    after = shown(model, watch)
    torch.testing.assert_close(after[over], torch.full_like(after[over], TAU), rtol=2e-3, atol=0)
    assert torch.equal(after[~over], before[~over]), "of heads below the threshold nothing changes"
    changed = {
        name: ~(parameter == values[name]).flatten(1).all(1)
        for name, parameter in attention.named_parameters()
        if parameter.dim() > 1
    }
    if config_class == "Phi3Config":
        heads = changed["qkv_proj.weight"].view(-1, 32).any(1)
        assert heads.tolist() == [*over.tolist(), False, True, False, False], "queries, keys, values"
    else:
        assert changed["q_proj.weight"].view(-1, 32).any(1).tolist() == over.tolist()
        assert changed["k_proj.weight"].view(-1, 32).any(1).tolist() == [False, True]
        assert not changed["v_proj.weight"].any()
    assert not changed["o_proj.weight"].any()
    watch.end()


def test_generation_and_the_end_are_not_watched() -> None:
    model = made("LlamaConfig", "none")
    watch = LogitWatch(model)
    watch.begin()
    with torch.no_grad(), pytest.raises(KeyError):
        shown(model, watch)
    recompute_activations(model)
    torch.testing.assert_close(shown(model, watch), shown(model, watch))
    watch.end()
    with pytest.raises(KeyError):
        shown(model, watch)


def test_models_that_cannot_be_clipped_are_refused_by_name(tiny_qwen3: Callable[..., Any]) -> None:
    with pytest.raises(RequestError, match=r"this model \(qwen3\) are normed \(q_norm\)"):
        check_norms(tiny_qwen3().config.model_type)
    eager = tiny_models.tiny_model("LlamaConfig")
    eager.set_attn_implementation("eager")
    bitnet_arch.use_kernels(eager)
    with pytest.raises(RequestError, match="attention is computed by 'eager'"):
        check_watchable(eager)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.scheme=tensor"], "model.scheme=tensor may not be able to hold"),
        (["model.scheme=group64", "training.trained=low_rank"], "training.trained=low_rank leaves all but"),
        (["model.scheme=group64", "training.qk_clip.threshold=0"], "above 0"),
        (["model.scheme=group64", "training.qk_clip.every_steps=0"], "at least 1"),
    ],
)
def test_configurations_that_cannot_be_clipped_are_refused(
    cli: Any, overrides: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = cli("stage2_pretrain", "training.qk_clip.threshold=100", *overrides)
    assert run.code == 2
    assert said in capsys.readouterr().err


def test_a_run_clips_every_so_many_steps(cli: Any) -> None:
    """Of the passes of one step, all count; until the first look the run is the one without."""
    group = ["model.scheme=group64", "training.accept_from=[stage1]", "training.accumulate_steps=2"]
    options = [*group, "training.max_steps=3", "training.schedule.decay=1"]
    for experiment in ("plain", "clipped"):
        assert cli("stage1_subln", "model.scheme=group64", experiment=experiment).code == 0
    plain = cli("stage2_pretrain", *options, experiment="plain")
    clip = ["training.qk_clip.threshold=1e-3", "training.qk_clip.every_steps=2"]
    clipped = cli("stage2_pretrain", *options, *clip, experiment="clipped")
    assert (plain.code, clipped.code) == (0, 0)
    with (clipped.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["train/largest_logit"]) for row in rows] == [False, True, False]
    assert float(rows[1]["train/largest_logit"]) > 1e-3
    assert int(rows[1]["train/clipped_heads"]) > 0
    assert [clipped.losses[step] == plain.losses[step] for step in (1, 2, 3)] == [True, True, False]
