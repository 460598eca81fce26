"""Waveform -> log-Mel spectrogram -> patches (paper §III)."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torchaudio
from numba import njit
from torch import Tensor
from torch.nn import functional

from fmuc.config import Features
from fmuc.random_bits import SIMD
from fmuc.sound_file import largest_magnitude

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
