"""From the passes of the weak view to pseudo-labels: the rules of FixMatch, FMUC and UPS (paper §V-A).

A rule is a function ``(logits (N, B, C), Selection) -> PseudoLabels`` and an entry in :data:`RULES`; the logits are
those of N passes over the batch. Its contract: the higher its score, the surer the net, and where all passes are
certain of one class, the pseudo-label is kept. :func:`check_rule` refuses others, and a threshold that no score can
exceed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fmuc.config import Selection
from fmuc.errors import ConfigError
from fmuc.uncertainty import pass_statistics, weak_logits


class PseudoLabels(NamedTuple):
    """Class index, whether it is kept, and the score that was compared with the threshold; each (B,)."""

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


RULES: dict[str, Callable[[Tensor, Selection], PseudoLabels]] = {
    "confidence": confidence,
    "mean_minus_std": mean_minus_std,
    "two_thresholds": two_thresholds,
}


def select(logits: Tensor, selection: Selection) -> PseudoLabels:
    """Binarise and filter: logits of N passes (N, B, C) -> one pseudo-label per example.

    Raises :class:`ConfigError` for a rule that :data:`RULES` does not have.
    """
    if selection.rule not in RULES:
        raise ConfigError(f"unknown selection.rule {selection.rule!r}: known are {', '.join(RULES)}")
    return RULES[selection.rule](logits, selection)


def pseudo_label(net: nn.Module, weak: Tensor, selection: Selection) -> PseudoLabels:
    """Weakly augmented patches (B, 1, F, T) -> :class:`PseudoLabels`; no gradient, no change of the net."""
    return select(weak_logits(net, weak, selection.passes, selection.batch_norm), selection)


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

    ``kept``: (C + 1, C) kept pseudo-labels, true class by pseudo-label; ``seen``: (C + 1,) examples offered. The last
    row counts examples whose true class is unknown (-1).
    """

    def __init__(self, classes: int, device: torch.device | str = "cpu") -> None:
        self.classes = classes
        self.kept = torch.zeros(classes + 1, classes, dtype=torch.int64, device=device)
        self.seen = torch.zeros(classes + 1, dtype=torch.int64, device=device)

    def update(self, true: Tensor, pseudo: PseudoLabels) -> None:
        """Add one batch; ``true`` (B,) with -1 where unknown. True labels serve this count only, never training."""
        row = torch.where(true < 0, self.classes, true)
        self.seen.index_add_(0, row, torch.ones_like(row))
        self.kept.view(-1).index_add_(0, row * self.classes + pseudo.labels, pseudo.mask.long())
