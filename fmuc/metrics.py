"""Counts first, ratios last: quality and quantity (§IV, §V-A), confusion, accuracy (§VI), quality at equal quantity."""

from __future__ import annotations

import numpy as np
import pandas as pd


def quality(kept: np.ndarray) -> float:
    """Share of the kept pseudo-labels that are right, from (..., C + 1 or C, C) counts; NaN when none was kept."""
    classes = kept.shape[-1]
    known = kept[..., :classes, :]
    total = known.sum()
    return float(np.trace(known, axis1=-2, axis2=-1).sum() / total) if total else float("nan")


def quantity(kept: np.ndarray, seen: np.ndarray) -> float:
    """Share of the unlabelled examples whose pseudo-label was kept; NaN when none was offered."""
    return float(kept.sum() / seen.sum()) if seen.sum() else float("nan")


def row_normalised(confusion: np.ndarray) -> np.ndarray:
    """(C, C) counts -> share of each true class (row); rows without counts are NaN (Fig. 3)."""
    total = confusion.sum(axis=1, keepdims=True)
    return np.divide(confusion, total, out=np.full(confusion.shape, np.nan), where=total > 0)


def filewise_probabilities(patch_probabilities: np.ndarray, file_of_patch: np.ndarray) -> np.ndarray:
    """Mean of the patch softmax over each file: (P, C), (P,) -> (files in ascending order, C) (D10)."""
    _, inverse, count = np.unique(file_of_patch, return_inverse=True, return_counts=True)
    total = np.zeros((len(count), patch_probabilities.shape[1]))
    np.add.at(total, inverse, patch_probabilities)
    return total / count[:, None]


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of files whose most probable class is the true one, among those with a known label (>= 0)."""
    known = labels >= 0
    return float((probabilities[known].argmax(axis=1) == labels[known]).mean()) if known.any() else float("nan")


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> pd.DataFrame:
    """The reliability diagram (Guo et al. 2017 [12]): one row per bin (low, high], columns low, high, n, confidence and
    accuracy (means in the bin, NaN in an empty one)."""
    edges = np.arange(bins + 1) / bins
    examples = pd.DataFrame({"confidence": confidence, "accuracy": correct}, dtype=float)
    groups = examples.groupby(pd.cut(examples["confidence"], edges, labels=range(bins), include_lowest=True),
                              observed=False)
    means = groups.mean()
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "n": groups.size().to_numpy(),
                         "confidence": means["confidence"].to_numpy(), "accuracy": means["accuracy"].to_numpy()})


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Guo et al. 2017 [12]: mean |accuracy - confidence| over equal-width bins (lo, hi], weighted by bin size.

    NaN for no examples at all.
    """
    table = reliability(confidence, correct, bins)
    gaps = table["n"] * (table["accuracy"] - table["confidence"]).abs()
    return float(gaps.sum() / len(confidence)) if len(confidence) else float("nan")


# Selective classification: the surest first


def surest(certainty: np.ndarray, right: np.ndarray, group: np.ndarray | None = None, groups: int = 1,
           steps: int | None = None) -> np.ndarray:
    """How many examples are at least so sure, and how many of them are right, (n,) each -> (2, groups, steps).

    From the surest to the last, in steps of n / ``steps`` examples (default: single ones), of each group (default:
    one). Equally sure examples come together, since their order is chance.
    """
    n = len(certainty)
    steps = steps or n
    step = np.searchsorted(np.sort(-certainty), -certainty) * steps // n  # from the number of surer examples
    group = np.zeros(n, dtype=np.int64) if group is None else group
    counts = np.zeros((2, groups, steps))
    np.add.at(counts, (0, group, step), 1)
    np.add.at(counts, (1, group, step), right)
    return counts.cumsum(axis=-1)


def quality_of_surest(counts: np.ndarray, share: float) -> np.ndarray:
    """Share of right ones among the surest ``share``, from counts of :func:`surest`: (2, D, steps) -> (D,)."""
    wanted = share * counts[0, :, -1]
    right = [np.interp(number, [0, *kept], [0, *right]) for number, kept, right in zip(wanted, *counts, strict=True)]
    return np.divide(right, wanted, out=np.full(len(wanted), np.nan), where=wanted > 0)


def area_under_risk(counts: np.ndarray) -> np.ndarray:
    """Area under the risk-coverage curve (Geifman and El-Yaniv 2017), (2, D, steps) -> (D,).

    The mean over all examples of the risk, the share of wrong ones, among those at least as sure.
    """
    kept, right = counts
    risk = 1 - np.divide(right, kept, out=np.ones_like(kept), where=kept > 0)
    return (np.diff(kept, axis=-1, prepend=0) * risk).sum(axis=-1) / kept[:, -1]
