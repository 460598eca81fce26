"""Data sets as lists of clips: which sound files there are, what they are labelled and which split they belong to.

A loader reads an index, checks it and returns a :class:`Dataset`; everything after it works on clip indices.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fmuc import paths
from fmuc.config import Features
from fmuc.errors import FmucError

SPLITS = ("train", "valid", "test")
NSYNTH_FAMILIES = (
    "bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal",
)  # in the order of NSynth's family ids
_FIELDS = ("instrument_str", "instrument_family_str")  # of NSynth's index
DEVELOPMENT, EVALUATION = "TUT-acoustic-scenes-2017-development", "TUT-acoustic-scenes-2017-evaluation"
LABELS = (
    "beach", "bus", "cafe/restaurant", "car", "city_center", "forest_path", "grocery_store", "home", "library",
    "metro_station", "office", "park", "residential_area", "train", "tram",
)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPEAKERS = {"george": "train", "jackson": "train", "nicolas": "train", "yweweler": "valid",
            "lucas": "test", "theo": "test"}  # of FSDD, by split: the test is about unseen speakers
_SMOKE_NUMBERS = 4  # of the 50 recordings of a digit by a speaker
_REMEDY = "unpack the archive again or see data/README.md"
_OWN_REMEDY = "import it again (python -m fmuc data folder PATH --name NAME --force)"


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
        index = {None: -1, **{label: i for i, label in enumerate(self.classes)}}
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
        """First 12 hex digits of the SHA-256 of ids, sizes and times of change of the sound files."""
        state = hashlib.sha256()
        for clip in self.clips:
            try:
                status = os.stat(clip.path)
            except OSError as error:
                raise FmucError(f"{paths.relative(clip.path)}: cannot be read ({error.strerror}); {_REMEDY}") from None
            state.update(json.dumps((clip.id, status.st_size, status.st_mtime_ns)).encode())
        return state.hexdigest()[:12]


def _require_files(where: str, files: Iterable[Path], remedy: str = _REMEDY) -> None:
    """One listing per folder instead of one ``stat`` per file: 289,205 of them are slow on a network disk."""
    files = list(files)
    listed = {folder: set(os.listdir(folder)) if os.path.isdir(folder) else set()
              for folder in {file.parent for file in files}}
    # Not in the listing, yet there: the file system folds case or composes letters. os.path takes any name.
    missing = [file for file in files if file.name not in listed[file.parent] and not os.path.isfile(file)]
    if missing:
        raise FmucError(f"{where}: missing sound file {paths.relative(min(missing))} ({len(missing)} of {len(files)} "
                        f"are missing); {remedy}")


def load_nsynth(root: Path, name: str) -> Dataset:
    """NSynth (Engel et al. 2017), or a set in its layout: ``nsynth-<split>/examples.json`` and ``audio/<note>.wav``.

    Splits that are not on the disk are left out. The classes are always NSynth's eleven families, in the order of
    their ids, although synth_lead has no note outside the training split. Notes are sorted by name within a split.
    Raises :class:`FmucError` for a missing folder or sound file and for an index that cannot be used.
    """
    present = [split for split in SPLITS if (root / f"nsynth-{split}").is_dir()]
    if not present:
        raise FmucError(f"no nsynth-train, nsynth-valid or nsynth-test under {paths.relative(root)}: "
                        f"run 'python -m fmuc data {name}' or see data/README.md")
    clips = tuple(clip for split in present for clip in _nsynth_split(root / f"nsynth-{split}", split))
    return Dataset(name, NSYNTH_FAMILIES, clips)


def _nsynth_split(folder: Path, split: str) -> list[Clip]:
    index, audio, clips = folder / "examples.json", folder / "audio", []
    notes, where = _read_index(index), paths.relative(index)
    for note in sorted(notes):
        if note != Path(note).name:
            raise FmucError(f"{where}: note {note!r} is not the name of a file; {_REMEDY}")
        for field in _FIELDS:
            value = notes[note].get(field) if isinstance(notes[note], dict) else None
            if not isinstance(value, str) or not value:
                raise FmucError(f"{where}: note {note}: {field} must be text, not {value!r}; {_REMEDY}")
        instrument, family = (sys.intern(notes[note][field]) for field in _FIELDS)  # few of them, in many notes
        clips.append(Clip(note, audio / f"{note}.wav", family, instrument, split))
    _require_files(where, (clip.path for clip in clips))
    return clips


def _read_index(path: Path) -> dict:
    def only_used_fields(record: dict) -> dict:  # the training index holds 289,205 notes of 13 fields each
        return {field: record[field] for field in _FIELDS if field in record} or record

    try:
        notes = json.loads(path.read_text(encoding="utf-8"), object_hook=only_used_fields)
        if not isinstance(notes, dict) or not notes:
            raise ValueError("must be a non-empty JSON object of notes")
    except (OSError, ValueError, RecursionError) as error:
        raise FmucError(f"{paths.relative(path)}: cannot be read ({error}); {_REMEDY}") from None
    return notes


class _Row(NamedTuple):
    where: str  # list and line, for messages
    file: str  # without ``audio/``
    fields: list[str]  # the further columns


def load_tut2017(root: Path, name: str) -> Dataset:
    """TUT2017, or a set in its layout: the development part is the split "train", the evaluation part "test".

    A part that is not on the disk is left out. A clip's id is "development/" or "evaluation/" and the name of its
    file; its group is the recording that it was cut from (in the evaluation part known through ``map.txt``; without
    that list every clip is a group of its own). Clips are sorted by file within a part. Raises :class:`FmucError` for a
    missing folder, list or sound file and for a list that cannot be used.
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


def _development(part: Path) -> Iterator[Clip]:
    for row in _listed(part, part / "meta.txt", columns=3):
        label, recording = row.fields[:2]
        yield Clip(f"development/{Path(row.file).stem}", part / "audio" / row.file, label, recording, "train")


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
    rows, seen = _rows(path, columns), set()
    if not rows:
        raise FmucError(f"{paths.relative(path)}: lists no file; {_REMEDY}")
    for row in rows:
        if row.fields[0] not in LABELS:
            raise FmucError(f"{row.where}: unknown label {row.fields[0]!r}; known are {', '.join(LABELS)}")
        if row.file in seen:
            raise FmucError(f"{row.where}: {row.file} is listed twice; {_REMEDY}")
        seen.add(row.file)
    _require_files(paths.relative(path), (part / "audio" / row.file for row in rows))
    return sorted(rows, key=lambda row: row.file)


def _recordings(path: Path, listed: set[str]) -> dict[str, str]:
    """Evaluation file -> recording, from rows of (original file, evaluation file).

    The columns may stand the other way round: public sources do not agree on it, so the ``listed`` files decide.
    """
    pairs = [(row.file, _file_name(row.fields[0], row.where)) for row in _rows(path, columns=2)]
    if sum(first in listed for first, _ in pairs) > sum(second in listed for _, second in pairs):
        pairs = [(second, first) for first, second in pairs]
    # <recording>_<start>_<end>.wav
    return {file: re.sub(r"_\d+_\d+$", "", Path(original).stem) or original for original, file in pairs}


def read_error_list(root: Path) -> list[_Row]:
    """TUT2017's annotated recording errors (file, onset, offset, label); none without that list."""
    path = root / DEVELOPMENT / "error.txt"
    return _rows(path, columns=4) if path.exists() else []


def _rows(path: Path, columns: int) -> list[_Row]:
    """The rows of a list of at least ``columns`` columns, the first of which is a file; empty lines are left out."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise FmucError(f"{paths.relative(path)}: cannot be read ({error}); {_REMEDY}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        where, fields = f"{paths.relative(path)}, line {number}", [field.strip() for field in line.split("\t")]
        if line.strip() and (len(fields) < columns or not all(fields[:columns])):
            raise FmucError(f"{where}: has not {columns} columns set apart by tabs; {_REMEDY}")
        if line.strip():
            rows.append(_Row(where, _file_name(fields[0], where), fields[1:]))
    return rows


def _file_name(listed: str, where: str) -> str:
    """A listed file's name in ``audio/``; nothing outside that folder can be named."""
    name = listed.removeprefix("audio/")
    if "/" in name or "\\" in name or name in ("", ".", "..") or "\0" in name:
        raise FmucError(f"{where}: {listed!r} is no file of the folder audio; {_REMEDY}")
    return name


def load_fsdd(root: Path, name: str) -> Dataset:
    """FSDD, the Free Spoken Digit Dataset: ``recordings/<digit>_<speaker>_<number>.wav``, split by speaker.

    A clip's group is its speaker; clips are sorted by id. ``fsdd-smoke`` are the recordings with the lowest numbers.
    Raises :class:`FmucError` for a missing folder and for a sound file that is not named so.
    """
    files = sorted((root / "recordings").glob("*.wav"))
    if not files:
        raise FmucError(f"no sound files in {paths.relative(root / 'recordings')}: run 'python -m fmuc data fsdd' or "
                        "see data/README.md")
    clips = []
    for file in files:
        parts = re.fullmatch(r"(\d)_([a-z]+)_(\d+)", file.stem)
        if parts is None or parts[2] not in SPEAKERS:
            raise FmucError(f"{paths.relative(file)}: FSDD has no such file: it must be called "
                            f"<digit>_<speaker>_<number>.wav, the speaker one of {', '.join(SPEAKERS)}; take it out")
        digit, speaker, number = int(parts[1]), parts[2], int(parts[3])
        if name == "fsdd" or number < _SMOKE_NUMBERS:
            clips.append(Clip(file.stem, file, DIGITS[digit], speaker, SPEAKERS[speaker]))
    return Dataset(name, DIGITS, tuple(clips))


class OwnSettings(NamedTuple):
    """How to use an import of own audio: the share of its training labels that training may use, in (0, 1], and the
    features that suit it, None for those of the profile."""

    labelled_share: float
    features: Features | None


def own_settings(name: str) -> OwnSettings | None:
    """Settings of the imported data set ``name``, None if there is no such import."""
    folder = paths.dataset_dir(name)
    return _read_own(folder)[0] if (folder / "own.json").is_file() else None


def _read_own(folder: Path) -> tuple[OwnSettings, Path]:
    """Settings, and the folder that paths are relative to, from ``own.json`` (written by :mod:`fmuc.own.importing`)."""
    path = folder / "own.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        report, kind, source = record["report"], record["settings"]["kind"], Path(record["settings"]["source"])
        share, features = report["labelled_share"], report.get("features")
        if record["format"] != 1 or not 0 < share <= 1 or kind not in ("folder", "csv"):
            raise ValueError("format, labelled_share or kind is wrong")
        settings = OwnSettings(share, Features(**features) if features else None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, FmucError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise FmucError(f"{paths.relative(path)}: is damaged ({reason}); {_OWN_REMEDY}") from None
    return settings, source if kind == "folder" else source.parent


def load_own(folder: Path, name: str) -> Dataset:
    """An import of own audio, ``clips.csv``, sorted by id; the classes are the labels that occur, sorted.

    Raises :class:`FmucError` for a damaged record or list and for sound files that are gone.
    """
    base, path = _read_own(folder)[1], folder / "clips.csv"
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        clips = tuple(Clip(row["id"], base / row["path"], row["label"] or None, row["group"], row["split"])
                      for row in rows)
        if not rows or not all(row["id"] and row["path"] and row["group"] for row in rows):
            raise ValueError("it is empty, or an id, path or group is")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise FmucError(f"{paths.relative(path)}: cannot be read ({type(error).__name__}: {error}); "
                        f"{_OWN_REMEDY}") from None
    _require_files(paths.relative(path), (clip.path for clip in clips), f"put them back, or {_OWN_REMEDY}")
    return Dataset(name, tuple(sorted({clip.label for clip in clips if clip.label})), clips)


LOADERS: dict[str, Callable[[Path, str], Dataset]] = {
    "fsdd": load_fsdd,
    "fsdd-smoke": load_fsdd,
    "nsynth": load_nsynth,
    "nsynth-gm": load_nsynth,
    "nsynth-gm-smoke": load_nsynth,
    "tut2017": load_tut2017,
    "scenes-sim": load_tut2017,
    "scenes-sim-smoke": load_tut2017,
}


def load(name: str) -> Dataset:
    """Data set ``name`` from its folder (:func:`fmuc.paths.dataset_dir`); :class:`FmucError` if there is none."""
    folder = paths.dataset_dir(name)
    if name in LOADERS:
        return LOADERS[name](folder, name)
    if (folder / "own.json").is_file():
        return load_own(folder, name)
    raise FmucError(f"unknown data set {name!r}: known are {', '.join(LOADERS)}; your own comes with "
                    "'python -m fmuc data folder PATH --name NAME'")
