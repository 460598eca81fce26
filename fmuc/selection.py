"""From the statistics of the weak view to pseudo-labels: the rules of FixMatch, FMUC and UPS (paper §V-A)."""

from __future__ import annotations

from typing import NamedTuple

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
