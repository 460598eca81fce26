"""The fused activation against PyTorch's operators in float64, its masks against the laws of chance, and what it leaves
alone: whatever of ``fmuc.model`` was edited."""

from __future__ import annotations

import sys
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_train import RUN
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from fmuc import fast
from fmuc.config import Network
from fmuc.fast.activations import FusedActivation
from fmuc.fixmatch import build
from fmuc.model import CNN420, Activation, Block
from fmuc.train import train
from fmuc.uncertainty import weak_logits

SHAPES = [(5, 4, 6, 3), (33, 3, 1, 1), (2, 1, 9, 7), (3, 1030, 2, 1), (64, 8, 32, 17)]
P = 0.3
DROPPED = round(P * 65536) / 65536
SMALL = Network(widths=(4, 8), blocks=(1, 1), stem=(3, 2), dropout=0.3)


def fused(channels: int, p: float = 0.0) -> FusedActivation:
    """With random scale and shift."""
    module = FusedActivation(channels, p)
    with torch.no_grad():
        module.norm.weight.uniform_(0.5, 2)
        module.norm.bias.uniform_(-1, 1)
    return module


def random(shape: tuple, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def mask_of(shape: tuple, seed: int, training: bool = True) -> Tensor:
    """The mask that a call after ``torch.manual_seed(seed)`` makes, as 0 and 1: of an input that is 1 everywhere."""
    module = FusedActivation(shape[1], P)
    module.norm.train(training)
    nn.init.ones_(module.norm.bias)
    torch.manual_seed(seed)
    return (module(torch.ones(shape)) != 0).double()


in_both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
in_both_types = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


# Values


@in_both_types
@pytest.mark.parametrize("shape", SHAPES)
def test_values_gradients_and_running_statistics_are_those_of_the_operators(shape, dtype):
    torch.manual_seed(0)
    x, gradient = random(shape, dtype), random(shape, dtype)
    mask = mask_of(shape, 3) / (1 - DROPPED)
    module = fused(shape[1], P)
    reference, twice = deepcopy(module.norm).double(), x.double().requires_grad_()
    x.requires_grad_()
    torch.manual_seed(3)
    out = module(x)
    out.backward(gradient)
    expected = reference(twice.clamp(min=0)) * mask
    expected.backward(gradient.double())
    tight = {"rtol": 1e-5, "atol": 1e-5}
    loose = tight if dtype == torch.float32 else {"rtol": 2**-8, "atol": 1e-5}  # half a unit of bfloat16
    assert out.dtype == x.grad.dtype == dtype and 0 < (mask == 0).double().mean() < 1
    assert_close(out.double(), expected.detach(), **loose)
    assert_close(x.grad.double(), twice.grad, **loose)
    for name, parameter in module.norm.named_parameters():
        assert_close(parameter.grad.double(), reference.get_parameter(name).grad, rtol=1e-5, atol=1e-4)
    for name, value in module.norm.named_buffers():
        assert_close(value.double(), reference.get_buffer(name).double(), **tight)


@in_both_types
def test_running_statistics_normalise_in_evaluation_and_stay(dtype):
    module, x = fused(6, P), random((4, 6, 5, 5), dtype)
    module.norm(random((50, 6, 2, 2)) + 1)
    before = deepcopy(module.eval().state_dict())
    with torch.no_grad():
        out, expected = module(x), deepcopy(module.norm).double()(x.double().clamp(min=0))
    assert_close(out.double(), expected, rtol=2**-8 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)
    assert_close(module.state_dict(), before)


def test_sums_over_many_tiles_are_exact_to_float32():
    """PyTorch's own operator errs in the fourth digit here."""
    x, module = torch.rand(96, 4, 64, 64) + 30, fused(4)
    module.norm.momentum = 1.0
    module(x)
    assert_close(module.norm.running_mean.double(), x.double().mean(dim=(0, 2, 3)), rtol=1e-6, atol=0)
    assert_close(module.norm.running_var.double(), x.double().var(dim=(0, 2, 3)), rtol=1e-3, atol=0)


@in_both_types
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_not_hidden(value, dtype):
    x, module = random((4, 2, 3, 3), dtype), fused(2)
    x[1, 1, 2, 0] = value
    with torch.no_grad():
        out = module.eval()(x)
        assert not out[1, 1, 2, 0].isfinite() and int((~out.isfinite()).sum()) == 1
        assert module.train()(x)[:, 1].isnan().all()
        assert not module.norm.running_mean[1].isfinite()


def test_any_memory_layout_gives_the_same_and_is_left_alone():
    x, module = torch.randn(5, 4, 6, 3), fused(4)
    for other in (x.contiguous(memory_format=torch.channels_last), torch.randn(5, 4, 6, 7)[..., :3].copy_(x)):
        before = other.clone()
        out = deepcopy(module)(other)
        assert_close(out, deepcopy(module)(x), rtol=0, atol=0)
        assert torch.equal(other, before) and out.is_contiguous(memory_format=torch.channels_last)


CHANGES = {
    "float64": lambda module: module.double(),
    "another norm": lambda module: setattr(module, "norm", nn.GroupNorm(2, 4)),
    "no scale": lambda module: setattr(module, "norm", nn.BatchNorm2d(4, affine=False)),
    "no running statistics": lambda module: setattr(module, "norm", nn.BatchNorm2d(4, track_running_stats=False)),
    "cumulative average": lambda module: setattr(module.norm, "momentum", None),
    "whole channels": lambda module: setattr(module, "dropout", nn.Dropout2d(0.5)),
    "frozen norm that learns": lambda module: module.norm.eval(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_the_kernels_cannot_is_left_to_the_operators(change):
    """To the last bit, masks and gradients included."""
    torch.manual_seed(0)
    one, x = fused(4, 0.5), torch.randn(5, 4, 6, 3)
    change(one)
    plain = Activation(4, 0.5)
    plain.norm, plain.dropout = deepcopy(one.norm), deepcopy(one.dropout)
    results = []
    for module in (one, plain):
        given = x.to(next((p.dtype for p in module.parameters()), x.dtype)).requires_grad_()
        torch.manual_seed(1)
        out = module(given)
        out.square().sum().backward()
        results.append([out, given.grad, *module.state_dict().values()])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


# Masks


@in_both_modes
def test_masks_drop_their_quantised_share_everywhere(training):
    kept = mask_of((64, 8, 32, 32), 0, training)
    assert kept.mean().item() == pytest.approx(1 - DROPPED, abs=5 * (DROPPED * (1 - DROPPED) / kept.numel()) ** 0.5)
    for part in (kept.mean(dim=(0, 2, 3)), kept.mean(dim=(1, 2, 3)), kept.mean(dim=(0, 1)).flatten()):
        bound = 5 * (DROPPED * (1 - DROPPED) * len(part) / kept.numel()) ** 0.5
        assert_close(part, torch.full_like(part, 1 - DROPPED), rtol=0, atol=bound)
    memory = kept.permute(0, 2, 3, 1).flatten() - (1 - DROPPED)
    for lag in (1, 2, 3, 4, 8, 32, 256, 512, 1024, 8192):  # two elements share a random number
        correlation = (memory[lag:] * memory[:-lag]).mean().item() / (DROPPED * (1 - DROPPED))
        assert abs(correlation) < 5 / kept.numel() ** 0.5


@in_both_modes
def test_two_calls_differ_and_a_seed_repeats_them(training):
    one, again, other = (mask_of((4, 3, 8, 8), seed, training) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    module, x = FusedActivation(3, P), random((4, 3, 8, 8))
    module.norm.train(training)
    with torch.no_grad():
        assert not torch.equal(module(x), module(x))


# Installing


def kinds(net: nn.Module) -> set[type]:
    return {type(module) for module in net.modules() if isinstance(module, Activation)}


def images() -> Tensor:
    return torch.randn(6, 1, 12, 8, generator=torch.Generator().manual_seed(1))


def test_an_installed_net_has_the_weights_names_and_results_of_the_plain_one():
    plain = CNN420(3, Network(widths=(4, 8), blocks=(1, 1), stem=(3, 2), dropout=0.0))
    net = deepcopy(plain)
    before = torch.get_rng_state()
    assert fast.install(net) is None and kinds(net) == {FusedActivation} and kinds(plain) == {Activation}
    assert torch.equal(torch.get_rng_state(), before)
    assert list(net.state_dict()) == list(plain.state_dict())
    for one in (net, plain):
        for _ in range(3):
            one(images()).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert_close(parameter.grad, plain.get_parameter(name).grad, rtol=1e-4, atol=1e-4)
    assert_close(net.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-5)
    assert_close(net.eval()(images()), plain.eval()(images()), rtol=1e-4, atol=1e-5)
    net.load_state_dict(CNN420(3, SMALL).state_dict())


EDITS = {
    "leaky": lambda self, x: self.dropout(self.norm(functional.leaky_relu(x))),
    "norm before ReLU": lambda self, x: self.dropout(functional.relu(self.norm(x))),
    "only in evaluation": lambda self, x: self.dropout(self.norm(functional.relu(x))) * (1 if self.training else 2),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_activation_is_what_runs(edit, monkeypatch):
    monkeypatch.setattr(Activation, "forward", edit)
    net = CNN420(3, SMALL)
    assert "edited" in fast.install(net) and kinds(net) == {Activation}


# Any network


class Louder(Activation):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class HalfBlock(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + 0.5 * self.units(x)


class OtherHead(CNN420):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.head(self.blocks(self.stem(x)).amax(dim=(2, 3))) - 1


class AnotherNet(nn.Module):
    def __init__(self, classes: int, network: Network) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                                    nn.Dropout(network.dropout), nn.Linear(8, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize(("net_class", "changed", "left"), [
    (CNN420, {Activation: Louder}, {Louder}), (CNN420, {Block: HalfBlock}, {FusedActivation}),
    (OtherHead, {}, {FusedActivation}), (AnotherNet, {}, set()),
], ids=["activation", "block", "head", "net"])
def test_whatever_a_net_computes_is_computed_with_the_kernels_too(net_class, changed, left):
    net = net_class(5, SMALL)
    for module in net.modules():
        module.__class__ = changed.get(type(module), type(module))
    expected = deepcopy(net).eval()(images())
    assert fast.install(net) is None and kinds(net) == left
    assert_close(weak_logits(net, images(), 0)[0], expected.detach(), rtol=1e-4, atol=1e-5)


# Without the folder


def test_without_the_folder_training_gives_the_same(trainable, tmp_path, monkeypatch, capsys, one_thread):
    run = replace(RUN, network=replace(RUN.network, dropout=0.0))
    fused = train(run, device="cpu", folder=tmp_path / "with" / run.id, progress=False)
    monkeypatch.delattr("fmuc.fast")
    monkeypatch.setitem(sys.modules, "fmuc.fast", None)  # its import fails
    plain = train(run, device="cpu", folder=tmp_path / "without" / run.id, progress=False)
    assert kinds(build(run, 3, torch.device("cpu"))[0]) == {Activation}
    np.testing.assert_allclose(fused.history.loss_labelled, plain.history.loss_labelled, rtol=1e-3, atol=2e-3)
    assert capsys.readouterr().err == ""
