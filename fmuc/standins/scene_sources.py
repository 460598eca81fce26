"""What sounds in a simulated scene: each source is a function (generator, samples L) -> float32 (2, L).

A source draws its own version at every call (an engine's pitch, a talker's voice, how often a bird sings), so that no
two places have the same.  Continuous sources have an RMS of 1, single events a peak near 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fmuc.standins.scene_sounds import (
    RATE,
    burst,
    follow,
    glide,
    in_bouts,
    jittered,
    noise,
    scatter,
    struck,
    swell,
    syllable,
    talk,
    tone,
    unit_rms,
    wander,
)

Rng = np.random.Generator

CURVES = {  # spectra of continuous sounds
    "wind": ((20, 0), (60, 0), (200, -14), (800, -30), (4000, -48)),
    "leaves": ((200, -25), (1000, -8), (4000, 0), (9000, -8), (18000, -25)),
    "surf": ((30, -8), (100, 0), (500, -3), (2000, -8), (8000, -16), (16000, -28)),
    "rain": ((200, -25), (1000, -12), (3000, -3), (8000, 0), (16000, -8)),
    "traffic": ((30, -6), (70, 0), (250, -8), (700, -7), (1200, -7), (3000, -20), (10000, -42)),
    "rolling": ((30, 2), (80, 2), (200, -5), (700, -15), (1500, -21), (5000, -38), (14000, -55)),
    "rail": ((30, 0), (90, -2), (250, -4), (500, -7), (1500, -19), (6000, -36), (14000, -52)),
    "fan": ((40, -16), (150, -4), (500, 0), (2000, -10), (8000, -28), (16000, -45)),
    "cooling": ((40, -10), (100, -3), (300, -4), (800, 0), (2500, -9), (8000, -22), (16000, -40)),
    "hall": ((30, -10), (80, -4), (250, 0), (700, -4), (2500, -18), (8000, -40), (16000, -60)),
    "crowd": ((80, -22), (250, -3), (600, 0), (1500, -9), (4000, -24), (10000, -44)),
}


def _texture(name: str, period: float, db: float, width: float = 0.5) -> Callable[[Rng, int], np.ndarray]:
    """A source of noise with a place's own version of a curve, drifting by ``db`` every ``period`` s."""
    def source(rng: Rng, n: int) -> np.ndarray:
        return unit_rms(noise(rng, n, jittered(rng, CURVES[name]), width) * swell(rng, n, period, db))
    return source


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


def _engine(rng: Rng, n: int) -> np.ndarray:
    speed = _speed(rng, n, rng.uniform(4, 9))
    order = np.arange(1, 60)
    harmonics = order ** -rng.uniform(0.5, 1.3) * rng.uniform(0.2, 1, len(order))
    harmonics[1::2] *= rng.uniform(1, 3)  # firing order
    sound = tone(rng, rng.uniform(22, 55) * speed * (1 + wander(rng, n, 0.05, 0.01)), harmonics)
    return unit_rms(np.stack([sound, sound * np.float32(rng.uniform(0.5, 1))]))


def _whine(rng: Rng, n: int) -> np.ndarray:
    speed = _speed(rng, n, rng.uniform(5, 12))
    sound = tone(rng, rng.uniform(180, 900) * speed, rng.uniform(0.1, 1, 5) / np.arange(1, 6))
    return unit_rms(np.stack([sound, sound * np.float32(rng.uniform(0.5, 1))]) * speed**3)


def _hum(rng: Rng, n: int) -> np.ndarray:
    harmonics = rng.uniform(0, 1, 12) ** 2 / np.arange(1, 13) ** 0.7
    mains = tone(rng, np.full(n, 50 * rng.choice([1, 2]) * rng.uniform(0.97, 1)), harmonics)
    return unit_rms(np.stack([mains, mains * np.float32(rng.uniform(0.5, 1))]))


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


def _rows(make: Callable[[Rng], np.ndarray], per_minute: tuple[float, float], count: tuple[int, int],
          interval: tuple[float, float], jitter: float = 0.15, variants: int = 4) -> Callable[[Rng, int], np.ndarray]:
    """A source of rows of similar events; rate, spacing and the events themselves are the place's own."""
    def source(rng: Rng, n: int) -> np.ndarray:
        times = in_bouts(rng, n, rng.uniform(*per_minute), count, rng.uniform(*interval), jitter)
        return scatter(rng, n, times, [make(rng) for _ in range(variants)])
    return source


def _door(rng: Rng) -> np.ndarray:
    thud = burst(rng, 40, rng.uniform(200, 900), rng.uniform(0.15, 0.4), 0.02)
    click = struck(rng, 800, 3500, 6, 0.02)
    thud[:len(click)] += 0.4 * click[:len(thud)]
    return thud


SOURCES: dict[str, Callable[[Rng, int], np.ndarray]] = {
    "wind": _texture("wind", 0.8, 5), "leaves": _texture("leaves", 0.7, 4, 0.8), "surf": _surf,
    "rain": _texture("rain", 2, 1.5, 0.9), "traffic": _texture("traffic", 3, 3), "passby": _passby,
    "rolling": _texture("rolling", 2, 2), "rail": _texture("rail", 1, 2.5), "engine": _engine, "whine": _whine,
    "fan": _texture("fan", 5, 0.7), "cooling": _texture("cooling", 5, 0.7), "hall": _texture("hall", 4, 1), "hum": _hum,
    "crowd": _crowd, "speech": _speech, "children": _children, "announcement": _announcement, "music": _music,
    "birds": _birds,
    "gulls": _rows(lambda r: glide(r.uniform(0.2, 0.5), r.uniform(1100, 1600), r.uniform(700, 1000)), (3, 8), (2, 6),
                   (0.3, 0.6)),
    "dog": _rows(lambda r: syllable(r, r.uniform(250, 500), 0.9), (2, 5), (2, 6), (0.35, 0.7)),
    "steps": _rows(lambda r: burst(r, r.uniform(60, 300), r.uniform(800, 4000), 0.09, 0.05), (4, 12), (5, 14),
                   (0.45, 0.62), 0.06),
    "gravel": _rows(lambda r: burst(r, r.uniform(400, 1500), r.uniform(4000, 10000), 0.22, 0.25), (4, 10), (6, 16),
                    (0.48, 0.62), 0.06),
    "horn": _rows(lambda r: 0.5 * tone(r, np.full(int(r.uniform(0.3, 0.9) * RATE), r.uniform(330, 480)),
                                       1 / np.arange(1, 12)), (1, 2), (1, 2), (0.8, 1.2)),
    "bell": _rows(lambda r: struck(r, 900, 3800, 6, 0.5), (1.5, 4), (1, 4), (0.3, 0.6)),
    "squeal": _rows(lambda r: glide(r.uniform(0.6, 2), r.uniform(1800, 4200), r.uniform(1500, 4500)), (1.5, 5), (1, 2),
                    (1.5, 3)),
    "joints": _rows(lambda r: burst(r, 50, r.uniform(400, 1500), 0.12, 0.05), (10, 25), (2, 4), (0.16, 0.4), 0.05),
    "rattle": _rows(lambda r: struck(r, 600, 5000, 8, 0.015), (15, 40), (2, 8), (0.06, 0.2), 0.4),
    "hiss": _rows(lambda r: burst(r, 2500, 12000, r.uniform(0.4, 1.2), 0.1), (1.5, 4), (1, 2), (1, 2)),
    "indicator": _rows(lambda r: struck(r, 1500, 4500, 4, 0.006), (2, 4), (6, 14), (0.33, 0.45), 0.01),
    "beeps": _rows(lambda r: glide(r.uniform(0.07, 0.2), *[r.uniform(900, 3000)] * 2), (3, 9), (1, 5), (0.4, 1.5),
                   0.3, 1),
    "cutlery": _rows(lambda r: struck(r, 1800, 9000, 9, r.uniform(0.03, 0.12)), (8, 25), (1, 5), (0.15, 0.6), 0.5, 8),
    "cart": _rows(lambda r: struck(r, 300, 4000, 10, 0.03), (4, 10), (10, 30), (0.05, 0.14), 0.4),
    "bags": _rows(lambda r: burst(r, 1500, 10000, r.uniform(0.15, 0.5), 0.3), (3, 10), (2, 6), (0.3, 0.7), 0.4),
    "machine": _rows(lambda r: burst(r, 300, 6000, r.uniform(3, 6), 0.1), (1, 2.5), (1, 1), (1, 2), variants=1),
    "chair": _rows(lambda r: burst(r, 150, r.uniform(900, 2500), r.uniform(0.15, 0.5), 0.4), (2, 5), (1, 3), (0.5, 2)),
    "door": _rows(_door, (1.5, 4), (1, 2), (0.8, 2)),
    "keyboard": _rows(lambda r: struck(r, 1200, 5500, 6, 0.008), (8, 20), (6, 30), (0.11, 0.2), 0.4),
    "mouse": _rows(lambda r: struck(r, 2000, 6000, 4, 0.004), (5, 12), (1, 3), (0.15, 0.5), 0.3),
    "pages": _rows(lambda r: burst(r, 1200, 9000, r.uniform(0.2, 0.6), 0.4), (2, 7), (1, 3), (0.8, 2)),
    "phone": _rows(lambda r: 0.7 * glide(0.5, *[r.uniform(600, 1800)] * 2), (1, 2), (2, 4), (0.7, 1.5), 0.02, 1),
    "clock": _rows(lambda r: struck(r, 2500, 6000, 3, 0.004), (2, 3), (30, 40), (0.5, 1), 0.01),
}
