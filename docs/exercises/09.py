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

# %% cases
probabilities = np.array([[0.9, 0.05, 0.05], [0.4, 0.6, 0.0], [0.45, 0.55, 0.0], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7],
                          [0.02, 0.0, 0.98], [0.34, 0.33, 0.33], [0.3, 0.6, 0.1], [0.3, 0.65, 0.05],
                          [0.66, 0.3, 0.04]])
cases = [(probabilities, np.array([3, 3, 3, 5, 5, 5, 7, 9, 9, 9]))]

# %% wrong
# [file_of_patch == file].mean(axis=0) => [file_of_patch == file].max(axis=0)
#   The largest value of any patch decides: one overconfident patch outvotes all others. Take the mean.
# [file_of_patch == file].mean(axis=0) => [file_of_patch == file][0]
#   Only the first patch of each file is used.
# probabilities[file_of_patch == file].mean(axis=0) => np.bincount(probabilities[file_of_patch == file].argmax(axis=1), minlength=probabilities.shape[1])
#   This is a majority vote of the patches: a patch that is sure counts as much as one that is not. Average the
#   probabilities, then decide.
# means.argmax(axis=1) => means.argmax(axis=0)
#   argmax over axis 0 finds for each class the file that has most of it; the class of a file is the maximum along
#   axis 1.
# means.argmax(axis=1) => probabilities.argmax(axis=1)
#   These are classes of patches; each file has one.

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

# %% cases
cases = [(np.array([0.72, 0.75, 0.71]), 0.95), (np.array([0.70, 0.74, 0.68]), 0.8)]

# %% wrong
# stats.t.ppf((1 + level) / 2, n - 1) => stats.norm.ppf((1 + level) / 2)
#   This is the normal distribution's quantile (1.96 at 95 %): far too small for three seeds, whose standard
#   deviation is itself a guess.
# np.std(values, ddof=1) => np.std(values)
#   The population's standard deviation (divisor n) is too small for a sample: ddof=1.
# * s / np.sqrt(n) => * s
#   The standard deviation is not divided by √n: this speaks of single seeds, not of their mean.
# stats.t.ppf((1 + level) / 2, n - 1) => stats.t.ppf(level, n - 1)
#   The quantile is one-sided: 5 % would lie below and 5 % above, so that the level is 90 %. Take (1 + level) / 2.
# stats.t.ppf((1 + level) / 2, n - 1) * s / np.sqrt(n) => s
#   Mean ± standard deviation describes the spread of seeds; it is no confidence interval of the mean.
# stats.t.ppf((1 + level) / 2, n - 1) => stats.t.ppf((1 + level) / 2, n)
#   The degrees of freedom are n − 1: the mean has used one up.

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

# %% cases
cases = [(np.array([0.72, 0.75, 0.71]), np.array([0.70, 0.74, 0.68]))]

# %% wrong
# difference.std(ddof=1) => difference.std()
#   This is the population's standard deviation; the sample's divides by n − 1: ddof=1.
# difference.std(ddof=1) => np.sqrt(fmuc.var(ddof=1) + fm.var(ddof=1))
#   The spreads are added as if the seeds of the two methods were independent. What a seed does to both cancels in
#   the difference: take the differences first.
# difference.std(ddof=1) => fmuc.std(ddof=1) - fm.std(ddof=1)
#   A difference of two standard deviations is not the standard deviation of the differences.
# fmuc - fm => fm - fmuc
#   The sign is the wrong way round: FMUC − FM.

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

# %% cases
rng = np.random.default_rng(0)  # in the last bin, those below 1 are underconfident, those of 1 overconfident
confidence = np.concatenate([rng.uniform(0.3, 0.9, 30), np.full(8, 0.93), np.ones(6)])
right = np.concatenate([rng.random(30) < 0.6, np.full(8, True), [True, True, False, True, False, True]])
cases = [(confidence, right, 10), (confidence, right, 4)]

# %% wrong
# inside.mean() * abs( => 1 / len(np.unique(index)) * abs(
#   All bins weigh the same, however few files they hold: weight them by their share of the files.
# inside.mean() * abs( => inside.mean() * (
#   Overconfident and underconfident bins cancel each other: take the absolute value in each bin.
# np.minimum((confidence * bins).astype(int), bins - 1) => (confidence * bins).astype(int)
#   A confidence of exactly 1 falls into a bin of its own behind the last one; and an overconfident network has
#   many of them.
# np.minimum((confidence * bins).astype(int), bins - 1) => np.zeros(len(confidence))
#   There is only one bin: mean confidence minus accuracy of all files hides where the errors are.
# inside.mean() * abs( => inside.sum() * abs(
#   The weights are numbers of files; they must be shares, which add up to 1.
