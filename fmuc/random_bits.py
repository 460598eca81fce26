"""Random bits of a seed: as a function of the position (``fill``), or faster, but only in order (``advance``).

What a position decides can be drawn again, in any order, without a state: dropout's backward pass makes its mask anew
instead of keeping it. A pass without a gradient draws each number once.
Numba's cache does not see a change of this file from the kernels' files: after one, delete ``fmuc/__pycache__``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    import torch

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
