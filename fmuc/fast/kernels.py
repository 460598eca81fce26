"""ReLU, BatchNorm and dropout as one pass over memory: the loops, forward and backward, behind ``fmuc.fast.activations``.

Between two convolutions the plain operators walk eight times through the activations; on one core that took longer
than the convolutions did. The kernels read bfloat16 or float32 and compute in float32. Of dropout's mask 16 random bits
decide, so that a probability is quantised to k / 65536 (0.1 becomes 0.1000061): in training those of each element's
position, for the backward pass to make them again, in passes without a gradient the next ones (``random_bits``).

They work on one core: training runs are single-threaded processes, one per core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    import torch
from numba import types
from numba.extending import overload

SIMD = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}


def draw_seed(rng: torch.Generator | None = None) -> np.ndarray:
    """A fresh seed, (2,) uint32, from ``rng``, a generator of the CPU (default: torch's global one)."""
    import torch  # only here: who reads sound files needs no PyTorch

    return torch.empty(2, dtype=torch.int32).random_(-(2**31), None, generator=rng).numpy().view(np.uint32)


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


@njit(**SIMD)
def sequences(number: int, seed: np.ndarray) -> np.ndarray:
    """State of ``number`` sequences, (4, number) uint32, each begun at hashes of ``seed`` (2,): see :func:`advance`."""
    state = np.empty((4, number), np.uint32)
    fill(state.reshape(-1), 0, seed)
    return state


@njit(**SIMD)
def advance(state: np.ndarray, step: int) -> np.ndarray:
    """The next number of each sequence, (number,) uint32, in a row of ``state``; ``step`` counts from 0.

    "xorshift128" (G. Marsaglia, "Xorshift RNGs", 2003), of period 2^128 - 1: half the time of :func:`fill`. Of its four
    words, oldest first, the oldest gives way to a new one; here the row where the oldest is goes round instead.
    """
    oldest, newest = state[step % 4], state[(step + 3) % 4]
    for k in range(len(oldest)):
        x, w = oldest[k], newest[k]
        x = np.uint32(x ^ np.uint32(x << np.uint32(11)))
        x = np.uint32(x ^ np.uint32(x >> np.uint32(8)))
        oldest[k] = np.uint32(np.uint32(w ^ np.uint32(w >> np.uint32(19))) ^ x)
    return oldest


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
def activate_repeatably(x, y, scale, shift, dropped, seed):
    """:func:`activate` with a mask that is a function of the position: the backward pass makes it again."""
    length = tile_length(len(scale))
    scale, shift, numbers = _tile(scale, length), _tile(shift, length), np.empty(length // 2, np.uint32)
    for start in range(0, len(x), length):
        end = start + length
        if dropped:
            fill(numbers, start // 2, seed)
        _activate_tile(x[start:end], y[start:end], scale, shift, numbers.view(np.uint16), np.uint16(dropped))


@njit(**SIMD)
def activate(x, scale, shift, dropped, seed):
    """x becomes dropout(relu(x) * scale + shift), with dropout's factor in ``scale`` and ``shift``, (C,); x flat."""
    length = tile_length(len(scale))
    scale, shift, state = _tile(scale, length), _tile(shift, length), sequences(length // 2, seed)
    for tile in range((len(x) + length - 1) // length):
        part, bits = x[tile * length : (tile + 1) * length], advance(state, tile) if dropped else state[0]
        _activate_tile(part, part, scale, shift, bits.view(np.uint16), np.uint16(dropped))


@njit(**SIMD)
def _drop_tile(x, y, bits, dropped):
    for k in range(len(x)):
        value = x[k]
        y[k] = value if bits[k] >= dropped else x.dtype.type(0)


@njit(**SIMD)
def drop(x, y, channels, dropped, seed):
    """The mask of :func:`activate` on what it makes without one; y flat, as long as x or as several of its copies."""
    length = tile_length(channels)
    state, tile = sequences(length // 2, seed), 0
    for first in range(0, len(y), len(x)):
        part = y[first : first + len(x)]
        for start in range(0, len(x), length):
            _drop_tile(x[start : start + length], part[start : start + length],
                       advance(state, tile).view(np.uint16), np.uint16(dropped))
            tile += 1


@njit(**SIMD)
def _add_and_activate_tile(x, total, y, scale, shift, bits, dropped):
    for k in range(len(x)):
        _store(total, k, _load(x, k) + _load(total, k))
        value = max(_load(total, k), np.float32(0)) * scale[k] + shift[k]
        _store(y, k, value if bits[k] >= dropped else np.float32(0))


@njit(**SIMD)
def add_and_activate(x, total, y, scale, shift, dropped, seed):
    """x is added to ``total``, rounded to their type, and y is what :func:`activate` makes of that; all flat.

    Where ``total`` and y are several times as long as x, x is added to each of their parts.
    """
    length, tile = tile_length(len(scale)), 0
    scale, shift, state = _tile(scale, length), _tile(shift, length), sequences(length // 2, seed)
    for first in range(0, len(y), len(x)):
        sums, part = total[first : first + len(x)], y[first : first + len(x)]
        for start in range(0, len(x), length):
            end, bits = start + length, advance(state, tile) if dropped else state[0]
            _add_and_activate_tile(x[start:end], sums[start:end], part[start:end], scale, shift, bits.view(np.uint16),
                                   np.uint16(dropped))
            tile += 1


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


# What a call of a layer does, per channel and in float64, around the loops: one call from Python instead of forty.


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
    activate_repeatably(x, y, scale_and_shift[0], scale_and_shift[1], dropped, seed)
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
