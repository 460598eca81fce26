"""Random bits as a function of a seed and a position: what a kernel drew can be drawn again, in any order.

Drawing is then free of state and of memory traffic: dropout's backward pass makes its mask anew instead of keeping it.
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
