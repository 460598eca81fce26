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
from collections.abc import Callable
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

    Raises :class:`FmucError` if two clips share an id or a clip has a label or split that does not exist, or no group.
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
            if not clip.group:
                raise FmucError(f"{self.name}: clip {clip.id} belongs to no group; each needs one, or its own id")
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
        """Of classes, ids, labels, groups and splits (paths and sound excluded)."""
        return short_digest(self.classes, *((clip.id, clip.label, clip.group, clip.split) for clip in self.clips))

    @cached_property
    def fingerprint(self) -> str:
        """Of ids, sizes and times of change of the sound files."""
        status = {clip.id: os.stat(clip.path) for clip in self.clips}
        return short_digest(*((id, found.st_size, found.st_mtime_ns) for id, found in status.items()))


def short_digest(*items: object) -> str:
    """First 12 hex digits of the SHA-256 of items that JSON can hold."""
    return hashlib.sha256("".join(map(json.dumps, items)).encode()).hexdigest()[:12]


def load_nsynth(root: Path, name: str) -> Dataset:
    """NSynth (Engel et al. 2017), or a set in its layout: ``nsynth-<split>/examples.json`` and ``audio/<note>.wav``.

    Splits that are not on the disk are left out. The classes are always NSynth's eleven families, in the order of
    their ids, although synth_lead has no note outside the training split. Notes are sorted by name within a split.
    Raises :class:`FmucError` for an index that cannot be used.
    """
    present = [split for split in SPLITS if (root / f"nsynth-{split}").is_dir()]
    clips = tuple(clip for split in present for clip in _nsynth_split(root / f"nsynth-{split}", split))
    return Dataset(name, NSYNTH_FAMILIES, clips)


def _nsynth_split(folder: Path, split: str) -> list[Clip]:
    index = folder / "examples.json"
    try:
        notes = json.loads(index.read_text(encoding="utf-8"), object_hook=_instrument_and_family)
        return [Clip(note, folder / "audio" / f"{note}.wav", family, instrument, split)
                for note, (instrument, family) in sorted(notes.items())]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FmucError(f"{paths.relative(index)}: cannot be read ({error}); {_REMEDY}") from None


def _instrument_and_family(record: dict) -> tuple[str, str] | dict:
    """All that is used of a note's 13 fields, each text once in memory: there are 289,205 notes."""
    if "instrument_str" not in record:  # the whole index
        return record
    return sys.intern(record["instrument_str"]), sys.intern(record["instrument_family_str"])


def load_tut2017(root: Path, name: str) -> Dataset:
    """TUT2017, or a set in its layout: the development part is the split "train", the evaluation part "test".

    A part that is not on the disk is left out. A clip's id is "development/" or "evaluation/" and the name of its
    file; its group is the recording that it was cut from (in the evaluation part known through ``map.txt``; without
    that list every clip is a group of its own). Clips are sorted by file within a part. Raises :class:`FmucError` for a
    list that is missing or cannot be used.
    """
    clips: list[Clip] = []
    if (root / DEVELOPMENT).is_dir():
        clips += _development(root / DEVELOPMENT)
    if (root / EVALUATION).is_dir():
        clips += _evaluation(root / EVALUATION)
    return Dataset(name, LABELS, tuple(clips))


def _development(part: Path) -> list[Clip]:
    return [Clip(f"development/{Path(file).stem}", part / "audio" / file, label, recording, "train")
            for file, label, recording in sorted(_rows(part / "meta.txt", columns=3))]


def _evaluation(part: Path) -> list[Clip]:
    setup, clips = part / "evaluation_setup", []
    rows = sorted(_rows(setup / "evaluate.txt", columns=2))
    recordings = _recordings(setup / "map.txt", {file for file, _ in rows})
    for file, label in rows:
        id = f"evaluation/{Path(file).stem}"
        if recordings and file not in recordings:
            raise FmucError(f"{paths.relative(setup / 'map.txt')}: does not name {file}; unpack the archives again, or "
                            "delete this list: every clip then is its own recording")
        clips.append(Clip(id, part / "audio" / file, label, recordings.get(file, id), "test"))
    return clips


def _recordings(path: Path, listed: set[str]) -> dict[str, str]:
    """Evaluation file -> recording, from rows of (original file, evaluation file); none without that list.

    The columns may stand the other way round: public sources do not agree on it, so the ``listed`` files decide.
    """
    pairs = [(first, Path(second).name) for first, second in _rows(path, columns=2)] if path.exists() else []
    if sum(first in listed for first, _ in pairs) > sum(second in listed for _, second in pairs):
        pairs = [(second, first) for first, second in pairs]
    # <recording>_<start>_<end>.wav
    return {file: re.sub(r"_\d+_\d+$", "", Path(original).stem) or original for original, file in pairs}


def read_error_list(root: Path) -> list[list[str]]:
    """TUT2017's annotated recording errors (file, onset, offset, label); none without that list."""
    path = root / DEVELOPMENT / "error.txt"
    return _rows(path, columns=4) if path.exists() else []


def _rows(path: Path, columns: int) -> list[list[str]]:
    """The first ``columns`` of every row of a list, the first of them a file's name in ``audio/``."""
    rows = []
    try:
        for line in filter(str.strip, path.read_text(encoding="utf-8-sig").split("\n")):
            file, *others = (field.strip() for field in line.split("\t")[:columns])
            rows.append([Path(file).name, *others])
            if len(others) < columns - 1 or not all(rows[-1]):
                raise ValueError(f"{line!r} has not {columns} columns set apart by tabs")
    except (OSError, ValueError) as error:
        raise FmucError(f"{paths.relative(path)}: cannot be read ({error}); {_REMEDY}") from None
    return rows


def load_fsdd(root: Path, name: str) -> Dataset:
    """FSDD, the Free Spoken Digit Dataset: ``recordings/<digit>_<speaker>_<number>.wav``, split by speaker.

    A clip's group is its speaker; clips are sorted by id. ``fsdd-smoke`` are the recordings with the lowest numbers.
    Raises :class:`FmucError` for a sound file that is not named so.
    """
    clips = []
    for file in sorted((root / "recordings").glob("*.wav")):
        parts = re.fullmatch(r"(\d)_([a-z]+)_(\d+)", file.stem)
        if parts is None or parts[2] not in SPEAKERS:
            raise FmucError(f"{paths.relative(file)}: FSDD has no such file: it must be called "
                            f"<digit>_<speaker>_<number>.wav, the speaker one of {', '.join(SPEAKERS)}; take it out")
        digit, speaker, number = int(parts[1]), parts[2], int(parts[3])
        if name == "fsdd" or number < _SMOKE_NUMBERS:
            clips.append(Clip(file.stem, file, DIGITS[digit], speaker, SPEAKERS[speaker]))
    return Dataset(name, DIGITS, tuple(clips))


class OwnSettings(NamedTuple):
    """How to use an import of own audio: the share of its training labels that training may use, in (0, 1], the
    features that suit it, None for those of the profile, and the folder that its paths are relative to."""

    labelled_share: float
    features: Features | None
    base: Path


def own_settings(name: str) -> OwnSettings | None:
    """Settings of the imported data set ``name``, None if there is no such import."""
    folder = paths.dataset_dir(name)
    return _read_own(folder) if (folder / "own.json").is_file() else None


def _read_own(folder: Path) -> OwnSettings:
    """Read ``own.json``, which :mod:`fmuc.own.importing` writes."""
    path = folder / "own.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        report, kind, source = record["report"], record["settings"]["kind"], Path(record["settings"]["source"])
        share, features = report["labelled_share"], report.get("features")
        if record["format"] != 1 or not 0 < share <= 1 or kind not in ("folder", "csv"):
            raise ValueError("format, labelled_share or kind is wrong")
        return OwnSettings(share, Features(**features) if features else None,
                           source if kind == "folder" else source.parent)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, FmucError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise FmucError(f"{paths.relative(path)}: is damaged ({reason}); {_OWN_REMEDY}") from None


def load_own(folder: Path, name: str) -> Dataset:
    """An import of own audio, ``clips.csv``, sorted by id; the classes are the labels that occur, sorted.

    Raises :class:`FmucError` for a damaged record or list.
    """
    base, path = _read_own(folder).base, folder / "clips.csv"
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
    """Data set ``name`` from its folder (:func:`fmuc.paths.dataset_dir`); :class:`FmucError` if there is none, or not
    all of its sound files."""
    folder = paths.dataset_dir(name)
    loader = LOADERS.get(name) or (load_own if (folder / "own.json").is_file() else None)
    if loader is None:
        raise FmucError(f"unknown data set {name!r}: known are {', '.join(LOADERS)}; your own comes with "
                        "'python -m fmuc data folder PATH --name NAME'")
    dataset = loader(folder, name)
    if not dataset.clips:
        raise FmucError(f"no sound files of {name} under {paths.relative(folder)}: run 'python -m fmuc data "
                        f"{folder.name}' or see data/README.md")
    missing = [clip.path for clip in dataset.clips if not os.path.isfile(clip.path)]
    if missing:
        remedy = _REMEDY if name in LOADERS else f"put them back, or {_OWN_REMEDY}"
        raise FmucError(f"{name}: missing sound file {paths.relative(min(missing))} ({len(missing)} of "
                        f"{len(dataset.clips)} are missing); {remedy}")
    return dataset
