"""The fused activation against PyTorch's operators in float64, its masks against the laws of chance."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fmuc.fast import activations, kernels
from fmuc.fast import kernels as random_bits
from fmuc.fast.activations import relu_norm_dropout, usable

SHAPES = [(5, 4, 6, 3), (7, 5, 3, 3), (33, 3, 1, 1), (2, 1, 9, 7), (9, 130, 2, 2), (3, 1030, 2, 1), (64, 8, 32, 17)]
P = 0.3
SURVIVORS = 65536 / (65536 - round(P * 65536))


def layers(channels: int, p: float) -> tuple[nn.BatchNorm2d, nn.Dropout]:
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
    return norm, nn.Dropout(p)


def random(shape: tuple, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)


def mask_of(x: torch.Tensor, p: float, seed: int, training: bool = True) -> torch.Tensor:
    """The mask that a call after ``torch.manual_seed(seed)`` makes, as 0 and 1: of an input that is 1 everywhere."""
    norm, dropout = nn.BatchNorm2d(x.shape[1]).train(training), nn.Dropout(p)
    nn.init.ones_(norm.bias)
    torch.manual_seed(seed)
    with torch.no_grad():
        return (relu_norm_dropout(torch.ones_like(x), norm, dropout) != 0).double()


in_both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_gradients_and_running_statistics_are_those_of_the_operators(shape, dtype):
    torch.manual_seed(0)
    x, gradient = random(shape, dtype), random(shape, dtype)
    mask = mask_of(x, P, 3) * SURVIVORS
    norm, dropout = layers(shape[1], P)
    reference, twice = deepcopy(norm).double(), x.double().requires_grad_()
    x.requires_grad_()
    torch.manual_seed(3)
    out = relu_norm_dropout(x, norm, dropout)
    out.backward(gradient)
    expected = reference(twice.clamp(min=0)) * mask
    expected.backward(gradient.double())
    tight = {"rtol": 1e-5, "atol": 1e-5}
    loose = tight if dtype == torch.float32 else {"rtol": 2**-8, "atol": 1e-5}  # half a unit of bfloat16
    assert out.dtype == x.grad.dtype == dtype and 0 < (mask == 0).double().mean() < 1
    assert_close(out.double(), expected.detach(), **loose)
    assert_close(x.grad.double(), twice.grad, **loose)
    for name, parameter in norm.named_parameters():
        assert_close(parameter.grad.double(), reference.get_parameter(name).grad, rtol=1e-5, atol=1e-4)
    for name, value in norm.named_buffers():
        assert_close(value.double(), reference.get_buffer(name).double(), **tight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_running_statistics_normalise_in_evaluation_and_stay(dtype):
    norm, dropout = layers(6, P)
    norm(random((50, 6, 2, 2)) + 1)
    before, x = deepcopy(norm.eval().state_dict()), random((4, 6, 5, 5), dtype)
    with torch.no_grad():
        out, expected = relu_norm_dropout(x, norm, dropout.eval()), norm.double()(x.double().clamp(min=0))
    assert_close(out.double(), expected, rtol=2**-8 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)
    assert_close(norm.float().state_dict(), before)


def test_sums_over_many_tiles_are_exact_to_float32():
    """PyTorch's own operator errs in the fourth digit here."""
    x = torch.rand(96, 4, 64, 64) + 30
    norm = nn.BatchNorm2d(4, momentum=1.0)
    with torch.no_grad():
        relu_norm_dropout(x, norm, nn.Dropout(0.0))
    assert_close(norm.running_mean.double(), x.double().mean(dim=(0, 2, 3)), rtol=1e-6, atol=0)
    assert_close(norm.running_var.double(), x.double().var(dim=(0, 2, 3)), rtol=1e-3, atol=0)


def test_rounding_to_bfloat16_is_pytorchs():
    values = torch.cat([torch.randn(4096) * 10.0 ** torch.randint(-30, 30, (4096,)), torch.tensor([0.0, torch.inf])])
    values = values.abs().view(-1, 2, 1, 1)
    flat, rounded = activations._flat(values), np.zeros(values.numel(), np.uint16)

    @kernels.njit
    def store(x, y):
        for k in range(len(x)):
            kernels._store(y, k, x[k])

    store(flat, rounded)
    assert np.array_equal(rounded, activations._flat(values.bfloat16()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_not_hidden(value, dtype):
    x = random((4, 2, 3, 3), dtype)
    x[1, 1, 2, 0] = value
    norm, dropout = layers(2, 0.0)
    with torch.no_grad():
        out = relu_norm_dropout(x, norm.eval(), dropout)
        assert not out[1, 1, 2, 0].isfinite() and int((~out.isfinite()).sum()) == 1
        assert relu_norm_dropout(x, norm.train(), dropout)[:, 1].isnan().all()
        assert not norm.running_mean[1].isfinite()


# Masks


@in_both_modes
def test_masks_drop_their_quantised_share_everywhere(training):
    dropped = round(P * 65536) / 65536
    kept = mask_of(torch.empty(64, 8, 32, 32), P, 0, training)
    assert kept.mean().item() == pytest.approx(1 - dropped, abs=5 * (dropped * (1 - dropped) / kept.numel()) ** 0.5)
    for part in (kept.mean(dim=(0, 2, 3)), kept.mean(dim=(1, 2, 3)), kept.mean(dim=(0, 1)).flatten()):
        bound = 5 * (dropped * (1 - dropped) * len(part) / kept.numel()) ** 0.5
        assert_close(part, torch.full_like(part, 1 - dropped), rtol=0, atol=bound)
    memory = kept.permute(0, 2, 3, 1).flatten() - (1 - dropped)
    for lag in (1, 2, 3, 4, 8, 32, 256, 512, 1024, 8192):  # two elements share a random number
        correlation = (memory[lag:] * memory[:-lag]).mean().item() / (dropped * (1 - dropped))
        assert abs(correlation) < 5 / kept.numel() ** 0.5


@pytest.mark.parametrize("bit", [0, 2])
def test_exactly_the_quantised_share_of_all_16_bit_numbers_is_dropped(bit, monkeypatch):
    """0.1 becomes 6554 / 65536: each 16-bit number once, in either half of the random numbers."""
    every = np.arange(2**16, dtype=np.uint32)
    x, y = np.ones(2**17, np.float32), np.zeros(2**17, np.float32)
    numbers = np.stack([every, every[::-1]] if bit else [every[::-1], every]).T.astype(np.uint16).copy()
    one, zero = np.ones(2**17, np.float32), np.zeros(2**17, np.float32)
    kernels._activate_tile(x, y, one, zero, numbers.ravel(), np.uint16(round(0.1 * 65536)))
    assert (y == 0).sum() == 2 * 6554


def test_survivors_keep_the_expectation():
    norm, dropout = nn.BatchNorm2d(2).eval(), nn.Dropout(0.1)
    with torch.no_grad():
        out = relu_norm_dropout(torch.full((8, 2, 4, 4), 5.0), norm, dropout)
    values = out.unique()
    assert len(values) == 2 and values[0] == 0
    assert float(values[1]) * (1 - 6554 / 65536) == pytest.approx(5 / (1 + norm.eps) ** 0.5, rel=1e-6)


@in_both_modes
def test_two_calls_differ_and_a_seed_repeats_them(training):
    x = random((4, 3, 8, 8))
    one, again, other = (mask_of(x, P, seed, training) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    norm, dropout = nn.BatchNorm2d(3).train(training), nn.Dropout(P)
    with torch.no_grad():
        first, second = relu_norm_dropout(x, norm, dropout), relu_norm_dropout(x, norm, dropout)
    assert not torch.equal(first, second)


def test_without_dropout_no_random_number_is_drawn(monkeypatch):
    monkeypatch.setattr(activations, "draw_seed", None)
    norm = nn.BatchNorm2d(3)
    relu_norm_dropout(random((4, 3, 8, 8)), norm, nn.Dropout(0.5).eval())
    relu_norm_dropout(random((4, 3, 8, 8)), norm, nn.Dropout(0.0))


# Inputs


def test_any_memory_layout_gives_the_same_and_is_left_alone():
    x = torch.randn(5, 4, 6, 3)
    norm, dropout = layers(4, 0.0)
    for other in (x.contiguous(memory_format=torch.channels_last), torch.randn(5, 4, 6, 7)[..., :3].copy_(x)):
        before = other.clone()
        out = relu_norm_dropout(other, deepcopy(norm), dropout)
        assert_close(out, relu_norm_dropout(x, deepcopy(norm), dropout), rtol=0, atol=0)
        assert torch.equal(other, before) and out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [*SHAPES, (7, 1, 1, 1)])
def test_a_frozen_activation_has_the_bits_of_the_modules_in_any_layout(shape, layout):
    norm, dropout = layers(shape[1], P)
    x, branch = (torch.randn(shape).contiguous(memory_format=layout) for _ in range(2))
    frozen = activations.FrozenActivation(norm.eval(), P)
    with torch.no_grad():
        for value, call in ((x, frozen), (x + branch, lambda given: frozen.of_sum(given, branch.clone())[1]),
                            (x, lambda given: frozen.masked(frozen.without_mask(given), 1))):
            torch.manual_seed(1)
            expected = relu_norm_dropout(value, norm, dropout)
            torch.manual_seed(1)
            assert torch.equal(call(x.clone()), expected)
        total, _ = frozen.of_sum(x, branch.clone())
    assert torch.equal(total, x + branch)


def test_the_operators_take_what_the_kernels_cannot():
    norm, x = nn.BatchNorm2d(3), torch.zeros(4, 3, 2, 2)
    assert usable(x, norm) and usable(x.bfloat16(), norm)
    assert not usable(x.double(), norm) and not usable(x.to("meta"), norm)
    assert not usable(x[:1, :, :1, :1], norm)  # PyTorch refuses one value per channel in training
    assert not usable(x, norm.eval())  # it would learn with frozen statistics
    with torch.no_grad():
        assert usable(x, norm)


def test_bits_are_those_of_the_tile_at_its_place():
    """Element i gets half of the random number i // 2, in training: the backward pass can make the mask again."""
    count, seed = 5000, np.array([5, 7], np.uint32)
    numbers, ones, y = np.empty(count // 2, np.uint32), np.ones(count, np.float32), np.empty(count, np.float32)
    random_bits.fill(numbers, 0, seed)
    for channels in (1, 2, 5, 100):
        coefficient = np.ones(channels, np.float32)
        kernels.activate_repeatably(ones, y, coefficient, coefficient, 20_000, seed)
        assert np.array_equal(y == 0, numbers.view(np.uint16) < 20_000)
