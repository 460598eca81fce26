"""From the statistics of the weak view to pseudo-labels: the rules of FixMatch, FMUC and UPS (paper §V-A)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fmuc.config import Selection
from fmuc.uncertainty import PassStatistics, pass_statistics, weak_logits


class PseudoLabels(NamedTuple):
    """Class index, whether it is kept, and the score that was compared with the threshold; each (B,)."""

    labels: Tensor
    mask: Tensor
    score: Tensor


def select(statistics: PassStatistics, selection: Selection) -> PseudoLabels:
    """Binarise and filter: (B, C) mean and std -> one pseudo-label per example.

    confidence: max mean >= threshold (FixMatch [2]); mean_minus_std: mean - std > threshold (§V-A);
    two_thresholds: mean > threshold and std < std_threshold of the chosen class (UPS [14]).
    """
    mean, std = statistics
    if selection.rule == "mean_minus_std" and selection.score == "max_of_difference":
        score, labels = (mean - std).max(dim=1)
        return PseudoLabels(labels, score > selection.threshold, score)
    confidence, labels = mean.max(dim=1)
    spread = std.gather(1, labels[:, None]).squeeze(1)
    if selection.rule == "confidence":
        return PseudoLabels(labels, confidence >= selection.threshold, confidence)
    if selection.rule == "two_thresholds":
        mask = (confidence > selection.threshold) & (spread < selection.std_threshold)
        return PseudoLabels(labels, mask, confidence)
    score = confidence - spread
    return PseudoLabels(labels, score > selection.threshold, score)


def pseudo_label(net: nn.Module, weak: Tensor, selection: Selection) -> PseudoLabels:
    """Weakly augmented patches (B, 1, F, T) -> :class:`PseudoLabels`; no gradient, no change of the net."""
    logits = weak_logits(net, weak, selection.passes, selection.batch_norm)  # (N, B, C)
    return select(pass_statistics(logits, selection.temperature), selection)


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
