"""Sound file -> mono samples. Plain WAV files of 16 and 24 bits in mono or stereo, as those of NSynth and TUT2017, are
decoded here: several times as fast as by libsndfile, and to the same bits. It reads all others and judges damaged ones.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from numba import njit

from fmuc.random_bits import SIMD

_HEADER = 4096  # bytes in which a plain file says where its samples begin
_PIECE = 2**15  # samples of each channel at a time: they are in a core's own cache until decoded
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
        return _mean(samples), file.samplerate


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
        with open(path, "rb", buffering=0) as file:
            form = _plain_form(file.read(_HEADER), os.fstat(file.fileno()).st_size)
            if form is None:
                return None
            file.seek(form.start)
            return _decode(file, form), form.rate
    except (OSError, EOFError, struct.error):
        return None


class _Form(NamedTuple):
    """Where the samples of a plain WAV file are, and how many of which kind."""

    start: int  # bytes
    length: int  # of each channel
    channels: int
    width: int  # bytes of a sample
    rate: int  # Hz


def _plain_form(header: bytes, size: int) -> _Form | None:
    """What the first bytes of a file of ``size`` bytes say, if they are a plain WAV file's that has all its samples.

    ``struct.error`` where they end too early.
    """
    if header[:4] != b"RIFF" or header[8:12] != b"WAVE":
        return None
    at, kind, form = 12, b"", None
    while kind != b"data":
        kind, length = struct.unpack_from("<4sI", header, at)
        at += 8
        if kind == b"fmt ":
            form = struct.unpack_from("<HHIIHH", header, at)
        at += length + length % 2 if kind != b"data" else 0
    if form is None:
        return None
    tag, channels, rate, _, block, bits = form
    whole = tag == 1 and bits in (16, 24) and channels in (1, 2) and block == channels * bits // 8
    if not whole or not 0 < rate <= 192_000 or length % block or not 0 < length <= size - at:
        return None
    return _Form(at, length // block, channels, bits // 8, rate)


def _decode(file: io.RawIOBase, form: _Form) -> np.ndarray:
    """The samples that follow in ``file``, float32 (L,); EOFError if they end too early."""
    mono = np.empty(form.length + form.length % 2, dtype=np.float32)  # even: stereo of 24 bits comes in twos
    room = np.empty(_PIECE * form.channels * form.width, dtype=np.uint8)
    unpacked = np.empty(_PIECE if form.width == 3 and form.channels == 1 else 0, dtype=np.int32)
    scale = np.float32((2.0**-15 if form.width == 2 else 2.0**-31) / form.channels)
    for start in range(0, form.length, _PIECE):
        part = mono[start : start + _PIECE]
        size = min(_PIECE, form.length - start) * form.channels * form.width
        if file.readinto(room[:size]) < size:
            raise EOFError
        words = room[: -(-size // 12) * 12].view(np.int32)  # whole groups of samples of 24 bits
        if form.width == 2:
            _average(room.view(np.int16), form.channels == 2, scale, part)
        elif form.channels == 2:
            _average_24(words, scale, part)
        else:
            _unpack(words, unpacked)
            _average(unpacked, False, scale, part)
    return mono[: form.length]


def _mean(samples: np.ndarray) -> np.ndarray:
    """The mean of the channels of (L, channels) samples: float32 (L,)."""
    channels = samples.shape[1]
    if channels == 1:
        return samples[:, 0]
    # a matrix product: ``mean`` over so short an axis takes 20 times as long
    return samples @ np.full(channels, 1 / channels, dtype=np.float32)


def largest_magnitude(samples: np.ndarray) -> np.float32:
    """The largest of the absolute values of samples (L,) float32; not finite where one of them is not."""
    return np.int32(_largest_bits(samples.view(np.int32))).view(np.float32)


@njit(**SIMD)
def _largest_bits(bits: np.ndarray) -> int:
    """Of floats (L,), given as int32, without their signs: in this order they are the floats'."""
    largest = np.int32(0)
    for k in range(len(bits)):
        largest = max(largest, np.int32(bits[k] & np.int32(0x7FFFFFFF)))
    return largest


@njit(**SIMD)
def _unpack(words: np.ndarray, samples: np.ndarray) -> None:
    """Four samples of 24 bits in every three words (3 n,), to the upper bits of ``samples`` (4 n or more,), int32."""
    for i in range(len(words) // 3):
        first, second, third = words[3 * i], words[3 * i + 1], words[3 * i + 2]
        samples[4 * i] = first << np.int32(8)
        samples[4 * i + 1] = (second << np.int32(16)) | ((first >> np.int32(16)) & np.int32(0xFF00))
        samples[4 * i + 2] = (third << np.int32(24)) | ((second >> np.int32(8)) & np.int32(0xFFFF00))
        samples[4 * i + 3] = third & np.int32(-256)


@njit(**SIMD)
def _average_24(words: np.ndarray, scale: np.float32, mono: np.ndarray) -> None:
    """Two channels' samples of 24 bits, a, b, c and d in every three words (3 n,) -> ``mono`` (2 n,), ``scale`` times
    a + b and c + d."""
    for i in range(len(mono) // 2):
        first, second, third = words[3 * i], words[3 * i + 1], words[3 * i + 2]
        b = np.int32(np.int32(second << np.int32(16)) | np.int32(np.int32(first >> np.int32(16)) & np.int32(0xFF00)))
        c = np.int32(np.int32(third << np.int32(24)) | np.int32(np.int32(second >> np.int32(8)) & np.int32(0xFFFF00)))
        a, d = np.int32(first << np.int32(8)), np.int32(third & np.int32(-256))
        mono[2 * i] = (np.float32(a) + np.float32(b)) * scale
        mono[2 * i + 1] = (np.float32(c) + np.float32(d)) * scale


@njit(**SIMD)
def _average(samples: np.ndarray, stereo: bool, scale: np.float32, mono: np.ndarray) -> None:
    """``scale`` times the samples, or the sums of two channels' samples, -> ``mono`` (L,)."""
    if stereo:
        for i in range(len(mono)):
            mono[i] = (np.float32(samples[2 * i]) + np.float32(samples[2 * i + 1])) * scale
    else:
        for i in range(len(mono)):
            mono[i] = np.float32(samples[i]) * scale
