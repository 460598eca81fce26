from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fmuc.config import ConfigError, Network
from fmuc.model import CNN420, NETWORKS, PARAMETERS, Activation, Block, make_network, parameter_count

CANDIDATE_D = Network(widths=(16, 32, 64), blocks=(3, 3, 5), stem=(3, 1), final_norm=True)
SMALL = Network(widths=(8, 16), blocks=(1, 2), stem=(3, 2))


@pytest.mark.parametrize(("network", "classes", "expected"), [
    (Network(), 11, 419_707), (Network(), 15, 420_223), (CANDIDATE_D, 11, 420_027), (CANDIDATE_D, 15, 420_287),
])
def test_parameter_counts(network, classes, expected):
    assert parameter_count(CNN420(classes, network)) == expected
    if network == Network():
        assert PARAMETERS[classes] == expected


@pytest.mark.parametrize("network", [Network(), CANDIDATE_D, SMALL], ids=["default", "candidate D", "small"])
@pytest.mark.parametrize("shape", [(128, 126), (32, 32)])
def test_logits_have_one_column_per_class_for_any_patch(network, shape):
    with torch.no_grad():
        assert CNN420(11, network).eval()(torch.randn(2, 1, *shape)).shape == (2, 11)


def test_every_convolution_of_a_block_follows_relu_norm_dropout():
    net, order = CNN420(3, SMALL), []
    for module in net.blocks.modules():
        if isinstance(module, Activation | nn.Conv2d):
            kind = "Activation" if isinstance(module, Activation) else "Conv2d"
            module.register_forward_hook(lambda module, *_, kind=kind: order.append((kind, module)))
    net(torch.randn(2, 1, 12, 8))
    shortcuts = {block.shortcut for block in net.blocks}
    assert [name for name, module in order if module not in shortcuts] == ["Activation", "Conv2d"] * 6
    assert {m.p for m in net.modules() if isinstance(m, nn.Dropout)} == {SMALL.dropout} == {0.1}


@pytest.mark.parametrize(("norm_trains", "dropout_on"), [(True, True), (True, False), (False, True), (False, False)])
def test_an_activation_is_relu_norm_dropout(norm_trains, dropout_on):
    """The operators written out, with the mask that was drawn."""
    activation = Activation(4, 0.5)
    with torch.no_grad():
        activation.norm.weight.uniform_(0.5, 2)
        activation.norm.bias.fill_(3)  # so that only what is dropped is zero
        activation.norm.running_mean.uniform_(0, 1)
    activation.norm.train(norm_trains), activation.dropout.train(dropout_on)
    x, reference = torch.randn(5, 4, 6, 3), deepcopy(activation)
    with torch.no_grad():
        out, expected = activation(x), reference.norm(x.clamp(min=0))
    assert 0.3 < (out == 0).float().mean() < 0.7 if dropout_on else (out != 0).all()
    assert_close(out, torch.where(out == 0, 0.0, expected * (2 if dropout_on else 1)), rtol=1e-4, atol=1e-5)
    assert_close(activation.state_dict(), reference.state_dict())


def test_a_block_ends_with_the_addition():
    block = Block(4, 6, 2, 0.1).eval()
    x = torch.randn(2, 4, 8, 8)
    out = block(x)
    first, second = block.units
    expected = block.shortcut(x)
    for activation, convolution in (first, second):
        x = convolution(activation.norm(x.clamp(min=0)))
    assert_close(out, expected + x)
    assert out.shape == (2, 6, 4, 4) and (out < 0).any()


def test_a_network_is_made_by_its_name_in_the_table(monkeypatch):
    monkeypatch.setitem(NETWORKS, "mine", lambda classes, network: nn.Linear(64, classes))
    assert type(make_network(3, replace(SMALL, kind="mine"))) is nn.Linear and type(make_network(3, SMALL)) is CNN420
    with pytest.raises(ConfigError, match="'resnet'.*cnn420, mine"):
        make_network(3, replace(SMALL, kind="resnet"))
