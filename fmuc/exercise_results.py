"""Right functions, cases and typical mistakes of the exercises on results (docs/exercises/08 and 09), by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import ndtri, stdtrit  # quantiles; scipy.stats, which has them, too, takes a second to import

from fmuc.exercise_judge import Exercise

_DRAWN = np.random.default_rng(0)

# --- 08 Table I ---


def _row(right: np.ndarray, kept: np.ndarray, offered: np.ndarray, part: slice | None = None) -> tuple[float, float]:
    part = part or slice(-(len(kept) // 10), None)
    return right[part].sum() / kept[part].sum(), kept[part].sum() / offered[part].sum()


def _mean_row(right: np.ndarray, kept: np.ndarray, offered: np.ndarray) -> tuple[float, float]:
    part = slice(-(len(kept) // 10), None)
    return (right / kept)[part].mean(), (kept / offered)[part].mean()


def _dominates(quality: np.ndarray, quantity: np.ndarray) -> np.ndarray:
    """(rows, rows): whether the first dominates the second."""
    as_good = (quality[:, None] >= quality) & (quantity[:, None] >= quantity)
    return as_good & ~as_good.T


def _ranks(values: np.ndarray) -> np.ndarray:
    return values.argsort().argsort()


_EPOCHS = np.arange(1, 21)
_OFFERED = np.full(20, 200)
_KEPT_OF_EPOCH = 5 * _EPOCHS + 60 * (_EPOCHS % 2)
_RIGHT_OF_EPOCH = 2 * _EPOCHS + 50 * (_EPOCHS % 2)
_QUALITY = np.array([0.70, 0.80, 0.80, 0.90, 0.85, 0.95])
_QUANTITY = np.array([0.95, 0.60, 0.70, 0.50, 0.40, 0.10])
_OURS, _PAPERS = np.array([0.1, 0.9, 0.3, 0.2, 0.95, 0.5]), np.array([3.0, 40.0, 90.0, 1.0, 50.0, 55.0])

ABLATIONS = {
    "table_row": Exercise(
        [(_RIGHT_OF_EPOCH, _KEPT_OF_EPOCH, _OFFERED)], _row,
        [(lambda r, k, o: _row(r, k, o, slice(-1, None)), "Only the last epoch is read, the noisiest of all choices: "
          "the last tenth has more epochs than one here."),
         (lambda r, k, o: _row(r, k, o, slice(None)), "The whole training is read, beginnings included: the last tenth "
          "is asked for."),
         (lambda r, k, o: _row(r, k, o, slice(None, len(k) // 10)), "This is the first tenth of the training."),
         (_mean_row, "The epochs' qualities are averaged: an epoch that keeps little weighs as much as one that keeps "
          "much. Add up the counts first, divide last."),
         (lambda r, k, o: (_row(r, o, o)[0], _row(r, k, o)[1]), "The right ones are divided by all that were offered: "
          "quality is a share of the kept ones.")]),
    "gain_in_points": Exercise(
        [(0.6, 0.5), (0.7, 0.8)], lambda quality, reference: 100 * (quality - reference),
        [(lambda q, r: 100 * (q - r) / r, "This is the relative gain in per cent; percentage points are the plain "
          "difference."),
         (lambda q, r: q - r, "Points are hundredths: multiply by 100."),
         (lambda q, r: 100 * (r - q), "The sign is the wrong way round: a better quality is a positive gain."),
         (lambda q, r: 100 * abs(q - r), "A loss must stay a loss: no absolute value.")]),
    "not_dominated": Exercise(
        [(_QUALITY, _QUANTITY)], lambda q, n: ~_dominates(q, n).any(axis=0),
        [(lambda q, n: ~_dominates(q, n).any(axis=1), "These are the rows that dominate none: the axis is the other "
          "one."),
         (lambda q, n: _dominates(q, n).any(axis=0), "These are the dominated rows: the opposite is asked for."),
         (lambda q, n: ~_dominates(q, n).sum(axis=0) >= 1 - len(q), "A row counts as dominated only if all others "
          "dominate it; one is enough."),
         (lambda q, n: (q == q.max()) | (n == n.max()), "Only the best in quality and the best in quantity are left: "
          "in between lie compromises that nothing dominates.")]),
    "rank_correlation": Exercise(
        [(_OURS, _PAPERS)], lambda ours, papers: np.corrcoef(_ranks(ours), _ranks(papers))[0, 1],
        [(lambda a, b: np.corrcoef(a, b)[0, 1], "This is the correlation of the values (Pearson's): take their ranks "
          "first."),
         (lambda a, b: np.corrcoef(a.argsort(), b.argsort())[0, 1], "argsort gives the places of the sorted values, "
          "not the rank of each value: apply it twice."),
         (lambda a, b: (_ranks(a) == _ranks(b)).mean(), "This is the share of equal ranks: a rank that is off by one "
          "counts as much as one that is off by ten.")]),
}

# --- 09 Table II ---


def _files(p: np.ndarray, file_of_patch: np.ndarray, make: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.array([make(p[file_of_patch == file]) for file in np.unique(file_of_patch)])


def _votes(p: np.ndarray) -> np.ndarray:
    return np.bincount(p.argmax(axis=1), minlength=p.shape[1])


def _interval(values: np.ndarray, quantile: float, ddof: int = 1, root: bool = True) -> tuple[float, float]:
    half = quantile * np.std(values, ddof=ddof) / (np.sqrt(len(values)) if root else 1)
    return np.mean(values) - half, np.mean(values) + half


def _t(values: np.ndarray, level: float, freedom: int = -1) -> float:
    return stdtrit(len(values) + freedom, (1 + level) / 2)


def _error(confidence: np.ndarray, right: np.ndarray, index: np.ndarray, weighted: bool = True, sign: bool = False,
           shares: bool = True) -> float:
    inside = [index == number for number in np.unique(index)]
    gaps = np.array([right[some].mean() - confidence[some].mean() for some in inside])
    sizes = np.array([some.mean() if shares else some.sum() for some in inside])
    return ((gaps if sign else np.abs(gaps)) * (sizes if weighted else 1 / len(gaps))).sum()


def _bin(confidence: np.ndarray, bins: int) -> np.ndarray:
    return np.minimum((confidence * bins).astype(int), bins - 1)


_PROBABILITIES = np.array([[0.9, 0.05, 0.05], [0.4, 0.6, 0.0], [0.45, 0.55, 0.0], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7],
                           [0.02, 0.0, 0.98], [0.34, 0.33, 0.33], [0.3, 0.6, 0.1], [0.3, 0.65, 0.05],
                           [0.66, 0.3, 0.04]])
_FILE_OF_PATCH = np.array([3, 3, 3, 5, 5, 5, 7, 9, 9, 9])
_SEEDS, _OTHERS = np.array([0.72, 0.75, 0.71]), np.array([0.70, 0.74, 0.68])
# In the last bin, those below 1 are underconfident, those of 1 overconfident
_CONFIDENCE = np.concatenate([_DRAWN.uniform(0.3, 0.9, 30), np.full(8, 0.93), np.ones(6)])
_WAS_RIGHT = np.concatenate([_DRAWN.random(30) < 0.6, np.full(8, True), [True, True, False, True, False, True]])

ACCURACY = {
    "classes_of_files": Exercise(
        [(_PROBABILITIES, _FILE_OF_PATCH)], lambda p, of: _files(p, of, lambda x: x.mean(0)).argmax(1),
        [(lambda p, of: _files(p, of, lambda x: x.max(0)).argmax(1), "The largest value of any patch decides: one "
          "overconfident patch outvotes all others. Take the mean."),
         (lambda p, of: _files(p, of, lambda x: x[0]).argmax(1), "Only the first patch of each file is used."),
         (lambda p, of: _files(p, of, _votes).argmax(1), "This is a majority vote of the patches: a patch that is sure "
          "counts as much as one that is not. Average the probabilities, then decide."),
         (lambda p, of: _files(p, of, lambda x: x.mean(0)).argmax(0), "argmax over axis 0 finds for each class the "
          "file that has most of it; the class of a file is the maximum along axis 1."),
         (lambda p, of: p.argmax(1), "These are classes of patches; each file has one.")]),
    "t_interval": Exercise(
        [(_SEEDS, 0.95), (_OTHERS, 0.8)], lambda x, level: _interval(x, _t(x, level)),
        [(lambda x, level: _interval(x, ndtri((1 + level) / 2)), "This is the normal distribution's "
          "quantile (1.96 at 95 %): far too small for three seeds, whose standard deviation is itself a guess."),
         (lambda x, level: _interval(x, _t(x, level), ddof=0), "The population's standard deviation (divisor n) is too "
          "small for a sample: ddof=1."),
         (lambda x, level: _interval(x, _t(x, level), root=False), "The standard deviation is not divided by √n: this "
          "speaks of single seeds, not of their mean."),
         (lambda x, level: _interval(x, stdtrit(len(x) - 1, level)), "The quantile is one-sided: 5 % would "
          "lie below and 5 % above, so that the level is 90 %. Take (1 + level) / 2."),
         (lambda x, level: _interval(x, 1, root=False), "Mean ± standard deviation describes the spread of seeds; it "
          "is no confidence interval of the mean."),
         (lambda x, level: _interval(x, _t(x, level, freedom=0)), "The degrees of freedom are n − 1: the mean has used "
          "one up.")]),
    "paired_difference": Exercise(
        [(_SEEDS, _OTHERS)], lambda a, b: ((a - b).mean(), (a - b).std(ddof=1)),
        [(lambda a, b: ((a - b).mean(), (a - b).std()), "This is the population's standard deviation; the sample's "
          "divides by n − 1: ddof=1."),
         (lambda a, b: ((a - b).mean(), np.hypot(a.std(ddof=1), b.std(ddof=1))), "The spreads are added as if the "
          "seeds of the two methods were independent. What a seed does to both cancels in the difference: take the "
          "differences first."),
         (lambda a, b: ((a - b).mean(), a.std(ddof=1) - b.std(ddof=1)), "A difference of two standard deviations is "
          "not the standard deviation of the differences."),
         (lambda a, b: ((b - a).mean(), (b - a).std(ddof=1)), "The sign is the wrong way round: FMUC − FM.")]),
    "calibration_error": Exercise(
        [(_CONFIDENCE, _WAS_RIGHT, 10), (_CONFIDENCE, _WAS_RIGHT, 4)], lambda c, r, n: _error(c, r, _bin(c, n)),
        [(lambda c, r, n: _error(c, r, _bin(c, n), weighted=False), "All bins weigh the same, however few files they "
          "hold: weight them by their share of the files."),
         (lambda c, r, n: _error(c, r, _bin(c, n), sign=True), "Overconfident and underconfident bins cancel each "
          "other: take the absolute value in each bin."),
         (lambda c, r, n: _error(c, r, (c * n).astype(int)), "A confidence of exactly 1 falls into a bin of its own "
          "behind the last one; and an overconfident network has many of them."),
         (lambda c, r, n: _error(c, r, np.zeros(len(c))), "There is only one bin: mean confidence minus accuracy of "
          "all files hides where the errors are."),
         (lambda c, r, n: _error(c, r, _bin(c, n), shares=False), "The weights are numbers of files; they must be "
          "shares, which add up to 1.")]),
}
