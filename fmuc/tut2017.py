"""TUT Acoustic Scenes 2017 (Mesaros, Heittola and Virtanen 2016; Zenodo records 400515 and 1040168) in its own layout.

::

    TUT-acoustic-scenes-2017-development/  meta.txt (file, label, recording), audio/, error.txt
    TUT-acoustic-scenes-2017-evaluation/   evaluation_setup/{evaluate.txt (file, label), map.txt}, audio/

All lists are tab-separated UTF-8 without a header; lines may end in CR LF, and files may be listed without ``audio/``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fmuc import paths
from fmuc.datasets import Clip, Dataset
from fmuc.errors import FmucError

DEVELOPMENT = "TUT-acoustic-scenes-2017-development"
EVALUATION = "TUT-acoustic-scenes-2017-evaluation"
LABELS = (
    "beach", "bus", "cafe/restaurant", "car", "city_center", "forest_path", "grocery_store", "home", "library",
    "metro_station", "office", "park", "residential_area", "train", "tram",
)
_REMEDY = "unpack the archives again or see data/README.md"


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
                            f"{_REMEDY}")
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
        raise FmucError(f"{paths.relative(path)}: lists no file; {_REMEDY}")
    audio = part / "audio"
    there = set(os.listdir(audio)) if audio.is_dir() else set()  # one listing instead of thousands of ``stat``
    first: dict[str, str] = {}
    for row in rows:
        if row.fields[0] not in LABELS:
            raise FmucError(f"{row.where}: unknown label {row.fields[0]!r}; known are {', '.join(LABELS)}")
        if row.file in first:
            raise FmucError(f"{row.where}: {row.file} is listed twice, first in {first[row.file]}; {_REMEDY}")
        if row.file not in there:
            raise FmucError(f"{row.where}: missing sound file {paths.relative(audio / row.file)} "
                            f"({sum(r.file not in there for r in rows)} of {len(rows)} are missing); {_REMEDY}")
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
            raise FmucError(f"{row.where}: {file} is mapped twice; {_REMEDY}")
        recordings[file] = re.sub(r"_\d+_\d+$", "", Path(original).stem)  # <recording>_<start>_<end>.wav
        if not recordings[file]:
            raise FmucError(f"{row.where}: {original!r} names no recording; {_REMEDY}")
    return recordings


def _rows(path: Path, columns: int) -> list[_Row]:
    """The rows of a list of at least ``columns`` columns, the first of which is a file; empty lines are left out."""
    where = paths.relative(path)
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[:error.start].count(b"\n") + 1
        raise FmucError(f"{where}, line {line}: is not UTF-8 text; {_REMEDY}") from None
    except OSError as error:
        raise FmucError(f"{where}: cannot be read ({error.strerror}); {_REMEDY}") from None
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            fields = [field.strip() for field in line.split("\t")]
            if len(fields) < columns or not all(fields[:columns]):
                raise FmucError(f"{where}, line {number}: has not {columns} columns set apart by tabs; {_REMEDY}")
            rows.append(_Row(f"{where}, line {number}", _file_name(fields[0], f"{where}, line {number}"), fields[1:]))
    return rows


def _file_name(listed: str, where: str) -> str:
    """A listed file's name in ``audio/``; nothing outside that folder can be named."""
    name = listed.removeprefix("audio/")
    if "/" in name or "\\" in name or name in ("", ".", "..") or "\0" in name:
        raise FmucError(f"{where}: {listed!r} is no file of the folder audio; {_REMEDY}")
    return name
