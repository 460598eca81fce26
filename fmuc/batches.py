"""Which patches come into which batch: an endless shuffle that is addressed by position, and patches on the device."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fmuc.features import FeatureCache

RESIDENT_BYTES = 4 * 2**30  # patches up to this size are copied into memory once (on CUDA: if they fit)


class PatchSource:
    """Normalised patches on the device: resident when they fit, else gathered from the memory map batch by batch."""

    def __init__(self, cache: FeatureCache, device: torch.device) -> None:
        self.cache, self.device = cache, device
        free = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else RESIDENT_BYTES
        dtype = torch.float32 if device.type == "cpu" else torch.float16
        self.resident: Tensor | None = None
        if cache.patches.size * dtype.itemsize <= free:
            self.resident = torch.empty(cache.patches.shape, dtype=dtype, device=device)
            for start in range(0, len(cache.patches), 256):  # in pieces, so that what is copied on the way stays small
                rows = np.arange(start, min(start + 256, len(cache.patches)))
                self.resident[start : start + len(rows)] = torch.from_numpy(cache.normalised(rows))

    def gather(self, patches: Tensor) -> Tensor:
        """Patch indices (B,) -> (B, F, T) float32."""
        if self.resident is not None:
            return self.resident.index_select(0, patches.to(self.device)).float()
        rows = torch.from_numpy(self.cache.normalised(patches.cpu().numpy()))
        return rows.to(self.device, non_blocking=True)


@lru_cache(maxsize=4)  # labelled and unlabelled stream, this lap and the next
def _order(size: int, seed: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).permutation(size)


def stream(pool: np.ndarray, seed: tuple[int, ...], start: int, count: int) -> np.ndarray:
    """Entries ``start`` ... ``start + count`` of an endless shuffling of ``pool``.

    Each lap over the pool is a fresh permutation, drawn from ``seed`` and the lap's number. A position alone, without
    the state of a generator, tells what comes next: resuming is exact.
    """
    parts, position, end = [], start, start + count
    while position < end:
        lap, offset = divmod(position, len(pool))
        parts.append(pool[_order(len(pool), (*seed, lap))[offset : offset + end - position]])
        position += len(parts[-1])
    return np.concatenate(parts) if parts else pool[:0]
