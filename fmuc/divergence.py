"""When training diverges: the first step whose loss is not finite, found without waiting for the device in a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fmuc.datasets import Dataset
from fmuc.features import FeatureCache
from fmuc.paths import features_dir, relative

_NAMED = 3  # files of a batch


class FirstBadStep:
    """The first step with a loss that is not finite; kept on the device, -1 while there is none."""

    def __init__(self, device: torch.device) -> None:
        self._step = torch.full((), -1, device=device)

    def add(self, step: int, losses: Tensor) -> None:
        """Note the losses of ``step``, any shape."""
        self._step = torch.where((self._step < 0) & ~losses.isfinite().all(), step, self._step)

    def item(self) -> int:
        """The step's number; waits for the device."""
        return int(self._step)


def is_finite(net: nn.Module, optimiser: torch.optim.Optimizer) -> bool:
    """Whether weights, running statistics and moments all are: a last step can spoil them though its loss was fine."""
    moments = [value for part in optimiser.state.values() for value in part.values()]
    checks = [value.isfinite().all() for value in (*net.state_dict().values(), *moments)]
    return bool(torch.stack([check.to(checks[0].device) for check in checks]).all())


def of_batch(patches: np.ndarray, cache: FeatureCache, dataset: Dataset) -> str:
    """What the batch of ``patches`` (B,) was made of, and the remedy: words for the end of an error's line."""
    broken = patches[~np.isfinite(cache.patches[patches]).all(axis=(1, 2))]
    names = [dataset.clips[i].id for i in cache.clip_of_patch[broken if len(broken) else patches]]
    if len(broken):
        folder = relative(features_dir(dataset.name, cache.features.id))
        return (f"holds features that are not finite, of {_few(names)}: delete {folder} and make them again "
                f"('python -m fmuc features --dataset {dataset.name}')")
    return (f"was made of {_few(names)}: lower training.learning_rate, or look at these files "
            f"('python -m fmuc data check {dataset.name}')")


def _few(names: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(names))
    named = ", ".join(name if name.isprintable() else ascii(name) for name in distinct[:_NAMED])
    return named + (f" and {len(distinct) - _NAMED} more" if len(distinct) > _NAMED else "")
