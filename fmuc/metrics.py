"""Counts first, ratios last: quality and quantity of pseudo-labels (§IV, §V-A), confusion, file-wise accuracy (§VI)."""

from __future__ import annotations

import numpy as np


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


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Guo et al. 2017 [12]: mean |accuracy - confidence| over equal-width bins (lo, hi], weighted by bin size.

    NaN for no examples at all.
    """
    if not len(confidence):
        return float("nan")
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(index, weights=correct.astype(float) - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))
