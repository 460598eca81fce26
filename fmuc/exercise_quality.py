"""Right functions, cases and typical mistakes of the exercises on pseudo-labels (docs/exercises/06 and 07), by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fmuc.exercise_judge import Exercise

NAN = float("nan")

# --- 06 quality and quantity ---


def _rates(true: np.ndarray, pseudo: np.ndarray, kept: np.ndarray) -> tuple[float, float]:
    return (true == pseudo)[kept].mean() if kept.any() else NAN, kept.mean()


def _risks(order: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda score, right: np.cumsum(~right[order(score)]) / np.arange(1, len(score) + 1)


def _surest_first(score: np.ndarray) -> np.ndarray:
    return np.argsort(-score)


_TRUE, _PSEUDO = np.array([0, 0, 1, 1, 2, 2, 2, 0]), np.array([0, 1, 1, 1, 2, 0, 2, 2])
_KEPT = np.array([True, True, True, False, True, False, False, False])
_RIGHT_OF_BATCH, _KEPT_OF_BATCH = np.array([1, 40, 0, 18]), np.array([1, 80, 0, 20])
_SCORES, _IS_RIGHT = np.array([0.2, 0.9, 0.5, 0.7, 0.4]), np.array([True, True, False, True, False])

QUALITY = {
    "quality_and_quantity": Exercise(
        [(_TRUE, _PSEUDO, _KEPT), (_TRUE, _PSEUDO, np.zeros(8, dtype=bool))], _rates,
        [(lambda t, p, k: (((t == p) & k).mean(), k.mean()), "The right ones are divided by the number of all "
          "examples: that is quality times quantity. Quality is a share of the kept ones."),
         (lambda t, p, k: ((t == p).mean(), k.mean()), "This is the accuracy of all pseudo-labels, kept or not. A rule "
          "is judged by what it keeps."),
         (lambda t, p, k: ((t == p).sum() / k.sum() if k.any() else NAN, k.mean()), "The right ones are counted "
          "whether kept or not: the quality could pass 1."),
         (lambda t, p, k: (_rates(t, p, k)[0] if k.any() else 0.0, k.mean()), "Nothing kept does not mean that all is "
          "wrong: the quality is unknown, NaN. A zero would pull down every mean."),
         (lambda t, p, k: (_rates(t, p, k)[0], ((t == p) & k).mean()), "Quantity asks what is kept, right or wrong."),
         (lambda t, p, k: (_rates(t, p, k)[0], k.sum()), "Quantity is a share; this is a number of examples.")]),
    "epoch_quality": Exercise(
        [(_RIGHT_OF_BATCH, _KEPT_OF_BATCH)], lambda right, kept: right.sum() / kept.sum(),
        [(lambda right, kept: np.mean(right / kept), "A batch that keeps nothing has 0 / 0 = NaN, and with it the "
          "whole mean is NaN. Add up the counts first."),
         (lambda right, kept: np.nanmean(right / kept), "The mean of the batches' qualities: one kept pseudo-label "
          "weighs as much as eighty. Add up the counts first, divide last."),
         (lambda right, kept: np.mean(right / np.maximum(kept, 1)), "A batch that keeps nothing counts as a quality of "
          "0, and each batch weighs the same. Add up the counts first."),
         (lambda right, kept: right[-1] / kept[-1], "This is the quality of the last batch, not of the epoch.")]),
    "targets": Exercise(
        [(0.95, 0.2), (0.75, 0.8)], lambda quality, quantity: (quality * quantity, (1 - quality) * quantity),
        [(lambda q, n: (q * n, 1 - q), "1 − quality is the share of wrong ones among the *kept*; of all it is "
          "smaller by the factor of the quantity."),
         (lambda q, n: (q * n, 1 - q * n), "What is not kept is counted as wrong. It has no target at all."),
         (lambda q, n: (q, (1 - q) * n), "The first value is a share of the kept ones: multiply it by the quantity.")]),
    "risk_coverage": Exercise(
        [(_SCORES, _IS_RIGHT)], _risks(_surest_first),
        [(_risks(np.argsort), "The least sure come first: argsort sorts upwards."),
         (_risks(lambda score: np.arange(len(score))), "The scores have no effect: the examples are in the order in "
          "which they came."),
         (lambda s, r: np.cumsum(r[_surest_first(s)]) / np.arange(1, len(s) + 1), "This is the share of right ones: "
          "the risk is the share of wrong ones."),
         (lambda s, r: np.cumsum(~r[_surest_first(s)]) / len(s), "Divided by the number of all examples: among the k "
          "surest ones there are k."),
         (lambda s, r: (~r[_surest_first(s)]).astype(float), "This says of each example whether it is wrong: add up "
          "those before it.")]),
}

# --- 07 confusions ---


def _counts(rows: np.ndarray, columns: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(rows * classes + columns, minlength=classes**2).reshape(classes, classes)


def _shares(part: np.ndarray, total: np.ndarray, empty: float = NAN) -> np.ndarray:
    total = np.broadcast_to(total, part.shape)
    return np.divide(part, total, out=np.full(part.shape, empty), where=total > 0)


def _once(true: np.ndarray, pseudo: np.ndarray, kept: np.ndarray, classes: int) -> np.ndarray:
    return np.minimum(_counts(true[kept], pseudo[kept], classes), 1)


def _worst(counts: np.ndarray) -> tuple[int, int]:
    true, pseudo = np.unravel_index((counts - np.diag(np.diag(counts))).argmax(), counts.shape)
    return int(true), int(pseudo)


_DRAWN = np.random.default_rng(0)
_MANY = (*(_DRAWN.integers(0, 3, (2, 40))), _DRAWN.random(40) < 0.7)
_CONFUSED = np.array([[6, 3, 1, 0], [1, 8, 2, 0], [0, 0, 0, 0], [5, 1, 1, 0]])

CONFUSIONS = {
    "confusion": Exercise(
        [(*_MANY, 3)], lambda true, pseudo, kept, classes: _counts(true[kept], pseudo[kept], classes),
        [(_once, "Each pair counts once, however often it occurs: NumPy's `counts[rows, columns] += 1` adds to each "
          "cell only once. Use np.add.at."),
         (lambda t, p, k, c: _counts(p[k], t[k], c), "Rows and columns are exchanged: the row is the true class."),
         (lambda t, p, k, c: _counts(t, p, c), "Rejected pseudo-labels are counted, too: they never reach the "
          "network.")]),
    "shares_of_true_class": Exercise(
        [(_CONFUSED,)], lambda counts: _shares(counts, counts.sum(1, keepdims=True)),
        [(lambda n: _shares(n, n.sum(0)), "Each column adds up to 1: these are shares of the patches that were given a "
          "class. Fig. 3 divides by the row's sum, the true class."),
         (lambda n: _shares(n, n.sum()), "Divided by the sum of all counts: frequent classes would seem to be "
          "confused most."),
         (lambda n: _shares(n, n.sum(1)), "Column j is divided by the sum of row j: (C, C) / (C,) works along the "
          "columns. keepdims=True keeps the sums beside their rows."),
         (lambda n: _shares(n, n.sum(1, keepdims=True), empty=0.0), "A class of which nothing was kept has no shares: "
          "NaN, not 0. Zero would say that it is never right.")]),
    "precision": Exercise(
        [(_CONFUSED,)], lambda counts: _shares(np.diag(counts), counts.sum(0)),
        [(lambda n: _shares(np.diag(n), n.sum(1)), "Divided by the sums of the rows: this is how many of a *true* "
          "class got their class (recall)."),
         (lambda n: np.diag(n) / n.sum(), "Divided by the sum of all counts; each class has its own denominator."),
         (lambda n: _shares(np.diag(n), n.sum(0), empty=0.0), "A class that was never given has no precision: NaN, "
          "not 0.")]),
    "worst_confusion": Exercise(
        [(_CONFUSED,)], _worst,
        [(lambda n: tuple(map(int, np.unravel_index(n.argmax(), n.shape))), "The largest cell lies on the diagonal: "
          "these are the right ones, not confusions."),
         (lambda n: _worst(n)[::-1], "True class and pseudo-label are exchanged: the row is the true class.")]),
}
