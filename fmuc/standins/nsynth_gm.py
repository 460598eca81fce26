"""nsynth-gm: a small stand-in for NSynth, notes rendered from General-MIDI SoundFonts in NSynth's own layout.

It is **not** NSynth (Engel et al. 2017): it lets the whole pipeline run in minutes without a download, on notes with
NSynth's families, fields, file names and audio format.  What differs, on purpose or of necessity:

* Families have equal numbers of notes in a split; the real data are unbalanced.
* An instrument plays 10 notes, drawn from the plausible range of its program; NSynth's play most of the keyboard.
* Hold-out is by recording: no recording of a test or valid instrument is played by a training instrument, of whatever
  family, from either SoundFont.  Every family but synth_lead has four base sounds or more in test; organ and vocal keep
  only two in train.  valid holds only the families that can spare a fifth, and may share recordings with test.
* As in NSynth, synth_lead occurs in train only.
* The ten quality flags are all zero: nobody annotated these notes.

The same parameters give the same bytes for any number of workers, with the same versions of numpy, scipy and
tinysoundfont on the same kind of processor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fmuc.datasets import SPLITS
from fmuc.machinery.atomic import write_json
from fmuc.machinery.sound import wav
from fmuc.machinery.workers import run_parallel
from fmuc.standins import instruments
from fmuc.standins.instruments import FAMILIES, SAMPLE_RATE, SAMPLES, SOURCES, Instrument
from fmuc.standins.soundfonts import bundled

SIZES = {  # notes per family
    "nsynth-gm": {"train": 400, "valid": 20, "test": 100},
    "nsynth-gm-smoke": {"train": 60, "valid": 5, "test": 10},  # to look at, to listen to and for tests
}
VELOCITIES = (25, 50, 75, 100, 127)  # NSynth's
SILENCE = 10 ** (-60 / 20)  # peak of -60 dBFS
RENDERER = 4  # raise it whenever the same parameters give other samples


def parameters(sizes: Mapping[str, int], seed: int) -> dict:
    """All that the rendered bytes depend on. ``sizes``: notes per family of each split."""
    fonts = [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in bundled()]
    return {"renderer": RENDERER, "notes_per_family": dict(sizes), "seed": seed, "soundfonts": fonts,
            "tinysoundfont": version("tinysoundfont")}


def render(root: Path, sizes: Mapping[str, int], seed: int, workers: int, progress: bool) -> None:
    """Fill ``root``: ``nsynth-{train,valid,test}/{examples.json,audio/*.wav}``."""
    planned = instruments.plan(sizes, seed)
    examples: dict[str, dict[str, dict]] = {split: {} for split in SPLITS}
    for split in SPLITS:
        (root / f"nsynth-{split}" / "audio").mkdir(parents=True)
    written = run_parallel(_write_instrument, ((instrument, root) for instrument in planned), workers)
    bar = tqdm(written, "nsynth-gm", len(planned), unit="instrument", disable=not progress)
    for instrument, records in zip(planned, bar, strict=True):
        examples[instrument.split].update((record["note_str"], record) for record in records)
    for split in SPLITS:
        write_json(root / f"nsynth-{split}" / "examples.json", dict(sorted(examples[split].items())))


def _write_instrument(instrument: Instrument, root: Path) -> list[dict]:
    records = []
    for i, ((pitch, velocity), samples) in enumerate(zip(*audible_notes(instrument), strict=True)):
        records.append(_record(instrument, instrument.first_note + i, pitch, velocity))
        path = root / f"nsynth-{instrument.split}" / "audio" / f"{records[-1]['note_str']}.wav"
        path.write_bytes(wav(samples, SAMPLE_RATE))
    return records


def audible_notes(instrument: Instrument) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Draw and render notes until enough are audible: -> (pitch, velocity) pairs, int16 (n, 64000).

    One gain serves the whole instrument, so that soft notes stay softer than loud ones and none clips.
    """
    rng = np.random.default_rng([instrument.seed, len(FAMILIES), instrument.number])
    variation, room_seed = instruments.draw_variation(rng), rng.integers(2 ** 32)
    grid = [(p, v) for p in range(instrument.lowest, instrument.highest + 1) for v in VELOCITIES]
    drawn = [grid[i] for i in rng.permutation(len(grid))]
    audio = np.zeros((0, SAMPLES))
    while True:
        gain = 10 ** (variation.peak_db / 20) / max(np.abs(audio).max(initial=0), SILENCE)
        audible = np.flatnonzero(np.abs(audio).max(axis=1, initial=0) * gain >= SILENCE)
        missing = instrument.n_notes - len(audible)
        if not missing:
            return [drawn[i] for i in audible], np.round(audio[audible] * gain * 32767).astype(np.int16)
        batch = drawn[len(audio):len(audio) + missing]
        played = instruments.synthesise(instrument.font, instrument.program, batch, variation)
        room = np.random.default_rng(room_seed)
        audio = np.concatenate([audio, instruments.apply_variation(played, variation, room)])


def _record(instrument: Instrument, note: int, pitch: int, velocity: int) -> dict:
    """One entry of ``examples.json``, field by field as in NSynth."""
    return {
        "note": note, "note_str": f"{instrument.name}-{pitch:03d}-{velocity:03d}",
        "instrument": instrument.number, "instrument_str": instrument.name,
        "pitch": pitch, "velocity": velocity, "sample_rate": SAMPLE_RATE, "qualities": [0] * 10, "qualities_str": [],
        "instrument_family": list(FAMILIES).index(instrument.family), "instrument_family_str": instrument.family,
        "instrument_source": SOURCES.index(instrument.source), "instrument_source_str": instrument.source,
    }
