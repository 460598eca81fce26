"""Convolutions with gradients that fit the CPU: ``nn.Conv2d`` where its weight gradient in bfloat16 is slow.

oneDNN's bfloat16 kernels lay a convolution out for maps of many positions. Behind several strides there are few: then
a matrix product with the columns of the input (im2col; Chellapilla, Puri and Simard 2006) takes a fraction of the time,
and its columns serve the forward pass and the weights' gradient. For one input channel it is float32 that is faster.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

POSITIONS = 16  # of an output map, at most, for columns: 4 x 4


class Convolution(nn.Conv2d):
    """``nn.Conv2d`` with square kernels, without bias; in bfloat16 on the CPU its result differs by rounding only."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if _in_bfloat16(x) and torch.is_grad_enabled() and self.weight.requires_grad:
            if self.in_channels == 1:
                return _OneChannel.apply(x, self.weight, self.stride[0])
            if positions(x, self.kernel_size[0], self.stride[0]) <= POSITIONS:
                return _Columns.apply(x, self.weight, self.stride[0])
        return super().forward(x)


def _in_bfloat16(x: Tensor) -> bool:
    """Whether a convolution of ``x`` happens on the CPU and in bfloat16."""
    if x.device.type != "cpu":
        return False
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return autocast or x.dtype == torch.bfloat16


def _extent(length: int, kernel: int, stride: int) -> int:
    return (length + 2 * (kernel // 2) - kernel) // stride + 1


def positions(x: Tensor, kernel: int, stride: int) -> int:
    """Number of places in the output map of (B, C, H, W)."""
    return _extent(x.shape[2], kernel, stride) * _extent(x.shape[3], kernel, stride)


def columns(x: Tensor, kernel: int, stride: int) -> Tensor:
    """What each place of the output map sees of (B, C, H, W): (B H' W', kernel kernel C), channels last."""
    batch, channels, height, width = x.shape
    pad = kernel // 2
    x = functional.pad(x.permute(0, 2, 3, 1), (0, 0, pad, pad, pad, pad)).contiguous()
    images, rows, places, _ = x.stride()
    shape = (batch, _extent(height, kernel, stride), _extent(width, kernel, stride), kernel, kernel * channels)
    seen = x.as_strided(shape, (images, rows * stride, places * stride, rows, 1))
    return seen.reshape(-1, kernel * kernel * channels)


def as_matrix(weight: Tensor) -> Tensor:
    """(C', C, k, k) -> (C', k k C): the order of ``columns``, no copy for channels last."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def by_columns(x: Tensor, seen: Tensor, matrix: Tensor, kernel: int, stride: int) -> Tensor:
    """Convolution of (B, C, H, W) from its ``columns`` and the weight ``as_matrix``: (B, C', H', W'), channels last."""
    places = len(x), _extent(x.shape[2], kernel, stride), _extent(x.shape[3], kernel, stride)
    return (seen @ matrix.t()).view(*places, len(matrix)).permute(0, 3, 1, 2)


def _gradient(of: str, gradient: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """PyTorch's gradient ``of`` "x" or "weight"; ``torch.nn.grad`` would hand over another layout, to be copied."""
    padding, wanted = weight.shape[2] // 2, [of == "x", of == "weight", False]
    found = torch.ops.aten.convolution_backward(gradient, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False,
                                                [0, 0], 1, wanted)
    return found[wanted.index(True)]


class _Columns(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        x, low, kernel = x.bfloat16(), weight.bfloat16(), weight.shape[2]
        seen = columns(x, kernel, stride)
        ctx.save_for_backward(seen, low)
        ctx.stride, ctx.shape = stride, x.shape
        return by_columns(x, seen, as_matrix(low), kernel, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple:
        seen, low = ctx.saved_tensors
        channels, inputs, kernel, _ = low.shape
        flat = gradient.permute(0, 2, 3, 1).reshape(-1, channels)  # (B H' W', C')
        of_weight = (flat.t() @ seen).view(channels, kernel, kernel, inputs).permute(0, 3, 1, 2)
        if not ctx.needs_input_grad[0]:
            of_x = None
        elif kernel == 1:  # each place sees one place
            of_x = torch.empty(ctx.shape, dtype=low.dtype, memory_format=torch.channels_last).zero_()
            seen_places = of_x[:, :, :: ctx.stride, :: ctx.stride].permute(0, 2, 3, 1)
            seen_places.copy_((flat @ as_matrix(low)).view(seen_places.shape))
        else:
            x = torch.empty(ctx.shape, dtype=low.dtype, memory_format=torch.channels_last)  # its values do not matter
            of_x = _gradient("x", gradient, x, low, ctx.stride)
        return of_x, of_weight.float(), None


class _OneChannel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        low = x.bfloat16()
        ctx.save_for_backward(low, weight)
        ctx.stride, ctx.dtype = stride, x.dtype
        return functional.conv2d(low, weight.bfloat16(), stride=stride, padding=weight.shape[2] // 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple:
        low, weight = ctx.saved_tensors
        arguments = gradient.float(), low.float(), weight, ctx.stride
        of_x = _gradient("x", *arguments).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        return of_x, _gradient("weight", *arguments), None
