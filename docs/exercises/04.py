# %% setup
import numpy as np

from fmuc.teaching.exercises import check

# %% exercise: Eq. (1)
# The softmax with a temperature. It must stand large logits: a network that is sure of itself has them.
#
# hint: All logits of an example may be lowered by the same number: numerator and denominator of Eq. (1) shrink alike.
# hint: Lowered by the largest one, no exponent is above 0.
def tempered_softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Eq. (1): (..., C) -> (..., C), probabilities over the last axis."""
    ### BEGIN SOLUTION
    scaled = logits / temperature
    weights = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)
    ### END SOLUTION

# %% cases
logits = np.random.default_rng(0).normal(0, 3, (3, 4))
cases = [(logits, 2.0), (np.array([4000.0, 3990.0]), 4.0), (logits, 1.0)]

# %% wrong
# logits / temperature => logits * temperature
#   The logits are multiplied by the temperature: that makes the output more confident. Eq. (1) divides.
# scaled = logits / temperature => scaled = logits
#   The temperature has no effect: divide the logits by it.
# np.exp(scaled - scaled.max(axis=-1, keepdims=True)) => np.exp(scaled - scaled.max(axis=0)); return weights / weights.sum(axis=0)
#   The sum runs over the examples (axis 0). The probabilities of one example, along the last axis, must add up to
#   1.
# - scaled.max(axis=-1, keepdims=True) => - 0
#   exp of a large number is infinite, and infinite / infinite is NaN: subtract the largest logit of each example
#   first.
# scaled = logits / temperature => p = np.exp(logits - logits.max(-1, keepdims=True)); return p / p.sum(-1, keepdims=True) / temperature
#   The probabilities are divided by the temperature, so they no longer add up to 1: Eq. (1) divides the logits.
# return weights / weights.sum(axis=-1, keepdims=True) => return weights
#   The exponentials are not divided by their sum.

# %% exercise: Mean − standard deviation
# From the tempered probabilities of N dropout passes to pseudo-labels and scores: the class is the one of the largest
# mean, the score its mean minus its (population) standard deviation over the passes (§V-A, deviations D6 and D7).
#
# hint: Which axis holds the passes?
# hint: `mean[np.arange(len(labels)), labels]` takes one value of each row.
def mean_minus_std(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, B, C) -> classes (B,), scores (B,)."""
    ### BEGIN SOLUTION
    mean, std = probabilities.mean(axis=0), probabilities.std(axis=0)
    labels = mean.argmax(axis=1)
    each = np.arange(len(labels))
    return labels, mean[each, labels] - std[each, labels]
    ### END SOLUTION

# %% cases
odds = np.exp(np.random.default_rng(0).normal(0, 3, (5, 6, 4)))
drawn = odds / odds.sum(axis=-1, keepdims=True)
divided = np.array([[[0.3, 0.4, 0.3]], [[0.6, 0.38, 0.02]]])  # the largest mean and the largest difference disagree
cases = [(drawn,), (divided,), (drawn[:1],)]

# %% wrong
# probabilities.std(axis=0) => probabilities.std(axis=0, ddof=1)
#   This is the sample standard deviation (divisor N − 1): larger, and NaN for one pass, which then would keep
#   nothing. Asked for is the one of the population.
# probabilities.std(axis=0) => probabilities.mean(axis=0).std(axis=1, keepdims=True) + np.zeros(probabilities.shape[1:])
#   The deviation runs over the classes. It is large for a confident network; uncertainty is the deviation over
#   the passes, axis 0.
# probabilities.std(axis=0) => probabilities.var(axis=0)
#   The variance is subtracted, a number of another unit and much smaller than the standard deviation.
# - std[each, labels] => + std[each, labels]
#   The standard deviation is added: the less the passes agree, the better the score would be.
# - std[each, labels] => - 0 * std[each, labels]
#   The standard deviation does not enter the score.
# mean.argmax(axis=1) => (mean - std).argmax(axis=1)
#   The class is that of the largest difference, not of the largest mean. This is the other reading of the paper
#   (deviation D7).
# mean.argmax(axis=1) => probabilities[0].argmax(axis=1)
#   The class is that of the first pass; the mean over all passes decides.

# %% exercise: One threshold or two
# FMUC keeps what has mean − std above 0.9; "FMUC two thresh." of Table I, as in UPS, what has a mean above 0.7 and a
# standard deviation below 0.05.
#
# hint: Arrays of truth values know `&` and `|`; comparisons beside them need brackets.
def kept_by(mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the chosen class, (B,) each -> kept by FMUC, kept by two thresholds."""
    ### BEGIN SOLUTION
    return mean - std > 0.9, (mean > 0.7) & (std < 0.05)
    ### END SOLUTION

# %% cases
mean = np.array([0.91, 0.97, 0.97, 0.75, 0.75, 0.6, 0.88])
cases = [(mean, np.array([0.0, 0.06, 0.08, 0.02, 0.2, 0.01, 0.04]))]

# %% wrong
# mean - std > 0.9 => mean > 0.9
#   FMUC's rule lacks the standard deviation: this is a mere threshold on the mean.
# mean - std > 0.9 => mean + std > 0.9
#   The standard deviation is added: disagreement of the passes would help a pseudo-label to be kept.
# (mean > 0.7) & (std < 0.05) => (mean > 0.7) | (std < 0.05)
#   One of the two thresholds suffices here; UPS keeps the intersection of both masks: &.
# std < 0.05 => std > 0.05
#   The second threshold is the wrong way round: it keeps what the passes do not agree on.

# %% exercise: Two kinds of uncertainty
# The entropy of the mean prediction has two parts: the mean entropy of the passes (aleatoric: every pass is undecided),
# and the rest (epistemic: the passes contradict each other), in nats. 0 · log 0 counts as 0.
#
# hint: Two averages over the passes: of the entropies, and of the probabilities before the entropy is taken.
# hint: `np.clip(p, 1e-12, 1)` keeps the logarithm finite.
def uncertainty_parts(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, B, C) -> aleatoric (B,), epistemic (B,)."""
    ### BEGIN SOLUTION
    clipped = np.clip(probabilities, 1e-12, 1)
    aleatoric = -(clipped * np.log(clipped)).sum(axis=2).mean(axis=0)
    mean = clipped.mean(axis=0)
    total = -(mean * np.log(mean)).sum(axis=1)
    return aleatoric, total - aleatoric
    ### END SOLUTION

# %% cases
odds = np.exp(np.random.default_rng(0).normal(0, 3, (5, 6, 4)))
certain = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])
cases = [(odds / odds.sum(axis=-1, keepdims=True),), (certain,)]

# %% wrong
# return aleatoric, total - aleatoric => return total - aleatoric, aleatoric
#   The two parts are exchanged: aleatoric is the mean entropy of the passes; epistemic is what their
#   contradiction adds.
# return aleatoric, total - aleatoric => return aleatoric, total
#   The second value is the entropy of the mean, the whole uncertainty: subtract the aleatoric part.
# return aleatoric, total - aleatoric => return total, total - aleatoric
#   The first value is the entropy of the mean, the whole uncertainty; aleatoric is the mean of the entropies.
# return aleatoric, total - aleatoric => return aleatoric / np.log(2), (total - aleatoric) / np.log(2)
#   These are bits (logarithm to base 2); asked for are nats.
# np.clip(probabilities, 1e-12, 1) => probabilities
#   0 · log 0 gives NaN in floating-point numbers: clip the probabilities.
