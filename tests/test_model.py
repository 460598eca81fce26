from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from fmuc.config import Network
from fmuc.model import CNN420, PARAMETERS, Block, parameter_count

CANDIDATE_D = Network(widths=(16, 32, 64), blocks=(3, 3, 5), stem=(3, 1), final_norm=True)


@pytest.mark.parametrize(("network", "classes", "expected"), [
    (Network(), 11, 419_707), (Network(), 15, 420_223), (CANDIDATE_D, 11, 420_027), (CANDIDATE_D, 15, 420_287),
])
def test_parameter_counts(network, classes, expected):
    assert parameter_count(CNN420(classes, network)) == expected
    if network == Network():
        assert PARAMETERS[classes] == expected


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
