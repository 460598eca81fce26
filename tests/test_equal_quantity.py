"""Quality at equal quantity and risk-coverage curves against loops; what they show is said, whichever way."""

from __future__ import annotations

from itertools import pairwise, permutations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats
from synthetic_records import synthetic_record, with_pool

from fmuc import equal_quantity, figures, metrics, tables
from fmuc.evidence import group_draws

NAME = "nsynth-gm"
CERTAINTY, RIGHT = np.array([5.0, 1.0, 3.0, 3.0, 2.0]), np.array([True, False, True, False, True])


# --- selective classification ----------------------------------------------------------------------------------------

def slow_quality(certainty, right, count):
    """Mean over all orders of equally sure examples of the share of right ones among the first ``count``."""
    shares = [np.mean([right[i] for i in order[:count]]) for order in permutations(range(len(right)))
              if all(certainty[a] >= certainty[b] for a, b in pairwise(order))]
    return np.mean(shares)


def test_quality_at_a_quantity_is_that_of_the_surest():
    counts = metrics.surest(CERTAINTY, RIGHT)
    for number in range(1, 6):
        expected = slow_quality(CERTAINTY, RIGHT, number)
        assert metrics.quality_of_surest(counts, number / 5) == pytest.approx(expected)
    assert metrics.quality_of_surest(counts, 0.4) == pytest.approx(0.75)  # 5.0, and one of two at 3.0


def test_risk_coverage_by_hand():
    counts = metrics.surest(CERTAINTY, RIGHT)
    kept, right = counts[:, 0]
    steps = dict(zip(kept / 5, 1 - right / kept, strict=True))  # coverage and risk; two are equally sure
    assert steps == pytest.approx({0.2: 0.0, 0.6: 1 / 3, 0.8: 0.25, 1.0: 0.4})
    assert metrics.area_under_risk(counts) == pytest.approx(np.mean([0, 1 / 3, 1 / 3, 0.25, 0.4]))


def test_counts_of_groups_add_up_and_few_steps_are_close():
    rng = np.random.default_rng(0)
    certainty, group = rng.normal(size=1000).round(2), rng.integers(7, size=1000)
    right = rng.random(1000) < 1 / (1 + np.exp(-certainty))
    whole = metrics.surest(certainty, right)
    np.testing.assert_allclose(metrics.surest(certainty, right, group, 7).sum(axis=1), whole[:, 0])
    coarse = metrics.surest(certainty, right, steps=200)
    for share in (0.1, 0.35, 0.9):
        exact = metrics.quality_of_surest(whole, share)
        assert metrics.quality_of_surest(coarse, share) == pytest.approx(exact, abs=0.005)
    assert metrics.area_under_risk(coarse) == pytest.approx(metrics.area_under_risk(whole), abs=0.003)


# --- scores on the same nets -----------------------------------------------------------------------------------------

def pooled(lead, *, groups=12, quality=(0.8, 0.8), quantity=(0.9, 0.5)):
    """FM at two thresholds and FMUC, three seeds; in the pools, FMUC's score leads the softmax by ``lead``."""
    rows = {"FM": (0.7, 0.9), "FM thresh. 0.999": (0.8, 0.3), "FMUC": (quality[1], quantity[1])}
    records = [synthetic_record(row, [q + 0.001 * seed] * 10, [n] * 10, seed=seed)
               for row, (q, n) in rows.items() for seed in range(3)]
    return [with_pool(r, lead, groups) if r.run.variant in ("FM", "FMUC") else r for r in records]


def slow_apart(pool, share, index=None):
    """Mean − std minus the softmax: quality of the surest, and its mean over all quantities, by loops."""
    index = np.flatnonzero(pool["truth"] >= 0) if index is None else index
    values = []
    for score in (2, 0):
        order = sorted(index, key=lambda i: -pool["certainty"][0, score, i])
        hits = [pool["labels"][0, score, i] == pool["truth"][i] for i in order]
        count = share * len(hits)
        whole = int(count)
        quality = (sum(hits[:whole]) + (count - whole) * (hits[whole] if whole < len(hits) else 0)) / count
        values.append((quality, np.mean([np.mean(hits[: k + 1]) for k in range(len(hits))])))
    return 100 * np.subtract(*values)


def test_differences_of_scores_equal_loops():
    records = pooled(0.5)
    table = equal_quantity.score_differences(records, NAME, 10, 0.4)
    pools = [r.pool for r in records if r.run.variant == "FM"]
    slow = np.array([slow_apart(pool, 0.4) for pool in pools])
    for j, measure in enumerate(equal_quantity.MEASURES):
        row = table.loc[("FM", "mean - std, 5", measure)]
        expected = stats.ttest_1samp(slow[:, j], 0).confidence_interval()
        assert row["mean"] == pytest.approx(slow[:, j].mean(), abs=0.05)  # half precision leaves a few ties
        assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), abs=0.2)
        assert row["groups"] == 12 and row["cluster_low"] < row["mean"] < row["cluster_high"]
        assert (table.loc[("FM", "max softmax", measure), ["mean", "low", "cluster_high"]] == 0).all()
    drawn = [[slow_apart(pool, 0.4, [i for g, count in enumerate(times) for _ in range(count)
                                     for i in np.flatnonzero((pool["groups"] == b"%d" % g) & (pool["truth"] >= 0))])
              for pool in pools] for times in group_draws(12)[:60]]
    ends = np.quantile(np.mean(drawn, axis=1)[:, 0], [0.025, 0.975])
    row = table.loc[("FM", "mean - std, 5", "quality")]
    assert (row["cluster_low"], row["cluster_high"]) == pytest.approx(ends, abs=1)


def test_threshold_curves_fall_to_the_accuracy_of_all():
    curves = equal_quantity.threshold_curves(pooled(0.5), NAME, 10)
    assert set(curves["net"]) == {"FM", "FMUC"} and set(curves["score"]) == {"max softmax", "mean - std, 5"}
    last = curves[curves["quantity"] == 100].groupby("net")["quality"]
    assert np.ptp(last.get_group("FM")) == pytest.approx(0, abs=1e-9)  # every score keeps all in the end
    half = curves[(curves["quantity"].round() == 50) & (curves["net"] == "FM")].set_index("score")["quality"]
    assert half["mean - std, 5"] > half["max softmax"]


# --- trained rows, and the sentence ----------------------------------------------------------------------------------

def test_a_trained_row_is_compared_with_fm_at_its_quantity():
    runs = tables.measured(pooled(0.0, quality=(0.7, 0.82), quantity=(0.9, 0.5)), NAME, 10)
    found = equal_quantity.trained_difference(runs)
    between = 80 + (50 - 30) / (90 - 30) * (70 - 80)  # FM's quality falls from 80 % at 30 % to 70 % at 90 %
    assert (found.mean, found.n) == (pytest.approx(82 - between, abs=0.1), 3)
    beyond = tables.measured(pooled(0.0, quantity=(0.9, 0.2)), NAME, 10)
    assert equal_quantity.trained_difference(beyond).n == 0  # no threshold of FM keeps as few


NETS, ROWS = "on FM's nets and on FMUC's nets", "between trained rows"


@pytest.mark.parametrize(("lead", "quality", "said"), [
    (1.5, 0.85, f"better {NETS} and {ROWS}"),
    (-0.6, 0.70, f"worse {NETS} and {ROWS}"),
    (1.5, 0.70, f"better {NETS}, worse {ROWS}"),
    (0.0, 0.7671, f"as good (within 1 point) {NETS} and {ROWS}"),
])
def test_the_conclusion_says_what_the_numbers_show(lead, quality, said):
    text = equal_quantity.conclusion(pooled(lead, quality=(0.7, quality)), NAME, 10)
    assert f"Compared with a stricter threshold, FMUC's rule is {said}." in text
    assert "at the quantity that FMUC keeps (50 %)" in text
    assert text.endswith("FMUC minus FM thresh. 0.99 is +6.0 points of quality and +2.3 of quantity.")


def test_without_pools_nothing_is_concluded():
    records = [r for r in pooled(0.5) if not r.pool]
    assert equal_quantity.conclusion(records, NAME, 10) == ""
    assert equal_quantity.threshold_curves(records, NAME, 10).empty


def test_the_plane_shows_the_curves_and_the_rows():
    mpl.use("Agg")
    records = pooled(0.5)
    curves = equal_quantity.threshold_curves(records, NAME, 10)
    _, ax = figures.figure("double")
    figures.table1_plane(ax, tables.table1(records, NAME, 10), NAME, curves)
    drawn = {line.get_label(): line for line in ax.lines if len(line.get_xdata()) > 3}
    for (net, score), line in curves.groupby(["net", "score"]):
        np.testing.assert_allclose(drawn[f"{score}, {net}'s nets"].get_xydata(), line[["quantity", "quality"]])
    assert len(drawn) == 4 and "FM thresh. 0.999" in {line.get_gid() for line in ax.lines}
    plt.close("all")
