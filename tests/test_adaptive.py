"""The rules beyond the paper against their papers' formulas, written out example by example."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fmuc.config import Selection
from fmuc.experiments import BEYOND, EQUAL_QUANTITY, FMUC
from fmuc.selection import Memory, check_rule, select
from fmuc.uncertainty import pass_statistics

POOL, CLASSES, BATCH = 12, 3, 6


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
    selection = replace(BEYOND["FlexMatch" + suffix]["selection"], threshold=0.3)
    memory, last = Memory(POOL), {}
    for logits, examples in batches(selection.passes):
        memory.examples = examples
        found = select(logits, selection, memory)
        p, labels = scored(logits, selection)
        sigma = [sum(c == label for label in last.values()) for c in range(CLASSES)]
        beta = [s / max(*sigma, POOL - sum(sigma)) for s in sigma]
        for i, label in enumerate(labels.tolist()):
            assert found.mask[i] == (p[i, label] >= 0.3 * beta[label] / (2 - beta[label]))
            assert found.labels[i] == label and found.score[i].item() == pytest.approx(p[i, label], abs=1e-6)
        last |= {e: label for e, label, row in zip(examples.tolist(), labels.tolist(), p, strict=True)
                 if row[label] >= 0.3}
    assert last  # some were sure


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


@pytest.mark.parametrize("name", [name for name, row in BEYOND.items() if row["selection"]])
def test_every_rule_keeps_the_contract(name):
    check_rule(BEYOND[name]["selection"], classes=11)


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
