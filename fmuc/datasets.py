"""Data sets as lists of clips: which sound files there are, what they are labelled and which split they belong to.

A loader reads an index, checks it and returns a :class:`Dataset`; everything after it works on clip indices.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile
import soxr  # comes with librosa
from filelock import FileLock

from fmuc import nsynth_gm, paths, scenes_sim
from fmuc.errors import FmucError
from fmuc.sound_file import largest_magnitude, read_mono

SPLITS = ("train", "valid", "test")
NSYNTH_FAMILIES = (
    "bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal",
)  # in the order of NSynth's family ids
RATES = (1000, 2_000_000)  # Hz; what is recorded for bats is within
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
    from fmuc.tut2017 import load_tut2017  # which needs Clip and Dataset of this module

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
    from fmuc import own_audio  # which needs Clip and Dataset of this module

    if own_audio.is_own(folder):
        return own_audio.load_own(folder, name)
    raise FmucError(f"unknown data set {name!r}: known are {', '.join(LOADERS)}; your own comes with "
                    "'python -m fmuc data folder PATH --name NAME'")


def read_audio(path: Path, sample_rate: int) -> np.ndarray:
    """Mono samples of a sound file at ``sample_rate`` Hz: float32 (L,), the mean of its channels.

    Resampled (soxr, high quality) only if the file's rate differs. Raises :class:`FmucError` if the file cannot be
    read, is empty or holds values that are not finite.
    """
    def refuse(reason: str) -> FmucError:
        return FmucError(f"{paths.relative(path)}: {reason}; replace the file or take it out of the data set")

    try:
        mono, file_rate = read_mono(path)
    except (soundfile.SoundFileError, OSError, TypeError, ValueError, MemoryError) as error:
        raise refuse(f"cannot be read as sound ({error})") from None
    if not RATES[0] <= file_rate <= RATES[1]:  # resampled, a few samples a second would become millions
        raise refuse(f"has a sample rate of {file_rate} Hz")
    if file_rate != sample_rate:
        mono = soxr.resample(mono, file_rate, sample_rate, quality="HQ")
    if not mono.size:
        raise refuse("holds no samples")
    mono = np.ascontiguousarray(mono, dtype=np.float32)
    if not np.isfinite(largest_magnitude(mono)):
        raise refuse("holds samples that are not finite")
    return mono
