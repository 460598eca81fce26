"""Sound file -> mono samples. Plain WAV files of 16 and 24 bits, which NSynth and TUT2017 consist of, are decoded here:
several times as fast as by libsndfile, and to the same bits. It reads all others and judges what is damaged."""

from __future__ import annotations

import struct
import wave
from pathlib import Path

import numpy as np
import soundfile
from numba import njit

from fmuc.random_bits import SIMD

_TRUSTED = 2**26  # samples that a header may claim and be given memory for at once (256 MB)
_DENSEST = 1000  # samples per byte: three times what FLAC makes of silence


def read_mono(path: Path) -> tuple[np.ndarray, int]:
    """Mean of a file's channels, float32 (L,), between -1 and 1 unless it holds floats, and its sample rate in Hz.

    What libsndfile cannot read raises ``soundfile.SoundFileError``, OSError, TypeError or MemoryError.
    """
    return _read_plain_wav(path) or _read_any(path)


def _read_any(path: Path) -> tuple[np.ndarray, int]:
    with soundfile.SoundFile(path) as file:
        if file.frames * file.channels <= _TRUSTED:
            samples = file.read(dtype="float32", always_2d=True)
        else:
            samples = _read_blocks(file, path.stat().st_size)
        return _mean(samples, 1.0), file.samplerate


def _read_blocks(file: soundfile.SoundFile, size: int) -> np.ndarray:
    """Samples (L, channels) of a file of ``size`` bytes that claims to be very long: no more memory than it earns."""
    blocks, count, most = [], 0, max(_TRUSTED, _DENSEST * size)
    while len(block := file.read(_TRUSTED // 64 // file.channels, dtype="float32", always_2d=True)):
        blocks.append(block)
        count += block.size
        if count > most:
            raise OSError(f"it unpacks to more than {_DENSEST} samples per byte")
    if count < file.frames * file.channels:
        raise OSError(f"it ends after {count // file.channels:,} of the {file.frames:,} samples that its header claims")
    return np.concatenate(blocks)


def _read_plain_wav(path: Path) -> tuple[np.ndarray, int] | None:
    """Like :func:`read_mono`; None for a file that is empty, damaged or of another kind."""
    try:
        with wave.open(str(path)) as file:
            channels, width, rate, length = file.getparams()[:4]
            size = length * channels * width
            if not 0 < size < path.stat().st_size or rate > 192_000:  # a false claim must not get its memory
                return None
            content = file.readframes(length)
    except (OSError, EOFError, wave.Error, struct.error, RuntimeError):
        return None
    if len(content) != size:
        return None
    if width == 2:
        return _mean(np.frombuffer(content, np.int16).reshape(length, channels), 2**-15), rate
    if width == 3 and channels <= 2:
        mono = np.empty(length, dtype=np.float32)
        _decode_24(np.frombuffer(content, np.uint8), channels == 2, mono)
        return mono, rate
    return None


def _mean(samples: np.ndarray, scale: float) -> np.ndarray:
    """``scale`` times the mean of the channels of (L, channels) samples: float32 (L,)."""
    channels = samples.shape[1]
    if channels == 1:
        return samples[:, 0] * np.float32(scale)
    # a matrix product: ``mean`` over so short an axis takes 20 times as long
    return samples.astype(np.float32, copy=False) @ np.full(channels, scale / channels, dtype=np.float32)


@njit(**SIMD)
def _decode_24(content: np.ndarray, stereo: bool, mono: np.ndarray) -> None:
    """Little-endian samples of 24 bits in ``content`` (bytes,) -> ``mono`` (L,), the mean of one or two channels."""
    if stereo:
        for i in range(len(mono)):
            mono[i] = (_sample_24(content, 6 * i) + _sample_24(content, 6 * i + 3)) * np.float32(2**-32)
    else:
        for i in range(len(mono)):
            mono[i] = _sample_24(content, 3 * i) * np.float32(2**-31)


@njit(**SIMD)
def _sample_24(content: np.ndarray, at: int) -> np.float32:
    """The sample whose first byte is at ``at``, in the upper 24 of 32 bits, so that its sign comes for free."""
    low = np.int32(np.int32(content[at]) << np.int32(8)) | np.int32(np.int32(content[at + 1]) << np.int32(16))
    return np.float32(low | np.int32(np.int32(content[at + 2]) << np.int32(24)))
