"""A cache of features on the disk: opened, checked, and read patch by patch (paper §III).

It is a folder: ``patches.npy`` (P, F, T) float16, not normalised; ``index.npy`` (P,) clip of each patch; ``bands.npz``
mean and standard deviation per band; ``features.json`` what it was made from.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numba import njit

from fmuc import paths
from fmuc.array_files import map_npy, read_npy, read_npz
from fmuc.config import Features
from fmuc.datasets import Dataset
from fmuc.errors import FmucError
from fmuc.random_bits import SIMD

CHECKED = ("index.npy", "bands.npz")  # by their SHA-256 in features.json
_EXACT = {name: value for name, value in SIMD.items() if name != "fastmath"}  # rounds as NumPy does


@dataclass(frozen=True, eq=False)
class FeatureCache:
    """An opened cache. ``patches`` (P, F, T) float16 memory map; ``clip_of_patch`` (P,) int64, ascending; ``mean``,
    ``std`` (F,) float32 over the train split; ``digest`` of the data set it was made from."""

    patches: np.ndarray
    clip_of_patch: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    features: Features
    digest: str

    def patches_of(self, clip_indices: np.ndarray) -> np.ndarray:
        """Indices of all patches of the given clips, clip by clip in the given order: int64."""
        first = np.searchsorted(self.clip_of_patch, clip_indices, side="left")
        counts = np.searchsorted(self.clip_of_patch, clip_indices, side="right") - first
        before = np.cumsum(counts) - counts
        return np.repeat(first - before, counts) + np.arange(counts.sum())

    def normalised(self, indices: np.ndarray) -> np.ndarray:
        """Patches ``indices`` (B,) with zero mean and unit variance per Mel band: float32 (B, F, T).

        Mean and variance are those of the train split, so nothing of the test split enters training.
        """
        rows = np.asarray(indices, dtype=np.int64)
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self.patches):
            raise IndexError(f"there are {len(self.patches)} patches, asked for {rows.min()} to {rows.max()}")
        _will_need(self.patches, rows)  # else the disk would be asked for them page by page
        normalised = np.empty((len(rows), *self.patches.shape[1:]), dtype=np.float32)
        _normalise(np.asarray(self.patches).view(np.uint16), rows, self.mean, self.std, normalised)
        return normalised

    def prefetch(self, indices: np.ndarray) -> None:
        """Ask the system to read the patches ``indices`` (B,) from the disk while this process goes on.

        Without effect on patches that are in memory and on systems that take no such advice.
        """
        _will_need(self.patches, indices)


@njit(**_EXACT)
def _normalise_band(halves, mean, std, out):
    """(halves - mean) / std of one band, ``halves`` float16 as uint16; the same bits as NumPy's, step by step.

    A float16 widens to a float32 by shifting and by raising its exponent by 112: twice if it is infinite or not a
    number. Below the smallest normal number, its fraction counts units of 2**-24, which follow 2**-14 without a gap.
    """
    for k in range(len(out)):
        half = np.int32(halves[k])
        size = np.int32(np.int32(half & np.int32(0x7FFF)) << np.int32(13))
        again = np.int32(112 << 23) if size >= np.int32(31 << 23) else np.int32(0)
        bits = np.int32(np.int32(size + np.int32(112 << 23)) + again)
        raised = np.int32(size + np.int32(113 << 23))
        small = np.float32(raised.view(np.float32) - np.float32(2.0**-14))
        if size < np.int32(1 << 23):
            bits = np.int32(small.view(np.int32))
        signed = np.int32(bits | np.int32(np.int32(half & np.int32(0x8000)) << np.int32(16)))
        out[k] = (signed.view(np.float32) - mean) / std


@njit(**_EXACT)
def _normalise(halves, rows, mean, std, out):
    """Patches ``rows`` (B,) of ``halves`` (P, F, T) in one pass over memory: float32 (B, F, T)."""
    for b in range(len(rows)):
        for band in range(len(mean)):
            _normalise_band(halves[rows[b], band], mean[band], std[band], out[b, band])


def _will_need(patches: np.ndarray, indices: np.ndarray) -> None:
    """Advise the system to read ``patches[indices]``, a memory map's, in the background."""
    pages = patches.base
    if not isinstance(pages, mmap.mmap) or not hasattr(pages, "madvise") or not len(indices):
        return
    rows = np.unique(indices)
    ends = np.flatnonzero(np.diff(rows, append=rows[-1] + 2) > 1)  # of runs of neighbours: one request each
    starts = np.r_[0, ends[:-1] + 1]
    size, header = patches[0].nbytes, patches.offset
    for first, last in zip(rows[starts].tolist(), rows[ends].tolist(), strict=True):
        start = (header + first * size) // mmap.PAGESIZE * mmap.PAGESIZE
        pages.madvise(mmap.MADV_WILLNEED, start, header + (last + 1) * size - start)


def open_cache(dataset: Dataset, features: Features) -> FeatureCache:
    """The cache of ``dataset`` with ``features``; :class:`FmucError` if it is missing, damaged or of other data."""
    folder = paths.features_dir(dataset.name, features.id)
    remedy = f"run 'python -m fmuc features --dataset {dataset.name} --profile PROFILE'"
    if not folder.is_dir():
        raise FmucError(f"no features under {paths.relative(folder)}: {remedy}")
    try:
        written = json.loads((folder / "features.json").read_text(encoding="utf-8"))
        sums = written.pop("sha256", None)  # older caches have none
        clip_of_patch = read_npy(folder / "index.npy")
        if written != made_from(dataset, features, clip_of_patch.size):
            raise FmucError(f"{paths.relative(folder)} was made from other data or by another version: {remedy}")
        if sums is not None and sums != checksums(folder):
            raise ValueError(f"{' or '.join(CHECKED)} is not as it was written")
        _check_index(clip_of_patch, len(dataset.clips))
        bands = read_npz(folder / "bands.npz")
        mean, std = (_band(bands[name], name, features) for name in ("mean", "std"))
        patches = map_npy(folder / "patches.npy")
        if (patches.shape, patches.dtype) != ((len(clip_of_patch), features.mel_bands, features.patch_frames), "f2"):
            raise ValueError(f"patches.npy holds {patches.dtype} {patches.shape}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, BadZipFile) as error:
        raise FmucError(f"{paths.relative(folder)} is damaged ({type(error).__name__}: {error}): {remedy}") from None
    if hasattr(patches.base, "madvise"):
        patches.base.madvise(mmap.MADV_RANDOM)  # what lies around a patch is not read with it
    return FeatureCache(patches, clip_of_patch, mean, std, features, dataset.digest)


def _check_index(clip_of_patch: np.ndarray, clips: int) -> None:
    """Every clip in its turn, with one patch at least, or ``ValueError``."""
    plain = clip_of_patch.ndim == 1 and clip_of_patch.dtype == np.int64
    if not (plain and (np.diff(clip_of_patch) >= 0).all() and np.array_equal(np.unique(clip_of_patch),
                                                                             np.arange(clips))):
        raise ValueError(f"index.npy does not number the patches of {clips} clips")


def _band(values: np.ndarray, name: str, features: Features) -> np.ndarray:
    """Checked: a finite number per Mel band, a standard deviation above zero."""
    if values.shape != (features.mel_bands,) or values.dtype != np.float32 or not np.isfinite(values).all() or (
            name == "std" and values.min() <= 0):
        raise ValueError(f"bands.npz: {name} must be {features.mel_bands} finite numbers")
    return values


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of the small files of a cache. The patches have none: it would be computed whenever a run begins."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in CHECKED}


def made_from(dataset: Dataset, features: Features, patches: int) -> dict:
    """What decides whether a cache fits: content of ``features.json``."""
    return {"version": 2, "dataset": dataset.name, "dataset_digest": dataset.digest, "features": asdict(features),
            "patches": patches}
