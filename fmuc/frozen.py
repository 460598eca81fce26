"""CNN420 for passes without gradient on the CPU: what its modules compute, with little but arithmetic in between.

A pass of MC-Dropout walks through the same modules with the same weights again and again, part by part of the batch.
Weights are rounded and BatchNorm's coefficients worked out once; the sum at the end of a block is taken on the way
through the activation that follows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fmuc.convolution import Convolution, as_matrix, by_columns, columns, positions
from fmuc.fast.activations import FrozenActivation
from fmuc.fast.kernels import tile_length
from fmuc.model import CNN420, Block

POSITIONS = 4  # of an output map, at most, for a product of columns: without a gradient that pays for 2 x 2 alone


def usable(net: CNN420, x: Tensor, batch_norm: str, dropout: bool) -> bool:
    """Whether :class:`FrozenNet` may stand for ``net.after_stem`` in evaluation mode, or with ``dropout`` alone on.

    Not where somebody watches a module with hooks, or has replaced the method (``fmuc.compiling``).
    """
    watched = any(m._forward_hooks or m._forward_pre_hooks for m in (*net.blocks.modules(), net.norm))
    plain = net.stem.weight.dtype == torch.float32 and _computing_type(net.stem) in (torch.float32, torch.bfloat16)
    drops = not dropout or any(activation.dropout.p for block in net.blocks for activation, _ in block.units)
    unchanged = "after_stem" not in vars(net) and not watched
    return x.device.type == "cpu" and batch_norm == "running" and plain and drops and unchanged


def _computing_type(convolution: nn.Conv2d) -> torch.dtype:
    """The type that a convolution computes in, autocast considered."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else convolution.weight.dtype


class FrozenNet:
    """What ``net`` computes in evaluation mode, or with ``dropout`` alone on: of the weights of this moment."""

    def __init__(self, net: CNN420, *, dropout: bool) -> None:
        self.stem, self.norm, self.head = net.stem, net.norm, net.head
        self.blocks = [_FrozenBlock(block, dropout) for block in net.blocks]

    def shared(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Patches (B, 1, F, T) -> what is the same in all passes: the stem's output, and activated but for dropout."""
        x = self.stem(x)
        return x, self.blocks[0].first.without_mask(x)

    def passes(self, shared: tuple[Tensor, Tensor], number: int) -> Tensor:
        """Logits of ``number`` passes, one after the other: (N B, C)."""
        x, values = shared
        if values.numel() % tile_length(values.shape[1]):  # the next copy would begin within a tile of random bits
            (x, values), number = (torch.cat([part] * number) for part in shared), 1
        x, branch = self.blocks[0](x, self.blocks[0].first.masked(values, number))
        for block in self.blocks[1:]:
            x, branch = block(*block.first.of_sum(x, branch))
        if len(x) < len(branch):  # of a net of one block
            x = torch.cat([x] * number)
        x = x + branch
        if isinstance(self.norm, nn.BatchNorm2d):
            running, learnt = (self.norm.running_mean, self.norm.running_var), (self.norm.weight, self.norm.bias)
            x = functional.batch_norm(x, *running, *learnt, training=False, eps=self.norm.eps)
        return self.head(x.mean(dim=(2, 3)))


class _FrozenBlock:
    """``first`` stands apart from the rest: it adds up the two terms of the block before."""

    def __init__(self, block: Block, dropout: bool) -> None:
        (first, one), (second, two) = block.units
        self.first, self.second = (FrozenActivation(a.norm, a.dropout.p * dropout) for a in (first, second))
        self.one, self.two = _FrozenConvolution(one), _FrozenConvolution(two)
        plain = block.shortcut
        self.shortcut = _FrozenConvolution(plain) if isinstance(plain, Convolution) else plain

    def __call__(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The block's input, which may stand for all its copies, and ``first`` of it -> the terms of the output."""
        return self.shortcut(x), self.two(self.second(self.one(h)))


class _FrozenConvolution:
    """A convolution with its weight in the type that it computes in."""

    def __init__(self, convolution: Convolution) -> None:
        self.weight = convolution.weight.detach().to(_computing_type(convolution))
        self.matrix = as_matrix(self.weight)
        self.kernel, self.stride = convolution.kernel_size[0], convolution.stride[0]

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype == torch.bfloat16 and positions(x, self.kernel, self.stride) <= POSITIONS:
            return by_columns(x, columns(x, self.kernel, self.stride), self.matrix, self.kernel, self.stride)
        return functional.conv2d(x, self.weight, stride=self.stride, padding=self.kernel // 2)
