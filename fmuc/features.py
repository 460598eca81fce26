"""Sound file -> log-Mel spectrogram -> patches -> statistics per Mel band -> cache on disk (paper §III).

The cache (:mod:`fmuc.features`) is built in a hidden folder beside its place and moved there when complete, so a
cache that can be seen is whole.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import mmap
import multiprocessing
import os
import shutil
import tempfile
import uuid
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
import torchaudio
from numba import njit
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from fmuc import paths
from fmuc.config import Features
from fmuc.datasets import Dataset
from fmuc.errors import FmucError
from fmuc.fast.kernels import SIMD
from fmuc.sound import read_audio

LARGEST = 2**31  # bytes of all arrays of a file once unpacked


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file by name; ``ValueError``, ``OSError`` or ``BadZipFile`` for a damaged one."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > LARGEST:
            raise ValueError(f"unpacks to more than {LARGEST:,} bytes")
        if any(member.compress_size > path.stat().st_size for member in members):  # zipfile would ask for so much
            raise ValueError("is shorter than its directory says")
        names = [member.filename.removesuffix(".npy") for member in members]
        if len(set(names)) < len(names):
            raise ValueError("holds an array twice")
        try:
            return {name: parse_npy(archive.read(member)) for name, member in zip(names, members, strict=True)}
        except (NotImplementedError, RuntimeError, EOFError) as error:  # another compression, encrypted, cut short
            raise ValueError(str(error)) from None


def read_npy(path: Path) -> np.ndarray:
    """The array of an ``.npy`` file; ``ValueError`` or ``OSError`` for a damaged one."""
    if path.stat().st_size > LARGEST:
        raise ValueError(f"is larger than {LARGEST:,} bytes")
    return parse_npy(path.read_bytes())


def map_npy(path: Path) -> np.memmap:
    """The array of an ``.npy`` file as a memory map for reading; ``ValueError`` or ``OSError`` for a damaged one."""
    with open(path, "rb") as file:
        shape, by_columns, dtype = _header(file)
        start, size = file.tell(), path.stat().st_size
    if dtype.hasobject or size != start + _bytes(shape, dtype) or size == start:
        raise ValueError(f"holds {size - start} bytes of numbers, its header says {_bytes(shape, dtype)}")
    return np.memmap(path, dtype, "r", start, shape, "F" if by_columns else "C")


def parse_npy(content: bytes) -> np.ndarray:
    """The array of the bytes of an ``.npy`` file; ``ValueError`` unless it holds exactly what its header says."""
    stream = io.BytesIO(content)
    shape, by_columns, dtype = _header(stream)
    if dtype.hasobject or dtype.fields or dtype.subdtype:
        raise ValueError(f"holds {dtype}: only plain numbers and bytes are read")
    if dtype.itemsize > len(content):  # even an array without numbers takes the memory of one
        raise ValueError(f"holds {len(content)} bytes, its header says numbers of {dtype.itemsize}")
    size, rest = _bytes(shape, dtype), len(content) - stream.tell()
    if size != rest:
        raise ValueError(f"holds {rest} bytes of numbers, its header says {size}")
    flat = np.frombuffer(content, dtype, offset=stream.tell()) if rest else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if by_columns else "C").copy()


def _bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """What an array takes; in whole numbers of Python nothing overflows."""
    if any(length < 0 for length in shape):
        raise ValueError(f"has the shape {shape}")
    return math.prod(shape) * dtype.itemsize


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether by columns, and type of the numbers that follow."""
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"has the version {version} of array files, known are 1.0 and 2.0")
    try:
        return readers[version](stream)
    except Exception as error:  # NumPy lets errors of its tokenizer through
        raise ValueError(f"has a header that cannot be read ({type(error).__name__})") from None


def largest_magnitude(samples: np.ndarray) -> np.float32:
    """The largest absolute value of samples (L,) float32."""
    return np.abs(samples).max(initial=0)


_FRAMES = 128  # at a time, which a core's own cache holds with their spectra


class _Filters(NamedTuple):
    """Mel filters, triangles of a few bins each: those above zero of all bands, one after the other, in ``weights``.

    Band b has ``places[b]`` ... ``places[b + 1]`` - 1 of them (F + 1,), for bins from ``first[b]`` (F,) on.
    """

    weights: np.ndarray
    places: np.ndarray
    first: np.ndarray


def log_mel(waveform: Tensor | np.ndarray, features: Features) -> Tensor:
    """log(1 + Mel) of a peak-normalised waveform (L,) at ``features.sample_rate``: float32 (F, 1 + L // hop).

    Magnitude STFT (Hann, centred, zero-padded ends), Slaney Mel filters with Slaney norm from 0 Hz to half the sample
    rate; equal to librosa's with ``power=1`` (values of the paper's reference [5] assumed, D2). On the CPU.
    """
    samples = np.ascontiguousarray(waveform, dtype=np.float32)
    hann, filters = _window_and_filters(features)
    peak = largest_magnitude(samples)
    if peak >= np.finfo(np.float32).tiny:
        hann = hann / peak  # of the same effect on each frame as samples / peak, but shorter
    count = 1 + len(samples) // features.hop
    mel = np.empty((features.mel_bands, count), dtype=np.float32)
    size = -(-count // max(round(count / _FRAMES), 1))  # of parts of about the same length
    frames = np.empty((size, features.window), dtype=np.float32)
    for first in range(0, count, size):
        some = frames[: count - first]
        _cut_frames(samples, hann, features.hop, first, some)
        spectra = torch.fft.rfft(torch.from_numpy(some)).numpy()  # by MKL: several times as fast as NumPy's
        _add_bands(spectra.view(np.float32).reshape(-1), some, *filters, first, mel)
    return torch.from_numpy(mel).log1p_()


@lru_cache(maxsize=8)
def _window_and_filters(features: Features) -> tuple[np.ndarray, _Filters]:
    """Hann window (window,) and Mel filters."""
    filters = torchaudio.functional.melscale_fbanks(
        features.window // 2 + 1, 0.0, features.sample_rate / 2, features.mel_bands, features.sample_rate,
        norm="slaney", mel_scale="slaney").T.numpy()
    used = [np.flatnonzero(band) for band in filters]
    first = [bins.min(initial=features.window) for bins in used]
    weights = [band[start : bins.max(initial=-1) + 1] for band, bins, start in zip(filters, used, first, strict=True)]
    places = np.cumsum([0, *map(len, weights)])
    return torch.hann_window(features.window).numpy(), _Filters(
        np.concatenate(weights), places.astype(np.uint64), np.array(first, dtype=np.uint64))


# Inner loops are functions of their own, so that they compile to SIMD instructions. Their indices are unsigned: Numba
# would ask of each signed one whether it counts from the end.


@njit(**SIMD)
def _multiply(x, y, out):
    for k in range(len(out)):
        out[k] = x[k] * y[k]


@njit(**SIMD)
def _cut_frames(samples, window, hop, first, frames):
    """Windowed frames ``first``, ... of samples (L,), with zeros around them: (n, window)."""
    size = len(window)
    for f in range(len(frames)):
        begin = (first + f) * hop - size // 2
        start, stop = max(-begin, 0), min(len(samples) - begin, size)  # of the part that has samples
        frames[f, :start] = 0
        frames[f, max(stop, 0) :] = 0
        if start < stop:
            _multiply(samples[begin + start : begin + stop], window[start:stop], frames[f, start:stop])


@njit(**SIMD)
def _magnitudes(parts, out):
    for k in range(len(out)):
        out[k] = np.sqrt(parts[2 * k] * parts[2 * k] + parts[2 * k + 1] * parts[2 * k + 1])


@njit(**SIMD)
def _transpose(x, rows, columns, out):
    """x (rows columns,) -> ``out`` (columns rows,)."""
    for c in range(columns):
        for r in range(rows):
            out[c * rows + r] = x[r * columns + c]


@njit(**SIMD)
def _add_weighted(weight, x, start, count, out, begin):
    for k in range(count):
        out[begin + k] += weight * x[start + k]


@njit(**SIMD)
def _add_bands(spectra, frames, weights, places, first_bin, first, mel):
    """Mel bands of spectra (2 n bins,), real and imaginary parts by turns, to the columns of ``mel`` (F, L) from
    ``first`` on; all are contiguous.

    The spectra and their frames (n, window) are overwritten: nothing else need be in the cache.
    """
    count, out, half = np.uint64(len(frames)), mel.reshape(-1), len(spectra) // 2
    magnitudes, by_bin = frames.reshape(-1)[:half], spectra[:half]  # the latter: frames side by side, as in ``mel``
    _magnitudes(spectra, magnitudes)
    _transpose(magnitudes, count, np.uint64(half) // count, by_bin)
    for band in range(np.uint64(len(first_bin))):
        mel[band, first : first + len(frames)] = 0
        begin, start = band * np.uint64(mel.shape[1]) + np.uint64(first), first_bin[band] * count
        for place in range(places[band], places[band + np.uint64(1)]):
            _add_weighted(weights[place], by_bin, start, count, out, begin)
            start += count


def cut_patches(spectrogram: Tensor, frames: int) -> Tensor:
    """Consecutive patches of a (F, L) spectrogram: (P, F, ``frames``).

    A tail shorter than a patch is dropped. A clip shorter than one patch becomes one patch, filled with zeros (silence
    on the log(1 + x) scale), so that every file has a prediction.
    """
    if spectrogram.shape[1] < frames:
        spectrogram = functional.pad(spectrogram, (0, frames - spectrogram.shape[1]))
    count = spectrogram.shape[1] // frames
    return spectrogram[:, : count * frames].unflatten(1, (count, frames)).transpose(0, 1).contiguous()


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
