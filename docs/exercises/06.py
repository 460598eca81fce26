# %% setup
import numpy as np

from fmuc.teaching.exercises import check

# %% exercise: Quality and quantity
# Quality is the share of right ones among the kept pseudo-labels, quantity the share of kept ones among all (§IV,
# §V-A). If nothing is kept, there is no quality: NaN.
#
# hint: Quality divides by the number of kept ones, quantity by the number of all.
# hint: `float("nan")`
def quality_and_quantity(true: np.ndarray, pseudo: np.ndarray, kept: np.ndarray) -> tuple[float, float]:
    """True classes, pseudo-labels and whether they are kept, (n,) each -> quality and quantity in [0, 1]."""
    ### BEGIN SOLUTION
    right = (true == pseudo) & kept
    quality = right.sum() / kept.sum() if kept.any() else float("nan")
    return quality, kept.mean()
    ### END SOLUTION

# %% wrong
# right.sum() / kept.sum() if kept.any() else float("nan") => right.mean()
# right.sum() / kept.sum() if kept.any() else float("nan") => (true == pseudo).mean()
# (true == pseudo) & kept => true == pseudo
# float("nan") => 0.0
# kept.mean() => right.mean()
# kept.mean() => kept.sum()

# %% exercise: The quality of an epoch
# Each batch of an epoch counts how many pseudo-labels it kept and how many of these were right. Some batches keep none.
#
# hint: A batch with one kept pseudo-label must not weigh as much as one with a hundred.
def epoch_quality(right: np.ndarray, kept: np.ndarray) -> float:
    """Counts of each batch, (batches,) each -> the quality of the whole epoch."""
    ### BEGIN SOLUTION
    return right.sum() / kept.sum()
    ### END SOLUTION

# %% wrong
# right.sum() / kept.sum() => np.mean(right / kept)
# right.sum() / kept.sum() => np.nanmean(right / kept)
# right.sum() / kept.sum() => np.mean(right / np.maximum(kept, 1))
# right.sum() / kept.sum() => right[-1] / kept[-1]

# %% exercise: Right and wrong targets
# Of all unlabelled patches, what share reaches the network with a right target, and what share with a wrong one?
#
# hint: Quality is a share of the kept ones; both answers are shares of all.
def targets(quality: float, quantity: float) -> tuple[float, float]:
    """Shares of all unlabelled patches with a right and with a wrong target."""
    ### BEGIN SOLUTION
    return quality * quantity, (1 - quality) * quantity
    ### END SOLUTION

# %% wrong
# (1 - quality) * quantity => 1 - quality
# (1 - quality) * quantity => 1 - quality * quantity
# return quality * quantity => return quality

# %% exercise: Risk and coverage
# Sort by the score, the surest first: what share of the k surest pseudo-labels is wrong, for k = 1, 2, …, n?
#
# hint: `np.argsort` sorts upwards.
# hint: `np.cumsum` counts the wrong ones so far.
def risk_coverage(score: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Scores (n,), whether the pseudo-label is right (n,), boolean -> share of wrong ones among the k surest, (n,)."""
    ### BEGIN SOLUTION
    order = np.argsort(-score)
    wrong = np.cumsum(~right[order])
    return wrong / np.arange(1, len(score) + 1)
    ### END SOLUTION

# %% wrong
# np.argsort(-score) => np.argsort(score)
# np.argsort(-score) => np.arange(len(score))
# np.cumsum(~right[order]) => np.cumsum(right[order])
# wrong / np.arange(1, len(score) + 1) => wrong / len(score)
# np.cumsum(~right[order]) => (~right[order]) * np.arange(1, len(score) + 1)
