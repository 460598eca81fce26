"""Waveform -> log-Mel spectrogram -> patches (paper §III)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torchaudio
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional

from fmuc.config import Features

_FRAMES = 128  # at a time, which a core's own cache holds with their spectra


def log_mel(waveform: Tensor | np.ndarray, features: Features) -> Tensor:
    """log(1 + Mel) of a peak-normalised waveform (L,) at ``features.sample_rate``: float32 (F, 1 + L // hop).

    Magnitude STFT (Hann, centred, zero-padded ends), Slaney Mel filters with Slaney norm from 0 Hz to half the sample
    rate; equal to librosa's with ``power=1`` (values of the paper's reference [5] assumed, D2). On the CPU.
    """
    samples = torch.as_tensor(waveform, dtype=torch.float32)
    hann, filters = _window_and_filters(features)
    lowest, highest = torch.aminmax(samples)  # one pass, no copy
    peak = torch.maximum(-lowest, highest)
    if peak >= torch.finfo(torch.float32).tiny:
        hann = hann / peak  # of the same effect on each frame as samples / peak, but shorter
    padded = functional.pad(samples, (features.window // 2, features.window // 2))
    frames = padded.unfold(0, features.window, features.hop)  # (1 + L // hop, window)
    mel = [filters @ np.abs(torch.fft.rfft(some * hann).numpy()).T for some in frames.split(_FRAMES)]
    return torch.from_numpy(np.log1p(np.concatenate(mel, axis=1)))


@lru_cache(maxsize=8)
def _window_and_filters(features: Features) -> tuple[Tensor, csr_array]:
    """Hann window (window,) and Mel filters (F, window // 2 + 1): triangles of a few bins each, hence sparse."""
    filters = torchaudio.functional.melscale_fbanks(
        features.window // 2 + 1, 0.0, features.sample_rate / 2, features.mel_bands, features.sample_rate,
        norm="slaney", mel_scale="slaney")
    return torch.hann_window(features.window), csr_array(filters.T.numpy())


def cut_patches(spectrogram: Tensor, frames: int) -> Tensor:
    """Consecutive patches of a (F, L) spectrogram: (P, F, ``frames``).

    A tail shorter than a patch is dropped. A clip shorter than one patch becomes one patch, filled with zeros (silence
    on the log(1 + x) scale), so that every file has a prediction.
    """
    if spectrogram.shape[1] < frames:
        spectrogram = functional.pad(spectrogram, (0, frames - spectrogram.shape[1]))
    count = spectrogram.shape[1] // frames
    return spectrogram[:, : count * frames].unflatten(1, (count, frames)).transpose(0, 1).contiguous()
