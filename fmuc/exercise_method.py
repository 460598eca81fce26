"""Right functions, cases and typical mistakes of the exercises on the method (docs/exercises/03 to 05), by name."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fmuc.exercise_judge import Exercise


def _numbers(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- 03 FixMatch ---

def _keep(logits: Tensor, threshold: float, softmax_over: int = 1, classes_over: int = 1) -> tuple[Tensor, Tensor]:
    confidence, labels = torch.softmax(logits, softmax_over).max(classes_over)
    return labels, confidence >= threshold


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


def _moved(patch: Tensor, frames: int) -> Tensor:
    return patch[:, (torch.arange(patch.shape[1]) - frames).clamp(0, patch.shape[1] - 1)]


_LABELS, _SOME = torch.tensor([0, 2, 1, 1]), torch.tensor([True, False, True, False])

FIXMATCH = {
    "keep": Exercise(
        [(_numbers(6, 3, scale=3.0), 0.8), (torch.tensor([[5.0, 0.0], [0.4, 0.5], [1.0, 1.5]]), 0.95)], _keep,
        [(lambda z, t: _keep(z, t, softmax_over=0), "The softmax runs over the examples (dim=0): then the batch "
          "competes for each class. Probabilities of one example, along dim=1, must add up to 1."),
         (lambda z, t: _keep(z, t, classes_over=0), "The maximum is taken over the examples (dim=0): that gives the "
          "example that is surest of each class, (C,) values. The class of each example is the maximum along dim=1."),
         (lambda z, t: (z.argmax(1), z.max(1)[0] >= t), "The threshold is compared with logits. A logit of 1 says "
          "nothing by itself; take the softmax first."),
         (lambda z, t: (_keep(z, t)[0], ~_keep(z, t)[1]), "The mask is the wrong way round: it keeps what the network "
          "is not sure of.")]),
    "unlabelled_loss": Exercise(
        [(_numbers(4, 3), _LABELS, _SOME), (_numbers(4, 3, seed=1), _LABELS, torch.zeros(4, dtype=torch.bool))],
        lambda z, y, m: (_losses(z, y) * m).mean(),
        [(lambda z, y, m: _losses(z, y)[m].mean(), "This is the mean over the kept examples only: a batch that keeps "
          "one pseudo-label pulls as hard as one that keeps all, and a batch that keeps none gives NaN. FixMatch "
          "divides by the number of all unlabelled examples."),
         (lambda z, y, m: _losses(z, y).mean(), "The mask has no effect: rejected pseudo-labels train the network, "
          "too."),
         (lambda z, y, m: (_losses(z, y) * m).sum(), "The sum is not divided by the number of unlabelled examples: the "
          "loss would grow with the batch."),
         (lambda z, y, m: (_losses(z.softmax(1), y) * m).mean(), "A softmax is applied twice: cross_entropy takes "
          "logits and has its own. Fed with probabilities, the loss of an example cannot fall below 0.55 with three "
          "classes, however right and sure it is.")]),
    "translate": Exercise(
        [(torch.arange(12.0).view(3, 4) ** 2, 1), (torch.arange(12.0).view(3, 4) ** 2, -2)], _moved,
        [(lambda x, k: torch.roll(x, k, 1), "What leaves one edge comes back at the other (as with torch.roll): the "
          "end of a note would sound before its beginning."),
         (lambda x, k: _moved(x, -k), "The patch moves to the left: frame t of the result is frame t − frames, not "
          "t + frames."),
         (lambda x, k: _moved(x.T, k).T, "The Mel bands are moved, not the frames: time is the last axis."),
         (lambda x, k: _moved(torch.ones_like(x), k) * torch.where(
             ((torch.arange(x.shape[1]) - k) < 0) | ((torch.arange(x.shape[1]) - k) >= x.shape[1]), 0, _moved(x, k)),
          "The free edge is filled with zeros. In a normalised patch zero is the mean of the band, not silence; repeat "
          "the frame at the edge.")]),
    "sharpen": Exercise(
        [(_numbers(3, 4), _numbers(3, 4, seed=1), 0.5), (_numbers(3, 4), _numbers(3, 4, seed=1), 0.0)],
        lambda x, mean, amount: x + amount * (x - mean),
        [(lambda x, mean, amount: x - amount * (x - mean), "The detail is taken away instead of added: this blurs."),
         (lambda x, mean, amount: amount * (x - mean), "Only the detail is left: it is added to the patch."),
         (lambda x, mean, amount: x + amount * mean, "The local mean is added, not the detail: what sharpens is the "
          "difference between the patch and its local mean.")]),
}

# --- 04 uncertainty ---


def _softmax(logits: np.ndarray, temperature: float = 1.0, axis: int = -1) -> np.ndarray:
    weights = np.exp((logits - logits.max(axis=axis, keepdims=True)) / temperature)
    return weights / weights.sum(axis=axis, keepdims=True)


def _unnormalised(logits: np.ndarray, temperature: float) -> np.ndarray:
    return np.exp((logits - logits.max(axis=-1, keepdims=True)) / temperature)


def _overflowing(logits: np.ndarray, temperature: float) -> np.ndarray:
    weights = np.exp(logits / temperature)
    return weights / weights.sum(axis=-1, keepdims=True)


def _score(p: np.ndarray, std: Callable[[np.ndarray], np.ndarray] = lambda p: p.std(0), times: float = 1,
           labels: Callable[[np.ndarray], np.ndarray] = lambda p: p.mean(0).argmax(1)) -> tuple[np.ndarray, np.ndarray]:
    each, chosen = np.arange(p.shape[1]), labels(p)
    return chosen, (p.mean(0) - times * np.broadcast_to(std(p), p.shape[1:]))[each, chosen]


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.clip(p, 1e-12, 1))).sum(axis=-1)


def _parts(p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Aleatoric, epistemic and total entropy: (N, B, C) -> (B,) each."""
    total, aleatoric = _entropy(p.mean(axis=0)), _entropy(p).mean(axis=0)
    return aleatoric, total - aleatoric, total


def _overflowing_parts(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    aleatoric, mean = -(p * np.log(p)).sum(axis=2).mean(axis=0), p.mean(axis=0)
    return aleatoric, -(mean * np.log(mean)).sum(axis=1) - aleatoric


_DRAWN = np.random.default_rng(0)
_LOGITS = _DRAWN.normal(0, 3, (3, 4))
_PASSES = _softmax(_DRAWN.normal(0, 3, (5, 6, 4)))
_DIVIDED = np.array([[[0.3, 0.4, 0.3]], [[0.6, 0.38, 0.02]]])  # the class of the largest mean is not that of mean - std
_CERTAIN = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])
_MEAN, _STD = np.array([0.91, 0.97, 0.97, 0.75, 0.75, 0.6, 0.88]), np.array([0.0, 0.06, 0.08, 0.02, 0.2, 0.01, 0.04])

UNCERTAINTY = {
    "tempered_softmax": Exercise(
        [(_LOGITS, 2.0), (np.array([4000.0, 3990.0]), 4.0), (_LOGITS, 1.0)], _softmax,
        [(lambda z, t: _softmax(z, 1 / t), "The logits are multiplied by the temperature: that makes the output more "
          "confident. Eq. (1) divides."),
         (lambda z, t: _softmax(z), "The temperature has no effect: divide the logits by it."),
         (lambda z, t: _softmax(z, t, axis=0), "The sum runs over the examples (axis 0). The probabilities of one "
          "example, along the last axis, must add up to 1."),
         (_overflowing, "exp of a large number is infinite, and infinite / infinite is NaN: subtract the largest logit "
          "of each example first."),
         (lambda z, t: _softmax(z) / t, "The probabilities are divided by the temperature, so they no longer add up to "
          "1: Eq. (1) divides the logits."),
         (_unnormalised, "The exponentials are not divided by their sum.")]),
    "mean_minus_std": Exercise(
        [(_PASSES,), (_DIVIDED,), (_PASSES[:1],)], _score,
        [(lambda p: _score(p, lambda p: p.std(0, ddof=1)), "This is the sample standard deviation (divisor N − 1): "
          "larger, and NaN for one pass, which then would keep nothing. Asked for is the one of the population."),
         (lambda p: _score(p, lambda p: p.mean(0).std(1, keepdims=True)), "The deviation runs over the classes. It is "
          "large for a confident network; uncertainty is the deviation over the passes, axis 0."),
         (lambda p: _score(p, lambda p: p.var(0)), "The variance is subtracted, a number of another unit and much "
          "smaller than the standard deviation."),
         (lambda p: _score(p, times=-1), "The standard deviation is added: the less the passes agree, the better the "
          "score would be."),
         (lambda p: _score(p, times=0), "The standard deviation does not enter the score."),
         (lambda p: _score(p, labels=lambda p: (p.mean(0) - p.std(0)).argmax(1)), "The class is that of the largest "
          "difference, not of the largest mean. This is the other reading of the paper (deviation D7)."),
         (lambda p: _score(p, labels=lambda p: p[0].argmax(1)), "The class is that of the first pass; the mean over "
          "all passes decides.")]),
    "kept_by": Exercise(
        [(_MEAN, _STD)], lambda mean, std: (mean - std > 0.9, (mean > 0.7) & (std < 0.05)),
        [(lambda m, s: (m > 0.9, (m > 0.7) & (s < 0.05)), "FMUC's rule lacks the standard deviation: this is a mere "
          "threshold on the mean."),
         (lambda m, s: (m + s > 0.9, (m > 0.7) & (s < 0.05)), "The standard deviation is added: disagreement of the "
          "passes would help a pseudo-label to be kept."),
         (lambda m, s: (m - s > 0.9, (m > 0.7) | (s < 0.05)), "One of the two thresholds suffices here; UPS keeps the "
          "intersection of both masks: &."),
         (lambda m, s: (m - s > 0.9, (m > 0.7) & (s > 0.05)), "The second threshold is the wrong way round: it keeps "
          "what the passes do not agree on.")]),
    "uncertainty_parts": Exercise(
        [(_PASSES,), (_CERTAIN,)], lambda p: _parts(p)[:2],
        [(lambda p: _parts(p)[1::-1], "The two parts are exchanged: aleatoric is the mean entropy of the passes; "
          "epistemic is what their contradiction adds."),
         (lambda p: _parts(p)[::2], "The second value is the entropy of the mean, the whole uncertainty: subtract the "
          "aleatoric part."),
         (lambda p: _parts(p)[2:0:-1], "The first value is the entropy of the mean, the whole uncertainty; aleatoric "
          "is the mean of the entropies."),
         (lambda p: tuple(part / np.log(2) for part in _parts(p)[:2]), "These are bits (logarithm to base 2); asked "
          "for are nats."),
         (_overflowing_parts, "0 · log 0 gives NaN in floating-point numbers: clip the probabilities.")]),
}

# --- 05 training ---


def _modes(net: nn.Module, training: Callable[[str, nn.Module], bool]) -> nn.Module:
    for name, module in net.named_modules():
        module.training = training(name, module)
    return net


def _is_dropout(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Dropout)


_NET = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(0.1), nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.1)))
_OLD, _WEIGHTS = _numbers(3, 2), _numbers(3, 2, seed=1)

TRAINING = {
    "units_of_step": Exercise(
        [(32, 224, 5), (32, 224, 1), (16, 112, 10)], lambda b, u, n: n * u + 3 * (b + u),
        [(lambda b, u, n: u + 3 * (b + u), "The weak views go through the network N times, not once."),
         (lambda b, u, n: n * u + 3 * b, "The strong views are trained on, too: their forward and backward passes are "
          "missing."),
         (lambda b, u, n: 3 * n * u + 3 * (b + u), "The weak views have no backward pass: they count once for each "
          "dropout pass, not three times."),
         (lambda b, u, n: n * u + b + u, "What is trained on counts three times: forward and backward."),
         (lambda b, u, n: n * (b + u) + 3 * (b + u), "Labelled patches need no pseudo-label: only the unlabelled ones "
          "take the dropout passes.")]),
    "mc_ready": Exercise(
        [(_NET,), (copy.deepcopy(_NET).eval(),)], lambda net: _modes(net, _is_dropout),
        [(lambda net: net.train(), "All layers are in training mode. BatchNorm then takes the statistics of the batch "
          "and updates the running ones in each of the N passes: FMUC would differ from FixMatch in more than its "
          "selection."),
         (lambda net: net.eval(), "Dropout is off: all passes are the same, and their standard deviation is 0."),
         (lambda net: _modes(net, lambda name, m: isinstance(m, nn.Dropout) and "." not in name), "Dropout layers "
          "inside of blocks stay off: `children` sees the outermost layers only, `modules` all."),
         (lambda net: _modes(net, lambda name, m: isinstance(m, (nn.Dropout, nn.BatchNorm2d))), "BatchNorm is in "
          "training mode, too: its running statistics would be updated in every pass."),
         (lambda net: _modes(net, lambda name, m: m.training or isinstance(m, nn.Dropout)), "What was in training mode "
          "stays in it: call eval() first.")],
        read=lambda net: [module.training for module in net.modules()] if isinstance(net, nn.Module) else net),
    "moving_average": Exercise(
        [(_OLD, _WEIGHTS, 0.9), (_OLD, _WEIGHTS, 0.999)], lambda old, new, decay: decay * old + (1 - decay) * new,
        [(lambda old, new, decay: (1 - decay) * old + decay * new, "The shares are exchanged: with a decay of 0.999 "
          "the average would be little else than the newest weights."),
         (lambda old, new, decay: decay * old + new, "The shares add up to more than 1: the average would grow to many "
          "times the weights."),
         (lambda old, new, decay: (old + new) / 2, "The decay has no effect: old and new count by halves.")]),
}
