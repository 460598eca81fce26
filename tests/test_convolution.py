"""Convolutions whose gradients are computed in another way, against PyTorch's own in float64."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from fmuc.convolution import POSITIONS, Convolution, as_matrix, by_columns, columns, positions

CASES = [  # channels, channels out, kernel, stride, height, width
    (8, 6, 3, 1, 4, 4), (8, 6, 3, 2, 8, 7), (5, 7, 3, 2, 4, 4), (16, 4, 3, 1, 2, 2), (6, 3, 3, 2, 1, 1),
    (8, 6, 1, 2, 8, 8), (8, 6, 1, 2, 7, 5), (4, 4, 1, 1, 3, 3), (1, 6, 7, 4, 32, 32), (1, 4, 3, 2, 9, 12),
    (8, 6, 3, 1, 12, 9),  # of too many positions: PyTorch's own
]


def through(convolution: nn.Module, x: torch.Tensor, low: bool) -> tuple[torch.Tensor, ...]:
    """Output and gradients by input and weight of a random linear function of the output."""
    x = x.detach().clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        out = convolution(x)
    factors = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    out.backward(factors.to(out.dtype))
    return out.detach(), x.grad, convolution.weight.grad


@pytest.mark.parametrize(("inputs", "outputs", "kernel", "stride", "height", "width"), CASES)
def test_output_and_gradients_are_those_of_a_convolution(inputs, outputs, kernel, stride, height, width):
    """Of numbers that bfloat16 holds exactly: what differs is rounding of results, 2^-9 of their size."""
    torch.manual_seed(0)
    ours = Convolution(inputs, outputs, kernel, stride).to(memory_format=torch.channels_last)
    with torch.no_grad():
        ours.weight.copy_(ours.weight.bfloat16())
    x = torch.randn(5, inputs, height, width).bfloat16().contiguous(memory_format=torch.channels_last)
    plain = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False).double()
    plain.load_state_dict(ours.state_dict())
    for got, expected in zip(through(ours, x, True), through(plain, x.double(), False), strict=True):
        assert_close(got.double(), expected, rtol=2**-7, atol=2**-7 * float(expected.abs().max()))
    assert ours.weight.grad.dtype == torch.float32 and ours(x.float()).dtype == torch.float32


def test_in_float32_it_is_pytorchs_own_bit_for_bit():
    ours, x = Convolution(8, 6, 3, 2), torch.randn(5, 8, 4, 4)
    plain = nn.Conv2d(8, 6, 3, 2, padding=1, bias=False)
    plain.load_state_dict(ours.state_dict())
    for got, expected in zip(through(ours, x, False), through(plain, x, False), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("inputs", [1, 8])
def test_an_input_that_wants_no_gradient_gets_none_and_the_weight_gets_its_own(inputs):
    ours, x = Convolution(inputs, 6, 3, 2), torch.randn(5, inputs, 4, 4).bfloat16()
    other = deepcopy(ours)
    with torch.autocast("cpu", torch.bfloat16):
        ours(x).float().square().sum().backward()
        other(x.clone().requires_grad_()).float().square().sum().backward()
    assert torch.equal(ours.weight.grad, other.weight.grad) and x.grad is None


@pytest.mark.parametrize(("inputs", "outputs", "kernel", "stride", "height", "width"), CASES)
def test_a_product_with_the_columns_is_the_convolution(inputs, outputs, kernel, stride, height, width):
    x, weight = torch.randn(3, inputs, height, width).double(), torch.randn(outputs, inputs, kernel, kernel).double()
    expected = functional.conv2d(x, weight, stride=stride, padding=kernel // 2)
    seen = columns(x, kernel, stride)
    assert seen.shape == (3 * positions(x, kernel, stride), kernel * kernel * inputs)
    assert positions(x, kernel, stride) == expected.shape[2] * expected.shape[3]
    assert_close(by_columns(x, seen, as_matrix(weight), kernel, stride), expected)


def test_cases_lie_on_both_sides_of_the_limit():
    counts = [positions(torch.empty(1, c, h, w), k, s) for c, _, k, s, h, w in CASES if c > 1]
    assert min(counts) == 1 and POSITIONS in counts and max(counts) > POSITIONS
