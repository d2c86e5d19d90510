from __future__ import annotations

import math
import statistics

import pytest

from wrinklefree.callbacks.zclip import ZClipStatistics
from wrinklefree.config.training import ZClipConfig

WARMUP = [1.0, 2.0, 3.0, 2.0]


def _warm(**options: float | None) -> ZClipStatistics:
    zclip = ZClipStatistics(ZClipConfig(warmup_steps=4, max_norm=None, **options))  # type: ignore[arg-type]
    assert [zclip.clip(norm) for norm in WARMUP] == WARMUP
    return zclip


def test_warmup_sets_mean_and_variance() -> None:
    zclip = _warm()
    assert zclip.mean == statistics.fmean(WARMUP)
    assert zclip.variance == pytest.approx(statistics.pvariance(WARMUP))


def test_ordinary_norms_pass() -> None:
    zclip = _warm()
    assert zclip.clip(3.0) == 3.0
    assert zclip.mean == pytest.approx(0.97 * 2.0 + 0.03 * 3.0)


def test_a_spike_is_clipped_reciprocally() -> None:
    deviation = math.sqrt(0.5)
    first, second = _warm(), _warm()
    ten, hundred = first.clip(2.0 + 10 * deviation), second.clip(2.0 + 100 * deviation)
    assert ten == pytest.approx(2.0 + 6.25 / 10 * deviation)
    assert hundred == pytest.approx(2.0 + 6.25 / 100 * deviation)
    assert second.mean < 2.01, "the spike does not move the mean"


def test_equal_norms_have_no_deviation() -> None:
    zclip = ZClipStatistics(ZClipConfig(warmup_steps=2, max_norm=None))
    assert [zclip.clip(x) for x in (1.0, 1.0, 1.0, 5.0)] == [1.0, 1.0, 1.0, 1.0]


def test_fixed_bound_holds_in_the_warmup_too() -> None:
    zclip = ZClipStatistics(ZClipConfig(warmup_steps=2, max_norm=1.5))
    assert [zclip.clip(x) for x in (9.0, 1.0)] == [1.5, 1.0]
