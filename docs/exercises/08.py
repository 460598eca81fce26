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

# %% wrong
# slice(-(len(kept) // 10), None) => slice(-1, None)
# slice(-(len(kept) // 10), None) => slice(None)
# slice(-(len(kept) // 10), None) => slice(None, len(kept) // 10)
# right, kept, offered = => return (right / kept)[last].mean(), (kept / offered)[last].mean(); _ =
# return right / kept, => return right / offered,

# %% exercise: Percentage points
# "FMUC improves the quality by 8.3 percentage points": a difference of shares, times 100.
#
# hint: From 50 % to 60 % are ten points, and a fifth more.
def gain_in_points(quality: float, reference: float) -> float:
    """How much better ``quality`` is than ``reference``, both in [0, 1], in percentage points."""
    ### BEGIN SOLUTION
    return 100 * (quality - reference)
    ### END SOLUTION

# %% wrong
# 100 * (quality - reference) => 100 * (quality - reference) / reference
# 100 * (quality - reference) => quality - reference
# quality - reference => reference - quality
# 100 * (quality - reference) => 100 * abs(quality - reference)

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

# %% wrong
# .any(axis=0) => .any(axis=1)
# return ~(as_good & better) => return (as_good & better)
# return ~(as_good & better).any(axis=0) => return ~((as_good & better).sum(axis=0) >= len(quality) - 1)
# return ~(as_good & better).any(axis=0) => return (quality == quality.max()) | (quantity == quantity.max())

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

# %% wrong
# values.argsort().argsort() => values
# values.argsort().argsort() => values.argsort()
# np.corrcoef(a, b)[0, 1] => (a == b).mean()
