from __future__ import annotations

import numpy as np
import pytest
import torch

from fmuc import pool

RNG = np.random.default_rng(0)


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    e = np.exp(logits.astype(float) / temperature)
    return e / e.sum(axis=-1, keepdims=True)


def test_every_score_is_minus_the_log_of_its_doubt():
    plain, passes = RNG.normal(0, 2, (7, 4)), RNG.normal(0, 2, (10, 7, 4))
    found = {score.name: score for score in pool.scores(torch.tensor(plain), torch.tensor(passes))}
    assert {name.rpartition(", ")[2] for name in found} == {"max softmax", "T = 2", "1", "2", "5", "10"}
    np.testing.assert_allclose(found["max softmax"].certainty, -np.log(1 - softmax(plain, 1).max(axis=1)))
    np.testing.assert_allclose(found["max softmax, T = 2"].certainty, -np.log(1 - softmax(plain, 2).max(axis=1)))
    for number in (1, 2, 5, 10):
        p = softmax(passes[:number], 2)
        mean, label = p.mean(axis=0), p.mean(axis=0).argmax(axis=1)
        best, std = mean.max(axis=1), np.array([p[:, i, c].std() for i, c in enumerate(label)])
        total = -(mean * np.log(mean)).sum(axis=1)
        expected = {"mean": 1 - best, "entropy": total}
        if number > 1:
            expected |= {"mean - std": 1 - (best - std),
                         "mutual information": total + (p * np.log(p)).sum(axis=-1).mean(axis=0)}
        for name, doubt in expected.items():
            score = found[f"{name}, {number}"]
            np.testing.assert_allclose(score.certainty, -np.log(doubt), rtol=1e-5)
            assert score.labels.tolist() == label.tolist()


def test_half_precision_still_orders_nets_that_are_almost_certain():
    margins = torch.tensor([[14.0], [15.0], [16.0], [30.0]])
    plain = torch.cat([margins, torch.zeros(4, 1)], dim=1)
    certainty = next(pool.scores(plain, plain[None])).certainty.half()
    assert certainty.tolist() == pytest.approx([14, 15, 16, 30], abs=0.02)
    assert torch.softmax(plain, 1)[:, 0].half().tolist() == [1, 1, 1, 1]  # where the softmax itself is lost
