"""Policies that weigh the sources: the bounded simplex, each policy's arithmetic, what is refused."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data_handler import SourceConfig
from wrinklefree.compose.composing import compose_config
from wrinklefree.config.errors import ConfigError
from wrinklefree.config.lengths import gradient_options
from wrinklefree.config.mixture import MixtureConfig, OdmConfig, Policy, Projection
from wrinklefree.mixture.odm import Odm
from wrinklefree.mixture.policy import Evidence, GradientProducts, MixturePolicy
from wrinklefree.mixture.registry import build_policy, first_sources, first_weights
from wrinklefree.mixture.simplex import Bounds, euclidean, kl, projected, softmax
from wrinklefree.mixture.turns import Turns, turns_of

NAMES = ("books", "code", "noise")


@st.composite
def bounded(draw: st.DrawFn) -> tuple[Bounds, int]:
    """Bounds that some weights of so many sources meet, tight ones too."""
    count = draw(st.integers(2, 8))
    floor = draw(st.one_of(st.just(0.0), st.just(1 / count), st.floats(0, 1 / count)))
    cap = draw(st.one_of(st.just(1.0), st.just(1 / count), st.floats(1 / count, 1)))
    bounds = Bounds(floor, cap)
    assume(floor * count <= 1 <= cap * count)
    return bounds, count


def assert_within(weights: list[float], bounds: Bounds) -> None:
    assert all(bounds.floor <= weight <= bounds.cap for weight in weights), (weights, bounds)
    assert math.isclose(math.fsum(weights), 1, abs_tol=1e-12), (weights, bounds)


@given(bounded(), st.data())
def test_the_euclidean_projection_is_the_nearest_point(case: tuple[Bounds, int], data: st.DataObject) -> None:
    """By the conditions of optimality: one number is added to all that are at no bound."""
    bounds, count = case
    values = data.draw(st.lists(st.floats(-3, 3), min_size=count, max_size=count))
    weights = euclidean(values, bounds)
    assert_within(weights, bounds)
    moved = [weight - value for weight, value in zip(weights, values, strict=True)]
    assert_optimal(weights, moved, bounds)


@given(bounded(), st.data())
def test_the_kl_projection_scales_all_that_are_at_no_bound_alike(
    case: tuple[Bounds, int], data: st.DataObject
) -> None:
    bounds, count = case
    logs = data.draw(st.lists(st.floats(-800, 800), min_size=count, max_size=count))
    weights = kl(logs, bounds)
    assert_within(weights, bounds)
    if bounds.floor:
        moved = [math.log(weight) - value for weight, value in zip(weights, logs, strict=True)]
        assert_optimal(weights, moved, bounds)


def assert_optimal(weights: list[float], moved: list[float], bounds: Bounds) -> None:
    """Whatever could be taken from one weight and given to another has to be further from where it was."""
    slack = 1e-9 * (1 + max(map(abs, moved)))
    for (giver, given_up), (taker, gained) in itertools.permutations(zip(weights, moved, strict=True), 2):
        if giver > bounds.floor + 1e-9 and taker < bounds.cap - 1e-9:
            assert given_up <= gained + slack, (weights, moved, bounds)


def test_known_projections() -> None:
    bounds = Bounds(0.1, 0.6)
    assert euclidean([0.8, 0.2, 0.0], bounds) == pytest.approx([0.6, 0.3, 0.1])
    assert kl([math.log(0.9), math.log(0.06), math.log(0.04)], bounds) == pytest.approx([0.6, 0.24, 0.16])
    assert kl([5.0, -3000.0, 5.0], Bounds(0.0, 0.5)) == pytest.approx([0.5, 0.0, 0.5])
    assert kl([0.0, -3000.0], Bounds(0.0, 0.6)) == pytest.approx([0.6, 0.4])


@pytest.mark.parametrize("projection", Projection)
def test_weights_that_fit_stay(projection: Projection) -> None:
    weights = [0.25, 0.35, 0.4]
    found = projected(projection, Bounds(0.05, 0.6))([math.log(weight) for weight in weights])
    assert found == pytest.approx(weights, abs=1e-15)


@pytest.mark.parametrize("name", ["odm", "influence"])
@pytest.mark.parametrize("projection", Projection)
@settings(deadline=None, max_examples=30)  # what has no solution takes all iterations
@given(bounded(), st.data())
def test_the_bounds_hold_after_every_update(
    name: str, projection: Projection, case: tuple[Bounds, int], data: st.DataObject
) -> None:
    """Also for losses and gradients that no model gives, such as zeros."""
    bounds, count = case
    sources = [SourceConfig("packaged", f"s{i}", "chat", weight=i + 1.0) for i in range(count)]
    config = MixtureConfig(policy=Policy(name), floor=bounds.floor, cap=bounds.cap, projection=projection)
    policy, weights = build_policy(config, sources), first_weights(config, sources)
    if weights is None:
        total = sum(source.weight for source in sources)
        weights = {source.name: source.weight / total for source in sources}
    assert_within(list(weights.values()), bounds)
    for _ in range(3):
        values = data.draw(st.lists(st.floats(-1e3, 1e3), min_size=count, max_size=count))
        others = data.draw(st.lists(st.floats(-1e3, 1e3), min_size=count, max_size=count))
        evidence = Evidence(
            losses={
                name: abs(v) for name, v in zip(weights, values, strict=True) if v > -500 and weights[name]
            },
            gradients=products(np.array([values, others]).T, np.array([1.0, -0.5])),
        )
        weights = policy.update(weights, evidence)
        assert_within(list(weights.values()), bounds)


def test_odm_follows_the_equations_of_its_paper() -> None:
    """Three sources of weight 1/3, by hand: R' = R / 2 + 3 L / 2 of those seen; code is seen once."""
    odm = Odm(NAMES, smoothing=0.5, projected=softmax)
    weights = odm.update(dict.fromkeys(NAMES, 1 / 3), Evidence({"books": 2.0, "code": 1.0, "noise": 4.0}))
    for rewards in ((4.5, 1.5, 9.0), (5.25, 1.5, 10.5)):
        # The first 3 ln 3 = 3.3 turns only explore.
        assert list(weights.values()) == pytest.approx([1 / 3] * 3)
        weights = odm.update(weights, Evidence({"books": 2.0, "noise": 4.0}))
        assert list(odm.figures().values()) == pytest.approx(rewards)
    weights = odm.update(weights, Evidence({}))
    # E_3 = 1/3, so exp(R / 3) = 5.7546, 1.6487, 33.1155; E_4 = sqrt(ln 3 / 12) = 0.302574, times 3 0.907722.
    assert list(weights.values()) == pytest.approx([0.315680, 0.306329, 0.377992], abs=2e-6)


def influence(
    bounds: tuple[float, float] = (0.0, 1.0), projection: Projection = Projection.euclidean, **options: Any
) -> MixturePolicy:
    floor, cap = bounds
    config = MixtureConfig(policy=Policy.influence, floor=floor, cap=cap, projection=projection)
    for name, value in options.items():
        setattr(config.influence, name, value)
    weights = (2.0, 1.0, 1.0)
    return build_policy(
        config, [SourceConfig("packaged", n, "chat", weight=w) for n, w in zip(NAMES, weights, strict=True)]
    )


def products(gradients: np.ndarray, probe: np.ndarray) -> GradientProducts:
    """Of gradients [sources, numbers] as they are."""
    return GradientProducts((gradients @ gradients.T).tolist(), (gradients @ probe).tolist())


def gain_less_entropy(weights: np.ndarray, seen: GradientProducts, start: np.ndarray, step: float) -> float:
    """What the policy is to make as large as it can be."""
    length = np.sqrt(weights @ np.array(seen.between) @ weights)
    return float(step * weights @ np.array(seen.with_probes) / length - weights @ np.log(weights / start))


@pytest.mark.parametrize("step_size", [1.0, 10.0, 100.0])
def test_influence_finds_the_best_mixture_within_the_bounds(step_size: float) -> None:
    """Of a grid of all mixtures of three sources, none is better beyond the accuracy of the solution."""
    draw, start = np.random.default_rng(int(step_size)), np.array([0.5, 0.25, 0.25])
    shares = np.arange(0.05, 0.6001, 0.01)
    grid = np.array([(a, b, 1 - a - b) for a in shares for b in shares])
    grid = grid[(grid[:, 2] >= 0.05 - 1e-9) & (grid[:, 2] <= 0.6 + 1e-9)]
    for _ in range(5):
        probe = draw.normal(size=4)
        seen = products(probe + draw.normal(size=(3, 4)), probe / np.linalg.norm(probe))
        policy = influence((0.05, 0.6), Projection.kl, step_size=step_size, ema_decay=0.0)
        found = np.array(list(policy.update({}, Evidence(gradients=seen)).values()))
        values = [gain_less_entropy(weights, seen, start, step_size) for weights in grid]
        assert gain_less_entropy(found, seen, start, step_size) > max(values) - 1e-4
        assert np.abs(found - grid[int(np.argmax(values))]).max() < 0.03


def test_influence_gives_a_probe_of_two_kinds_both_and_noise_nothing() -> None:
    """The nearer kind does not get everything, as it would by its own cosine; twice the same is one kind."""
    kinds = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.5]])
    seen = products(kinds, np.array([0.8, 0.6, 0.0]))
    policy = influence(step_size=1000.0, ema_decay=0.0, bounds=(0.0, 1.0))
    weights = policy.update({}, Evidence(gradients=seen))
    assert list(weights.values()) == pytest.approx([0.8 / 1.4, 0.6 / 1.4, 0.0], abs=5e-3)
    assert policy.figures() == pytest.approx(
        {"influence/books": 0.8, "influence/code": 0.6, "influence/noise": 0}
    )
    doubled = products(kinds[[0, 0, 1]], np.array([0.8, 0.6, 0.0]))
    weights = policy.update({}, Evidence(gradients=doubled))
    assert weights["noise"] == pytest.approx(0.6 / 1.4, abs=5e-3)


def test_the_first_turn_of_influence_counts_no_more_than_its_age_says() -> None:
    one = products(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), np.array([1.0, 0.0]))
    other = products(np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), np.array([1.0, 0.0]))
    policy = influence(step_size=2.0, ema_decay=0.75)
    first = policy.update({}, Evidence(gradients=one))
    sure = influence(step_size=2.0, ema_decay=0.0).update({}, Evidence(gradients=one))
    assert first == pytest.approx(sure)
    assert policy.figures()["influence/books"] == pytest.approx(1.0)
    policy.update({}, Evidence(gradients=other))
    # 0.1875 of the first and 0.25 of the second, of 0.4375 together; lengths are 1 in both.
    means = {"influence/books": 3 / 7, "influence/code": 4 / 7, "influence/noise": 0.0}
    assert policy.figures() == pytest.approx(means)


def test_without_a_step_or_without_evidence_the_configured_weights_stay() -> None:
    start = {"books": 0.5, "code": 0.25, "noise": 0.25}
    seen = products(np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]]), np.array([1.0, 0.0]))
    assert influence(step_size=0.0).update({}, Evidence(gradients=seen)) == pytest.approx(start, abs=1e-15)
    nothing = products(np.zeros((3, 2)), np.zeros(2))
    assert influence().update({}, Evidence(gradients=nothing)) == pytest.approx(start, abs=1e-15)


@pytest.mark.parametrize("name", ["odm", "influence"])
def test_a_policy_with_another_ones_state_goes_on_as_it(name: str) -> None:
    config = MixtureConfig(policy=Policy(name), odm=OdmConfig(smoothing=0.5))
    sources = [SourceConfig("packaged", n, "chat") for n in NAMES]
    first, second = build_policy(config, sources), build_policy(config, sources)
    weights = dict.fromkeys(NAMES, 1 / 3)
    draw = np.random.default_rng(0)
    seen = [
        Evidence(dict.fromkeys(NAMES, i + 1.0), products(draw.normal(size=(3, 4)), draw.normal(size=4)))
        for i in range(6)
    ]
    for evidence in seen[:5]:
        weights = first.update(weights, evidence)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.update(dict(weights), seen[5]) == first.update(dict(weights), seen[5])


def test_runs_begin_with_what_is_configured_where_that_fits() -> None:
    sources = [SourceConfig("packaged", n, "chat", weight=w) for n, w in zip(NAMES, (98, 1, 1), strict=True)]
    assert first_weights(MixtureConfig(), sources) is None
    assert first_weights(MixtureConfig(policy=Policy.odm, floor=0.01, cap=0.98), sources) is None
    found = first_weights(MixtureConfig(policy=Policy.odm), sources)
    assert found == pytest.approx({"books": 0.6, "code": 0.2, "noise": 0.2})
    uniform = first_sources(MixtureConfig(policy=Policy.uniform), sources)
    assert [(source.name, source.weight) for source in uniform] == [(name, 1 / 3) for name in NAMES]
    assert first_sources(MixtureConfig(), sources) == sources


SOURCES = "data.sources=[{kind: packaged, name: python_docs}, {kind: packaged, name: chat}]"
ODM = "training.mixture.policy=odm"
INFLUENCE = "training.mixture.policy=influence"
PROBES = "training.mixture.influence.probes=[{kind: packaged, name: python_stdlib}]"


@pytest.mark.parametrize(
    ("overrides", "first", "every"),
    [
        ([ODM], 200, 200),
        ([INFLUENCE, PROBES], 20, 250),  # 2 x 8 and 24 sequences, at most 4 of 100 of steps of 4
        # 42, in threes
        ([INFLUENCE, PROBES, "training.batch_size=3", "training.accumulate_steps=2"], 20, 175),
        ([INFLUENCE, PROBES, "training.batch_size=64", "training.accumulate_steps=2"], 20, 20),
        ([INFLUENCE, PROBES, "training.mixture.every_steps=7"], 7, 7),
        ([INFLUENCE, PROBES, "training.mixture.first_step=300"], 300, 250),
    ],
)
def test_scoring_takes_a_bounded_share_of_the_sequences(overrides: list[str], first: int, every: int) -> None:
    config = compose_config(["training=stage2_pretrain", SOURCES, "training.max_steps=5000", *overrides])
    assert turns_of(gradient_options(config), 2) == Turns(first, every)


@pytest.mark.parametrize(
    ("first", "every", "steps"),
    [(2, 5, [2, 5, 10]), (5, 5, [5, 10]), (7, 3, [7, 9, 12]), (1, 1, list(range(1, 13)))],
)
def test_a_first_turn_comes_apart_from_the_others(first: int, every: int, steps: list[int]) -> None:
    assert [step for step in range(1, 13) if Turns(first, every).is_after(step)] == steps


def test_each_policy_composes() -> None:
    for policy in Policy:
        probes = [PROBES] if policy is Policy.influence else []
        config = compose_config(
            ["training=stage2_pretrain", SOURCES, f"training.mixture.policy={policy}", *probes]
        )
        assert config.training.mixture.policy is policy  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([SOURCES, "training.mixture.policy=odd"], "fixed, uniform, odm, influence"),
        ([SOURCES, ODM, "training.mixture.florr=0"], "florr.*Did you mean 'floor'"),
        (
            ["training.mixture.policy=uniform", "data.sources=[{kind: packaged, name: chat}]"],
            "with one source",
        ),
        ([SOURCES, ODM, "training.mixture.floor=0.51"], "floor=0.51 for each of 2 sources .* at most 0.5"),
        ([SOURCES, ODM, "training.mixture.cap=0.49"], "cap=0.49 for each of 2 sources .* at least 0.5"),
        (
            [SOURCES, ODM, "training.mixture.cap=0.5", "training.mixture.floor=0.6"],
            "floor=0.6 is above cap=0.5",
        ),
        ([SOURCES, ODM, "training.mixture.floor=1.1"], "training.mixture.floor=1.1 is not possible"),
        ([SOURCES, ODM, "training.mixture.every_steps=0"], "every_steps=0 is not possible"),
        ([SOURCES.replace("docs}", "docs, weight: 0}"), ODM], "'python_docs' has weight 0"),
        (
            [SOURCES.replace("docs}", "docs, weight: 0}"), "training.mixture.policy=uniform"],
            "'python_docs' has weight 0",
        ),
        (
            [SOURCES, ODM, "training.mixture.every_steps=200", "training.max_steps=200"],
            "every_steps=200 and training.max_steps=200: the run ends before.*every_steps=20$",
        ),
        (
            [SOURCES, INFLUENCE, PROBES, "training.max_steps=20"],
            r"first_step=20 \(by itself\) and training.max_steps=20: the run ends before.*first_step=2$",
        ),
        (
            [SOURCES, ODM, "training.mixture.first_step=9", "training.max_steps=9"],
            "first_step=9 and training.max_steps=9: the run ends before",
        ),
        (
            [SOURCES, ODM, "training.mixture.first_step=200", "training.max_steps=100"],
            "first_step=200 and training.max_steps=100: the run ends before.*first_step=10$",
        ),
        (
            [SOURCES, ODM, "training.mixture.first_step=1", "training.max_steps=1"],
            "first_step=1 and training.max_steps=1: the run ends before.*give training.max_steps=2 or more$",
        ),
        ([SOURCES.replace("docs}", "docs, repeat: false}"), ODM], "'python_docs' has repeat=false"),
        ([SOURCES, INFLUENCE], "policy=influence without training.mixture.influence.probes"),
        ([SOURCES, PROBES], "probes with training.mixture.policy=fixed"),
        ([SOURCES, INFLUENCE, PROBES.replace("b}", "b, weight: 0}")], "all weights are 0"),
        ([SOURCES, INFLUENCE, PROBES.replace("[", "[{kind: packaged, name: python_stdlib}, ")], "names two"),
        ([SOURCES, INFLUENCE, PROBES, "distributed=fsdp"], "distributed=fsdp shards them.*ddp"),
        ([SOURCES, INFLUENCE, PROBES, "training.trained=low_rank"], "training.trained=low_rank leaves them"),
    ],
)
def test_what_cannot_be_is_refused_by_name(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_config(["training=stage2_pretrain", *overrides])
