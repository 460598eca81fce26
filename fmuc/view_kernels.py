"""Views of patches patch by patch, in the cache: the CPU's version of the functions in ``augment``.

A patch is moved as one piece of memory and its edges are filled; its 3x3 means are sums of shifted pieces; noise is
made 1,024 values at a time and added.

Two 32-bit random numbers become two normal values by Box and Muller's transform (1958). Over all 2^31 radii and 2^32
angles, the variance is within 3e-8 of 1, the fourth moment within 3e-7 of 3, and the distribution function within 1e-6
of the Gaussian one. The largest value is sqrt(2 ln 2^32) = 6.66, which a Gaussian one exceeds once in 4e10 times.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from fmuc.fast.kernels import SIMD, fill

CHUNK = 1024  # values of noise at a time: in the L1 cache together with their random bits
_ONE, _TWO, _HALF, _NINTH, _LN2 = (np.float32(value) for value in (1, 2, 0.5, 1 / 9, math.log(2)))
_TWO_THIRDS = np.float32(2 / 3).view(np.int32)
_HALF_ANGLE, _TO_UNIT = np.float32(math.pi / 2**32), np.float32(2**-31)
# Taylor: artanh t / t by t^2, sin h / h and cos h by h^2; the first coefficient of each is 1
_T1, _T2, _T3 = (np.float32(1 / k) for k in (3, 5, 7))
_S1, _S2, _S3, _S4, _S5 = (np.float32((-1) ** k / math.factorial(2 * k + 1)) for k in range(1, 6))
_C1, _C2, _C3, _C4, _C5 = (np.float32((-1) ** k / math.factorial(2 * k)) for k in range(1, 6))


# Inner loops are functions of their own on slices: so they compile to SIMD instructions.


@njit(**SIMD)
def _copy(source, target):
    for k in range(len(target)):
        target[k] = source[k]


@njit(**SIMD)
def _fill_columns(x, first, last, source):
    """Columns ``first`` ... ``last`` - 1 of x (rows, T) become column ``source``."""
    for t in range(first, last):
        for f in range(len(x)):
            x[f, t] = x[f, source]


@njit(**SIMD)
def _move(x, frames, bands, moved):
    """``augment.translate`` of one patch (F, T)."""
    mels, length = x.shape
    frames, bands = min(max(frames, 1 - length), length - 1), min(max(bands, 1 - mels), mels - 1)
    offset = bands * length + frames  # rows follow one another: what crosses the end of one is filled below
    _copy(x.reshape(-1)[max(-offset, 0) :], moved.reshape(-1)[max(offset, 0) : x.size + min(offset, 0)])
    first, last = max(bands, 0), mels + min(bands, 0)
    if frames > 0:
        _fill_columns(moved[first:last], 0, frames, frames)
    else:
        _fill_columns(moved[first:last], length + frames, length, length + frames - 1)
    for f in range(first):
        _copy(moved[first], moved[f])
    for f in range(last, mels):
        _copy(moved[last - 1], moved[f])


@njit(**SIMD)
def _add_three(above, here, below, total):
    for k in range(len(total)):
        total[k] = above[k] + here[k] + below[k]


@njit(**SIMD)
def _unsharp(x, left, here, right, amount, out):
    for k in range(len(out)):
        out[k] = x[k] + amount * (x[k] - (left[k] + here[k] + right[k]) * _NINTH)


@njit(**SIMD)
def _sharpen(padded, amount, totals, out):
    """``augment.sharpen`` of one patch, ``padded`` by a row above and below: (F + 2, T) -> (F, T).

    ``totals`` (F T + 2,) is room for the sums of three rows, and for a neighbour on either side.
    """
    mels, length = out.shape
    flat, size = padded.reshape(-1), mels * length
    total = totals[1 : size + 1]
    _add_three(flat, flat[length:], flat[2 * length :], total)
    _unsharp(flat[length:], totals, total, totals[2:], amount, out.reshape(-1))
    for t, beside in ((0, min(1, length - 1)), (length - 1, max(length - 2, 0))):  # their neighbours were other rows'
        for f in range(mels):
            x, ends = padded[f + 1, t], _TWO * total[f * length + t] + total[f * length + beside]
            out[f, t] = x + amount * (x - ends * _NINTH)


@njit(**SIMD)
def _gaussian(radii, angles, cosines, sines):
    """Box and Muller's transform of random bits, each (n,) int32, to two times n normal values.

    The logarithm is that of a fraction in [2/3, 4/3), 2 artanh((m - 1) / (m + 1)), and an exponent, so that it is never
    positive; sine and cosine come from those of half the angle, which lies in [-pi/2, pi/2].
    """
    for k in range(len(radii)):
        u = np.float32((np.float32(radii[k] & np.int32(0x7FFFFFFF)) + _HALF) * _TO_UNIT)
        bits = u.view(np.int32)
        exponent = np.int32(np.int32(bits - _TWO_THIRDS) >> np.int32(23))
        fraction_bits = np.int32(bits - np.int32(exponent << np.int32(23)))
        m = fraction_bits.view(np.float32)
        t = (m - _ONE) / (m + _ONE)
        t2 = t * t
        log = _TWO * t * (_ONE + t2 * (_T1 + t2 * (_T2 + t2 * _T3))) + np.float32(exponent) * _LN2
        radius = np.sqrt(-_TWO * log)
        half = np.float32(angles[k]) * _HALF_ANGLE
        h2 = half * half
        sine = half * (_ONE + h2 * (_S1 + h2 * (_S2 + h2 * (_S3 + h2 * (_S4 + h2 * _S5)))))
        cosine = _ONE + h2 * (_C1 + h2 * (_C2 + h2 * (_C3 + h2 * (_C4 + h2 * _C5))))
        cosines[k] = radius * (_ONE - _TWO * sine * sine)
        sines[k] = radius * (_TWO * sine * cosine)


@njit(**SIMD)
def _add(noise, std, out):
    for k in range(len(out)):
        out[k] += std * noise[k]


@njit(**SIMD)
def _add_noise(std, start, seed, out):
    """``out`` (n,) plus ``std`` times the normal values ``start``, ... of ``seed``, ``start`` divisible by CHUNK."""
    bits, noise = np.empty(CHUNK, np.uint32), np.empty(CHUNK, np.float32)
    signed, half = bits.view(np.int32), CHUNK // 2
    for k in range(0, len(out), CHUNK):
        fill(bits, start + k, seed)
        _gaussian(signed[:half], signed[half:], noise[:half], noise[half:])
        _add(noise, std, out[k : k + CHUNK])


@njit(**SIMD)
def views(x, frames, bands, noise, amount, seed, out):
    """Patches x (B, F, T) moved, sharpened and with noise, to ``out``; magnitudes (B,) as in ``augment.Draw``.

    x and ``out`` are contiguous float32 and do not overlap. The noise of patch b begins at number b ceil(F T / CHUNK)
    CHUNK of ``seed``.
    """
    batch, mels, length = x.shape
    padded, totals = np.empty((mels + 2, length), np.float32), np.zeros(mels * length + 2, np.float32)
    chunks = (mels * length + CHUNK - 1) // CHUNK
    for b in range(batch):
        if amount[b] != 0:
            _move(x[b], frames[b], bands[b], padded[1 : mels + 1])
            _copy(padded[1], padded[0])
            _copy(padded[mels], padded[mels + 1])
            _sharpen(padded, amount[b], totals, out[b])
        else:
            _move(x[b], frames[b], bands[b], out[b])
        if noise[b] != 0:
            _add_noise(noise[b], b * chunks * CHUNK, seed, out[b].reshape(-1))
