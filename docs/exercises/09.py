# %% setup
import numpy as np

from fmuc.teaching.exercises import check

# %% exercise: From patches to files
# The class of a file is the one with the largest mean of its patches' probabilities (deviation D10). The result is in
# the ascending order of the files' numbers.
#
# hint: `file_of_patch == file` picks the patches of a file.
# hint: Average first, decide last.
def classes_of_files(probabilities: np.ndarray, file_of_patch: np.ndarray) -> np.ndarray:
    """(P, C), (P,) -> (files,)."""
    ### BEGIN SOLUTION
    files = np.unique(file_of_patch)
    means = np.array([probabilities[file_of_patch == file].mean(axis=0) for file in files])
    return means.argmax(axis=1)
    ### END SOLUTION

# %% wrong
# [file_of_patch == file].mean(axis=0) => [file_of_patch == file].max(axis=0)
# [file_of_patch == file].mean(axis=0) => [file_of_patch == file][0]
# probabilities[file_of_patch == file].mean(axis=0) => np.bincount(probabilities[file_of_patch == file].argmax(axis=1), minlength=probabilities.shape[1])
# means.argmax(axis=1) => means.argmax(axis=0)
# means.argmax(axis=1) => probabilities.argmax(axis=1)

# %% exercise: An interval from three seeds
# Mean ± t · s / √n, with the sample standard deviation s and the quantile t of Student's distribution with n − 1 degrees
# of freedom: two-sided, so that each tail holds half of what the level leaves.
#
# hint: `scipy.stats.t.ppf(probability, degrees)`; for a level of 0.95 the probability is not 0.95.
# hint: NumPy's standard deviation is that of the population unless you say `ddof=1`.
def t_interval(values: np.ndarray, level: float) -> tuple[float, float]:
    """Values of n seeds (n,) -> lower and upper end of the interval for their mean."""
    ### BEGIN SOLUTION
    from scipy import stats

    n, mean, s = len(values), np.mean(values), np.std(values, ddof=1)
    half = stats.t.ppf((1 + level) / 2, n - 1) * s / np.sqrt(n)
    return mean - half, mean + half
    ### END SOLUTION

# %% wrong
# stats.t.ppf((1 + level) / 2, n - 1) => stats.norm.ppf((1 + level) / 2)
# np.std(values, ddof=1) => np.std(values)
# * s / np.sqrt(n) => * s
# stats.t.ppf((1 + level) / 2, n - 1) => stats.t.ppf(level, n - 1)
# stats.t.ppf((1 + level) / 2, n - 1) * s / np.sqrt(n) => s
# stats.t.ppf((1 + level) / 2, n - 1) => stats.t.ppf((1 + level) / 2, n)

# %% exercise: Seed by seed
# FMUC and FixMatch of one seed share their labelled files and initial weights. Return mean and sample standard
# deviation of their differences.
#
# hint: First one difference for each seed.
def paired_difference(fmuc: np.ndarray, fm: np.ndarray) -> tuple[float, float]:
    """Accuracies (seeds,) each, in the same order -> mean and sample standard deviation of FMUC − FM."""
    ### BEGIN SOLUTION
    difference = fmuc - fm
    return difference.mean(), difference.std(ddof=1)
    ### END SOLUTION

# %% wrong
# difference.std(ddof=1) => difference.std()
# difference.std(ddof=1) => np.sqrt(fmuc.var(ddof=1) + fm.var(ddof=1))
# difference.std(ddof=1) => fmuc.std(ddof=1) - fm.std(ddof=1)
# fmuc - fm => fm - fmuc

# %% exercise: Calibration error
# Sort the files into bins of equal width by their confidence. In each bin compare the share of right ones with the mean
# confidence; average the absolute differences, weighted by the number of files. A confidence of exactly 1 belongs to the
# last bin.
#
# hint: `(confidence * bins).astype(int)` is the number of the bin, from 0. What does it give for 1?
# hint: Bins without files are left out.
def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """Confidence (n,) in [0, 1], whether the class is right (n,) -> expected calibration error in [0, 1]."""
    ### BEGIN SOLUTION
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    error = 0.0
    for inside in (index == bin for bin in np.unique(index)):
        error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error
    ### END SOLUTION

# %% wrong
# inside.mean() * abs( => 1 / len(np.unique(index)) * abs(
# inside.mean() * abs( => inside.mean() * (
# np.minimum((confidence * bins).astype(int), bins - 1) => (confidence * bins).astype(int)
# np.minimum((confidence * bins).astype(int), bins - 1) => np.zeros(len(confidence))
# inside.mean() * abs( => inside.sum() * abs(
