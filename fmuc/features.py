"""Sound file -> log-Mel spectrogram -> patches -> statistics per Mel band -> cache on disk (paper §III).

A cache is a folder: ``patches.npy`` (P, F, T) float16, not normalised; ``index.npy`` (P,) clip of each patch;
``bands.npz`` mean and standard deviation per band; ``features.json`` what it was made from. It is built in a hidden
folder beside its place and moved there when complete, so a cache that can be seen is whole.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
import torchaudio
from torch import Tensor
from tqdm import tqdm

from fmuc import paths
from fmuc.config import Features
from fmuc.datasets import Dataset, read_audio
from fmuc.errors import FmucError

_CHUNK = 64  # clips per task; fixed, so that the statistics do not depend on the number of workers
_MIN_STD = 1e-5  # a band that never changes must not be divided by zero


def log_mel(waveform: Tensor | np.ndarray, features: Features) -> Tensor:
    """log(1 + Mel) of a peak-normalised waveform (L,) at ``features.sample_rate``: float32 (F, 1 + L // hop).

    Magnitude STFT (Hann, centred, zero-padded ends), Slaney Mel filters with Slaney norm from 0 Hz to half the sample
    rate; equal to librosa's with ``power=1`` (values of the paper's reference [5] assumed, D2).
    """
    samples = torch.as_tensor(waveform, dtype=torch.float32)
    peak = samples.abs().max()
    if peak > 0:
        samples = samples / peak
    window, filters = _filters(features)
    spectrum = torch.stft(samples, features.window, features.hop, window=window, center=True, pad_mode="constant",
                          return_complex=True)
    return torch.log1p(filters @ spectrum.abs())


@lru_cache(maxsize=8)
def _filters(features: Features) -> tuple[Tensor, Tensor]:
    """Hann window (window,) and Mel filters (F, window // 2 + 1)."""
    filters = torchaudio.functional.melscale_fbanks(
        features.window // 2 + 1, 0.0, features.sample_rate / 2, features.mel_bands, features.sample_rate,
        norm="slaney", mel_scale="slaney")
    return torch.hann_window(features.window), filters.T.contiguous()


def cut_patches(spectrogram: Tensor, frames: int) -> Tensor:
    """Consecutive patches of a (F, L) spectrogram: (P, F, ``frames``).

    A tail shorter than a patch is dropped. A clip shorter than one patch becomes one patch, filled with zeros (silence
    on the log(1 + x) scale), so that every file has a prediction.
    """
    if spectrogram.shape[1] < frames:
        spectrogram = torch.nn.functional.pad(spectrogram, (0, frames - spectrogram.shape[1]))
    count = spectrogram.shape[1] // frames
    return spectrogram[:, : count * frames].unflatten(1, (count, frames)).transpose(0, 1).contiguous()


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
        patches = torch.from_numpy(self.patches[indices]).float()  # five times as fast as NumPy's conversion
        return patches.sub_(torch.from_numpy(self.mean)[:, None]).div_(torch.from_numpy(self.std)[:, None]).numpy()


def open_cache(dataset: Dataset, features: Features) -> FeatureCache:
    """The cache of ``dataset`` with ``features``; :class:`FmucError` if it is missing, damaged or of other data."""
    folder = paths.features_dir(dataset.name, features.id)
    remedy = f"run 'python -m fmuc features --dataset {dataset.name} --profile PROFILE'"
    if not folder.is_dir():
        raise FmucError(f"no features under {paths.relative(folder)}: {remedy}")
    try:
        made_from = json.loads((folder / "features.json").read_text(encoding="utf-8"))
        patches = np.load(folder / "patches.npy", mmap_mode="r")
        clip_of_patch = np.load(folder / "index.npy")
        with np.load(folder / "bands.npz") as bands:
            mean, std = bands["mean"], bands["std"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise FmucError(f"{paths.relative(folder)} is damaged ({error!r}): {remedy}") from None
    if made_from != _made_from(dataset, features, len(clip_of_patch)):
        raise FmucError(f"{paths.relative(folder)} was made from other data or by another version: {remedy}")
    if patches.shape != (len(clip_of_patch), features.mel_bands, features.patch_frames):
        raise FmucError(f"{paths.relative(folder)} is damaged (patches.npy has the shape {patches.shape}): {remedy}")
    return FeatureCache(patches, clip_of_patch, mean, std, features, dataset.digest)


def _made_from(dataset: Dataset, features: Features, patches: int) -> dict:
    return {"version": 1, "dataset": dataset.name, "dataset_digest": dataset.digest, "features": asdict(features),
            "patches": patches}


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
        _build(partial, dataset, features, workers or _cores(), progress)
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


class _Moments(NamedTuple):
    """Count, mean and sum of squared deviations per band, in float64; the last two (F,)."""

    count: int
    mean: np.ndarray
    squares: np.ndarray

    def joined(self, other: _Moments) -> _Moments:
        """Moments of both parts together, without the cancellation of a plain sum of squares (Chan et al. 1979)."""
        count = self.count + other.count
        if not count:
            return self
        delta, share = other.mean - self.mean, other.count / count
        return _Moments(count, self.mean + delta * share, self.squares + other.squares + delta**2 * self.count * share)


def _moments(patches: np.ndarray) -> _Moments:
    """Moments of (P, F, T) patches over patches and frames."""
    if not len(patches):
        return _Moments(0, *np.zeros((2, patches.shape[1])))
    values = patches.astype(np.float64)
    mean = values.mean(axis=(0, 2))
    return _Moments(values.shape[0] * values.shape[2], mean, ((values - mean[:, None]) ** 2).sum(axis=(0, 2)))


class _Chunk(NamedTuple):
    patches: np.ndarray  # (P, F, T) float16
    counts: list[int]  # patches of each clip
    moments: _Moments  # of the train clips, over the float16 values that are stored


def _extract_chunk(files: Sequence[tuple[Path, bool]], features: Features) -> _Chunk:
    """Patches of some (path, is in the train split) files."""
    parts = [cut_patches(log_mel(read_audio(path, features.sample_rate), features), features.patch_frames)
             for path, _ in files]
    counts = [len(part) for part in parts]
    patches = torch.cat(parts).half().numpy()
    train = np.repeat([is_train for _, is_train in files], counts)
    return _Chunk(patches, counts, _moments(patches[train]))


def _chunks(dataset: Dataset, features: Features, workers: int) -> Iterator[_Chunk]:
    """Chunks in the order of the clips, from ``workers`` processes, few of them in memory at a time."""
    files = [(clip.path, clip.split == "train") for clip in dataset.clips]
    tasks = [files[i : i + _CHUNK] for i in range(0, len(files), _CHUNK)]
    if min(workers, len(tasks)) == 1:
        yield from (_extract_chunk(task, features) for task in tasks)
        return
    with ProcessPoolExecutor(min(workers, len(tasks)), multiprocessing.get_context("spawn"),
                             initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = deque()
        for task in tasks:
            waiting.append(pool.submit(_extract_chunk, task, features))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _build(folder: Path, dataset: Dataset, features: Features, workers: int, progress: bool) -> None:
    counts: list[int] = []
    moments = _moments(np.empty((0, features.mel_bands, features.patch_frames)))
    with (open(folder / "patches.npy", "wb") as file,
          tqdm(total=len(dataset.clips), desc=f"features of {dataset.name}", unit="clip", disable=not progress) as bar):
        _write_header(file, 0, features)
        for chunk in _chunks(dataset, features, workers):
            file.write(chunk.patches.data)
            counts += chunk.counts
            moments = moments.joined(chunk.moments)
            bar.update(len(chunk.counts))
        file.seek(0)
        _write_header(file, sum(counts), features)
    std = np.maximum(np.sqrt(moments.squares / moments.count), _MIN_STD)
    np.savez(folder / "bands.npz", mean=moments.mean.astype(np.float32), std=std.astype(np.float32))
    np.save(folder / "index.npy", np.repeat(np.arange(len(counts)), counts))
    made_from = _made_from(dataset, features, sum(counts))
    (folder / "features.json").write_text(json.dumps(made_from, indent=1) + "\n", encoding="utf-8")


def _write_header(file, patches: int, features: Features) -> None:
    """A .npy header; NumPy pads it so that the length does not change while the first axis grows."""
    shape = (patches, features.mel_bands, features.patch_frames)
    np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
