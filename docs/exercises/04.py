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

# %% wrong
# logits / temperature => logits * temperature
# scaled = logits / temperature => scaled = logits
# np.exp(scaled - scaled.max(axis=-1, keepdims=True)) => np.exp(scaled - scaled.max(axis=0)); return weights / weights.sum(axis=0)
# - scaled.max(axis=-1, keepdims=True) => - 0
# scaled = logits / temperature => p = np.exp(logits - logits.max(-1, keepdims=True)); return p / p.sum(-1, keepdims=True) / temperature
# return weights / weights.sum(axis=-1, keepdims=True) => return weights

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

# %% wrong
# probabilities.std(axis=0) => probabilities.std(axis=0, ddof=1)
# probabilities.std(axis=0) => mean.std(axis=1, keepdims=True) + 0 * mean if (mean := probabilities.mean(axis=0)).any() else 0
# probabilities.std(axis=0) => probabilities.var(axis=0)
# - std[each, labels] => + std[each, labels]
# - std[each, labels] => - 0 * std[each, labels]
# mean.argmax(axis=1) => (mean - std).argmax(axis=1)
# mean.argmax(axis=1) => probabilities[0].argmax(axis=1)

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

# %% wrong
# mean - std > 0.9 => mean > 0.9
# mean - std > 0.9 => mean + std > 0.9
# (mean > 0.7) & (std < 0.05) => (mean > 0.7) | (std < 0.05)
# std < 0.05 => std > 0.05

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

# %% wrong
# return aleatoric, total - aleatoric => return total - aleatoric, aleatoric
# return aleatoric, total - aleatoric => return aleatoric, total
# return aleatoric, total - aleatoric => return total, total - aleatoric
# return aleatoric, total - aleatoric => return aleatoric / np.log(2), (total - aleatoric) / np.log(2)
# np.clip(probabilities, 1e-12, 1) => probabilities
