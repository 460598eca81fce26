"""What is heard in a simulated scene: recordings of places, their sources, and what these are made of.

``scenes.toml`` has the numbers.  A source is a function (generator, samples n) -> float32 (2, n), left and right.  It
draws its own version at every call (an engine's pitch, a talker's voice, how often a bird sings), so that no two places
have the same.  Continuous sources have an RMS of 1; single events, float32 (L,), a peak near 1.  Times are in seconds,
frequencies in Hz.  A *curve* is a spectrum as ((Hz, dB), ...), interpolated over log frequency.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import scipy  # its parts are imported when they are asked for: "signal" takes a second

RATE = 44_100  # Hz
Rng = np.random.Generator
Curve = Sequence[tuple[float, float]]
_TABLE = 4096  # samples of one period of a waveform
_RECIPES = tomllib.loads(Path(__file__).with_name("scenes.toml").read_text(encoding="utf-8"))
CURVES, SCENES = _RECIPES["curves"], _RECIPES["scenes"]


def record(scene: str, n: int, rng: Rng) -> np.ndarray:
    """``n`` samples from one new place of ``scene``: float32 (2, n) with a drawn peak between -18 and -1 dBFS.

    The place is what the draws have in common for the whole recording: which of the scene's sources there are, how
    loud each is and how it sounds, the room and the microphone.
    """
    heard = np.zeros((2, n), np.float32)
    for i, (name, (chance, lowest, highest)) in enumerate(SCENES[scene]["sources"].items()):
        if i == 0 or rng.random() < chance:
            heard += np.float32(10 ** (rng.uniform(lowest, highest) / 20)) * SOURCES[name](rng, n)
    shortest, longest, driest, wettest = _RECIPES["rooms"][SCENES[scene]["room"]]
    heard = in_room(rng, heard, rng.uniform(shortest, longest), rng.uniform(driest, wettest))
    heard = through_microphone(rng, heard)
    return heard * np.float32(10 ** (rng.uniform(-18, -1) / 20) / np.abs(heard).max())


# --- building blocks ---


def jittered(rng: Rng, curve: Curve, db: float = 1.5, tilt: float = 0.6) -> Curve:
    """A place's own version of ``curve``: a random dB per octave (±``tilt``) and ±``db`` at every point."""
    slope = rng.uniform(-tilt, tilt)
    return [(hz, level + slope * np.log2(hz / 1000) + rng.uniform(-db, db)) for hz, level in curve]


def noise(rng: Rng, n: int, curve: Curve, width: float = 0.5) -> np.ndarray:
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


def wander(rng: Rng, n: int, period: float, spread: float) -> np.ndarray:
    """A value that drifts about 0: a new normal draw of standard deviation ``spread`` every ``period`` s: (n,)."""
    knots = np.arange(0, n / RATE + 2 * period, period)
    return follow(n, knots, rng.normal(0, spread, len(knots)))


def swell(rng: Rng, n: int, period: float, db: float) -> np.ndarray:
    """A gain that drifts by a standard deviation of ``db``: (n,) float32."""
    knots = np.arange(0, n / RATE + 2 * period, period)
    return follow(n, knots, 10 ** (rng.normal(0, db, len(knots)) / 20))


def tone(rng: Rng, hz: np.ndarray, harmonics: np.ndarray) -> np.ndarray:
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


def struck(rng: Rng, low_hz: float, high_hz: float, modes: int, decay: float) -> np.ndarray:
    """A struck object: damped resonances between two frequencies, time constants about ``decay`` s, peak 1: (L,)."""
    time = np.arange(int(6 * decay * RATE)) / RATE
    hz = np.exp(rng.uniform(np.log(low_hz), np.log(high_hz), (modes, 1)))
    decays = decay * rng.uniform(0.3, 1, (modes, 1))
    rings = rng.uniform(0.2, 1, (modes, 1)) * np.exp(-time / decays) * np.sin(2 * np.pi * hz * time)
    return _unit_peak(rings.sum(axis=0))


def burst(rng: Rng, low_hz: float, high_hz: float, seconds: float, attack: float = 0.1) -> np.ndarray:
    """Noise in a band that rises for a share ``attack`` of ``seconds`` and dies away, peak 1: (L,)."""
    length = max(64, int(seconds * RATE))
    spectrum = scipy.fft.rfft(rng.standard_normal(length, dtype=np.float32))
    hz = scipy.fft.rfftfreq(length, 1 / RATE)
    band = 1 / np.sqrt(1 + (low_hz / np.maximum(hz, 1)) ** 4) / np.sqrt(1 + (hz / high_hz) ** 4)
    time = np.arange(length) / length
    shape = np.minimum(time / attack, 1) * np.exp(-4 * np.maximum(time - attack, 0)) * (1 - time)
    return _unit_peak(scipy.fft.irfft(spectrum * band, length) * shape)


def syllable(rng: Rng, pitch: float, size: float) -> np.ndarray:
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


def talk(rng: Rng, n: int, pitches: Sequence[float], size: float = 1.0, busy: float = 0.6,
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


def in_bouts(rng: Rng, n: int, per_minute: float, count: tuple[int, int],
             interval: float, jitter: float = 0.1) -> np.ndarray:
    """Times of events in s: one row or more at random, each of ``count`` events about ``interval`` s apart."""
    rows = rng.poisson(per_minute / 60 * n / RATE)
    starts = np.sort(rng.uniform(0, n / RATE, max(rows, 1)))
    waits = [rng.normal(1, jitter, rng.integers(count[0], count[1] + 1)) for _ in starts]
    return np.concatenate([start + interval * (np.cumsum(wait) - wait[0])
                           for start, wait in zip(starts, waits, strict=True)])


def scatter(rng: Rng, n: int, times: np.ndarray, sounds: Sequence[np.ndarray], *,
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


def in_room(rng: Rng, sound: np.ndarray, seconds: float, db: float) -> np.ndarray:
    """``sound`` (2, n) with a room's reverberation (time to -60 dB) at ``db`` against the direct sound: (2, n)."""
    delay = np.arange(int(seconds * RATE)) / RATE
    tail = rng.standard_normal((2, len(delay))) * 10 ** (-3 * delay / seconds)
    tail = scipy.signal.lfilter([1], [1, -rng.uniform(0.5, 0.85)], tail)  # walls and air swallow the treble
    tail *= 10 ** (db / 20) / np.linalg.norm(tail, axis=1, keepdims=True)
    tail[:, 0] += 1
    return scipy.signal.oaconvolve(sound, tail.astype(np.float32), axes=1)[:, :sound.shape[1]]


def through_microphone(rng: Rng, sound: np.ndarray) -> np.ndarray:
    """``sound`` (2, n) coloured by ±1.5 dB per octave band, a bass roll-off and the recorder's own noise: (2, n)."""
    octaves = 31.5 * 2.0 ** np.arange(10)  # 31.5 Hz to 16 kHz
    levels = scipy.signal.lfilter([1], [1, -0.5], rng.uniform(-1.5, 1.5, len(octaves)))
    levels -= rng.uniform(0, 12) * (octaves < 60)
    hz = np.array([0, *octaves, RATE / 2])
    gains = 10 ** (np.array([levels[0] - 12, *levels, levels[-1] - 20]) / 20)
    response = scipy.signal.firwin2(1025, hz, gains, fs=RATE).astype(np.float32)
    hiss = rng.standard_normal(sound.shape, dtype=np.float32) * np.float32(10 ** (rng.uniform(-75, -55) / 20))
    return scipy.signal.oaconvolve(sound, response[None], mode="same", axes=1) + hiss * np.float32(np.abs(sound).max())


# --- continuous sounds ---


def _noise(rng: Rng, n: int, *, curve: str, period: float, db: float, width: float = 0.5) -> np.ndarray:
    """Noise with a place's own version of a curve, drifting by ``db`` every ``period`` s."""
    return unit_rms(noise(rng, n, jittered(rng, CURVES[curve]), width) * swell(rng, n, period, db))


def _surf(rng: Rng, n: int) -> np.ndarray:
    waves = in_bouts(rng, n, 4, (3, 8), rng.uniform(4, 9), 0.2)
    time, level = np.sort(waves), np.full((len(waves), 3), 0.15)
    level[:, 1] = rng.uniform(0.5, 1, len(waves))
    knots = np.stack([time - rng.uniform(1, 2.5), time, time + rng.uniform(1.5, 4)], axis=1)
    order = np.argsort(knots, axis=None)
    envelope = follow(n, knots.ravel()[order], level.ravel()[order])
    still = noise(rng, n, jittered(rng, CURVES["surf"]), 0.8)
    return unit_rms(still * (envelope + rng.uniform(0.05, 0.5)))


def _speed(rng: Rng, n: int, period: float) -> np.ndarray:
    """A vehicle's speed as a share of its usual one: (n,), 0.5 to 1.4."""
    return np.clip(1 + wander(rng, n, period, 0.18), 0.5, 1.4)


def _two_channels(rng: Rng, sound: np.ndarray) -> np.ndarray:
    """``sound`` (n,) on the left, and fainter on the right: (2, n)."""
    return np.stack([sound, sound * np.float32(rng.uniform(0.5, 1))])


def _engine(rng: Rng, n: int) -> np.ndarray:
    speed = _speed(rng, n, rng.uniform(4, 9))
    order = np.arange(1, 60)
    harmonics = order ** -rng.uniform(0.5, 1.3) * rng.uniform(0.2, 1, len(order))
    harmonics[1::2] *= rng.uniform(1, 3)  # firing order
    sound = tone(rng, rng.uniform(22, 55) * speed * (1 + wander(rng, n, 0.05, 0.01)), harmonics)
    return unit_rms(_two_channels(rng, sound))


def _whine(rng: Rng, n: int) -> np.ndarray:
    speed = _speed(rng, n, rng.uniform(5, 12))
    sound = tone(rng, rng.uniform(180, 900) * speed, rng.uniform(0.1, 1, 5) / np.arange(1, 6))
    return unit_rms(_two_channels(rng, sound) * speed**3)


def _hum(rng: Rng, n: int) -> np.ndarray:
    harmonics = rng.uniform(0, 1, 12) ** 2 / np.arange(1, 13) ** 0.7
    mains = tone(rng, np.full(n, 50 * rng.choice([1, 2]) * rng.uniform(0.97, 1)), harmonics)
    return unit_rms(_two_channels(rng, mains))


def _passby(rng: Rng, n: int) -> np.ndarray:
    """Single vehicles that come and go."""
    times = in_bouts(rng, n, 5, (1, 2), rng.uniform(3, 8), 0.4)
    envelope = np.full(n, 1e-3, np.float32)
    for time in times:
        half = rng.uniform(1, 3.5)
        near = follow(n, [time - 2 * half, time, time + 2 * half], [0, 1, 0])
        envelope += np.float32(rng.uniform(0.3, 1)) * near ** 3
    return 2 * unit_rms(noise(rng, n, jittered(rng, CURVES["rolling"], tilt=2), 0.7)) * envelope


def _crowd(rng: Rng, n: int) -> np.ndarray:
    """Many voices, of which a few stand out."""
    near = talk(rng, n, rng.uniform(95, 240, rng.integers(3, 7)), rng.uniform(0.95, 1.1), rng.uniform(0.4, 0.8))
    far = noise(rng, n, jittered(rng, CURVES["crowd"], 3), 0.6) * swell(rng, n, 0.25, 2)
    return unit_rms(unit_rms(near) + np.float32(rng.uniform(0.3, 1.2)) * far)


def _speech(rng: Rng, n: int) -> np.ndarray:
    return unit_rms(talk(rng, n, rng.uniform(90, 230, rng.integers(1, 3)), busy=rng.uniform(0.25, 0.7), spread_db=3))


def _children(rng: Rng, n: int) -> np.ndarray:
    shouts = [syllable(rng, rng.uniform(280, 480), 1.3) for _ in range(10)]
    return 0.3 * scatter(rng, n, in_bouts(rng, n, 8, (2, 6), rng.uniform(0.3, 0.6), 0.3), shouts, spread_db=6)


def _announcement(rng: Rng, n: int) -> np.ndarray:
    """A chime and a loudspeaker voice."""
    start = rng.uniform(0, max(n / RATE - 6, 0))
    chime = scatter(rng, n, start + 0.5 * np.arange(3), [glide(0.8, hz, hz) for hz in rng.uniform(500, 1100, 2)],
                    spread_db=1, place=0.5)
    voice = talk(rng, n, [rng.uniform(110, 220)], busy=0.85, spread_db=0)
    here = follow(n, [start + 2, start + 2.2, start + 7, start + 7.2], [0, 1, 1, 0])
    return chime + 0.5 * unit_rms(voice) * here


def _music(rng: Rng, n: int) -> np.ndarray:
    """Plucked chords from a small loudspeaker."""
    root, beat = rng.uniform(110, 220), rng.uniform(0.25, 0.5)
    steps = np.array([0, 3, 5, 7, 10, 12, 15])
    notes = []
    for _ in range(10):
        hz = root * 2 ** (rng.choice(steps) / 12)
        length = int(rng.uniform(0.3, 0.9) * RATE)
        notes.append(0.4 * tone(rng, np.full(length, hz), 1 / np.arange(1, 12) ** rng.uniform(0.8, 1.6))
                     * np.exp(-np.linspace(0, 5, length, dtype=np.float32)))
    times = np.concatenate([beat * np.arange(0, n / RATE / beat), 2 * beat * np.arange(0, n / RATE / beat / 2)])
    return scatter(rng, n, times, notes, spread_db=2, place=rng.uniform(0.3, 0.7))


def _birds(rng: Rng, n: int) -> np.ndarray:
    song = np.zeros((2, n), np.float32)
    for _ in range(rng.integers(1, 4)):
        low = rng.uniform(1800, 4500)
        calls = [glide(rng.uniform(0.04, 0.25), low * rng.uniform(1, 1.6), low * rng.uniform(0.8, 1.6))
                 for _ in range(3)]
        song += scatter(rng, n, in_bouts(rng, n, rng.uniform(3, 12), (2, 8), rng.uniform(0.1, 0.4)), calls,
                        place=rng.uniform(0, 1), gain_db=rng.normal(0, 4))
    return song


# --- events ---


def _events(rng: Rng, n: int, *, event: Sequence, times: Sequence, variants: int = 4) -> np.ndarray:
    """Rows of similar events; rate, spacing and the events themselves are the place's own."""
    make, arguments = _EVENTS[event[0]], event[1:]
    per_minute, count, interval, *jitter = times
    start = in_bouts(rng, n, rng.uniform(*per_minute), count, rng.uniform(*interval), *(jitter or [0.15]))
    sounds = [make(rng, *(_drawn(rng, each) for each in arguments)) for _ in range(variants)]
    return scatter(rng, n, start, sounds)


def _drawn(rng: Rng, value: float | Sequence[float]) -> float:
    return rng.uniform(*value) if isinstance(value, list) else value


def _beep(rng: Rng, seconds: float, hz: float, level: float = 1) -> np.ndarray:
    return level * glide(seconds, hz, hz)


def _horn(rng: Rng, seconds: float, hz: float) -> np.ndarray:
    return 0.5 * tone(rng, np.full(int(seconds * RATE), hz), 1 / np.arange(1, 12))


def _door(rng: Rng) -> np.ndarray:
    thud = burst(rng, 40, rng.uniform(200, 900), rng.uniform(0.15, 0.4), 0.02)
    click = struck(rng, 800, 3500, 6, 0.02)
    thud[:len(click)] += 0.4 * click[:len(thud)]
    return thud


_EVENTS = {"burst": burst, "struck": struck, "syllable": syllable, "glide": lambda rng, *drawn: glide(*drawn),
           "beep": _beep, "horn": _horn, "door": _door}
SOURCES: dict[str, Callable[[Rng, int], np.ndarray]] = {
    "surf": _surf, "passby": _passby, "engine": _engine, "whine": _whine, "hum": _hum, "crowd": _crowd,
    "speech": _speech, "children": _children, "announcement": _announcement, "music": _music, "birds": _birds,
    **{name: partial(_noise, curve=name, **recipe) for name, recipe in _RECIPES["noises"].items()},
    **{name: partial(_events, **recipe) for name, recipe in _RECIPES["events"].items()},
}
