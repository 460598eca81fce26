"""Temperature scaling (Eq. (1)) and Monte-Carlo Dropout (paper §II, §V-A; Gal and Ghahramani 2016, [11])."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fmuc.errors import ConfigError

# Input values of one forward call: enough to amortise call overhead on a CPU and to keep a GPU busy
CALL_SIZE = {"cpu": 2**20, "cuda": 2**23}


class PassStatistics(NamedTuple):
    """Mean and population standard deviation of the class probabilities over N passes; each (B, C)."""

    mean: Tensor
    std: Tensor


class EntropyParts(NamedTuple):
    """Uncertainty about the class in nats, each (B,): ``total`` = ``aleatoric`` + ``epistemic``."""

    total: Tensor
    aleatoric: Tensor
    epistemic: Tensor


def temperature_softmax(logits: Tensor, temperature: float) -> Tensor:
    """Eq. (1): (..., C) logits -> (..., C) probabilities, computed in float32. Temperature 1 is the plain softmax."""
    return torch.softmax(logits.float() / temperature, dim=-1)


def pass_statistics(logits: Tensor, temperature: float) -> PassStatistics:
    """(N, B, C) logits -> mean and population std (ddof = 0, D6) of the tempered softmax over the N passes."""
    std, mean = torch.std_mean(temperature_softmax(logits, temperature), dim=0, correction=0)
    return PassStatistics(mean, std)


@contextmanager
def prediction_mode(net: nn.Module, *, dropout: bool, batch_norm: str = "running") -> Iterator[None]:
    """Evaluation mode with dropout on or off, without any effect that outlasts the block.

    ``batch_norm="batch"`` normalises by the statistics of the batch (D8). The running statistics are never updated
    in here, and every module's mode is restored. Raises :class:`ConfigError` for dropout in a net that has none.
    """
    drops = [m for m in net.modules() if isinstance(m, nn.Dropout) and m.p > 0]
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm)] if batch_norm == "batch" else []
    if dropout and not drops:
        raise ConfigError("MC-Dropout needs a network with dropout layers (network.dropout > 0)")
    training = {module: module.training for module in net.modules()}
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked.clone() for norm in norms]
    net.eval()
    for module in drops if dropout else []:
        module.train()
    for norm in norms:
        norm.train()
        norm.momentum = 0.0  # new running value = 1 * old + 0 * batch
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)


@torch.no_grad()
def weak_logits(net: nn.Module, x: Tensor, passes: int, batch_norm: str = "running") -> Tensor:
    """Logits of N passes over the same batch: (B, 1, F, T) -> (N, B, C).

    ``passes`` = 0 is one pass with dropout off (FixMatch, D9). The batch goes through the net in parts, a few passes at
    a time, so that memory does not grow with N.
    """
    fitting = max(1, CALL_SIZE["cpu" if x.device.type == "cpu" else "cuda"] // x[0].numel())
    size = len(x) if batch_norm == "batch" else fitting  # patches of a forward call
    with prediction_mode(net, dropout=passes > 0, batch_norm=batch_norm):
        parts = []
        for part in x.split(size):
            at_once = 1 if batch_norm == "batch" else max(1, size // len(part))  # passes of a forward call
            groups = torch.arange(max(1, passes)).split(at_once)
            logits = [net(part.repeat(len(group), 1, 1, 1)).float() for group in groups]
            parts.append(torch.cat(logits).unflatten(0, (max(1, passes), len(part))))
        return torch.cat(parts, dim=1)  # of (N, part, C)


def entropy(probabilities: Tensor) -> Tensor:
    """(..., C) probabilities -> entropy in nats (...,), from 0 to ln C."""
    return torch.special.entr(probabilities).sum(dim=-1)


def entropy_parts(probabilities: Tensor) -> EntropyParts:
    """Probabilities of N passes (N, B, C) -> the entropy of their mean and its two parts, computed in float64.

    Aleatoric: the mean entropy of the passes, each of which is undecided. Epistemic: the rest, by which the passes
    contradict each other, which is the mutual information of class and net (Houlsby et al. 2011; Gal 2016, §3.3;
    Depeweg et al. 2018). With one pass it is 0.
    """
    each = probabilities.double()
    total, aleatoric = entropy(each.mean(dim=0)), entropy(each).mean(dim=0)
    return EntropyParts(total, aleatoric, (total - aleatoric).clamp(min=0))  # not negative but for rounding
