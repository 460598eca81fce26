"""The compiled net computes what the plain one does, and whatever a compiler says, training goes on."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fmuc import compiling, uncertainty
from fmuc.config import Network, Run
from fmuc.experiments import FMUC, NSYNTH_SMALL
from fmuc.fast import activations
from fmuc.model import CNN420

RUN = Run("nsynth", "FMUC", 0, NSYNTH_SMALL, labelled_share=0.5, selection=FMUC)


@pytest.fixture
def net(monkeypatch) -> CNN420:
    """As on a GPU: without the kernels of the CPU, which a compiler cannot look into."""
    monkeypatch.setattr(activations, "usable", lambda *_: False)
    torch.manual_seed(0)
    return CNN420(3, Network(widths=(4, 8), blocks=(1, 1), stem=(3, 2)))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 1, 12, 8, generator=torch.Generator().manual_seed(1))


def test_the_compiled_net_is_the_plain_one(net, images, monkeypatch):
    monkeypatch.setattr(compiling, "OPTIONS", {"backend": "aot_eager"})
    plain, drawn = deepcopy(net), torch.get_rng_state()
    net.blocks[0].eval()
    plain.blocks[0].eval()
    assert compiling.compile_net(net, images, RUN) is None
    assert torch.equal(torch.get_rng_state(), drawn)
    assert_close(net.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert [m.training for m in net.modules()] == [m.training for m in plain.modules()]
    assert all(p.grad is None for p in net.parameters())
    for module in (*net.modules(), *plain.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 1e-9
    for one in (net, plain):
        one(images).square().sum().backward()
    for one, two in zip(net.parameters(), plain.parameters(), strict=True):
        assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6)
    expected = uncertainty.weak_logits(plain, images, 5)
    assert_close(uncertainty.weak_logits(net, images, 5), expected, rtol=1e-4, atol=1e-6)


def test_a_compiler_that_fails_leaves_the_net_as_it_was_and_says_why(net, images, monkeypatch):
    def backend(graph, inputs):
        raise RuntimeError("no such\ninstruction")

    monkeypatch.setattr(compiling, "OPTIONS", {"backend": backend})
    before, after_stem = deepcopy(net.state_dict()), net.after_stem
    problem = compiling.compile_net(net, images, RUN)
    assert "no such instruction" in problem and "\n" not in problem
    assert net.after_stem == after_stem and net(images).isfinite().all()
    net.load_state_dict(before)


def test_without_a_gpu_nothing_is_tried(net, images, monkeypatch):
    monkeypatch.setattr(torch, "compile", None)
    assert compiling.compile_net(net, images, RUN) == "CUDA graphs need a GPU"
