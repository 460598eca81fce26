# %% setup
import numpy as np

from fmuc.teaching.exercises import check

# %% exercise: A row of Table I
# From the counts of each epoch to quality and quantity of the last tenth of the training (deviation D13; the number of
# epochs is a multiple of ten here).
#
# hint: Add up the counts of these epochs first, divide last.
def table_row(right: np.ndarray, kept: np.ndarray, offered: np.ndarray) -> tuple[float, float]:
    """Right, kept and offered pseudo-labels of each epoch, (epochs,) each -> quality and quantity in [0, 1]."""
    ### BEGIN SOLUTION
    last = slice(-(len(kept) // 10), None)
    right, kept, offered = (counts[last].sum() for counts in (right, kept, offered))
    return right / kept, kept / offered
    ### END SOLUTION

# %% cases
epochs = np.arange(1, 21)
right, kept = 2 * epochs + 50 * (epochs % 2), 5 * epochs + 60 * (epochs % 2)
cases = [(right, kept, np.full(20, 200))]

# %% wrong
# slice(-(len(kept) // 10), None) => slice(-1, None)
#   Only the last epoch is read, the noisiest of all choices: the last tenth has more epochs than one here.
# slice(-(len(kept) // 10), None) => slice(None)
#   The whole training is read, beginnings included: the last tenth is asked for.
# slice(-(len(kept) // 10), None) => slice(None, len(kept) // 10)
#   This is the first tenth of the training.
# right, kept, offered = => return (right / kept)[last].mean(), (kept / offered)[last].mean(); _ =
#   The epochs' qualities are averaged: an epoch that keeps little weighs as much as one that keeps much. Add up
#   the counts first, divide last.
# return right / kept, => return right / offered,
#   The right ones are divided by all that were offered: quality is a share of the kept ones.

# %% exercise: Percentage points
# "FMUC improves the quality by 8.3 percentage points": a difference of shares, times 100.
#
# hint: From 50 % to 60 % are ten points, and a fifth more.
def gain_in_points(quality: float, reference: float) -> float:
    """How much better ``quality`` is than ``reference``, both in [0, 1], in percentage points."""
    ### BEGIN SOLUTION
    return 100 * (quality - reference)
    ### END SOLUTION

# %% cases
cases = [(0.6, 0.5), (0.7, 0.8)]

# %% wrong
# 100 * (quality - reference) => 100 * (quality - reference) / reference
#   This is the relative gain in per cent; percentage points are the plain difference.
# 100 * (quality - reference) => quality - reference
#   Points are hundredths: multiply by 100.
# quality - reference => reference - quality
#   The sign is the wrong way round: a better quality is a positive gain.
# 100 * (quality - reference) => 100 * abs(quality - reference)
#   A loss must stay a loss: no absolute value.

# %% exercise: The rows worth choosing
# A row of Table I is *dominated* if another one is at least as good in quality and in quantity, and better in one of
# them. Which rows are not?
#
# hint: `quality[:, None] >= quality` compares each row (first axis) with each other row (second axis).
# hint: A row is dominated if any of the others, on one axis of that table, dominates it.
def not_dominated(quality: np.ndarray, quantity: np.ndarray) -> np.ndarray:
    """(rows,) each -> (rows,), boolean."""
    ### BEGIN SOLUTION
    as_good = (quality[:, None] >= quality) & (quantity[:, None] >= quantity)
    better = (quality[:, None] > quality) | (quantity[:, None] > quantity)
    return ~(as_good & better).any(axis=0)
    ### END SOLUTION

# %% cases
cases = [(np.array([0.70, 0.80, 0.80, 0.90, 0.85, 0.95]), np.array([0.95, 0.60, 0.70, 0.50, 0.40, 0.10]))]

# %% wrong
# .any(axis=0) => .any(axis=1)
#   These are the rows that dominate none: the axis is the other one.
# return ~(as_good & better) => return (as_good & better)
#   These are the dominated rows: the opposite is asked for.
# return ~(as_good & better).any(axis=0) => return ~((as_good & better).sum(axis=0) >= len(quality) - 1)
#   A row counts as dominated only if all others dominate it; one is enough.
# return ~(as_good & better).any(axis=0) => return (quality == quality.max()) | (quantity == quantity.max())
#   Only the best in quality and the best in quantity are left: in between lie compromises that nothing dominates.

# %% exercise: Do ours rank as the paper's?
# Values of two data sets cannot be compared, ranks can: Spearman's correlation is the (Pearson) correlation of the
# ranks. No two values are equal here.
#
# hint: `argsort` says which row comes first, second, …; the rank of a row is `argsort` of that.
# hint: `np.corrcoef(a, b)[0, 1]`
def rank_correlation(ours: np.ndarray, papers: np.ndarray) -> float:
    """(rows,) each -> Spearman's rank correlation in [−1, 1]."""
    ### BEGIN SOLUTION
    a, b = (values.argsort().argsort() for values in (ours, papers))
    return np.corrcoef(a, b)[0, 1]
    ### END SOLUTION

# %% cases
cases = [(np.array([0.1, 0.9, 0.3, 0.2, 0.95, 0.5]), np.array([3.0, 40.0, 90.0, 1.0, 50.0, 55.0]))]

# %% wrong
# values.argsort().argsort() => values
#   This is the correlation of the values (Pearson's): take their ranks first.
# values.argsort().argsort() => values.argsort()
#   argsort gives the places of the sorted values, not the rank of each value: apply it twice.
# np.corrcoef(a, b)[0, 1] => (a == b).mean()
#   This is the share of equal ranks: a rank that is off by one counts as much as one that is off by ten.
