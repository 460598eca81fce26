"""Sound file -> log-Mel spectrogram -> patches -> statistics per Mel band -> cache on disk (paper §III).

Axes: P patches, F Mel bands, T frames of a patch. A cache is a folder of three files: ``patches.npy`` (P, F, T)
float16, ``index.npz`` (``clip_of_patch``, ``mean``, ``std``) and ``features.json``, which says what it was made from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchaudio.transforms import MelSpectrogram
from tqdm import tqdm

from fmuc import paths
from fmuc.config import Features
from fmuc.datasets import Dataset
from fmuc.errors import FmucError
from fmuc.machinery.atomic import folder_lock, whole_folder, write_json
from fmuc.machinery.sound import read_audio
from fmuc.machinery.workers import cores, run_parallel

_VERSION = 3  # raise it whenever the same sound gives other patches
_CHUNK = 16  # clips of a task
_MIN_STD = 1e-5  # a band that never changes must not be divided by zero


def log_mel(waveform: Tensor | np.ndarray, features: Features) -> Tensor:
    """log(1 + Mel) of a peak-normalised waveform (L,) at ``features.sample_rate``: float32 (F, 1 + L // hop).

    Magnitude STFT (Hann, centred, zero-padded ends), Slaney Mel filters with Slaney norm from 0 Hz to half the sample
    rate; equal to librosa's with ``power=1`` (values of the paper's reference [5] assumed, D2). On the CPU.
    """
    samples = torch.as_tensor(waveform, dtype=torch.float32)
    peak = samples.abs().max()
    if peak >= torch.finfo(torch.float32).tiny:
        samples = samples / peak
    return _mel(features)(samples).log1p_()


@lru_cache(maxsize=8)
def _mel(features: Features) -> MelSpectrogram:
    return MelSpectrogram(features.sample_rate, n_fft=features.window, hop_length=features.hop,
                          n_mels=features.mel_bands, power=1, center=True, pad_mode="constant", norm="slaney",
                          mel_scale="slaney")


def cut_patches(spectrogram: Tensor, frames: int) -> Tensor:
    """Consecutive patches of a (F, L) spectrogram: (P, F, ``frames``).

    A tail shorter than a patch is dropped. A clip shorter than one patch becomes one patch, filled with zeros (silence
    on the log(1 + x) scale), so that every file has a prediction.
    """
    if spectrogram.shape[1] < frames:
        spectrogram = functional.pad(spectrogram, (0, frames - spectrogram.shape[1]))
    count = spectrogram.shape[1] // frames
    return spectrogram[:, : count * frames].unflatten(1, (count, frames)).transpose(0, 1).contiguous()


def file_patches(path: Path, features: Features) -> Tensor:
    """All patches of a sound file, as a cache stores them: (P, F, T) float16."""
    return cut_patches(log_mel(read_audio(path, features.sample_rate), features), features.patch_frames).half()


@dataclass(frozen=True, eq=False)
class FeatureCache:
    """An opened cache. ``patches`` (P, F, T) float16 memory map; ``clip_of_patch`` (P,) int64, ascending; ``mean``,
    ``std`` (F,) float32 over the train split; ``digest``: first 12 hex digits of the SHA-256 of all of these."""

    patches: np.ndarray
    clip_of_patch: np.ndarray
    mean: np.ndarray
    std: np.ndarray
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
        patches = self.patches[indices].astype(np.float32)
        patches -= self.mean[:, None]
        patches /= self.std[:, None]
        return patches


def open_cache(dataset: Dataset, features: Features) -> FeatureCache:
    """The cache of ``dataset`` with ``features``; :class:`FmucError` if it is missing, damaged or of other sound."""
    folder = paths.features_dir(dataset.name, features.id)
    where, remedy = paths.relative(folder), f"run 'python -m fmuc features --dataset {dataset.name} --profile PROFILE'"
    if not folder.is_dir():
        raise FmucError(f"no features under {where}: {remedy}")
    try:
        written = json.loads((folder / "features.json").read_text(encoding="utf-8"))
        patches_sha256, digest = written.pop("patches_sha256", ""), written.pop("digest", "")
        if written != _origin(dataset, features):
            raise FmucError(f"{where} was made from other sound or by another version: {remedy}")
        with np.load(folder / "index.npz", allow_pickle=False) as index:
            clip_of_patch, mean, std = (index[name] for name in ("clip_of_patch", "mean", "std"))
        if digest != _content_digest(patches_sha256, clip_of_patch, mean, std):
            raise ValueError("index.npz is not as it was written")
        patches = np.load(folder / "patches.npy", mmap_mode="r", allow_pickle=False)
        if (patches.shape, patches.dtype) != ((len(clip_of_patch), features.mel_bands, features.patch_frames), "f2"):
            raise ValueError(f"patches.npy holds {patches.dtype} {patches.shape}")
    except FmucError:
        raise
    except Exception as error:  # NumPy and its ZIP reader raise errors of many kinds
        raise FmucError(f"{where} is damaged ({type(error).__name__}: {error}): {remedy}") from None
    return FeatureCache(patches, clip_of_patch, mean, std, digest)


def _origin(dataset: Dataset, features: Features) -> dict:
    """What decides whether a cache fits."""
    return {"version": _VERSION, "dataset": dataset.name, "dataset_digest": dataset.digest,
            "fingerprint": dataset.fingerprint, "features": asdict(features)}


def _content_digest(patches_sha256: str, *arrays: np.ndarray) -> str:
    state = hashlib.sha256(patches_sha256.encode())
    for array in arrays:
        state.update(array.tobytes())
    return state.hexdigest()[:12]


def extract(dataset: Dataset, features: Features, workers: int | None = None, progress: bool = True) -> FeatureCache:
    """Open the cache of ``dataset``, or build it with ``workers`` processes (default: one per core, 1: in this one).

    A cache that is damaged or was made from other sound is built again. Memory stays constant whatever the size of the
    data set. Of two processes that ask for the same cache, the second waits. Raises :class:`FmucError` for a sound file
    that cannot be used and for a data set without a train split.
    """
    with suppress(FmucError):
        return open_cache(dataset, features)
    if not dataset.indices("train").size:
        raise FmucError(f"{dataset.name} has no train split, which the statistics per Mel band are computed from")
    folder = paths.features_dir(dataset.name, features.id)
    with folder_lock(folder):
        with suppress(FmucError):
            return open_cache(dataset, features)
        with whole_folder(folder) as partial:
            _build(partial, dataset, features, workers or cores(), progress)
    return open_cache(dataset, features)


def _build(folder: Path, dataset: Dataset, features: Features, workers: int, progress: bool) -> None:
    """Write the files of a cache, chunk by chunk in the order of the clips."""
    files = [clip.path for clip in dataset.clips]
    tasks = [(files[i : i + _CHUNK], features) for i in range(0, len(files), _CHUNK)]
    counts, content = [], hashlib.sha256()
    with (open(folder / "patches.npy", "wb") as file,
          tqdm(total=len(dataset.clips), desc=f"features of {dataset.name}", unit="clip", disable=not progress) as bar):
        _write_header(file, 0, features)
        for parts in run_parallel(_extract_chunk, tasks, min(workers, len(tasks))):
            for patches in parts:
                file.write(patches.data)
                content.update(patches.data)
                counts.append(len(patches))
            bar.update(len(parts))
        file.seek(0)
        _write_header(file, sum(counts), features)
    clip_of_patch = np.repeat(np.arange(len(counts)), counts)
    written = np.split(np.load(folder / "patches.npy", mmap_mode="r"), np.cumsum(counts)[:-1])  # by clip
    mean, std = _mean_and_std((written[clip] for clip in dataset.indices("train")), features.mel_bands)
    np.savez(folder / "index.npz", clip_of_patch=clip_of_patch, mean=mean, std=std)
    digest = _content_digest(content.hexdigest(), clip_of_patch, mean, std)
    write_json(folder / "features.json", _origin(dataset, features)
               | {"patches_sha256": content.hexdigest(), "digest": digest})


def _extract_chunk(files: Sequence[Path], features: Features) -> list[np.ndarray]:
    return [file_patches(file, features).numpy() for file in files]


def _write_header(file: BinaryIO, patches: int, features: Features) -> None:
    """A .npy header; NumPy pads it so that its length stays the same while the first axis grows."""
    shape = (patches, features.mel_bands, features.patch_frames)
    np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})


def _mean_and_std(clips: Iterable[np.ndarray], bands: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every Mel band over the patches of some clips, (P, F, T) each: (F,) float32."""
    count, sums, squares = 0, np.zeros(bands), np.zeros(bands)
    for values in (patches.astype(np.float64) for patches in clips):
        count += values.shape[0] * values.shape[2]
        sums += values.sum(axis=(0, 2))
        squares += np.square(values).sum(axis=(0, 2))
    mean = sums / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return mean.astype(np.float32), np.maximum(std, _MIN_STD).astype(np.float32)
