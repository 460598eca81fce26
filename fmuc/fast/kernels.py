"""ReLU, BatchNorm and dropout as one pass over memory: the loops, forward and backward, of the fused activation.

Between two convolutions the plain operators walk eight times through the activations; on one core that took longer
than the convolutions did. The kernels read bfloat16 or float32 and compute in float32. 16 random bits decide on the
dropout of an element, so that a probability is quantised to k / 65536 (0.1 becomes 0.1000061). They are a function of a
seed and the element's position: the backward pass makes its mask again instead of keeping it.

The kernels use one core: training runs are single-threaded processes, one per core.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload

SIMD = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}
_FLUSH = 64  # tiles after which float32 sums are added to float64 ones


def draw_seed() -> np.ndarray:
    """A fresh seed, (2,) uint32, from torch's global generator."""
    return torch.empty(2, dtype=torch.int32).random_(-(2**31), None).numpy().view(np.uint32)


def quantised(probability: float) -> int:
    """How many of 65,536 random values drop an element."""
    return min(round(probability * 65536), 65535)


@njit(**SIMD)
def fill(bits: np.ndarray, start: int, seed: np.ndarray) -> None:
    """Write the random numbers ``start``, ``start + 1``, ... of ``seed`` (2,) to ``bits``, uint32.

    An integer hash of the position ("triple32", C. Wellons, 2018) with one half of the seed added before it and one
    within, so that two drawn seeds do not give shifted copies of one sequence.
    """
    first, second = np.uint32(np.uint32(start) + seed[0]), seed[1]
    for k in range(len(bits)):  # uint32 throughout: Numba would widen each sum to 64 bits and halve the lanes
        x = np.uint32(np.uint32(k) + first)
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(17))) * np.uint32(0xED5AD4BB))
        x = np.uint32(x + second)
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(11))) * np.uint32(0xAC4C1B51))
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(15))) * np.uint32(0x31848BAB))
        bits[k] = np.uint32(x ^ np.uint32(x >> np.uint32(14)))


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


# Inner loops are functions of their own on slices of one tile, so that they compile to SIMD instructions. A tile holds
# a whole number of positions with all their channels; its random bits stay in the L1 cache.


@njit(**SIMD)
def _tile(values, length):
    tile = np.empty(length, np.float32)
    for start in range(0, length, len(values)):
        for c in range(len(values)):
            tile[start + c] = values[c]
    return tile


@njit(**SIMD)
def tile_length(channels):
    """Values that the kernels take at a time."""
    return channels * 2 * max(1, 512 // channels)  # even: two elements share a random number


@njit(**SIMD)
def _add_moments(x, sums, squares):
    for k in range(len(x)):
        value = max(_load(x, k), np.float32(0))
        sums[k] += value
        squares[k] += value * value


@njit(**SIMD)
def _flush(tile, totals):
    for start in range(0, len(tile), len(totals)):
        for c in range(len(totals)):
            totals[c] += tile[start + c]
            tile[start + c] = np.float32(0)


@njit(**SIMD)
def moments(x, channels):
    """Sums of relu(x) and of its squares per channel, (2, C) float64; ``x`` flat, channels last."""
    length = tile_length(channels)
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
    """y = dropout(relu(x) * scale + shift), with dropout's factor in ``scale`` and ``shift``, (C,); x and y flat."""
    length = tile_length(len(scale))
    scale, shift, numbers = _tile(scale, length), _tile(shift, length), np.empty(length // 2, np.uint32)
    for start in range(0, len(x), length):
        end = start + length
        if dropped:
            fill(numbers, start // 2, seed)
        _activate_tile(x[start:end], y[start:end], scale, shift, numbers.view(np.uint16), np.uint16(dropped))


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
    length = tile_length(channels)
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
    length = tile_length(len(of_g))
    of_g, of_x, constant = _tile(of_g, length), _tile(of_x, length), _tile(constant, length)
    numbers = np.empty(length // 2, np.uint32)
    for start in range(0, len(x), length):
        if dropped:
            fill(numbers, start // 2, seed)
        _gradient_tile(x[start : start + length], g[start : start + length], out[start : start + length],
                       numbers.view(np.uint16), np.uint16(dropped), of_g, of_x, constant)


# What a layer does per channel, in float64, around the loops.


@njit(**SIMD)
def factors(weight, bias, mean, variance, eps, dropped):
    """What a positive value is multiplied by and what is added, dropout's factor included: (2, C) float32."""
    survivors, both = 65536 / (65536 - dropped), np.empty((2, len(weight)), np.float32)
    for c in range(len(weight)):
        scale = weight[c] / np.sqrt(variance[c] + eps)
        both[0, c] = scale * survivors
        both[1, c] = (bias[c] - mean[c] * scale) * survivors
    return both


@njit(**SIMD)
def learn_and_activate(x, y, weight, bias, running_mean, running_var, momentum, eps, dropped, seed):
    """:func:`activate` by the statistics of the batch, which is returned: mean and variance, (2, C) float64.

    The running ones, (C,) float32, come nearer by ``momentum``, to the unbiased variance as in PyTorch.
    """
    channels = len(weight)
    count = len(x) // channels
    statistics = moments(x, channels) / count
    for c in range(channels):
        variance = statistics[1, c] - statistics[0, c] ** 2
        statistics[1, c] = 0.0 if variance < 0 else variance  # what is not a number stays so: the loss will tell
        running_mean[c] += momentum * (statistics[0, c] - running_mean[c])
        running_var[c] += momentum * (statistics[1, c] * count / (count - 1) - running_var[c])
    scale_and_shift = factors(weight, bias, statistics[0], statistics[1], eps, dropped)
    activate(x, y, scale_and_shift[0], scale_and_shift[1], dropped, seed)
    return statistics


@njit(**SIMD)
def gradients(x, g, out, weight, statistics, eps, dropped, seed):
    """Gradient of x, into ``out``, and of weight and bias, (2, C) float32, from that of the output, ``g``.

    BatchNorm's (Ioffe and Szegedy 2015, §3), through the ReLU before and the dropout after it.
    """
    channels = len(weight)
    count, survivors = len(x) // channels, 65536 / (65536 - dropped)
    sums, learnt = gradient_sums(x, g, channels, dropped, seed), np.empty((2, channels), np.float32)
    coefficients = np.empty((3, channels), np.float32)
    for c in range(channels):
        mean, inverse = statistics[0, c], 1 / np.sqrt(statistics[1, c] + eps)
        of_bias = sums[0, c] * survivors
        of_weight = (sums[1, c] * survivors - mean * of_bias) * inverse
        scale = weight[c] * inverse
        of_x = -scale * of_weight * inverse / count
        learnt[0, c], learnt[1, c] = of_weight, of_bias
        coefficients[0, c], coefficients[1, c] = scale * survivors, of_x
        coefficients[2, c] = -scale * of_bias / count - of_x * mean
    gradient(x, g, out, coefficients[0], coefficients[1], coefficients[2], dropped, seed)
    return learnt
