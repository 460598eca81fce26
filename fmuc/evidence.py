"""How sure a difference is: intervals over seeds and over groups, verdicts, and summaries over data sets.

A seed draws the labelled files and the initial weights. Two rows of one seed share both, so they are compared seed by
seed. The interval over seeds (Student's t) is about other draws and the same files; the interval over groups (cluster
bootstrap) is about other instruments, places or speakers and the same nets. Neither covers both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95
ENDS = (1 - LEVEL) / 2, (1 + LEVEL) / 2  # shares below both ends of an interval
FEWEST_GROUPS = 5  # a bootstrap over fewer gives no interval worth the name


class Interval(NamedTuple):
    """A mean with its 95 % interval; NaN where there is none. ``favour``: how many of the ``n`` values are above 0."""

    mean: float
    low: float = math.nan
    high: float = math.nan
    favour: int = 0
    n: int = 0


def t_interval(values: Sequence[float], new: float = math.inf) -> Interval:
    """Student's interval for the mean of n values, mean ± t(n - 1) s sqrt(1 / n + 1 / new), taken to be normal.

    ``new``: for the mean of that many further values (a prediction interval) instead of the true mean. Any NaN, or
    fewer than two values, give no interval.
    """
    values, n, half = np.asarray(values, dtype=float), len(values), math.nan
    if n > 1:
        half = float(stdtrit(n - 1, ENDS[1]) * values.std(ddof=1) * math.sqrt(1 / n + 1 / new))
    mean = float(values.mean()) if n else math.nan
    return Interval(mean, mean - half, mean + half, int((values > 0).sum()), n)


def welch(terms: Sequence[tuple[float, float, float, float]]) -> Interval:
    """Welch's interval for a weighted sum of independent means: (weight, mean, standard deviation, n) each.

    A mean of NaN standard deviation was published alone and is taken as exact: then the sign decides.
    """
    weights, means, stds, n = np.asarray(terms, dtype=float).T
    parts = weights**2 * stds**2 / n
    variance = np.nansum(parts)
    freedom = variance**2 / np.nansum(parts**2 / (n - 1)) if variance else math.inf  # Welch-Satterthwaite
    half = float(stdtrit(freedom, ENDS[1]) * math.sqrt(variance)) if variance else 0.0
    mean = float(weights @ means)
    return Interval(mean, mean - half, mean + half)


def verdict(interval: Interval, low: float = 0.0, high: float = math.inf) -> str:
    """Whether a value lies between ``low`` and ``high``: the whole interval does, none of it does, or it is open."""
    if interval.low > low and interval.high < high:
        return "holds"
    if interval.high <= low or interval.low >= high:
        return "contradicted"
    return "not decidable"


def group_draws(groups: int, draws: int = 1000) -> np.ndarray:
    """How often each of the groups is in each bootstrap sample of as many groups: (draws, groups)."""
    drawn = np.random.default_rng(0).integers(groups, size=(draws, groups))
    return np.stack([np.bincount(row, minlength=groups) for row in drawn])  # a tenth of a multinomial's time


def clustered(seeds: Sequence[tuple[object, np.ndarray]], statistic: Callable) -> tuple[np.ndarray, np.ndarray, int]:
    """Bootstrap interval over groups of the mean over seeds of a statistic: its ends and how many groups there are.

    ``seeds``: for each seed what the statistic takes and the groups (n,) of its examples; all seeds share the draws.
    ``statistic``: (that, index of each example's group (n,), times drawn (draws, groups)) -> (..., draws). No interval
    for fewer than ``FEWEST_GROUPS``.
    """
    names, index = np.unique(np.concatenate([groups for _, groups in seeds]), return_inverse=True)
    if len(names) < FEWEST_GROUPS:
        return math.nan, math.nan, len(names)
    times, ends = group_draws(len(names)), np.cumsum([len(groups) for _, groups in seeds])[:-1]
    parts = zip(seeds, np.split(index, ends), strict=True)
    means = np.mean([statistic(values, own, times) for (values, _), own in parts], axis=0)
    return *np.quantile(means, ENDS, axis=-1), len(names)


def group_mean(values: np.ndarray, index: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The statistic of :func:`clustered` for a mean over examples: a ratio of two sums over groups."""
    sums, sizes = (np.bincount(index, weights, minlength=times.shape[1]) for weights in (values, None))
    return (times @ sums) / (times @ sizes)


# Over data sets: the definitions of rliable (Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice")


def interquartile_mean(scores: Sequence[np.ndarray]) -> float:
    """Mean of the middle half of all runs of all data sets, (runs,) each."""
    runs = np.sort(np.concatenate(scores))
    return float(runs[len(runs) // 4 : len(runs) - len(runs) // 4].mean())  # scipy.stats takes half a second to import


def probability_of_improvement(ours: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """P(a run of ours is above one of the others), ties by half, as the mean over data sets; (runs,) each."""
    apart = [np.sign(np.subtract.outer(a, b)).mean() for a, b in zip(ours, others, strict=True)]
    return float((1 + np.mean(apart)) / 2)


def stratified(statistic: Callable[..., float], *rows: Sequence[np.ndarray], draws: int = 1000) -> Interval:
    """Bootstrap interval of a statistic of rows, each (runs,) for every data set; runs are drawn within data sets."""
    rng = np.random.default_rng(0)
    values = [statistic(*([scores[rng.integers(len(scores), size=len(scores))] for scores in row] for row in rows))
              for _ in range(draws)]
    return Interval(statistic(*rows), *map(float, np.quantile(values, ENDS)))
