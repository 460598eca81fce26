"""Sound file -> log-Mel spectrogram -> patches -> statistics per Mel band -> cache on disk (paper §III).

The cache (:mod:`fmuc.feature_cache`) is built in a hidden folder beside its place and moved there when complete, so a
cache that can be seen is whole.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tempfile
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from tqdm import tqdm

from fmuc import paths
from fmuc.config import Features
from fmuc.datasets import Dataset, read_audio
from fmuc.errors import FmucError
from fmuc.feature_cache import FeatureCache, checksums, made_from, open_cache
from fmuc.random_bits import SIMD
from fmuc.spectrogram import cut_patches, log_mel

_CHUNK = 256  # clips of a task, at most: handing one over takes this process a millisecond
_MIN_STD = 1e-5  # a band that never changes must not be divided by zero


def extract(dataset: Dataset, features: Features, *, workers: int | None = None, progress: bool = True) -> FeatureCache:
    """Open the cache of ``dataset``, or build it with ``workers`` processes (default: one per core, 1: in this one).

    Memory stays constant whatever the size of the data set. An interrupted extraction starts again; if it was killed
    outright, its hidden folder beside the cache may be deleted. Raises :class:`FmucError` for a sound file that cannot
    be used and for a data set without a train split.
    """
    try:
        return open_cache(dataset, features)
    except FmucError:  # missing or out of date: build it
        pass
    if not dataset.indices("train").size:
        raise FmucError(f"{dataset.name} has no train split, which the statistics per Mel band are computed from")
    folder = paths.features_dir(dataset.name, features.id)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    partial.mkdir(parents=True)
    try:
        parts = chunks(dataset, features, workers or _cores())
        _write_cache(partial, dataset, features, parts, progress)
        _move(partial, folder)
    except BrokenProcessPool:
        raise FmucError("a feature extraction process ended early (too little memory, or a script without "
                        "'if __name__ == \"__main__\":'): use one worker") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_cache(dataset, features)


def _move(partial: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        os.replace(partial, folder)
    except OSError:  # another job has just built the same cache: keep that one
        if not folder.is_dir():
            raise


def _cores() -> int:
    """Cores this process may use: fewer than the machine's in a cluster job."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Chunk(NamedTuple):
    """The features of a few clips."""

    patches: np.ndarray  # (P, F, T) float16
    counts: list[int]  # patches of each clip
    values: int  # of a band in the patches of the train clips
    sums: np.ndarray  # of these values and of their squares, (2, F) float64


def _extract_chunk(files: Sequence[tuple[Path, bool]], features: Features) -> Chunk:
    """Patches of some (path, is in the train split) files."""
    parts, values, sums = [], 0, np.zeros((2, features.mel_bands))
    for path, is_train in files:
        spectrogram = log_mel(read_audio(path, features.sample_rate), features)
        parts.append(cut_patches(spectrogram, features.patch_frames).half())
        if is_train:  # now, while the clip is in a core's own cache
            values += len(parts[-1]) * features.patch_frames
            _add_sums(parts[-1].float().numpy(), sums)
    return Chunk(torch.cat(parts).numpy(), [len(part) for part in parts], values, sums)


@njit(**SIMD)
def _sum_and_squares(x):
    total, squares = 0.0, 0.0
    for k in range(len(x)):
        value = np.float64(x[k])
        total += value
        squares += value * value
    return total, squares


@njit(**SIMD)
def _add_sums(patches, sums):
    """Add the sum and the sum of squares per band of (P, F, T) float32 patches, which float16 can hold, to ``sums``.

    That is (2, F) float64, which has room for every bit: the order does not matter.
    """
    for patch in range(patches.shape[0]):
        for band in range(patches.shape[1]):
            total, squares = _sum_and_squares(patches[patch, band])
            sums[0, band] += total
            sums[1, band] += squares


def chunks(dataset: Dataset, features: Features, workers: int) -> Iterator[Chunk]:
    """Chunks in the order of the clips, from ``workers`` processes, few of them in memory at a time.

    Their size does not depend on ``workers``, and so neither do the statistics of the bands.
    """
    files = [(clip.path, clip.split == "train") for clip in dataset.clips]
    size = min(_CHUNK, max(16, len(files) // 32))  # of a small data set there is some for every process, too
    tasks = [files[i : i + size] for i in range(0, len(files), size)]
    if min(workers, len(tasks)) == 1:
        yield from (_extract_chunk(task, features) for task in tasks)
        return
    with (tempfile.TemporaryDirectory(prefix="fmuc-") as folder,
          ProcessPoolExecutor(min(workers, len(tasks)), multiprocessing.get_context("spawn"),
                              initializer=torch.set_num_threads, initargs=(1,)) as pool):
        waiting = deque()
        for number, task in enumerate(tasks):
            waiting.append(pool.submit(_extract_to_file, Path(folder, f"{number}.npy"), task, features))
            if len(waiting) > 2 * workers:
                yield _taken(*waiting.popleft().result())
        while waiting:
            yield _taken(*waiting.popleft().result())


def _extract_to_file(file: Path, files: Sequence[tuple[Path, bool]], features: Features) -> tuple[Path, Chunk]:
    """A chunk without its patches, and the file that they are in: cheaper for both sides than a pipe."""
    chunk = _extract_chunk(files, features)
    np.save(file, chunk.patches)
    return file, chunk._replace(patches=chunk.patches[:0])


def _taken(file: Path, chunk: Chunk) -> Chunk:
    """The chunk with its patches, whose file goes when they do."""
    patches = np.load(file, mmap_mode="r")
    file.unlink()
    return chunk._replace(patches=patches)


def _write_cache(folder: Path, dataset: Dataset, features: Features, parts: Iterable[Chunk], progress: bool) -> None:
    """Write the four files of a cache of all clips of ``dataset``, whose ``parts`` come in their order."""
    counts: list[int] = []
    values, sums = 0, np.zeros((2, features.mel_bands))
    with (open(folder / "patches.npy", "wb") as file,
          tqdm(total=len(dataset.clips), desc=f"features of {dataset.name}", unit="clip", disable=not progress) as bar):
        write_header(file, 0, features)
        for part in parts:
            file.write(part.patches.data)
            counts += part.counts
            values, sums = values + part.values, sums + part.sums
            bar.update(len(part.counts))
        file.seek(0)
        write_header(file, sum(counts), features)
    mean, mean_square = sums / values
    std = np.maximum(np.sqrt(np.maximum(mean_square - mean**2, 0)), _MIN_STD)
    np.savez(folder / "bands.npz", mean=mean.astype(np.float32), std=std.astype(np.float32))
    np.save(folder / "index.npy", np.repeat(np.arange(len(counts)), counts))
    written = json.dumps(made_from(dataset, features, sum(counts)) | {"sha256": checksums(folder)}, indent=1)
    (folder / "features.json").write_text(written + "\n", encoding="utf-8")


def write_header(file, patches: int, features: Features) -> None:
    """A .npy header; NumPy pads it so that the length does not change while the first axis grows."""
    shape = (patches, features.mel_bands, features.patch_frames)
    np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
