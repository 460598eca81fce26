"""Intervals, verdicts and summaries over data sets against scipy and slow, obvious references."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fmuc import evidence
from fmuc.evidence import Interval

RNG = np.random.default_rng(0)


# --- intervals over seeds --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_the_t_interval_is_scipys(n):
    values = np.random.default_rng(n).normal(1, 3, n)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = evidence.t_interval(values)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.mean, found.favour, found.n) == (pytest.approx(values.mean()), sum(v > 0 for v in values), n)


def test_the_prediction_interval_holds_19_of_20_means():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(4000):
        shipped, new = rng.normal(70, 3, 3), rng.normal(70, 3, 2)
        expected = evidence.t_interval(shipped, len(new))
        inside += expected.low <= new.mean() <= expected.high
    assert inside / 4000 == pytest.approx(0.95, abs=0.011)  # 3 standard errors


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan, 2.0]])
def test_no_interval_without_two_values(values):
    found = evidence.t_interval(values)
    assert math.isnan(found.low) and math.isnan(found.high)
    assert evidence.verdict(found) == "not decidable"


def test_welchs_interval_is_scipys():
    ours, others = RNG.normal(72, 1, 3), RNG.normal(70, 4, 5)
    expected = stats.ttest_ind(ours, others, equal_var=False).confidence_interval(0.95)
    found = evidence.welch([(1, ours.mean(), ours.std(ddof=1), 3), (-1, others.mean(), others.std(ddof=1), 5)])
    assert found[:3] == pytest.approx((ours.mean() - others.mean(), expected.low, expected.high))


def test_numbers_published_alone_are_exact():
    found = evidence.welch([(1, 86.7, math.nan, math.nan), (-1, 78.4, math.nan, math.nan)])
    assert found[:3] == pytest.approx([8.3] * 3)
    mixed = evidence.welch([(1, 86.7, math.nan, math.nan), (-1, 72.1, 0.7, 3)])
    half = stats.t.ppf(0.975, 2) * 0.7 / math.sqrt(3)
    assert mixed[:3] == pytest.approx((14.6, 14.6 - half, 14.6 + half))


@pytest.mark.parametrize(("low", "high", "above", "within_one"), [
    (0.1, 2.0, "holds", "not decidable"), (-2.0, -0.1, "contradicted", "not decidable"),
    (-0.5, 0.5, "not decidable", "holds"), (1.5, 3.0, "holds", "contradicted"), (-3.0, -1.0, "contradicted",
                                                                                "contradicted"),
    (0.0, 0.0, "contradicted", "holds"), (8.3, 8.3, "holds", "contradicted"),
])
def test_verdicts(low, high, above, within_one):
    interval = Interval((low + high) / 2, low, high)
    assert evidence.verdict(interval) == above
    assert evidence.verdict(interval, -1, 1) == within_one


# --- intervals over groups -------------------------------------------------------------------------------------------

def files(seed, groups=6):
    """Gains of the files of one seed, most of which their group decides, and the groups."""
    rng = np.random.default_rng(seed)
    group = rng.integers(groups, size=60)
    return np.arange(groups)[group] / 10 + rng.normal(0, 0.1, 60), np.array([f"speaker {g}".encode() for g in group])


def test_the_interval_over_groups_equals_loops_over_drawn_groups():
    seeds, names = [files(0), files(1)], [f"speaker {g}".encode() for g in range(6)]
    means = []
    for times in evidence.group_draws(6):
        drawn = [name for name, count in zip(names, times, strict=True) for _ in range(count)]
        assert len(drawn) == 6
        each = [[value for name in drawn for value, own in zip(values, groups, strict=True) if own == name]
                for values, groups in seeds]
        means.append(sum(sum(values) / len(values) for values in each) / len(each))
    low, high, groups = evidence.clustered(seeds, evidence.group_mean)
    assert (low, high) == pytest.approx(np.percentile(means, [2.5, 97.5]))
    assert groups == 6


def test_groups_widen_the_interval_and_few_of_them_give_none():
    values, groups = files(0)
    low, high, _ = evidence.clustered([(values, groups)], evidence.group_mean)
    alone = evidence.clustered([(values, np.arange(60))], evidence.group_mean)
    assert high - low > 1.5 * (alone[1] - alone[0])
    few = evidence.clustered([files(0, groups=4)], evidence.group_mean)
    assert math.isnan(few[0]) and math.isnan(few[1]) and few[2] == 4


# --- over data sets --------------------------------------------------------------------------------------------------

SCORES = [np.array([60.0, 62.0, 61.0, 90.0]), np.array([30.0, 31.0, 35.0, 10.0]), np.array([75.0, 76.0, 74.0, 73.0])]
OTHERS = [np.array([59.0, 63.0, 61.0, 60.0]), np.array([33.0, 30.0, 29.0, 28.0]), np.array([75.0, 70.0, 71.0, 72.0])]


def test_the_probability_of_improvement_is_the_mean_of_mann_whitney_over_data_sets():
    shares = [stats.mannwhitneyu(a, b).statistic / 16 for a, b in zip(SCORES, OTHERS, strict=True)]
    assert evidence.probability_of_improvement(SCORES, OTHERS) == pytest.approx(np.mean(shares))
    assert evidence.probability_of_improvement(SCORES, SCORES) == 0.5
    assert evidence.probability_of_improvement([np.array([2.0])], [np.array([1.0, 1.5])]) == 1


def test_runs_are_drawn_within_their_data_set():
    constant = [np.full(5, 10.0), np.full(5, 20.0), np.full(5, 90.0)]
    assert evidence.stratified(evidence.interquartile_mean, constant)[:3] == pytest.approx([300 / 9] * 3)
    found, rng = evidence.stratified(evidence.interquartile_mean, SCORES), np.random.default_rng(1)
    drawn = [np.concatenate([rng.choice(scores, len(scores)) for scores in SCORES]) for _ in range(1000)]
    means = [stats.trim_mean(values, 0.25) for values in drawn]
    assert (found.low, found.high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=1.5)
