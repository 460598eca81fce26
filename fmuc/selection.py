"""From the passes of the weak view to pseudo-labels: the rules of FixMatch, FMUC and UPS (paper §V-A).

A rule is a function ``(logits (N, B, C), Selection) -> PseudoLabels`` and an entry in :data:`RULES`; the logits are
those of N passes over the batch. Its contract: the higher its score, the surer the net, and where all passes are
certain of one class, the pseudo-label is kept. :func:`check_rule` refuses others, and a threshold that no score can
exceed. A rule of :data:`ADAPTIVE` has a third argument, the :class:`Memory` of earlier batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fmuc.config import Selection
from fmuc.errors import ConfigError
from fmuc.uncertainty import pass_statistics, weak_logits


class PseudoLabels(NamedTuple):
    """Class index, whether it is kept (or its weight, 0 to 1), and the score that decided; each (B,)."""

    labels: Tensor
    mask: Tensor
    score: Tensor


def confidence(logits: Tensor, selection: Selection) -> PseudoLabels:
    """FixMatch [2]: max softmax >= threshold, of the mean over the passes."""
    mean, _ = pass_statistics(logits, selection.temperature)
    score, labels = mean.max(dim=1)
    return PseudoLabels(labels, score >= selection.threshold, score)


def mean_minus_std(logits: Tensor, selection: Selection) -> PseudoLabels:
    """FMUC (§V-A): mean - std > threshold, of the class with the highest mean (D7)."""
    mean, std = pass_statistics(logits, selection.temperature)
    if selection.score == "max_of_difference":
        score, labels = (mean - std).max(dim=1)
    else:
        highest, labels = mean.max(dim=1)
        score = highest - std.gather(1, labels[:, None]).squeeze(1)
    return PseudoLabels(labels, score > selection.threshold, score)


def two_thresholds(logits: Tensor, selection: Selection) -> PseudoLabels:
    """UPS [14]: mean > threshold and std < std_threshold of the class with the highest mean."""
    if selection.std_threshold is None:
        raise ConfigError("selection.std_threshold is missing: the rule two_thresholds needs it, such as 0.05")
    mean, std = pass_statistics(logits, selection.temperature)
    score, labels = mean.max(dim=1)
    spread = std.gather(1, labels[:, None]).squeeze(1)
    return PseudoLabels(labels, (score > selection.threshold) & (spread < selection.std_threshold), score)


def thinned(logits: Tensor, selection: Selection) -> PseudoLabels:
    """FixMatch's pseudo-labels (at T = 1), thinned at random to as many as FMUC's rule keeps of the batch.

    A control, not in the paper: FMUC's quantity without its choice. The option ``fmuc_threshold`` is that of FMUC.
    """
    labels, mask, score = confidence(logits, replace(selection, temperature=1.0))
    fmuc = mean_minus_std(logits, replace(selection, threshold=selection.option("fmuc_threshold", 0.9)))
    place = torch.rand(len(score), device=score.device).masked_fill(~mask, 2).argsort().argsort()  # in a random order
    return PseudoLabels(labels, mask & (place < fmuc.mask.sum()), score)


# Beyond the paper: thresholds that adapt during the training. Each rule uses p, the softmax of one pass with dropout
# off (``passes`` = 0), or puts FMUC's mean - std over the passes in its place.


@dataclass
class Memory:
    """What a rule remembers from batch to batch.

    ``pool``: number of unlabelled examples; ``examples``: positions in it of the batch's examples (B,); ``state``:
    tensors by name, which checkpoints keep.
    """

    pool: int
    examples: Tensor | None = None
    state: dict[str, Tensor] = field(default_factory=dict)

    def average(self, name: str, value: Tensor, initial: float, momentum: float) -> Tensor:
        """Update and return the exponential moving average ``name`` of ``value``."""
        old = self.state.get(name, torch.full_like(value, initial))
        self.state[name] = momentum * old + (1 - momentum) * value
        return self.state[name]


def _difference(logits: Tensor, selection: Selection) -> tuple[Tensor, Tensor, Tensor]:
    """mean - std, not below 0, (B, C), with that of the class with the highest mean, (B,), and that class (B,)."""
    mean, std = pass_statistics(logits, selection.temperature)
    labels, difference = mean.argmax(dim=1), (mean - std).clamp(min=0)
    return difference, difference.gather(1, labels[:, None]).squeeze(1), labels


def flexmatch(logits: Tensor, selection: Selection, memory: Memory) -> PseudoLabels:
    """FlexMatch [3]: the fewer examples a class was surely predicted for, the lower its threshold (convex mapping)."""
    difference, score, labels = _difference(logits, selection)
    classes = difference.shape[1]
    last = memory.state.setdefault("last", torch.full((memory.pool,), classes, device=labels.device))
    counts = torch.bincount(last, minlength=classes + 1)  # the last place counts examples without a sure prediction
    progress = counts[:classes] / counts.max()
    mask = score >= selection.threshold * (progress / (2 - progress))[labels]
    sure = score >= selection.threshold
    last[memory.examples[sure]] = labels[sure]
    return PseudoLabels(labels, mask, score)


def freematch(logits: Tensor, selection: Selection, memory: Memory) -> PseudoLabels:
    """FreeMatch (Wang et al. 2023): threshold of each class from moving averages; without the fairness loss."""
    difference, score, labels = _difference(logits, selection)
    momentum, uniform = selection.option("momentum", 0.99), 1 / difference.shape[1]
    overall = memory.average("overall", score.mean(), uniform, momentum)
    by_class = memory.average("by_class", difference.mean(dim=0), uniform, momentum)
    return PseudoLabels(labels, score >= (overall * by_class / by_class.max())[labels], score)


def softmatch(logits: Tensor, selection: Selection, memory: Memory) -> PseudoLabels:
    """SoftMatch (Chen et al. 2023): no threshold; a Gaussian weight for scores below average, uniformly aligned."""
    difference, _, labels = _difference(logits, selection)
    momentum, uniform = selection.option("momentum", 0.99), 1 / difference.shape[1]
    aligned = difference / memory.average("prediction", difference.mean(dim=0), uniform, momentum)
    score = (aligned / aligned.sum(dim=1, keepdim=True)).nan_to_num(0).amax(dim=1)
    mean = memory.average("mean", score.mean(), uniform, momentum)
    variance = memory.average("variance", score.var(correction=0), 1.0, momentum)
    weight = torch.exp(-((score - mean).clamp(max=0) ** 2) / (2 * variance / 4))
    return PseudoLabels(labels, weight, score)


RULES: dict[str, Callable[[Tensor, Selection], PseudoLabels]] = {
    "confidence": confidence,
    "mean_minus_std": mean_minus_std,
    "two_thresholds": two_thresholds,
    "thinned": thinned,
}
ADAPTIVE: dict[str, Callable[[Tensor, Selection, Memory], PseudoLabels]] = {
    "flexmatch": flexmatch,
    "freematch": freematch,
    "softmatch": softmatch,
}


def select(logits: Tensor, selection: Selection, memory: Memory | None = None) -> PseudoLabels:
    """Binarise and filter: logits of N passes (N, B, C) -> one pseudo-label per example.

    An adaptive rule without a ``memory`` begins a new one. Raises :class:`ConfigError` for an unknown rule.
    """
    if selection.rule in RULES:
        return RULES[selection.rule](logits, selection)
    if selection.rule not in ADAPTIVE:
        raise ConfigError(f"unknown selection.rule {selection.rule!r}: known are {', '.join((*RULES, *ADAPTIVE))}")
    size = logits.shape[1]
    memory = memory or Memory(size, torch.arange(size, device=logits.device))
    return ADAPTIVE[selection.rule](logits, selection, memory)


def pseudo_label(net: nn.Module, weak: Tensor, selection: Selection, memory: Memory | None = None) -> PseudoLabels:
    """Weakly augmented patches (B, 1, F, T) -> :class:`PseudoLabels`; no gradient, no change of the net."""
    return select(weak_logits(net, weak, selection.passes, selection.batch_norm), selection, memory)


def check_rule(selection: Selection, classes: int) -> None:
    """Raise :class:`ConfigError` for an unknown rule, one that breaks the contract, or a threshold beyond its scores.

    Tried on two examples: one on which the passes are undecided and disagree, one on which all are certain.
    """
    passes = max(1, selection.passes)
    undecided = torch.eye(classes).repeat(-(-passes // classes), 1)[:passes] / 10  # each pass leans to another class
    certain = torch.zeros(passes, classes)
    certain[:, 0] = 1000 * selection.temperature
    result = select(torch.stack([undecided, certain], dim=1), selection)
    if not result.score[1] > result.score[0]:
        raise ConfigError(f"the rule {selection.rule} scores an undecided prediction {result.score[0]:.3g}, a certain "
                          f"one {result.score[1]:.3g}: its score must be higher where the net is surer (negate it?)")
    if not result.mask[1]:
        raise ConfigError(f"the rule {selection.rule} would keep no pseudo-label at all: even a certain prediction "
                          f"scores {result.score[1]:.3g}; lower selection.threshold ({selection.threshold:g})")


class PseudoLabelCounts:
    """What happened to the unlabelled examples of an epoch, accumulated on the device without synchronisation.

    ``kept``: (C + 1, C) kept pseudo-labels (or their weights), true class by pseudo-label; ``seen``: (C + 1,) examples
    offered. The last row counts examples whose true class is unknown (-1).
    """

    def __init__(self, classes: int, device: torch.device | str = "cpu") -> None:
        self.classes = classes
        self.kept = torch.zeros(classes + 1, classes, dtype=torch.float64, device=device)
        self.seen = torch.zeros(classes + 1, dtype=torch.int64, device=device)

    def update(self, true: Tensor, pseudo: PseudoLabels) -> None:
        """Add one batch; ``true`` (B,) with -1 where unknown. True labels serve this count only, never training."""
        row = torch.where(true < 0, self.classes, true)
        self.seen.index_add_(0, row, torch.ones_like(row))
        self.kept.view(-1).index_add_(0, row * self.classes + pseudo.labels, pseudo.mask.double())
