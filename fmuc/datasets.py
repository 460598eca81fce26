"""Data sets as lists of clips: which sound files there are, what they are labelled and which split they belong to.

A loader reads an index, checks it and returns a :class:`Dataset`; everything after it works on clip indices.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock

from fmuc import paths
from fmuc.errors import FmucError
from fmuc.standins import nsynth_gm, scenes_sim

SPLITS = ("train", "valid", "test")
NSYNTH_FAMILIES = (
    "bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal",
)  # in the order of NSynth's family ids
_NSYNTH_FIELDS = ("instrument_str", "instrument_family_str")
_REMEDY = "unpack the archive again or see data/README.md"


@dataclass(frozen=True, slots=True)
class Clip:
    """One sound file. ``label`` is None if unknown; ``group`` is what must not be shared between training and test
    (the instrument for NSynth, the recording for TUT2017); ``split`` is "train", "valid" or "test"."""

    id: str
    path: Path
    label: str | None
    group: str
    split: str


@dataclass(frozen=True)
class Dataset:
    """All clips of a data set in a fixed order; a clip's index is its position in ``clips``.

    Raises :class:`FmucError` if two clips share an id or a clip has a label or split that does not exist.
    """

    name: str
    classes: tuple[str, ...]
    clips: tuple[Clip, ...]

    def __post_init__(self) -> None:
        known, seen = {*self.classes, None}, set()
        for clip in self.clips:
            if clip.label not in known:
                raise FmucError(f"{self.name}: clip {clip.id} has the unknown label {clip.label!r}; "
                                f"known are {', '.join(self.classes)}")
            if clip.split not in SPLITS:
                raise FmucError(f"{self.name}: clip {clip.id} has the split {clip.split!r}; use {', '.join(SPLITS)}")
            if clip.id in seen:
                raise FmucError(f"{self.name}: the clip id {clip.id} occurs twice; ids must be unique")
            seen.add(clip.id)

    def labels(self) -> np.ndarray:
        """Class index of every clip, -1 if unknown: (clips,) int64."""
        index: dict[str | None, int] = {label: i for i, label in enumerate(self.classes)}
        index[None] = -1
        return np.array([index[clip.label] for clip in self.clips], dtype=np.int64)

    def indices(self, split: str) -> np.ndarray:
        """Indices of the clips of one split, ascending: int64."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
        return np.array([i for i, clip in enumerate(self.clips) if clip.split == split], dtype=np.int64)

    @cached_property
    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 of classes, ids, labels, groups and splits (paths and sound excluded)."""
        state = hashlib.sha256(json.dumps(self.classes).encode())
        for clip in self.clips:
            state.update(json.dumps((clip.id, clip.label, clip.group, clip.split)).encode())
        return state.hexdigest()[:12]

    @cached_property
    def fingerprint(self) -> str:
        """First 12 hex digits of the SHA-256 of ids, sizes and times of change of the sound files: other sound, other
        fingerprint. A copy of the files has another one, unless it keeps their times."""
        state = hashlib.sha256()
        for clip in self.clips:
            try:
                status = os.stat(clip.path)
            except OSError as error:
                raise FmucError(f"{paths.relative(clip.path)}: cannot be read ({error.strerror}); {_REMEDY}") from None
            state.update(json.dumps((clip.id, status.st_size, status.st_mtime_ns)).encode())
        return state.hexdigest()[:12]


def load_nsynth(root: Path, name: str) -> Dataset:
    """NSynth (Engel et al. 2017), or a set in its layout: ``nsynth-<split>/examples.json`` and ``audio/<note>.wav``.

    Splits that are not on the disk are left out. The classes are always NSynth's eleven families, in the order of
    their ids, although synth_lead has no note outside the training split. Notes are sorted by name within a split.
    Raises :class:`FmucError` for a missing folder or sound file and for an index that cannot be used.
    """
    folders = {split: root / f"nsynth-{split}" for split in SPLITS}
    present = [split for split in SPLITS if folders[split].is_dir()]
    if not present:
        raise FmucError(f"no nsynth-train, nsynth-valid or nsynth-test under {paths.relative(root)}: "
                        f"run 'python -m fmuc data {name}' or see data/README.md")
    clips = tuple(clip for split in present for clip in _nsynth_split(folders[split], split))
    return Dataset(name, NSYNTH_FAMILIES, clips)


def _nsynth_split(folder: Path, split: str) -> Iterator[Clip]:
    index, audio = folder / "examples.json", folder / "audio"
    notes = _read_index(index)
    for note in notes:
        if note != Path(note).name:
            raise FmucError(f"{paths.relative(index)}: note {note!r} is not the name of a file; {_REMEDY}")
    _require_files(audio, {f"{note}.wav" for note in notes})
    for note in sorted(notes):
        instrument, family = _note_fields(index, note, notes[note])
        yield Clip(note, audio / f"{note}.wav", family, instrument, split)


def _read_index(path: Path) -> dict:
    def only_used_fields(record: dict) -> dict:  # the training index holds 289,205 notes of 13 fields each
        return {field: record[field] for field in _NSYNTH_FIELDS if field in record} or record

    where = paths.relative(path)
    try:
        notes = json.loads(path.read_text(encoding="utf-8"), object_hook=only_used_fields)
    except json.JSONDecodeError as error:
        raise FmucError(f"{where}, line {error.lineno}: not valid JSON ({error.msg}); {_REMEDY}") from None
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8, a number of thousands of digits, too deep
        raise FmucError(f"{where}: cannot be read ({error}); {_REMEDY}") from None
    if not isinstance(notes, dict) or not notes:
        raise FmucError(f"{where}: must be a non-empty JSON object of notes; {_REMEDY}")
    return notes


def _note_fields(index: Path, note: str, record: object) -> tuple[str, str]:
    """Instrument and family of a note, as shared strings."""
    for field in _NSYNTH_FIELDS:
        value = record.get(field) if isinstance(record, dict) else None
        if not isinstance(value, str) or not value:
            problem = "is missing" if value is None else f"must be text, not {value!r}"
            raise FmucError(f"{paths.relative(index)}: note {note}: field {field} {problem}; {_REMEDY}")
    if record["instrument_family_str"] not in NSYNTH_FAMILIES:
        raise FmucError(f"{paths.relative(index)}: note {note}: unknown instrument_family_str "
                        f"{record['instrument_family_str']!r}; known are {', '.join(NSYNTH_FAMILIES)}")
    return sys.intern(record["instrument_str"]), sys.intern(record["instrument_family_str"])


def _require_files(folder: Path, names: set[str]) -> None:
    """One listing instead of one ``stat`` per file: 289,205 of them are slow on a network disk."""
    try:
        missing = names.difference(os.listdir(folder))
    except OSError:
        missing = names
    if missing:
        raise FmucError(f"missing sound file {paths.relative(folder / min(missing))} ({len(missing)} of {len(names)} "
                        f"of this index are missing): {_REMEDY}")


def _load_tut2017(root: Path, name: str) -> Dataset:
    pass

    return load_tut2017(root, name)


LOADERS: dict[str, Callable[[Path, str], Dataset]] = {
    "nsynth": load_nsynth,
    **dict.fromkeys(nsynth_gm.SIZES, load_nsynth),
    "tut2017": _load_tut2017,
    **dict.fromkeys(scenes_sim.SIZES, _load_tut2017),
}
STAND_INS = (*nsynth_gm.SIZES, *scenes_sim.SIZES)


def ensure(name: str, *, progress: bool = True) -> Dataset:
    """Data set ``name``; a stand-in that is not there yet is rendered first (seconds to minutes)."""
    if name in STAND_INS and not paths.dataset_dir(name).exists():
        render(name, seed=0, progress=progress)
    return load(name)


def render(name: str, *, seed: int, soundfonts: Sequence[Path] = (), workers: int | None = None, progress: bool = True,
           force: bool = False) -> nsynth_gm.Report | scenes_sim.Report:
    """Render a stand-in into its folder (see the two ``render``); ``soundfonts`` are for notes only.

    Of two processes that ask for the same data set at once, the second waits and finds it there.
    """
    folder, options = paths.dataset_dir(name), {"seed": seed, "workers": workers, "progress": progress, "force": force}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{name}.lock")):
        if name in scenes_sim.SIZES:
            return scenes_sim.render(folder, sizes=scenes_sim.SIZES[name], **options)
        return nsynth_gm.render(folder, notes_per_family=nsynth_gm.SIZES[name], soundfonts=soundfonts, **options)


def load(name: str) -> Dataset:
    """Data set ``name`` from its folder (:func:`fmuc.paths.dataset_dir`); :class:`FmucError` if there is none."""
    folder = paths.dataset_dir(name)
    if name in LOADERS:
        return LOADERS[name](folder, name)
    from fmuc.own import importing as own_audio

    if own_audio.is_own(folder):
        return own_audio.load_own(folder, name)
    raise FmucError(f"unknown data set {name!r}: known are {', '.join(LOADERS)}; your own comes with "
                    "'python -m fmuc data folder PATH --name NAME'")




DEVELOPMENT = "TUT-acoustic-scenes-2017-development"
EVALUATION = "TUT-acoustic-scenes-2017-evaluation"
LABELS = (
    "beach", "bus", "cafe/restaurant", "car", "city_center", "forest_path", "grocery_store", "home", "library",
    "metro_station", "office", "park", "residential_area", "train", "tram",
)
_TUT_REMEDY = "unpack the archives again or see data/README.md"


class AudioError(NamedTuple):
    """A stretch of a clip with a microphone failure or radio interference; ``onset`` and ``offset`` in s."""

    clip: str
    onset: float
    offset: float
    label: str


class _Row(NamedTuple):
    where: str  # list and line, for messages
    file: str  # without ``audio/``
    fields: list[str]  # the further columns


def load_tut2017(root: Path, name: str) -> Dataset:
    """TUT2017, or a set in its layout: the development part is the split "train", the evaluation part "test".

    A part that is not on the disk is left out.  A clip's id is "development/" or "evaluation/" and the name of its
    file; its group is the recording that it was cut from (in the evaluation part known through ``map.txt``; without
    that list every clip is a group of its own).  Clips are sorted by file within a part.  Raises :class:`FmucError`
    for a missing folder, list or sound file and for a list that cannot be used.
    """
    clips: list[Clip] = []
    if (root / DEVELOPMENT).is_dir():
        clips += _development(root / DEVELOPMENT)
    if (root / EVALUATION).is_dir():
        clips += _evaluation(root / EVALUATION)
    if not clips:
        raise FmucError(f"no {DEVELOPMENT} or {EVALUATION} under {paths.relative(root)}: "
                        f"run 'python -m fmuc data {name}' or see data/README.md")
    return Dataset(name, LABELS, tuple(clips))


def read_error_list(root: Path) -> tuple[AudioError, ...]:
    """The development part's annotated recording errors, in the order of ``error.txt``; empty without that list.

    Columns as documented with the 2016 edition of these recordings: file, onset and offset in seconds, label; assumed
    for 2017.  Clips are named by their ids.
    """
    path = root / DEVELOPMENT / "error.txt"
    errors = []
    for row in _rows(path, columns=4) if path.exists() else ():
        try:
            onset, offset = map(float, row.fields[:2])
        except ValueError:
            onset, offset = 0.0, -1.0
        if not 0 <= onset <= offset < float("inf"):
            raise FmucError(f"{row.where}: {row.fields[0]!r} and {row.fields[1]!r} are no stretch of time in seconds; "
                            f"{_TUT_REMEDY}")
        errors.append(AudioError(f"development/{Path(row.file).stem}", onset, offset, row.fields[2]))
    return tuple(errors)


def _development(part: Path) -> Iterator[Clip]:
    for row in _listed(part, part / "meta.txt", columns=3):
        yield Clip(f"development/{Path(row.file).stem}", part / "audio" / row.file, row.fields[0], row.fields[1],
                   "train")


def _evaluation(part: Path) -> Iterator[Clip]:
    setup = part / "evaluation_setup"
    listed = _listed(part, setup / "evaluate.txt", columns=2)
    recordings = _recordings(setup / "map.txt", {row.file for row in listed}) if (setup / "map.txt").exists() else None
    for row in listed:
        id = f"evaluation/{Path(row.file).stem}"
        if recordings is not None and row.file not in recordings:
            raise FmucError(f"{row.where}: {row.file} is not in {paths.relative(setup / 'map.txt')}; "
                            "unpack the archives again, or delete that list: every clip then is its own recording")
        yield Clip(id, part / "audio" / row.file, row.fields[0], recordings[row.file] if recordings else id, "test")


def _listed(part: Path, path: Path, columns: int) -> list[_Row]:
    """The rows of a list of labelled clips, checked and sorted by file."""
    rows = _rows(path, columns)
    if not rows:
        raise FmucError(f"{paths.relative(path)}: lists no file; {_TUT_REMEDY}")
    audio = part / "audio"
    there = set(os.listdir(audio)) if audio.is_dir() else set()  # one listing instead of thousands of ``stat``
    first: dict[str, str] = {}
    for row in rows:
        if row.fields[0] not in LABELS:
            raise FmucError(f"{row.where}: unknown label {row.fields[0]!r}; known are {', '.join(LABELS)}")
        if row.file in first:
            raise FmucError(f"{row.where}: {row.file} is listed twice, first in {first[row.file]}; {_TUT_REMEDY}")
        if row.file not in there:
            raise FmucError(f"{row.where}: missing sound file {paths.relative(audio / row.file)} "
                            f"({sum(r.file not in there for r in rows)} of {len(rows)} are missing); {_TUT_REMEDY}")
        first[row.file] = row.where
    return sorted(rows, key=lambda row: row.file)


def _recordings(path: Path, listed: set[str]) -> dict[str, str]:
    """Evaluation file -> recording, from rows of (original file, evaluation file).

    The columns may stand the other way round: public sources do not agree on it, so the ``listed`` files decide.
    """
    pairs = [(row, row.file, _file_name(row.fields[0], row.where)) for row in _rows(path, columns=2)]
    swapped = sum(first in listed for _, first, _ in pairs) > sum(second in listed for _, _, second in pairs)
    recordings: dict[str, str] = {}
    for row, *names in pairs:
        original, file = reversed(names) if swapped else names
        if file in recordings:
            raise FmucError(f"{row.where}: {file} is mapped twice; {_TUT_REMEDY}")
        recordings[file] = re.sub(r"_\d+_\d+$", "", Path(original).stem)  # <recording>_<start>_<end>.wav
        if not recordings[file]:
            raise FmucError(f"{row.where}: {original!r} names no recording; {_TUT_REMEDY}")
    return recordings


def _rows(path: Path, columns: int) -> list[_Row]:
    """The rows of a list of at least ``columns`` columns, the first of which is a file; empty lines are left out."""
    where = paths.relative(path)
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[:error.start].count(b"\n") + 1
        raise FmucError(f"{where}, line {line}: is not UTF-8 text; {_TUT_REMEDY}") from None
    except OSError as error:
        raise FmucError(f"{where}: cannot be read ({error.strerror}); {_TUT_REMEDY}") from None
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            fields = [field.strip() for field in line.split("\t")]
            if len(fields) < columns or not all(fields[:columns]):
                raise FmucError(f"{where}, line {number}: has not {columns} columns set apart by tabs; {_TUT_REMEDY}")
            rows.append(_Row(f"{where}, line {number}", _file_name(fields[0], f"{where}, line {number}"), fields[1:]))
    return rows


def _file_name(listed: str, where: str) -> str:
    """A listed file's name in ``audio/``; nothing outside that folder can be named."""
    name = listed.removeprefix("audio/")
    if "/" in name or "\\" in name or name in ("", ".", "..") or "\0" in name:
        raise FmucError(f"{where}: {listed!r} is no file of the folder audio; {_TUT_REMEDY}")
    return name
