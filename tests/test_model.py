from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fmuc.config import Network
from fmuc.model import CNN420, PARAMETERS, Block, Dropout, parameter_count

CANDIDATE_D = Network(widths=(16, 32, 64), blocks=(3, 3, 5), stem=(3, 1), final_norm=True)
SMALL = Network(widths=(8, 16), blocks=(1, 2), stem=(3, 2))


@pytest.mark.parametrize(("network", "classes", "expected"), [
    (Network(), 11, 419_707), (Network(), 15, 420_223), (CANDIDATE_D, 11, 420_027), (CANDIDATE_D, 15, 420_287),
])
def test_parameter_counts(network, classes, expected):
    assert parameter_count(CNN420(classes, network)) == expected
    if network == Network():
        assert PARAMETERS[classes] == expected


def test_parameter_count_leaves_out_what_is_frozen():
    net = CNN420(11, SMALL)
    total = parameter_count(net)
    net.head.requires_grad_(False)
    assert total - parameter_count(net) == 16 * 11 + 11


@pytest.mark.parametrize("network", [Network(), CANDIDATE_D, SMALL], ids=["default", "candidate D", "small"])
@pytest.mark.parametrize("shape", [(128, 126), (80, 140), (32, 32)])
def test_logits_have_one_column_per_class_for_any_patch(network, shape):
    with torch.no_grad():
        assert CNN420(11, network).eval()(torch.randn(2, 1, *shape)).shape == (2, 11)


def test_every_weight_layer_of_a_block_follows_relu_norm_dropout():
    net, order = CNN420(3, SMALL), []
    for module in net.blocks.modules():
        if isinstance(module, nn.ReLU | nn.BatchNorm2d | Dropout | nn.Conv2d):
            module.register_forward_hook(lambda module, *_: order.append((type(module).__name__, module)))
    net(torch.randn(2, 1, 12, 8))
    shortcuts = {block.shortcut for block in net.blocks}
    units = [name for name, module in order if module not in shortcuts]
    assert units == ["ReLU", "BatchNorm2d", "Dropout", "Conv2d"] * 6
    assert {m.p for m in net.modules() if isinstance(m, Dropout)} == {SMALL.dropout} == {0.1}


def test_a_block_ends_with_the_addition():
    block = Block(4, 6, 2, 0.1).eval()
    x = torch.randn(2, 4, 8, 8)
    out = block(x)
    first, second = block.units
    expected = block.shortcut(x)
    for relu, norm, _, convolution in (first, second):
        x = convolution(norm(relu(x)))
    assert_close(out, expected + x)
    assert out.shape == (2, 6, 4, 4) and (out < 0).any()


def test_only_later_stages_halve_the_resolution_and_only_changes_need_a_convolution():
    blocks = CNN420(3, SMALL).blocks
    assert [block.units[0][-1].stride for block in blocks] == [(1, 1), (2, 2), (1, 1)]
    assert [block.units[1][-1].stride for block in blocks] == [(1, 1)] * 3
    assert [type(block.shortcut) for block in blocks] == [nn.Identity, nn.Conv2d, nn.Identity]


def test_the_net_is_stem_blocks_mean_and_linear():
    net, x = CNN420(3, SMALL).eval(), torch.randn(2, 1, 12, 8)
    pooled = net.blocks(net.stem(x)).flatten(2).mean(dim=2)
    assert_close(net(x), pooled @ net.head.weight.T + net.head.bias)


# Dropout


def test_dropout_drops_exactly_its_share_of_all_16_bit_draws(monkeypatch):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.int64)
    monkeypatch.setattr(torch.Tensor, "random_", lambda self, *_: self.copy_(every))
    out = Dropout(0.1).train()(torch.ones(2**16))
    assert (out == 0).sum().item() == 6554 == round(0.1 * 2**16)
    assert_close(out.double().mean().item(), 1.0, rtol=0, atol=1e-7)  # the expectation is kept, quantised or not


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_frequency_lies_within_statistical_bounds_everywhere(p):
    torch.manual_seed(0)
    shape = (64, 8, 32, 32)
    kept = (Dropout(p).train()(torch.ones(shape)) != 0).double()
    assert kept.mean().item() == pytest.approx(1 - p, abs=5 * (p * (1 - p) / kept.numel()) ** 0.5)
    for part in (kept.mean(dim=(0, 2, 3)), kept.mean(dim=(1, 2, 3)), kept.flatten().view(-1, 4).mean(dim=0)):
        bound = 5 * (p * (1 - p) * len(part) / kept.numel()) ** 0.5
        assert_close(part, torch.full_like(part, 1 - p), rtol=0, atol=bound)
    centred = kept.flatten() - (1 - p)
    for lag in (1, 2, 3, 4, 32, 1024):  # four masks share one 64-bit draw: they must not know of each other
        correlation = (centred[lag:] * centred[:-lag]).mean().item() / (p * (1 - p))
        assert abs(correlation) < 5 / kept.numel() ** 0.5


def test_dropout_scales_survivors_and_its_gradient_has_the_same_mask():
    torch.manual_seed(0)
    x = (torch.rand(33, 7) + 1).requires_grad_()
    out = Dropout(0.4).train()(x)
    factor = torch.where(out == 0, 0.0, 65536 / (65536 - round(0.4 * 65536)))
    assert 0 < (out == 0).sum() < x.numel()
    assert_close(out, x * factor)
    out.sum().backward()
    assert_close(x.grad, factor)


@pytest.mark.parametrize("shape", [(4, 8, 5, 3), (3, 6, 1, 1), (5, 1, 4, 7), (2, 3, 1, 9)])
def test_dropout_keeps_the_memory_layout(shape):
    x = torch.ones(shape).contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    out = Dropout(0.3).train()(x)
    assert out.stride() == x.stride()
    torch.manual_seed(0)
    flat = Dropout(0.3).train()(torch.ones(x.numel()))
    assert_close(out.permute(0, 2, 3, 1).flatten(), flat)  # the draws lie in the order of the memory


def test_dropout_keeps_the_type():
    assert Dropout(0.1).train()(torch.ones(8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_dropout_is_the_identity_in_evaluation_and_without_probability():
    x = torch.randn(100)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0).train()(x) is x


def test_two_dropout_calls_differ_and_a_seed_repeats_them():
    drop, x = Dropout(0.1).train(), torch.ones(1000)
    torch.manual_seed(1)
    first, second = drop(x), drop(x)
    torch.manual_seed(1)
    assert torch.equal(drop(x), first) and not torch.equal(first, second)


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_dropout_refuses_an_impossible_probability(p):
    with pytest.raises(ValueError, match="dropout probability"):
        Dropout(p)
