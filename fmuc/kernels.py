"""ReLU, BatchNorm and dropout as one pass over memory, forward and backward: the CPU's version of ``model.Activation``.

Between two convolutions the plain operators walk eight times through the activations; on one core that took longer
than the convolutions did. The kernels read bfloat16 or float32, compute in float32, and make dropout's mask from the
position of each element (``random_bits``): 16 bits decide, so that a probability is quantised to k / 65536 (0.1 becomes
0.1000061). Survivors are scaled by the exact inverse of what remains, and the backward pass makes the same mask again.

They work on one core: training runs are single-threaded processes, one per core.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fmuc.random_bits import SIMD, draw_seed, fill

NO_SEED = np.zeros(2, np.uint32)  # of a call that drops nothing
_FLUSH = 64  # tiles after which float32 sums are added to float64 ones


def _load(x, i): ...  # implemented below for both types: Numba knows no bfloat16, so that its bits come as uint16


def _store(x, i, value): ...


@overload(_load)
def _load_typed(x, i):
    def bfloat16(x, i):
        bits = np.uint32(np.uint32(x[i]) << np.uint32(16))
        return bits.view(np.float32)

    return bfloat16 if x.dtype == types.uint16 else lambda x, i: x[i]


@overload(_store)
def _store_typed(x, i, value):
    def bfloat16(x, i, value):
        exact = np.float32(value)
        bits = exact.view(np.uint32)
        half_even = np.uint32(np.uint32(0x7FFF) + np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1)))
        rounded = np.uint16(np.uint32(bits + half_even) >> np.uint32(16))
        x[i] = rounded if exact == exact else np.uint16(0x7FC0)  # NaN: rounding could make it a number

    def float32(x, i, value):
        x[i] = value

    return bfloat16 if x.dtype == types.uint16 else float32


# The inner loops are functions of their own on slices of one tile, and load before they choose: so they compile to SIMD
# instructions. A tile holds a whole number of positions with all their channels; its random bits stay in the L1 cache.


@njit(**SIMD)
def _tile(values, length):
    tile = np.empty(length, np.float32)
    for k in range(length):
        tile[k] = values[k % len(values)]
    return tile


@njit(**SIMD)
def _tile_length(channels):
    return channels * 2 * max(1, 512 // channels)  # even: two elements share a random number


@njit(**SIMD)
def _add_moments(x, sums, squares):
    for k in range(len(x)):
        value = max(_load(x, k), np.float32(0))
        sums[k] += value
        squares[k] += value * value


@njit(**SIMD)
def _flush(tile, totals):
    for k in range(len(tile)):
        totals[k % len(totals)] += tile[k]
        tile[k] = np.float32(0)


@njit(**SIMD)
def moments(x, channels):
    """Sums of relu(x) and of its squares per channel, (2, C) float64; ``x`` flat, channels last."""
    length = _tile_length(channels)
    sums, squares, totals = np.zeros(length, np.float32), np.zeros(length, np.float32), np.zeros((2, channels))
    for tile in range(0, len(x) // length + 1):
        _add_moments(x[tile * length : (tile + 1) * length], sums, squares)
        if tile % _FLUSH == _FLUSH - 1:
            _flush(sums, totals[0])
            _flush(squares, totals[1])
    _flush(sums, totals[0])
    _flush(squares, totals[1])
    return totals


@njit(**SIMD)
def _activate_tile(x, y, scale, shift, bits, dropped):
    for k in range(len(x)):
        value = max(_load(x, k), np.float32(0)) * scale[k] + shift[k]
        _store(y, k, value if bits[k] >= dropped else np.float32(0))


@njit(**SIMD)
def activate(x, y, scale, shift, dropped, seed):
    """y = dropout(relu(x) * scale + shift), ``scale`` and ``shift`` (C,) with dropout's factor in them; x, y flat.

    Where y is several times as long as x, each of its parts is made of the whole x with a mask of its own.
    """
    length = _tile_length(len(scale))
    scale, shift, numbers = _tile(scale, length), _tile(shift, length), np.empty(length // 2, np.uint32)
    for first in range(0, len(y), len(x)):
        part = y[first : first + len(x)]
        for start in range(0, len(x), length):
            end = start + length
            if dropped:
                fill(numbers, (first + start) // 2, seed)
            _activate_tile(x[start:end], part[start:end], scale, shift, numbers.view(np.uint16), np.uint16(dropped))


@njit(**SIMD)
def _add_and_activate_tile(x, branch, total, y, scale, shift, bits, dropped):
    for k in range(len(x)):
        _store(total, k, _load(x, k) + _load(branch, k))
        value = max(_load(total, k), np.float32(0)) * scale[k] + shift[k]
        _store(y, k, value if bits[k] >= dropped else np.float32(0))


@njit(**SIMD)
def add_and_activate(x, branch, total, y, scale, shift, dropped, seed):
    """total = x + branch, rounded to their type, and y as :func:`activate` makes it of that; all flat.

    Where they are several times as long as x, x is added to each of their parts.
    """
    length = _tile_length(len(scale))
    scale, shift, numbers = _tile(scale, length), _tile(shift, length), np.empty(length // 2, np.uint32)
    for first in range(0, len(y), len(x)):
        last = first + len(x)
        one, sums, part = branch[first:last], total[first:last], y[first:last]
        for start in range(0, len(x), length):
            end = start + length
            if dropped:
                fill(numbers, (first + start) // 2, seed)
            _add_and_activate_tile(x[start:end], one[start:end], sums[start:end], part[start:end], scale, shift,
                                   numbers.view(np.uint16), np.uint16(dropped))


@njit(**SIMD)
def _add_gradient_sums(x, g, bits, dropped, sums, products):
    for k in range(len(x)):
        value = _load(g, k)
        kept = value if bits[k] >= dropped else np.float32(0)
        sums[k] += kept
        products[k] += kept * max(_load(x, k), np.float32(0))


@njit(**SIMD)
def gradient_sums(x, g, channels, dropped, seed):
    """Per channel, (2, C) float64: sums of the kept gradient ``g`` and of its product with relu(x); x, g flat."""
    length = _tile_length(channels)
    sums, products, totals = np.zeros(length, np.float32), np.zeros(length, np.float32), np.zeros((2, channels))
    numbers = np.empty(length // 2, np.uint32)
    for tile in range(0, len(x) // length + 1):
        start = tile * length
        if dropped:
            fill(numbers, start // 2, seed)
        _add_gradient_sums(x[start : start + length], g[start : start + length], numbers.view(np.uint16),
                           np.uint16(dropped), sums, products)
        if tile % _FLUSH == _FLUSH - 1:
            _flush(sums, totals[0])
            _flush(products, totals[1])
    _flush(sums, totals[0])
    _flush(products, totals[1])
    return totals


@njit(**SIMD)
def _gradient_tile(x, g, out, bits, dropped, of_g, of_x, constant):
    for k in range(len(x)):
        value, incoming = _load(x, k), _load(g, k)
        kept = incoming if bits[k] >= dropped else np.float32(0)
        gradient = of_g[k] * kept + of_x[k] * value + constant[k]
        _store(out, k, gradient if value > np.float32(0) else np.float32(0))


@njit(**SIMD)
def gradient(x, g, out, of_g, of_x, constant, dropped, seed):
    """out = [x > 0] (of_g * kept g + of_x * x + constant), coefficients (C,); x, g, out flat."""
    length = _tile_length(len(of_g))
    of_g, of_x, constant = _tile(of_g, length), _tile(of_x, length), _tile(constant, length)
    numbers = np.empty(length // 2, np.uint32)
    for start in range(0, len(x), length):
        if dropped:
            fill(numbers, start // 2, seed)
        _gradient_tile(x[start : start + length], g[start : start + length], out[start : start + length],
                       numbers.view(np.uint16), np.uint16(dropped), of_g, of_x, constant)


def _flat(x: Tensor) -> np.ndarray:
    """(B, C, H, W) -> its values in the order channels last, (B H W C,); bfloat16 as its bits."""
    flat = x.detach().permute(0, 2, 3, 1).contiguous().view(-1)
    return (flat.view(torch.uint16) if flat.dtype == torch.bfloat16 else flat).numpy()


def _double(x: Tensor) -> np.ndarray:
    return x.detach().numpy().astype(np.float64)


def _empty(x: Tensor, times: int = 1) -> Tensor:
    """Uninitialised, of the shape of ``x`` or of ``times`` as many examples, channels last."""
    batch, channels, height, width = x.shape
    return torch.empty(times * batch, height, width, channels, dtype=x.dtype).permute(0, 3, 1, 2)


def usable(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Whether :func:`relu_norm_dropout` can take this input: on the CPU, of a known type, learning only in training."""
    learns = torch.is_grad_enabled() and (x.requires_grad or norm.weight.requires_grad)
    return (x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and (norm.training or not learns)
            and norm.weight.dtype == torch.float32 and x.numel() > x.shape[1])


class _ReluNormDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, dropped: int) -> Tensor:
        flat, y = _flat(x), _empty(x)
        count = x.numel() // x.shape[1]  # of values per channel
        if norm.training:
            mean, squares = moments(flat, x.shape[1]) / count
            with np.errstate(invalid="ignore"):  # inf - inf; the loss will tell
                variance = np.maximum(squares - mean**2, 0.0)
            _update(norm, mean, variance * count / (count - 1))
        else:
            mean, variance = _double(norm.running_mean), _double(norm.running_var)
        seed = draw_seed() if dropped else NO_SEED
        activate(flat, _flat(y), *_coefficients(norm, mean, variance, dropped), dropped, seed)
        ctx.save_for_backward(x, weight)
        ctx.moments, ctx.eps, ctx.mask = (mean, variance), norm.eps, (dropped, seed)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple:
        """BatchNorm's gradient (Ioffe and Szegedy 2015, §3), through the ReLU before and the dropout after it."""
        x, weight = ctx.saved_tensors
        (mean, variance), (dropped, seed) = ctx.moments, ctx.mask
        flat, g, out = _flat(x), _flat(grad), _empty(x)
        count, survivors = x.numel() // x.shape[1], 65536 / (65536 - dropped)
        inverse = 1 / np.sqrt(variance + ctx.eps)
        sums, products = gradient_sums(flat, g, x.shape[1], dropped, seed) * survivors
        of_weight = (products - mean * sums) * inverse
        scale = _double(weight) * inverse
        of_x = -scale * of_weight * inverse / count
        constant = -scale * sums / count - of_x * mean
        coefficients = (values.astype("f4") for values in (scale * survivors, of_x, constant))
        gradient(flat, g, _flat(out), *coefficients, dropped, seed)
        return out, *(torch.from_numpy(values.astype(np.float32)) for values in (of_weight, sums)), None, None


def _update(norm: nn.BatchNorm2d, mean: np.ndarray, variance: np.ndarray) -> None:
    """Running statistics of one more batch; ``variance`` is the unbiased one, as in PyTorch."""
    with torch.no_grad():
        norm.num_batches_tracked += 1
        for running, new in ((norm.running_mean, mean), (norm.running_var, variance)):
            running.lerp_(torch.from_numpy(new.astype(np.float32)), norm.momentum)


def _coefficients(norm: nn.BatchNorm2d, mean: np.ndarray, variance: np.ndarray, dropped: int) -> tuple:
    """What a positive value is multiplied by and what is added, dropout's factor included: two times (C,) float32."""
    scale, survivors = _double(norm.weight) / np.sqrt(variance + norm.eps), 65536 / (65536 - dropped)
    shift = _double(norm.bias) - mean * scale
    return (scale * survivors).astype(np.float32), (shift * survivors).astype(np.float32)


def _dropped(dropout: nn.Dropout) -> int:
    """How many of 65,536 random values drop an element."""
    return min(round(dropout.p * 65536), 65535) if dropout.training else 0


class Frozen:
    """dropout(norm(relu(x))) without gradient, for modules that stay as they are now, ``norm`` in evaluation mode.

    Of the same bits as :func:`relu_norm_dropout` after the same draws, without what each of its calls works out anew.
    """

    def __init__(self, norm: nn.BatchNorm2d, dropout: nn.Dropout) -> None:
        self.dropped = _dropped(dropout)
        mean, variance = _double(norm.running_mean), _double(norm.running_var)
        self.coefficients = _coefficients(norm, mean, variance, self.dropped)

    def __call__(self, x: Tensor, times: int = 1) -> Tensor:
        """(B, C, H, W) -> (times B, C, H, W), channels last: the batch several times, each with a mask of its own."""
        y = _empty(x, times)
        activate(_flat(x), _flat(y), *self.coefficients, self.dropped, self._seed())
        return y

    def of_sum(self, x: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
        """x + branch and the activation of that, each (B, C, H, W); x may stand for a batch of its copies."""
        total, y = _empty(branch), _empty(branch)
        flat = (_flat(values) for values in (x, branch, total, y))
        add_and_activate(*flat, *self.coefficients, self.dropped, self._seed())
        return total, y

    def _seed(self) -> np.ndarray:
        return draw_seed() if self.dropped else NO_SEED


def relu_norm_dropout(x: Tensor, norm: nn.BatchNorm2d, dropout: nn.Dropout) -> Tensor:
    """dropout(norm(relu(x))) of (B, C, H, W) in the modes of both modules, in bfloat16 or float32 like ``x``.

    Updates the running statistics as ``norm`` would. Draws its mask from torch's global generator.
    """
    return _ReluNormDropout.apply(x, norm.weight, norm.bias, norm, _dropped(dropout))
