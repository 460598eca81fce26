# %% setup
import numpy as np

from fmuc.teaching.exercises import check

# %% exercise: Count confusions
# Row: true class, column: pseudo-label. Count the kept pseudo-labels.
#
# hint: `counts[rows, columns] += 1` counts a cell once, however often it occurs: see `np.add.at`.
def confusion(true: np.ndarray, pseudo: np.ndarray, kept: np.ndarray, classes: int) -> np.ndarray:
    """(n,) each -> counts (C, C)."""
    ### BEGIN SOLUTION
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, (true[kept], pseudo[kept]), 1)
    return counts
    ### END SOLUTION

# %% cases
rng = np.random.default_rng(0)
cases = [(*rng.integers(0, 3, (2, 40)), rng.random(40) < 0.7, 3)]

# %% wrong
# np.add.at(counts, (true[kept], pseudo[kept]), 1) => counts[true[kept], pseudo[kept]] += 1
#   Each pair counts once, however often it occurs: NumPy's `counts[rows, columns] += 1` adds to each cell only
#   once. Use np.add.at.
# (true[kept], pseudo[kept]) => (pseudo[kept], true[kept])
#   Rows and columns are exchanged: the row is the true class.
# (true[kept], pseudo[kept]) => (true, pseudo)
#   Rejected pseudo-labels are counted, too: they never reach the network.

# %% exercise: The shares of Fig. 3
# "Forest path is confused with park 20.9 % of the times" is a share of the (kept) patches of the *true* class. A class
# of which nothing was kept has no shares: NaN.
#
# hint: Each row of the result adds up to 1.
# hint: An integer array cannot hold NaN: make it one of floating-point numbers first.
def shares_of_true_class(counts: np.ndarray) -> np.ndarray:
    """Counts (C, C), row: true class -> shares (C, C)."""
    ### BEGIN SOLUTION
    total = counts.sum(axis=1, keepdims=True).astype(float)
    total[total == 0] = np.nan
    return counts / total
    ### END SOLUTION

# %% cases
cases = [(np.array([[6, 3, 1, 0], [1, 8, 2, 0], [0, 0, 0, 0], [5, 1, 1, 0]]),)]

# %% wrong
# counts.sum(axis=1, keepdims=True) => counts.sum(axis=0, keepdims=True)
#   Each column adds up to 1: these are shares of the patches that were given a class. Fig. 3 divides by the row's
#   sum, the true class.
# counts.sum(axis=1, keepdims=True) => counts.sum(keepdims=True)
#   Divided by the sum of all counts: frequent classes would seem to be confused most.
# counts.sum(axis=1, keepdims=True) => counts.sum(axis=1)
#   Column j is divided by the sum of row j: (C, C) / (C,) works along the columns. keepdims=True keeps the sums
#   beside their rows.
# = np.nan => = 1
#   A class of which nothing was kept has no shares: NaN, not 0. Zero would say that it is never right.

# %% exercise: Precision of the pseudo-labels
# What the training feels: of the patches that were given a class, what share belongs to it? NaN where none was.
#
# hint: The patches that were given a class stand in one column.
def precision(counts: np.ndarray) -> np.ndarray:
    """Counts (C, C), row: true class, column: pseudo-label -> (C,)."""
    ### BEGIN SOLUTION
    given = counts.sum(axis=0).astype(float)
    given[given == 0] = np.nan
    return np.diag(counts) / given
    ### END SOLUTION

# %% cases
cases = [(np.array([[6, 3, 1, 0], [1, 8, 2, 0], [0, 0, 0, 0], [5, 1, 1, 0]]),)]

# %% wrong
# counts.sum(axis=0) => counts.sum(axis=1)
#   Divided by the sums of the rows: this is how many of a *true* class got their class (recall).
# np.diag(counts) / given => np.diag(counts) / counts.sum()
#   Divided by the sum of all counts; each class has its own denominator.
# = np.nan => = 1
#   A class that was never given has no precision: NaN, not 0.

# %% exercise: The most frequent confusion
# Which true class is taken for which other one most often?
#
# hint: The diagonal holds no confusions. `np.fill_diagonal` works in place: on a copy.
# hint: `np.unravel_index(place, counts.shape)` turns `argmax`'s place into row and column.
def worst_confusion(counts: np.ndarray) -> tuple[int, int]:
    """Counts (C, C) -> (true class, pseudo-label)."""
    ### BEGIN SOLUTION
    beside = counts.copy()
    np.fill_diagonal(beside, 0)
    true, pseudo = np.unravel_index(beside.argmax(), beside.shape)
    return true, pseudo
    ### END SOLUTION

# %% cases
cases = [(np.array([[6, 3, 1, 0], [1, 8, 2, 0], [0, 0, 0, 0], [5, 1, 1, 0]]),)]

# %% wrong
# counts.copy() => counts
# np.fill_diagonal(beside, 0) => pass
#   The largest cell lies on the diagonal: these are the right ones, not confusions.
# return true, pseudo => return pseudo, true
#   True class and pseudo-label are exchanged: the row is the true class.
