"""Scores of single unlabelled patches after chosen epochs, so that another rule can be tried without training.

A row of Table I chooses pseudo-labels batch by batch and keeps only counts of them. A snapshot keeps, for the same few
patches of every row, the logits of one weak view with dropout off and under Monte-Carlo Dropout, and what the row's own
rule makes of them. Nothing is drawn from the generators of the training: with and without snapshots it is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fmuc.config import Run, Selection
from fmuc.errors import FmucError
from fmuc.selection import PseudoLabels, select
from fmuc.uncertainty import pass_statistics, weak_logits

SEED = 0  # the one seed that every row of Table I is trained with
PATCHES, PASSES = 320, 10


class Snapshot(NamedTuple):
    """Logits (P, C) without and (N, P, C) with dropout, in half precision, and the run's own choice from them: class
    and whether it is kept, each (P,)."""

    plain: Tensor
    passes: Tensor
    labels: Tensor
    kept: Tensor


def epochs(last: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... below ``last``, and ``last``."""
    series = (step * 10**power for power in range(9) for step in (1, 2, 5))
    return [*takewhile(lambda epoch: epoch < last, series), last]


def choice(plain: Tensor, passes: Tensor, selection: Selection) -> PseudoLabels:
    """What a rule makes of stored logits (P, C) and (N, P, C), by the very functions of the training, in float32.

    Raises :class:`FmucError` where the rule needs more passes than are stored.
    """
    if selection.passes > len(passes):
        raise FmucError(f"selection.passes is {selection.passes}, but {len(passes)} passes were stored: ask for fewer")
    logits = passes[: selection.passes] if selection.passes else plain[None]
    return select(pass_statistics(logits.float(), selection.temperature), selection)


def take(net: nn.Module, weak: Tensor, run: Run, seed: int) -> Snapshot:
    """Snapshot of weak views (P, 1, F, T); ``seed``: that of the dropout masks, whatever was drawn before."""
    number = max(PASSES, run.selection.passes) if run.network.dropout else 0
    with torch.random.fork_rng(devices=[weak.device] if weak.device.type == "cuda" else []):
        torch.manual_seed(seed)
        plain, passes = (weak_logits(net, weak, count, run.selection.batch_norm).half().cpu() for count in (0, number))
    plain, passes = plain[0], passes[:number]
    chosen = choice(plain, passes, run.selection)
    return Snapshot(plain, passes, chosen.labels, chosen.mask)


def draw_patches(unlabelled: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """``PATCHES`` of the patches ``unlabelled`` (n,), all where there are fewer, ascending: the same for every row."""
    chosen = np.random.default_rng(seed).permutation(len(unlabelled))[:PATCHES]
    return np.sort(unlabelled[chosen])


def stacked(taken: Sequence[Snapshot]) -> dict[str, Tensor]:
    """The parts of E snapshots, one or more, by name: (E, ...) each."""
    return {name: torch.stack(parts) for name, parts in zip(Snapshot._fields, zip(*taken, strict=True), strict=True)}
