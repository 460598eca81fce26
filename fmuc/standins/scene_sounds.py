"""Building blocks of simulated scenes: noise, tones, struck objects, voices, and where and through what they are heard.

Sounds are float32 at 44.1 kHz: ``(L,)`` mono for single events, ``(2, L)`` left and right for everything that lasts.
Times are in seconds, frequencies in Hz.  A *curve* is a spectrum as ((Hz, dB), ...), interpolated over log frequency.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy  # its parts are imported when they are asked for: "signal" takes a second

RATE = 44_100
Curve = Sequence[tuple[float, float]]
_TABLE = 4096  # samples of one period of a waveform


def jittered(rng: np.random.Generator, curve: Curve, db: float = 1.5, tilt: float = 0.6) -> Curve:
    """A place's own version of ``curve``: a random dB per octave (±``tilt``) and ±``db`` at every point."""
    slope = rng.uniform(-tilt, tilt)
    return [(hz, level + slope * np.log2(hz / 1000) + rng.uniform(-db, db)) for hz, level in curve]


def noise(rng: np.random.Generator, n: int, curve: Curve, width: float = 0.5) -> np.ndarray:
    """Stationary noise with the spectrum ``curve``, RMS 1: (2, n). ``width`` from 0 (mono) to 1 (diffuse)."""
    hz, db = np.transpose(curve)
    frequencies = np.maximum(scipy.fft.rfftfreq(n, 1 / RATE), 1)
    gain = 10 ** (np.interp(np.log(frequencies), np.log(hz), db) / 20)
    spectrum = rng.standard_normal((2, 2 * len(gain)), dtype=np.float32).view(np.complex64)
    spectrum *= gain.astype(np.float32)
    spectrum[:, 0] = 0
    middle, side = scipy.fft.irfft(spectrum, n)
    return unit_rms(np.stack([middle + width * side, middle - width * side]))


def unit_rms(sound: np.ndarray) -> np.ndarray:
    """``sound`` with a root mean square of 1 over all channels; silence stays silence."""
    return sound / np.float32(np.sqrt(np.mean(np.square(sound), dtype=np.float64)) or 1)


def follow(n: int, seconds: Sequence[float], values: Sequence[float]) -> np.ndarray:
    """Straight lines through (``seconds``, ``values``): (n,) float32."""
    return np.interp(np.arange(n), np.multiply(seconds, RATE), values).astype(np.float32)


def wander(rng: np.random.Generator, n: int, period: float, spread: float) -> np.ndarray:
    """A value that drifts about 0: a new normal draw of standard deviation ``spread`` every ``period`` s: (n,)."""
    knots = np.arange(0, n / RATE + 2 * period, period)
    return follow(n, knots, rng.normal(0, spread, len(knots)))


def swell(rng: np.random.Generator, n: int, period: float, db: float) -> np.ndarray:
    """A gain that drifts by a standard deviation of ``db``: (n,) float32."""
    knots = np.arange(0, n / RATE + 2 * period, period)
    return follow(n, knots, 10 ** (rng.normal(0, db, len(knots)) / 20))


def tone(rng: np.random.Generator, hz: np.ndarray, harmonics: np.ndarray) -> np.ndarray:
    """A periodic waveform of the pitch ``hz`` (L,) with the amplitudes ``harmonics``, in random phases: (L,)."""
    spectrum = np.zeros(_TABLE // 2 + 1, np.complex64)
    amplitudes = harmonics[:_TABLE // 2 - 1]
    spectrum[1:1 + len(amplitudes)] = amplitudes * np.exp(2j * np.pi * rng.random(len(amplitudes)))
    period = unit_rms(scipy.fft.irfft(spectrum, _TABLE))
    phase = np.cumsum(hz, dtype=np.float64) * (_TABLE / RATE)
    return period[phase.astype(np.int64) % _TABLE]


def glide(seconds: float, first_hz: float, last_hz: float) -> np.ndarray:
    """A sine that glides between two frequencies under a smooth envelope, peak 1: (L,)."""
    length = max(2, int(seconds * RATE))
    phase = 2 * np.pi / RATE * np.cumsum(np.geomspace(first_hz, last_hz, length))
    return (np.sin(phase) * np.hanning(length) ** 0.5).astype(np.float32)


def struck(rng: np.random.Generator, low_hz: float, high_hz: float, modes: int, decay: float) -> np.ndarray:
    """A struck object: damped resonances between two frequencies, time constants about ``decay`` s, peak 1: (L,)."""
    time = np.arange(int(6 * decay * RATE)) / RATE
    hz = np.exp(rng.uniform(np.log(low_hz), np.log(high_hz), (modes, 1)))
    decays = decay * rng.uniform(0.3, 1, (modes, 1))
    rings = rng.uniform(0.2, 1, (modes, 1)) * np.exp(-time / decays) * np.sin(2 * np.pi * hz * time)
    return _unit_peak(rings.sum(axis=0))


def burst(rng: np.random.Generator, low_hz: float, high_hz: float, seconds: float, attack: float = 0.1) -> np.ndarray:
    """Noise in a band that rises for a share ``attack`` of ``seconds`` and dies away, peak 1: (L,)."""
    length = max(64, int(seconds * RATE))
    spectrum = scipy.fft.rfft(rng.standard_normal(length, dtype=np.float32))
    hz = scipy.fft.rfftfreq(length, 1 / RATE)
    band = 1 / np.sqrt(1 + (low_hz / np.maximum(hz, 1)) ** 4) / np.sqrt(1 + (hz / high_hz) ** 4)
    time = np.arange(length) / length
    shape = np.minimum(time / attack, 1) * np.exp(-4 * np.maximum(time - attack, 0)) * (1 - time)
    return _unit_peak(scipy.fft.irfft(spectrum * band, length) * shape)


def syllable(rng: np.random.Generator, pitch: float, size: float) -> np.ndarray:
    """A vowel, often after a hiss, RMS near 1 in its middle: (L,). ``size`` scales the formants (child: about 1.3)."""
    length = int(rng.uniform(0.12, 0.3) * RATE)
    hz = pitch * np.geomspace(rng.uniform(0.9, 1.15), rng.uniform(0.85, 1.1), length)
    partials = pitch * np.arange(1, int(6000 / pitch) + 1)
    formants = size * rng.uniform((280, 850, 2300), (800, 2300, 3100))[:, None]
    resonances = 1 / (1 + ((partials - formants) / (50 + 0.06 * formants)) ** 2)
    vowel = tone(rng, hz, (resonances * [[1], [0.6], [0.25]]).sum(axis=0)) * np.hanning(length).astype(np.float32)
    if rng.random() < 0.5:
        hiss = burst(rng, rng.uniform(2500, 5000), 9000, rng.uniform(0.05, 0.12), 0.5)
        vowel[:len(hiss)] += 0.6 * hiss
    return vowel


def talk(rng: np.random.Generator, n: int, pitches: Sequence[float], size: float = 1.0, busy: float = 0.6,
         spread_db: float = 5.0) -> np.ndarray:
    """One talker per pitch, speaking a share ``busy`` of the time, at different distances and directions: (2, n)."""
    heard = np.zeros((2, n), np.float32)
    for pitch in pitches:
        words = [syllable(rng, pitch * rng.uniform(0.9, 1.1), size) for _ in range(8)]
        waits = rng.uniform(0.14, 0.3, int(n / RATE / 0.2) + 8)
        pauses = rng.random(len(waits)) < 0.12
        waits[pauses] += rng.exponential(1.8 * (1 - busy) / busy, int(pauses.sum()))
        heard += scatter(rng, n, np.cumsum(waits) - rng.uniform(0, 1), words, spread_db=2,
                         gain_db=rng.normal(0, spread_db), place=rng.uniform(0, 1))
    return heard


def in_bouts(rng: np.random.Generator, n: int, per_minute: float, count: tuple[int, int],
             interval: float, jitter: float = 0.1) -> np.ndarray:
    """Times of events in s: one row or more at random, each of ``count`` events about ``interval`` s apart."""
    rows = rng.poisson(per_minute / 60 * n / RATE)
    starts = np.sort(rng.uniform(0, n / RATE, max(rows, 1)))
    waits = [rng.normal(1, jitter, rng.integers(count[0], count[1] + 1)) for _ in starts]
    return np.concatenate([start + interval * (np.cumsum(wait) - wait[0])
                           for start, wait in zip(starts, waits, strict=True)])


def scatter(rng: np.random.Generator, n: int, times: np.ndarray, sounds: Sequence[np.ndarray], *,
            spread_db: float = 4.0, gain_db: float = 0.0, place: float | None = None) -> np.ndarray:
    """One of ``sounds`` at each of ``times``: (2, n); in one direction (``place`` 0 left to 1 right) or in many."""
    heard = np.zeros((2, n), np.float32)
    gains = 10 ** ((gain_db + rng.normal(0, spread_db, len(times))) / 20)
    places = rng.uniform(0.1, 0.9, len(times)) if place is None else np.full(len(times), place)
    which = rng.integers(len(sounds), size=len(times))
    for time, gain, direction, i in zip(times, gains, places, which, strict=True):
        start = int(time * RATE)
        if 0 <= start < n:
            sound = sounds[i][:n - start]
            heard[0, start:start + len(sound)] += np.float32(gain * np.cos(direction * np.pi / 2)) * sound
            heard[1, start:start + len(sound)] += np.float32(gain * np.sin(direction * np.pi / 2)) * sound
    return heard


def _unit_peak(sound: np.ndarray) -> np.ndarray:
    return (sound / (np.abs(sound).max() or 1)).astype(np.float32)


def in_room(rng: np.random.Generator, sound: np.ndarray, seconds: float, db: float) -> np.ndarray:
    """``sound`` (2, n) with a room's reverberation (time to -60 dB) at ``db`` against the direct sound: (2, n)."""
    delay = np.arange(int(seconds * RATE)) / RATE
    tail = rng.standard_normal((2, len(delay))) * 10 ** (-3 * delay / seconds)
    tail = scipy.signal.lfilter([1], [1, -rng.uniform(0.5, 0.85)], tail)  # walls and air swallow the treble
    tail *= 10 ** (db / 20) / np.linalg.norm(tail, axis=1, keepdims=True)
    tail[:, 0] += 1
    return scipy.signal.oaconvolve(sound, tail.astype(np.float32), axes=1)[:, :sound.shape[1]]


def through_microphone(rng: np.random.Generator, sound: np.ndarray, db: float) -> np.ndarray:
    """``sound`` (2, n) coloured by ±``db`` per octave band, a bass roll-off and the recorder's own noise: (2, n)."""
    octaves = 31.5 * 2.0 ** np.arange(10)  # 31.5 Hz to 16 kHz
    levels = scipy.signal.lfilter([1], [1, -0.5], rng.uniform(-db, db, len(octaves)))
    levels -= rng.uniform(0, 12) * (octaves < 60)
    hz = np.array([0, *octaves, RATE / 2])
    gains = 10 ** (np.array([levels[0] - 12, *levels, levels[-1] - 20]) / 20)
    response = scipy.signal.firwin2(1025, hz, gains, fs=RATE).astype(np.float32)
    hiss = rng.standard_normal(sound.shape, dtype=np.float32) * np.float32(10 ** (rng.uniform(-75, -55) / 20))
    return scipy.signal.oaconvolve(sound, response[None], mode="same", axes=1) + hiss * np.float32(np.abs(sound).max())
