"""How sure a net is of each pseudo-label of the whole unlabelled pool, by several scores (measured, never trained on).

At equal quantity only the order of a score matters, so every score is kept on a logarithmic scale, -ln(1 -
p) in place of p: half precision then tells 1 - 1e-6 from 1 - 1e-7.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fmuc.uncertainty import entropy_parts

PASSES = (1, 2, 5, 10, 50)  # N of the scores over dropout passes, as far as so many were made
TEMPERATURE = 2.0  # of all scores over passes, FMUC's
SMALLEST = 1e-30


class Score(NamedTuple):
    """One score of B examples: ``certainty`` (B,) and the class that it is about (B,)."""

    name: str
    certainty: Tensor
    labels: Tensor


def scores(plain: Tensor, passes: Tensor) -> Iterator[Score]:
    """All scores from logits without (B, C) and with dropout (N, B, C)."""
    for name, temperature in (("max softmax", 1.0), (f"max softmax, T = {TEMPERATURE:g}", TEMPERATURE)):
        labels = plain.argmax(dim=1)
        yield Score(name, _log(_rest(_softmax(plain, temperature), labels)), labels)
    probabilities = _softmax(passes, TEMPERATURE)
    for number in (n for n in PASSES if n <= len(passes)):
        some = probabilities[:number]
        labels = some.mean(dim=0).argmax(dim=1)
        rest = _rest(some, labels.expand(number, -1))  # 1 - p of each pass
        parts = entropy_parts(some)
        yield Score(f"mean, {number}", _log(rest.mean(dim=0)), labels)
        yield Score(f"entropy, {number}", _log(parts.total), labels)
        if number > 1:
            yield Score(f"mean - std, {number}", _log(rest.mean(dim=0) + rest.std(dim=0, correction=0)), labels)
            yield Score(f"mutual information, {number}", _log(parts.epistemic), labels)


def _softmax(logits: Tensor, temperature: float) -> Tensor:
    return torch.softmax(logits.double() / temperature, dim=-1)


def _rest(probabilities: Tensor, labels: Tensor) -> Tensor:
    """1 - p of the labels, as the sum of the other classes: exact where p rounds to 1."""
    return probabilities.scatter(-1, labels[..., None], 0).sum(dim=-1)


def _log(doubt: Tensor) -> Tensor:
    return -doubt.clamp(min=SMALLEST).log()
