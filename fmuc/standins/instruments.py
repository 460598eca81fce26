"""Instruments of nsynth-gm: which preset belongs to which NSynth family, what is held out, how an instrument varies.

A *base sound* is a group of a family's presets that share half of their recordings.  An *instrument* is one preset with
a drawn ``Variation`` that all its notes share.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy  # its parts are imported when they are asked for: "signal" takes a second

from fmuc.standins.soundfonts import SAME_SOUND, Preset, bundled, linked, read_presets

SOURCES = ("acoustic", "electronic", "synthetic")
NOTES_PER_INSTRUMENT = 10  # a labelled share of 10 % then is about one of each
TEST_SOUNDS = 4  # base sounds of a family in test, if it has as many to spare
SAMPLE_RATE, SAMPLES, HELD = 16_000, 64_000, 48_000  # 4 s, the key is held for 3 s
OVERSAMPLING = 3  # the synthesiser interpolates linearly: at 16 kHz it would fold everything above 8 kHz

# Family in the order of NSynth's ids -> rows of General-MIDI programs, source, lowest and highest MIDI pitch.
FAMILIES: dict[str, list[dict]] = tomllib.loads(Path(__file__).with_name("families.toml").read_text(encoding="utf-8"))
_PROGRAMS = {family: {program: row for row in rows for program in row["programs"]} for family, rows in FAMILIES.items()}


@dataclass(frozen=True)
class Instrument:
    """One instrument of the data set; ``seed`` and ``number`` fix its variation and its notes."""

    number: int
    name: str
    family: str
    source: str
    split: str
    base_sound: str  # "SoundFont:program+..." of all its presets
    font: Path
    program: int
    lowest: int
    highest: int
    first_note: int
    n_notes: int
    seed: int


@dataclass(frozen=True)
class Variation:
    """What tells an instrument from others of the same base sound; drawn once, applied to all its notes."""

    cents: float  # tuning
    second_voice_cents: float  # 0: one voice
    shelf_db: float  # high shelf
    shelf_hz: float
    lowpass_hz: float
    attack_s: float
    decay_s: float  # time constant of an added exponential decay, inf: none
    room_s: float  # reverberation time (60 dB)
    room_db: float  # energy of the room's response against the direct sound, -inf: none
    peak_db: float  # peak of the loudest note in dBFS


def plan(sizes: Mapping[str, int], seed: int) -> list[Instrument]:
    """Every instrument, numbered; a split's base sounds get equal numbers of them, as far as the number divides."""
    presets = [preset for path in bundled() for preset in read_presets(path)]
    held = hold_out(presets, np.random.default_rng(seed))
    kept = [preset for preset in presets if preset not in held]
    instruments: list[Instrument] = []
    for family_id, family in enumerate(FAMILIES):
        rng, out = np.random.default_rng([seed, family_id]), _sounds(family, held)
        n_test = max(TEST_SOUNDS, len(out) - 1)
        for split, sounds in {"train": _sounds(family, kept), "valid": out[n_test:], "test": out[:n_test]}.items():
            sounds = [sounds[i] for i in rng.permutation(len(sounds))]
            for first in range(0, sizes[split] if sounds else 0, NOTES_PER_INSTRUMENT):
                sound = sounds[first // NOTES_PER_INSTRUMENT % len(sounds)]
                preset = sound[rng.integers(len(sound))]
                row = _PROGRAMS[family][preset.program]
                source = row["source"]
                count = sum((i.family, i.source) == (family, source) for i in instruments)
                instruments.append(Instrument(
                    number=len(instruments), name=f"{family}_{source}_{count:03d}", family=family, source=source,
                    split=split, base_sound="+".join(f"{p.font.name}:{p.program}" for p in sound), font=preset.font,
                    program=preset.program, lowest=row["lowest"], highest=row["highest"],
                    first_note=sum(i.n_notes for i in instruments), seed=seed,
                    n_notes=min(NOTES_PER_INSTRUMENT, sizes[split] - first)))
    return instruments


def _sounds(family: str, presets: Sequence[Preset]) -> list[list[Preset]]:
    return linked([preset for preset in presets if preset.program in _PROGRAMS[family]], SAME_SOUND)


def hold_out(presets: Sequence[Preset], rng: np.random.Generator) -> list[Preset]:
    """The presets for valid and test.  Presets that share a recording, in any family, are held out or kept together.

    The largest groups come first, equally large ones at random.  One is held out if a family lacks test sounds and each
    keeps two base sounds, then one more for valid where four are kept.  synth_lead is trained only, as in NSynth.
    """
    groups = linked([preset for preset in presets if any(preset.program in known for known in _PROGRAMS.values())])
    shuffled = [groups[i] for i in rng.permutation(len(groups))]
    ordered = sorted(shuffled, key=lambda group: -len(linked(group, SAME_SOUND)))
    held: list[Preset] = []
    for wanted, keep in ((TEST_SOUNDS, 2), (TEST_SOUNDS + 1, 4)):
        for group in ordered:
            kept = [preset for preset in presets if preset not in held + group]
            families = [family for family in FAMILIES if _sounds(family, group)]
            if (group[0] not in held and "synth_lead" not in families
                    and any(len(_sounds(family, held)) < wanted for family in families)
                    and all(len(_sounds(family, kept)) >= keep for family in families)):
                held += group
    return held


def draw_variation(rng: np.random.Generator) -> Variation:
    """Moderate changes: a listener still names the family, two instruments of one base sound differ audibly."""
    return Variation(
        cents=rng.uniform(-20, 20),
        second_voice_cents=rng.choice([-1, 1]) * rng.uniform(5, 14) * (rng.random() < 0.3),
        shelf_db=rng.uniform(-8, 8),
        shelf_hz=float(np.exp(rng.uniform(np.log(700), np.log(3000)))),
        lowpass_hz=float(np.exp(rng.uniform(np.log(2500), np.log(7800)))),
        attack_s=rng.uniform(0.001, 0.06),
        decay_s=float(np.exp(rng.uniform(np.log(0.8), np.log(8)))) if rng.random() < 0.5 else np.inf,
        room_s=rng.uniform(0.2, 1.5),
        room_db=rng.uniform(-30, -12) if rng.random() < 0.7 else -np.inf,
        peak_db=rng.uniform(-12, -0.5),
    )


def apply_variation(notes: np.ndarray, variation: Variation, rng: np.random.Generator) -> np.ndarray:
    """Tone, envelope and room: (n, samples) -> (n, samples), a new array; tuning is the synthesiser's part.

    ``rng`` draws the room's response, exponentially decaying noise: give the same state to all notes of an instrument.
    """
    time = np.arange(notes.shape[1]) / SAMPLE_RATE
    dry = notes * np.minimum(time / variation.attack_s, 1) * np.exp(-time / variation.decay_s)
    low = _filtered(dry, 1, variation.shelf_hz)
    toned = _filtered(low + 10 ** (variation.shelf_db / 20) * (dry - low), 2, variation.lowpass_hz)
    wet = scipy.signal.fftconvolve(toned, _room(variation, rng)[None], axes=1)[:, :notes.shape[1]]
    return _filtered(wet, 1, 15, "highpass")  # some presets carry a constant offset


def _filtered(notes: np.ndarray, order: int, hz: float, kind: str = "lowpass") -> np.ndarray:
    return scipy.signal.sosfilt(scipy.signal.butter(order, hz, kind, fs=SAMPLE_RATE, output="sos"), notes)


def _room(variation: Variation, rng: np.random.Generator) -> np.ndarray:
    delay = np.arange(int(variation.room_s * SAMPLE_RATE)) / SAMPLE_RATE
    response = rng.standard_normal(len(delay)) * 10 ** (-3 * delay / variation.room_s)
    response *= 10 ** (variation.room_db / 20) / np.linalg.norm(response)
    response[0] += 1
    return response


def synthesise(font: Path, program: int, notes: Sequence[tuple[int, int]], variation: Variation) -> np.ndarray:
    """Play (pitch, velocity) pairs one by one, 3 s held and 1 s released: -> (n, 64000) mono at 16 kHz, float."""
    synth, handle = _synth(font)
    cents = [variation.cents]
    if variation.second_voice_cents:
        cents.append(variation.cents + variation.second_voice_cents)
    for channel, tuning in enumerate(cents):
        synth.program_select(channel, handle, 0, program)
        synth.set_tuning(channel, tuning / 100)
    played = np.stack([_play(synth, len(cents), *note) for note in notes])
    return scipy.signal.resample_poly(played, 1, OVERSAMPLING, axis=1)


@lru_cache
def _synth(font: Path):  # -> (synthesiser, handle of the loaded SoundFont)
    import tinysoundfont  # optional

    synth = tinysoundfont.Synth(samplerate=SAMPLE_RATE * OVERSAMPLING)
    return synth, synth.sfload(str(font))


def _play(synth, channels: int, pitch: int, velocity: int) -> np.ndarray:
    for channel in range(channels):
        synth.noteon(channel, pitch, velocity)
    held = bytes(synth.generate(HELD * OVERSAMPLING))
    for channel in range(channels):
        synth.noteoff(channel, pitch)
    released = bytes(synth.generate((SAMPLES - HELD) * OVERSAMPLING))
    synth.sounds_off()
    synth.generate(SAMPLE_RATE * OVERSAMPLING // 10)  # let the voices end: a note must not hear the one before
    return np.frombuffer(held + released, np.float32).reshape(-1, 2).mean(axis=1)
