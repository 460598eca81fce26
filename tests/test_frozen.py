"""The net without its modules: the same bits as with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fmuc import convolution, frozen, uncertainty
from fmuc.config import Network
from fmuc.model import CNN420
from fmuc.uncertainty import weak_logits

NETS = {
    "CNN420": (Network(), (40, 36)),
    "mini": (Network(widths=(8, 16, 32), blocks=(1, 1, 1), stem=(7, 4)), (32, 32)),
    "one block": (Network(widths=(4,), blocks=(1,), stem=(3, 2)), (9, 7)),
    "odd": (Network(widths=(3, 5), blocks=(2, 1), stem=(3, 2), final_norm=True), (6, 9)),
}


def trained(name: str) -> tuple[CNN420, torch.Tensor]:
    """A net in training mode whose statistics have seen data, and patches (B, 1, F, T)."""
    network, shape = NETS[name]
    torch.manual_seed(0)
    net = CNN420(5, network).to(memory_format=torch.channels_last)
    for _ in range(3):
        net(torch.randn(16, 1, *shape) + 0.5)
    return net, torch.randn(7, 1, *shape)


def logits(net: nn.Module, x: torch.Tensor, passes: int, low: bool) -> torch.Tensor:
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        return weak_logits(net, x, passes)


@pytest.mark.parametrize("patches", [3, 7, 100])
@pytest.mark.parametrize("passes", [0, 1, 5])
@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_bits_are_those_of_the_modules(name, low, passes, patches, monkeypatch):
    net, x = trained(name)
    monkeypatch.setitem(uncertainty.PART, "cpu", patches * x[0].numel())
    monkeypatch.setattr(frozen, "POSITIONS", 0)
    got = logits(net, x, passes, low)
    monkeypatch.setattr(frozen, "usable", lambda *_: False)
    assert torch.equal(got, logits(net, x, passes, low))
    assert got.shape == (max(passes, 1), 7, 5) and got.isfinite().all()


def test_columns_change_bfloat16_by_rounding_only(monkeypatch):
    net, x = trained("mini")
    calls, plain = [], frozen.columns
    monkeypatch.setattr(frozen, "columns", lambda *arguments: calls.append(1) or plain(*arguments))
    got = logits(net, x, 5, True)
    assert len(calls) == 2 + 1  # of the last block, whose maps are 2 x 2: two convolutions and the shortcut
    monkeypatch.setattr(frozen, "POSITIONS", 0)
    expected = logits(net, x, 5, True)
    torch.testing.assert_close(got, expected, rtol=0, atol=0.02 * float(expected.abs().max()))
    assert len(calls) == 3


def test_it_sees_weights_and_statistics_of_the_moment():
    net, x = trained("mini")
    before = logits(net, x, 5, True)
    net(x + 1)
    after_statistics = logits(net, x, 5, True)
    with torch.no_grad():
        net.blocks[2].units[1][1].weight.mul_(2)
    after_weights = logits(net, x, 5, True)
    assert not torch.equal(before, after_statistics) and not torch.equal(after_statistics, after_weights)


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_who_watches_a_module_sees_it_called(register):
    net, x = trained("mini")
    called = []
    handle = getattr(net.blocks[1].units[0][0], register)(lambda *_: called.append(1))
    logits(net, x, 5, True)
    handle.remove()
    assert called
    assert frozen.usable(net, x, "running", True) and not frozen.usable(net, x, "batch", True)


def test_training_uses_the_modules(monkeypatch):
    """Weights learn through ``nn.Module.__call__`` alone; a frozen net has no gradient to give."""
    net, x = trained("mini")
    assert not weak_logits(net, x, 2).requires_grad
    assert all(isinstance(m, convolution.Convolution) for m in net.modules() if isinstance(m, nn.Conv2d))
