"""The paper's mathematics against slow, obvious references: one example, one class, one pass at a time."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fmuc.config import Selection
from fmuc.experiments import TABLE_1
from fmuc.fixmatch import semi_supervised_loss
from fmuc.metrics import accuracy, expected_calibration_error, filewise_probabilities, quality, quantity, row_normalised
from fmuc.selection import PseudoLabelCounts, PseudoLabels, select
from fmuc.uncertainty import pass_statistics, temperature_softmax


def loop_softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    """Eq. (1) of one example."""
    exponentials = [math.exp(value / temperature) for value in logits]
    return [value / sum(exponentials) for value in exponentials]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Eq. (1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_temperature_softmax_is_equation_1_in_float32(temperature):
    logits = normal(3, 4, 11).bfloat16()
    expected = [[loop_softmax(row, temperature) for row in part] for part in logits.tolist()]
    assert_close(temperature_softmax(logits, temperature), torch.tensor(expected))  # of equal type, too


# Selection rules


def slow_select(mean: list, std: list, rule: Selection) -> tuple[int, bool, float]:
    """Label, kept or not, and score of one example, in the words of §V-A; the first of equals wins."""
    if rule.rule == "mean_minus_std" and rule.score == "max_of_difference":
        candidates = [m - s for m, s in zip(mean, std, strict=True)]
    else:
        candidates = mean
    label = max(range(len(mean)), key=lambda c: (candidates[c], -c))
    if rule.rule == "confidence":
        return label, not mean[label] < rule.threshold, mean[label]
    if rule.rule == "two_thresholds":
        return label, mean[label] > rule.threshold and std[label] < rule.std_threshold, mean[label]
    return label, mean[label] - std[label] > rule.threshold, mean[label] - std[label]


EVERY_RULE = [
    Selection(rule="confidence"),
    Selection(rule="confidence", passes=5, temperature=2.0),
    Selection(rule="mean_minus_std", passes=2),
    Selection(rule="mean_minus_std", passes=5, temperature=2.0),
    Selection(rule="mean_minus_std", passes=2, score="max_of_difference"),
    Selection(rule="two_thresholds", passes=2),
]


@pytest.mark.parametrize("place", [30, 270])
@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: f"{rule.rule}-{rule.score}-{rule.passes}")
def test_rules_equal_the_reference_with_ties_and_scores_exactly_at_the_threshold(rule, place):
    """Thresholds are a score and a standard deviation that occur; a third of the examples has two equal classes."""
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.integers(0, 4, (max(rule.passes, 1), 60, 4))).float()
    logits[:, ::3, 1] = logits[:, ::3, 0]
    logits = logits.repeat(1, 5, 1)
    mean, std = (part.numpy() for part in pass_statistics(logits, rule.temperature))  # float32, as the scores are
    ranked = sorted((slow_select(m, s, replace(rule, std_threshold=1.0))[::2] for m, s in zip(mean, std, strict=True)),
                    key=lambda choice: choice[1])
    rule = replace(rule, threshold=float(ranked[place][1]))
    sure = [s[m.argmax()] for m, s in zip(mean, std, strict=True) if m.max() > rule.threshold]
    rule = replace(rule, std_threshold=float(np.sort(sure)[len(sure) // 2]))
    expected = [slow_select(m, s, rule) for m, s in zip(mean, std, strict=True)]
    labels, mask, score = select(logits, rule)
    assert labels.tolist() == [label for label, _, _ in expected]
    assert mask.tolist() == [kept for _, kept, _ in expected]
    assert score.tolist() == [value for _, _, value in expected]
    assert (score == rule.threshold).any() and 0 < mask.sum() < 300
    assert sum(np.sort(row)[-1] == np.sort(row)[-2] for row in mean) > 20


@pytest.mark.parametrize("name", TABLE_1)
def test_the_rows_of_table_1_equal_the_reference_on_dropout_passes(name):
    rule = TABLE_1[name]
    sure = normal(300, 11) * torch.linspace(0.2, 12, 300)[:, None]  # from undecided to certain
    logits = sure + 0.2 * normal(max(rule.passes, 1), 300, 11, seed=1)
    kept = 0
    labels, mask, score = select(logits, rule)
    for example in range(300):
        passes = [loop_softmax(row, rule.temperature) for row in logits[:, example].tolist()]
        mean = [statistics.fmean(p[c] for p in passes) for c in range(11)]
        std = [statistics.pstdev([p[c] for p in passes]) for c in range(11)]
        label, keep, value = slow_select(mean, std, rule)
        assert (labels[example].item(), mask[example].item()) == (label, keep)
        assert score[example].item() == pytest.approx(value, abs=1e-6)
        kept += keep
    assert 0 < kept < 300


# Loss


def test_loss_is_the_labelled_mean_plus_the_kept_sum_over_all_unlabelled():
    labelled, strong = normal(4, 5).requires_grad_(), normal(9, 5, seed=1).requires_grad_()
    labels = torch.tensor([0, 3, 4, 1])
    pseudo = PseudoLabels(torch.arange(9) % 5, torch.tensor([1, 0, 0, 1, 0, 0, 0, 0, 1]).bool(), torch.zeros(9))
    first, second = semi_supervised_loss(labelled, labels, strong, pseudo)
    expected = statistics.fmean(-math.log(loop_softmax(labelled[i].tolist())[labels[i]]) for i in range(4))
    assert first.item() == pytest.approx(expected, rel=1e-5)
    kept = [-math.log(loop_softmax(strong[i].tolist())[pseudo.labels[i]]) for i in range(9) if pseudo.mask[i]]
    assert second.item() == pytest.approx(sum(kept) / 9, rel=1e-5)
    (first + second).backward()
    assert (strong.grad.abs().sum(dim=1) > 0).tolist() == pseudo.mask.tolist()


# Metrics


def counted(batches: int = 3, classes: int = 4) -> tuple[PseudoLabelCounts, list[tuple[int, int, bool]]]:
    """Counts of random batches, and the same examples as a list of (true, pseudo-label, kept)."""
    rng, counts, examples = np.random.default_rng(1), PseudoLabelCounts(classes), []
    for _ in range(batches):
        true, labels = rng.integers(-1, classes, 50), rng.integers(0, classes, 50)
        mask = rng.random(50) < 0.4
        counts.update(torch.from_numpy(true), PseudoLabels(*map(torch.from_numpy, (labels, mask, rng.random(50)))))
        examples += zip(true.tolist(), labels.tolist(), mask.tolist(), strict=True)
    return counts, examples


def test_quality_and_quantity_equal_a_loop_over_the_examples():
    counts, examples = counted()
    kept, seen = counts.kept.numpy(), counts.seen.numpy()
    right = [label == true for true, label, keep in examples if keep and true >= 0]
    assert quality(kept) == pytest.approx(sum(right) / len(right))
    assert quality(kept[:4]) == quality(kept)  # the row of unknown truth never counts
    assert quantity(kept, seen) == pytest.approx(sum(keep for *_, keep in examples) / len(examples))
    epochs = np.stack([kept, 2 * kept])
    assert quality(epochs) == pytest.approx(quality(kept))


def test_quality_and_quantity_of_nothing_are_nan():
    nothing = np.zeros((5, 4), dtype=int)
    assert math.isnan(quality(nothing)) and math.isnan(quantity(nothing, np.zeros(5)))
    assert quantity(nothing, np.full(5, 3)) == 0
    unknown = nothing.copy()
    unknown[4] = 2  # kept, but nobody knows whether they are right
    assert math.isnan(quality(unknown)) and quantity(unknown, np.array([0, 0, 0, 0, 16])) == 0.5


def test_row_normalised_confusion():
    confusion = np.array([[3, 1], [0, 0]])
    np.testing.assert_array_equal(row_normalised(confusion), [[0.75, 0.25], [np.nan, np.nan]])


def test_filewise_accuracy_equals_a_loop_over_the_files():
    rng = np.random.default_rng(2)
    files = rng.permutation(np.repeat([3, 5, 8, 9, 20], [1, 4, 2, 3, 2]))
    patches = rng.random((len(files), 3)).astype(np.float32)
    labels = np.array([2, 0, -1, 1, 0])  # of the files in ascending order; one unknown
    expected, right = [], []
    for file, label in zip(sorted(set(files.tolist())), labels, strict=True):
        own = [patches[i].tolist() for i in range(len(files)) if files[i] == file]
        mean = [statistics.fmean(p[c] for p in own) for c in range(3)]
        expected.append(mean)
        if label >= 0:
            right.append(mean.index(max(mean)) == label)
    probabilities = filewise_probabilities(patches, files)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-6)
    assert accuracy(probabilities, labels) == pytest.approx(sum(right) / 4)
    assert math.isnan(accuracy(probabilities, np.full(5, -1)))


def slow_calibration_error(confidence: list[float], correct: list[bool], bins: int) -> float:
    total = 0.0
    for b in range(bins):
        own = [i for i, c in enumerate(confidence) if b / bins < c <= (b + 1) / bins or (b == 0 and c == 0)]
        if own:
            share = statistics.fmean(correct[i] for i in own)
            total += len(own) / len(confidence) * abs(share - statistics.fmean(confidence[i] for i in own))
    return total


@pytest.mark.parametrize("bins", [1, 8, 16])
def test_calibration_error_equals_a_loop_over_bins_edges_and_certainty_included(bins):
    rng = np.random.default_rng(3)
    confidence = np.concatenate([rng.integers(0, 17, 200) / 16, rng.random(200), np.ones(20), np.zeros(3)])
    correct = rng.random(len(confidence)) < confidence
    expected = slow_calibration_error(confidence.tolist(), correct.tolist(), bins)
    assert expected_calibration_error(confidence, correct, bins) == pytest.approx(expected, abs=1e-12)
    assert expected > 0
