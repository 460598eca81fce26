"""Temperature scaling (Eq. (1)) and Monte-Carlo Dropout (paper §II, §V-A; Gal and Ghahramani 2016, [11])."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from fmuc import frozen
from fmuc.model import CNN420, Activation

# Input values of a forward call: on a CPU so many that its overhead does not count, on a GPU what keeps it busy
PART = {"cpu": 2**20, "cuda": 2**23}


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


@contextmanager
def prediction_mode(net: nn.Module, *, dropout: bool, batch_norm: str = "running") -> Iterator[None]:
    """Evaluation mode with dropout on or off, without any effect that outlasts the block.

    ``batch_norm="batch"`` normalises by the statistics of the batch (D8). The running statistics are never updated
    in here, and every module's mode is restored. Raises ``ValueError`` for dropout in a net that has none.
    """
    drops = [m for m in net.modules() if isinstance(m, nn.Dropout) and m.p > 0]
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm)] if batch_norm == "batch" else []
    if dropout and not drops:
        raise ValueError("MC-Dropout needs a network with dropout layers (network.dropout > 0)")
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

    ``passes`` = 0 is one pass with dropout off (FixMatch, D9). Patches go through the net in parts, several passes at a
    time where they are small, so that memory does not grow with N; what comes before the first dropout is computed
    once.
    """
    fitting = max(1, PART["cpu" if x.device.type == "cpu" else "cuda"] // x[0].numel())
    size = len(x) if batch_norm == "batch" else fitting  # patches of a forward call
    with _stem_and_rest(net, x, passes > 0, batch_norm) as (stem, rest):
        parts = []
        for part in x.split(size):
            shared, groups = stem(part), _groups(max(1, passes), max(1, size // len(part)))
            parts.append(torch.cat([rest(shared, n).float().unflatten(0, (n, len(part))) for n in groups]))
        return torch.cat(parts, dim=1)  # of (N, part, C)


@contextmanager
def _stem_and_rest(
    net: nn.Module, x: Tensor, dropout: bool, batch_norm: str
) -> Iterator[tuple[Callable[[Tensor], Any], Callable[[Any, int], Tensor]]]:
    """What is the same in all passes, of (B, 1, F, T), and a function of that and a number of passes: (N B, C)."""
    if isinstance(net, CNN420) and frozen.usable(net, x, batch_norm, dropout):
        still = frozen.FrozenNet(net, dropout=dropout)
        yield still.shared, still.passes
        return
    with prediction_mode(net, dropout=dropout, batch_norm=batch_norm):
        if isinstance(net, CNN420):
            yield net.stem, lambda x, passes: net.after_stem(torch.cat([x] * passes))
        else:
            yield nn.Identity(), lambda x, passes: net(torch.cat([x] * passes))


def _groups(passes: int, most: int) -> list[int]:
    """``passes`` in as few groups of at most ``most`` as there can be, of about the same size."""
    number = -(-passes // most)
    return [passes // number + (i < passes % number) for i in range(number)]


def pass_statistics(logits: Tensor, temperature: float) -> PassStatistics:
    """(N, B, C) logits -> mean and population std (ddof = 0, D6) of the tempered softmax over the N passes."""
    std, mean = torch.std_mean(temperature_softmax(logits, temperature), dim=0, correction=0)
    return PassStatistics(mean, std)


def entropy(probabilities: Tensor) -> Tensor:
    """(..., C) probabilities -> entropy in nats (...,), from 0 to ln C."""
    return torch.special.entr(probabilities).sum(dim=-1)


def entropy_parts(probabilities: Tensor) -> EntropyParts:
    """Probabilities of N passes (N, B, C) -> the entropy of their mean and its two parts, computed in float64.

    Aleatoric: the mean entropy of the passes, every thinned-out net being undecided. Epistemic: the rest, by which the
    passes contradict each other, which is the mutual information of class and net (Houlsby et al. 2011; Gal 2016, §3.3;
    Depeweg et al. 2018). With one pass it is 0.
    """
    each = probabilities.double()
    total, aleatoric = entropy(each.mean(dim=0)), entropy(each).mean(dim=0)
    return EntropyParts(total, aleatoric, (total - aleatoric).clamp(min=0))  # not negative but for rounding


def norm_input_variances(net: CNN420, x: Tensor, passes: int) -> dict[str, Tensor]:
    """Variance of what each BatchNorm gets, by channel, over patches x (B, 1, F, T), places and N passes, net order.

    By module name, each (channels,) in float64; ``passes`` = 0: dropout off. A layer expects its ``running_var``,
    which training gathers with dropout on (variance shift; Li et al. 2019).
    """
    moments: dict[str, tuple] = {}  # number, sum and sum of squares
    places = {f"{name}.norm": (m, functional.relu) for name, m in net.named_modules() if isinstance(m, Activation)}
    if isinstance(net.norm, _BatchNorm):
        places["norm"] = (net.norm, lambda value: value)

    def watch(name: str, before: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
            value = before(inputs[0]).double().transpose(0, 1).flatten(1)  # (channels, values)
            count, total, squares = moments.get(name, (0, 0.0, 0.0))
            moments[name] = count + value.shape[1], total + value.sum(dim=1), squares + value.square().sum(dim=1)
        return hook

    hooks = [module.register_forward_pre_hook(watch(name, before)) for name, (module, before) in places.items()]
    try:
        weak_logits(net, x, passes)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: squares / n - (total / n) ** 2 for name, (n, total, squares) in moments.items()}


def logits_in_batches(net: nn.Module, x: Tensor, size: int, draws: int, rng: Generator) -> Tensor:
    """Logits (R, B, C) of the same patches (B, 1, F, T) in R random partitions into batches of ``size``, dropout off.

    BatchNorm takes the statistics of each batch (D8), so a prediction depends on its companions in the batch.
    """
    results = []
    for _ in range(draws):
        order = torch.randperm(len(x), generator=rng)
        shuffled = torch.cat([weak_logits(net, part, 0, "batch")[0] for part in x[order].split(size)])
        results.append(torch.empty_like(shuffled).index_copy_(0, order.to(shuffled.device), shuffled))
    return torch.stack(results)
