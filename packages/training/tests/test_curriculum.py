"""Phases of weights: their steps, what is refused, and a run with them."""

from __future__ import annotations

import csv
from typing import Any

import pytest

from wrinklefree.compose.composing import compose_config
from wrinklefree.config.curriculum import PhaseConfig, Transition
from wrinklefree.config.errors import ConfigError
from wrinklefree.course import Course
from wrinklefree.objectives.weights import Curriculum

PHASES = (
    "{share: 0.25, weights: {layerwise: 2}}",
    "{share: 0.5, weights: {continue_pretrain: 1}, transition: linear}",
    "{share: 0.25, weights: {continue_pretrain: 1, layerwise: 0.5}}",
)
BOTH = ["training.objectives.layerwise={}", f"training.curriculum=[{', '.join(PHASES)}]"]


def test_weights_step_and_go_linearly() -> None:
    phases = [
        PhaseConfig(0.25, {"a": 2.0}),
        PhaseConfig(0.5, {"b": 1.0}, Transition.linear),
        PhaseConfig(0.25, {"a": 0.5, "b": 1.0}),
    ]
    curriculum = Curriculum(phases, Course(8))
    found = [curriculum(step) for step in range(9)]
    assert [weights.get("a", 0.0) for weights in found] == [2, 2, 1.5, 1, 0.5, 0, 0.5, 0.5, 0.5]
    assert [weights.get("b", 0.0) for weights in found] == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1]
    assert curriculum.ever_active() == {"a", "b"}


def test_a_run_follows_its_phases(cli_from_stage1: Any) -> None:
    run = cli_from_stage1("stage2_pretrain", *BOTH, "training.max_steps=8")
    assert run.code == 0
    with (run.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    weights = [float(row["layerwise/weight_ratio"]) for row in rows]
    assert weights == [2, 2, 1.5, 1, 0.5, 0, 0.5, 0.5]
    has_loss = [bool(row["continue_pretrain/loss_nats"]) for row in rows]
    assert has_loss == [False, False, True, True, True, True, True, True]
    assert not rows[5]["layerwise/nmse_ratio"]
    for row in rows:
        parts = [("layerwise/weight_ratio", "layerwise/nmse_ratio")]
        parts.append(("continue_pretrain/weight_ratio", "continue_pretrain/loss_nats"))
        assert all(bool(row[metric]) == (float(row[weight]) > 0) for weight, metric in parts)


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ("{share: 0.5, weights: {layerwise: 1}}", r"the shares \[0.5\] sum to 0.5; they have to sum to 1"),
        (
            "{share: 1, weights: {layerwize: 1}}",
            r"curriculum\[0\].weights: 'layerwize' is not in .*layerwise",
        ),
        ("{share: 1, weights: {layerwise: -1}}", r"curriculum\[0\].weights.layerwise=-1 is negative"),
        (
            "{share: 1, weights: {layerwise: 0}}",
            r"curriculum\[0\].weights=.*no objective has a weight above 0",
        ),
        ("{share: 1}", r"curriculum\[0\].weights={}: no objective"),
        ("{share: 1.5, weights: {layerwise: 1}}", r"curriculum\[0\].share=1.5 is not possible.*at most 1"),
        ("{share: 1, weights: {layerwise: nan}}", r"weights.layerwise=nan is not possible"),
        (
            "{share: 1, weights: {layerwise: 1}, transition: linear}",
            r"curriculum\[0\].transition=linear: the first phase",
        ),
        ("{share: 1, weights: {layerwise: 1}, transition: cosine}", "Invalid value 'cosine'"),
        ("{shares: 1}", "Did you mean 'share'"),
        ("{weights: {layerwise: 1}}", "missing mandatory value: share"),
        (
            "{share: 0.999, weights: {layerwise: 1}}, {share: 0.001, weights: {layerwise: 2}}",
            r"curriculum\[1\].share=0.001 of 100 steps is no step",
        ),
    ],
)
def test_what_no_curriculum_can_be(phases: str, message: str) -> None:
    options = ["training.objectives.layerwise={}", "training.max_steps=100"]
    with pytest.raises(ConfigError, match=message):
        compose_config(["training=stage2_pretrain", *options, f"training.curriculum=[{phases}]"])


def test_weights_in_two_places() -> None:
    weight = "training.objectives.layerwise.weight=3"
    with pytest.raises(ConfigError, match=r"layerwise.weight=3 and training.curriculum both weigh"):
        compose_config(["training=stage2_pretrain", *BOTH, weight])
