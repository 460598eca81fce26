from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fmuc import uncertainty
from fmuc.config import Network, Selection
from fmuc.model import CNN420
from fmuc.selection import pseudo_label
from fmuc.uncertainty import prediction_mode, weak_logits

SMALL = Network(widths=(4, 8), blocks=(1, 1), stem=(3, 2))


@pytest.fixture
def net() -> CNN420:
    """A net in training mode whose BatchNorm layers have seen data; one block is frozen in evaluation mode, and one
    layer has a momentum of its own."""
    torch.manual_seed(0)
    net = CNN420(3, SMALL)
    net(torch.randn(16, 1, 8, 8))
    net.blocks[1].eval()
    net.blocks[0].units[0][0].norm.momentum = 0.3
    return net


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def state(net: nn.Module) -> tuple[list[bool], list[float], dict[str, torch.Tensor]]:
    """Everything that a prediction must leave alone: modes, momenta, weights and running statistics."""
    momenta = [m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    return [m.training for m in net.modules()], momenta, deepcopy(net.state_dict())


def assert_same_state(net: nn.Module, before: tuple) -> None:
    modes, momenta, weights = state(net)
    assert (modes, momenta) == before[:2]
    assert all(torch.equal(value, before[2][name]) for name, value in weights.items())


def test_prediction_mode_restores_after_an_error(net):
    before = state(net)
    with pytest.raises(RuntimeError, match="in between"), prediction_mode(net, dropout=True, batch_norm="batch"):
        raise RuntimeError("in between")
    assert_same_state(net, before)


def test_no_pass_means_one_deterministic_pass(net, x):
    reference = deepcopy(net).eval()
    logits = weak_logits(net, x, passes=0)
    assert logits.shape == (1, 6, 3)
    assert_close(logits[0], reference(x).detach())
    assert not torch.allclose(logits, weak_logits(net, x, passes=1))


def test_batch_statistics_normalise_by_the_batch(net, x):
    reference = deepcopy(net).train()
    for module in reference.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    logits = weak_logits(net, x, passes=0, batch_norm="batch")
    assert_close(logits[0], reference(x).detach())
    assert not torch.allclose(logits, weak_logits(net, x, passes=0, batch_norm="running"))


@pytest.mark.parametrize("part", [1, 4, 13, 600])
def test_parts_of_the_batch_and_of_the_passes_are_put_together_in_order(net, x, part, monkeypatch):
    """No call is larger than asked for. With dropout that drops nothing every pass equals the plain one."""
    whole = weak_logits(net, x, passes=0, batch_norm="batch")
    monkeypatch.setitem(uncertainty.CALL_SIZE, "cpu", part * x[0].numel())
    assert torch.equal(weak_logits(net, x, passes=0, batch_norm="batch"), whole)  # a part has other statistics
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 1e-9
    seen = []
    net.stem.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    logits = weak_logits(net, x, passes=5)
    assert sum(seen) == 30 and max(seen) <= part and (part < 30 or seen == [30])
    assert_close(logits, weak_logits(net, x, passes=0).expand(5, -1, -1))


def test_repeated_and_looped_passes_have_the_same_distribution(net, x, monkeypatch):
    torch.manual_seed(0)
    draws = []
    for size in (1, 2**30):
        monkeypatch.setitem(uncertainty.CALL_SIZE, "cpu", size)
        draws.append(weak_logits(net, x, passes=600).double())
    looped, repeated = draws
    error = ((looped.var(dim=0) + repeated.var(dim=0)) / 600).sqrt()
    assert ((looped.mean(dim=0) - repeated.mean(dim=0)).abs() < 5 * error).all()
    assert_close(looped.std(dim=0), repeated.std(dim=0), rtol=0.25, atol=0)
    # copies of an example within one call have masks of their own
    pairs = repeated - repeated.mean(dim=0)
    assert ((pairs[1:] * pairs[:-1]).mean(dim=0).abs() < 5 * repeated.var(dim=0) / 600**0.5).all()


@pytest.mark.parametrize("batch_norm", ["running", "batch"])
@pytest.mark.parametrize("passes", [0, 5])
def test_pseudo_labels_carry_no_gradient_and_leave_no_trace(net, x, passes, batch_norm):
    before = state(net)
    pseudo = pseudo_label(net, x, Selection(rule="mean_minus_std", passes=passes, batch_norm=batch_norm))
    assert_same_state(net, before)
    assert [part.shape for part in pseudo] == [(6,)] * 3
    assert [part.dtype for part in pseudo] == [torch.int64, torch.bool, torch.float32]
    assert not pseudo.score.requires_grad and all(p.grad is None for p in net.parameters())


def test_pseudo_labels_use_the_temperature_and_the_batch_statistics_of_the_rule(net, x):
    for batch_norm in ("running", "batch"):
        rule = Selection(threshold=0.5, temperature=4.0, batch_norm=batch_norm)
        logits = weak_logits(net, x, 0, batch_norm)[0]
        assert_close(pseudo_label(net, x, rule).score, torch.softmax(logits / 4, dim=1).amax(dim=1))
