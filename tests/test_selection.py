"""The contract of a rule, and the rules beyond the paper against their papers' formulas, example by example."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fmuc.config import ConfigError, Selection
from fmuc.experiments import BEYOND, EQUAL_QUANTITY, FM, FMUC, TABLE_1
from fmuc.selection import RULES, Memory, PseudoLabels, check_rule, select
from fmuc.uncertainty import entropy, pass_statistics

ENTROPY = Selection(rule="entropy", threshold=1.5, passes=5)
EVERY_ROW = TABLE_1 | {name: row["selection"] for name, row in BEYOND.items() if row["selection"]}
POOL, CLASSES, BATCH = 12, 3, 6


def raw_entropy(logits: Tensor, selection: Selection) -> PseudoLabels:
    """A rule with a wrong sign: its score is high where the net is not sure."""
    mean, _ = pass_statistics(logits, selection.temperature)
    return PseudoLabels(mean.argmax(dim=1), entropy(mean) < selection.threshold, entropy(mean))


def negated_entropy(logits: Tensor, selection: Selection) -> PseudoLabels:
    labels, mask, score = raw_entropy(logits, selection)
    return PseudoLabels(labels, mask, -score)


def kept_where_unsure(logits: Tensor, selection: Selection) -> PseudoLabels:
    labels, mask, score = negated_entropy(logits, selection)
    return PseudoLabels(labels, ~mask, score)


@pytest.mark.parametrize("classes", [2, 11, 200])
@pytest.mark.parametrize("selection", EVERY_ROW.values(), ids=EVERY_ROW)
def test_our_rules_keep_the_contract(selection, classes):
    for passes in (0, 1, 5, 50):
        check_rule(replace(selection, passes=passes), classes)
    check_rule(replace(selection, temperature=100.0), classes)


@pytest.mark.parametrize("limit", [0.1, 0.9, 1.5, 2.3])  # nats: of 11 classes at most 2.4
def test_a_rule_may_score_in_its_own_units(limit, monkeypatch):
    monkeypatch.setitem(RULES, "entropy", negated_entropy)
    check_rule(replace(ENTROPY, threshold=limit), 11)
    undecided, certain = torch.zeros(5, 1, 11), 50 * torch.eye(11)[:1].expand(5, 1, 11)
    assert select(torch.cat([undecided, certain], dim=1), replace(ENTROPY, threshold=limit)).mask.tolist() == [0, 1]


@pytest.mark.parametrize(("rule", "named"), [(raw_entropy, "must be higher where the net is surer"),
                                             (kept_where_unsure, "keep no pseudo-label at all")])
def test_a_rule_that_breaks_the_contract_is_refused(rule, named, monkeypatch):
    monkeypatch.setitem(RULES, "entropy", rule)
    with pytest.raises(ConfigError, match=f"the rule entropy .*{named}") as caught:
        check_rule(ENTROPY, 11)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("selection", "named"), [
    (replace(FM, threshold=1.5), r"scores 1; lower selection.threshold \(1.5\)"),
    (replace(FMUC, threshold=1.0), "lower selection.threshold"),
    (replace(FMUC, threshold=2.0, score="max_of_difference"), "lower selection.threshold"),
    (replace(TABLE_1["FMUC two thresh."], std_threshold=0.0), "keep no pseudo-label at all"),
    (replace(TABLE_1["FMUC two thresh."], std_threshold=None), "selection.std_threshold is missing"),
])
def test_a_threshold_that_no_certain_prediction_reaches_is_refused(selection, named):
    with pytest.raises(ConfigError, match=named):
        check_rule(selection, 11)
    check_rule(replace(selection, threshold=0.9, std_threshold=0.05), 11)


# Beyond the paper


def batches(passes: int, number: int = 5):
    rng = torch.Generator().manual_seed(1)
    for _ in range(number):
        examples = torch.randperm(POOL, generator=rng)[:BATCH]
        yield 4 * torch.randn(max(passes, 1), BATCH, CLASSES, generator=rng), examples


def scored(logits: torch.Tensor, selection: Selection) -> tuple[np.ndarray, np.ndarray]:
    """mean - std, not below 0, (B, C), and the class with the highest mean (B,)."""
    mean, std = (part.double().numpy() for part in pass_statistics(logits, selection.temperature))
    return np.maximum(mean - std, 0), mean.argmax(axis=1)


@pytest.fixture(params=["", " + FMUC"], ids=["p", "mean - std"])
def suffix(request) -> str:
    return request.param


def test_flexmatch(suffix):
    selection = replace(BEYOND["FlexMatch" + suffix]["selection"], threshold=0.6)
    memory, last = Memory(POOL), {}
    for logits, examples in batches(selection.passes, 20):
        memory.examples = examples
        found = select(logits, selection, memory)
        p, labels = scored(logits, selection)
        sigma = [sum(c == label for label in last.values()) for c in range(CLASSES)]
        beta = [s / max(*sigma, POOL - sum(sigma)) for s in sigma]
        for i, label in enumerate(labels.tolist()):
            assert found.mask[i] == (p[i, label] >= 0.6 * beta[label] / (2 - beta[label]))
            assert found.labels[i] == label and found.score[i].item() == pytest.approx(p[i, label], abs=1e-6)
        last |= {e: label for e, label, row in zip(examples.tolist(), labels.tolist(), p, strict=True)
                 if row[label] >= 0.6}


def test_freematch(suffix):
    selection, memory = BEYOND["FreeMatch" + suffix]["selection"], Memory(POOL)
    tau, by_class, kept = 1 / CLASSES, np.full(CLASSES, 1 / CLASSES), []
    for logits, examples in batches(selection.passes):
        memory.examples = examples
        found = select(logits, selection, memory)
        p, labels = scored(logits, selection)
        own = p[np.arange(BATCH), labels]
        tau = 0.99 * tau + 0.01 * own.mean()
        by_class = 0.99 * by_class + 0.01 * p.mean(axis=0)
        expected = own >= tau * by_class[labels] / by_class.max()
        assert found.mask.tolist() == expected.tolist()
        kept += expected.tolist()
    assert True in kept


def test_softmatch(suffix):
    selection = replace(BEYOND["SoftMatch" + suffix]["selection"], options={"momentum": 0.5})
    memory, mu, variance, average = Memory(POOL), 1 / CLASSES, 1.0, np.full(CLASSES, 1 / CLASSES)
    weights = []
    for logits, examples in batches(selection.passes):
        memory.examples = examples
        found = select(logits, selection, memory)
        p, labels = scored(logits, selection)
        average = 0.5 * average + 0.5 * p.mean(axis=0)
        aligned = p / average / (p / average).sum(axis=1, keepdims=True)
        score = aligned.max(axis=1)
        mu, variance = 0.5 * mu + 0.5 * score.mean(), 0.5 * variance + 0.5 * score.var()
        expected = [1.0 if s >= mu else math.exp(-((s - mu) ** 2) / (2 * variance / 4)) for s in score]
        np.testing.assert_allclose(found.mask, expected, rtol=1e-4)
        assert found.labels.tolist() == labels.tolist()
        weights += expected
    assert min(weights) < 0.9 < max(weights)


def test_thinning_keeps_as_many_as_fmuc_would_and_only_what_fixmatch_keeps():
    torch.manual_seed(0)
    thinned, drawn = EQUAL_QUANTITY["FM thinned"], set()
    logits = 6 * torch.randn(1, 400, CLASSES) + 1.5 * torch.randn(5, 400, CLASSES)
    fm, fmuc = select(logits, Selection()), select(logits, FMUC)
    assert 0 < fmuc.mask.sum() < fm.mask.sum()
    for _ in range(3):
        found = select(logits, thinned)
        assert found.mask.sum() == fmuc.mask.sum() and bool((found.mask <= fm.mask).all())
        drawn.add(tuple(found.mask.tolist()))
    assert len(drawn) == 3  # at random
