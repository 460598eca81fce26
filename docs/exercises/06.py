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

# %% cases
true, pseudo = np.array([[0, 0, 1, 1, 2, 2, 2, 0], [0, 1, 1, 1, 2, 0, 2, 2]])
kept = np.array([True, True, True, False, True, False, False, False])
cases = [(true, pseudo, kept), (true, pseudo, np.zeros(8, dtype=bool))]

# %% wrong
# right.sum() / kept.sum() if kept.any() else float("nan") => right.mean()
#   The right ones are divided by the number of all examples: that is quality times quantity. Quality is a share
#   of the kept ones.
# right.sum() / kept.sum() if kept.any() else float("nan") => (true == pseudo).mean()
#   This is the accuracy of all pseudo-labels, kept or not. A rule is judged by what it keeps.
# (true == pseudo) & kept => true == pseudo
#   The right ones are counted whether kept or not: the quality could pass 1.
# float("nan") => 0.0
#   Nothing kept does not mean that all is wrong: the quality is unknown, NaN. A zero would pull down every mean.
# kept.mean() => right.mean()
#   Quantity asks what is kept, right or wrong.
# kept.mean() => kept.sum()
#   Quantity is a share; this is a number of examples.

# %% exercise: The quality of an epoch
# Each batch of an epoch counts how many pseudo-labels it kept and how many of these were right. Some batches keep none.
#
# hint: A batch with one kept pseudo-label must not weigh as much as one with a hundred.
def epoch_quality(right: np.ndarray, kept: np.ndarray) -> float:
    """Counts of each batch, (batches,) each -> the quality of the whole epoch."""
    ### BEGIN SOLUTION
    return right.sum() / kept.sum()
    ### END SOLUTION

# %% cases
cases = [(np.array([1, 40, 0, 18]), np.array([1, 80, 0, 20]))]

# %% wrong
# right.sum() / kept.sum() => np.mean(right / kept)
#   A batch that keeps nothing has 0 / 0 = NaN, and with it the whole mean is NaN. Add up the counts first.
# right.sum() / kept.sum() => np.nanmean(right / kept)
#   The mean of the batches' qualities: one kept pseudo-label weighs as much as eighty. Add up the counts first,
#   divide last.
# right.sum() / kept.sum() => np.mean(right / np.maximum(kept, 1))
#   A batch that keeps nothing counts as a quality of 0, and each batch weighs the same. Add up the counts first.
# right.sum() / kept.sum() => right[-1] / kept[-1]
#   This is the quality of the last batch, not of the epoch.

# %% exercise: Right and wrong targets
# Of all unlabelled patches, what share reaches the network with a right target, and what share with a wrong one?
#
# hint: Quality is a share of the kept ones; both answers are shares of all.
def targets(quality: float, quantity: float) -> tuple[float, float]:
    """Shares of all unlabelled patches with a right and with a wrong target."""
    ### BEGIN SOLUTION
    return quality * quantity, (1 - quality) * quantity
    ### END SOLUTION

# %% cases
cases = [(0.95, 0.2), (0.75, 0.8)]

# %% wrong
# (1 - quality) * quantity => 1 - quality
#   1 − quality is the share of wrong ones among the *kept*; of all it is smaller by the factor of the quantity.
# (1 - quality) * quantity => 1 - quality * quantity
#   What is not kept is counted as wrong. It has no target at all.
# return quality * quantity => return quality
#   The first value is a share of the kept ones: multiply it by the quantity.

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

# %% cases
cases = [(np.array([0.2, 0.9, 0.5, 0.7, 0.4]), np.array([True, True, False, True, False]))]

# %% wrong
# np.argsort(-score) => np.argsort(score)
#   The least sure come first: argsort sorts upwards.
# np.argsort(-score) => np.arange(len(score))
#   The scores have no effect: the examples are in the order in which they came.
# np.cumsum(~right[order]) => np.cumsum(right[order])
#   This is the share of right ones: the risk is the share of wrong ones.
# wrong / np.arange(1, len(score) + 1) => wrong / len(score)
#   Divided by the number of all examples: among the k surest ones there are k.
# np.cumsum(~right[order]) => (~right[order]) * np.arange(1, len(score) + 1)
#   This says of each example whether it is wrong: add up those before it.
