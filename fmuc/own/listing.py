"""Which sound files there are, and what they are: from a folder of class folders, or from a CSV file."""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from fmuc import paths
from fmuc.datasets import SPLITS
from fmuc.errors import FmucError

COLUMNS = ("path", "label", "group", "split")
EXTENSIONS = frozenset((  # what libsndfile opens by itself; not .raw (no header) nor .mat (rarely sound)
    ".8svx", ".aif", ".aifc", ".aiff", ".au", ".avr", ".bwf", ".caf", ".flac", ".htk", ".iff", ".ircam", ".mp1", ".mp2",
    ".mp3", ".nist", ".oga", ".ogg", ".opus", ".paf", ".pvf", ".rf64", ".sds", ".sf", ".snd", ".sph", ".svx", ".voc",
    ".w64", ".wav", ".wave", ".wve", ".xi"))
SPLIT_NAMES = {"train": "train", "training": "train", "valid": "valid", "validation": "valid", "val": "valid",
               "dev": "valid", "test": "test", "testing": "test", "eval": "test", "evaluation": "test"}
UNLABELLED = ("unlabelled", "unlabeled")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # surrogates: a file name that is not UTF-8


class SoundFile(NamedTuple):
    """A listed file. ``where``: for messages; ``label``: "" if unknown; ``split``: "" if it is to be drawn."""

    where: str
    path: str  # relative to the folder, or that of the CSV file, where it lies inside
    label: str
    group: str
    split: str


def from_folder(root: Path, pattern: str | None) -> tuple[list[SoundFile], dict[str, int]]:
    """The sound files under ``root``, sorted, and how many others there are: hidden or with other extensions."""
    found, skipped = [], Counter()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and not _leads_up(Path(folder, name), root)]
        for name in names:
            kind = "hidden" if name.startswith(".") else os.path.splitext(name)[1].lower() or "no extension"
            if kind in EXTENSIONS:
                found.append(os.path.relpath(os.path.join(folder, name), root))
            else:
                skipped[kind] += 1
    if not found:
        left_out = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items())) or "nothing"
        raise FmucError(f"{paths.relative(root)}: no sound file in any class folder (skipped: {left_out}): give a "
                        "folder of class folders with files that libsndfile reads, as WAV, FLAC, OGG or MP3")
    splits = _split_folders(found)
    files = [_in_folder(paths.relative(root), path, splits, pattern) for path in sorted(found)]
    return files, dict(sorted(skipped.items()))


def _refuse(error: OSError) -> None:
    raise error


def _leads_up(path: Path, root: Path) -> bool:
    """Whether ``path`` is a link to a folder that it lies in."""
    return path.is_symlink() and any(path.samefile(above) for above in path.parents if above.is_relative_to(root))


def _split_folders(files: Iterable[str]) -> dict[str, str]:
    """Folder -> split, if the top folders are splits: all of them, or two and more, are named so."""
    top = {file.split(os.sep)[0] for file in files if os.sep in file}
    named = {folder: SPLIT_NAMES[folder.lower()] for folder in top if folder.lower() in SPLIT_NAMES}
    others = [folder for folder in top - named.keys() if folder.lower() not in UNLABELLED]
    return named if len(set(named.values())) > 1 or not others else {}


def _in_folder(where: str, path: str, splits: dict[str, str], pattern: str | None) -> SoundFile:
    """``path`` is class/file or class/group/.../file, after a folder of ``splits`` if there are any."""
    parts = path.split(os.sep)
    if splits and parts[0] not in splits and parts[0].lower() not in UNLABELLED:
        raise FmucError(f"{where}: {path!r} is beside the folders of splits ({', '.join(sorted(splits))}): move it "
                        "into one of them, or list the files in a CSV file")
    depth = 2 if parts[0] in splits else 1  # of the class
    label = tidy(parts[depth - 1])
    if len(parts) <= depth or not label:
        raise FmucError(f"{where}: {path!r} is in no class folder with a name: move each such file to the folder of "
                        "its class, or to one named unlabelled")
    group = "/".join(parts[: depth + 1])  # the file itself, or its sub-folder
    if pattern is not None:
        match = re.search(pattern, path)
        group = (match and match[1]) or ""
    if not tidy(group):
        raise FmucError(f"{where}: --group-pattern {pattern!r} finds no group in {path!r}: correct the pattern or the "
                        "file's name")
    split = splits.get(parts[0], "train") if splits else ""
    return SoundFile(where, path, "" if label.lower() in UNLABELLED else label, tidy(group), split)


def tidy(name: str) -> str:
    """The name without blanks around it, its letters composed: some file systems decompose them."""
    return unicodedata.normalize("NFC", name).strip()


def from_csv(source: Path) -> list[SoundFile]:
    """The files that a CSV file lists. (csv, not pandas: that fills short rows without a word.)"""
    where, rows = paths.relative(source), []
    try:
        reader = csv.DictReader(io.StringIO(source.read_text("utf-8-sig")), strict=True, skipinitialspace=True)
        reader.fieldnames = [column.strip() for column in reader.fieldnames or ()]
        for row in reader:
            rows.append((f"{where}, line {reader.line_num}", row))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FmucError(f"{where}, after {len(rows)} rows: cannot be read ({error}): correct it, or save it as CSV "
                        "UTF-8") from None
    if "path" not in reader.fieldnames or {*reader.fieldnames} - {*COLUMNS}:
        raise FmucError(f"{where}, line 1: the columns are {', '.join(map(repr, reader.fieldnames)) or 'missing'}: "
                        "there must be path, there may be label, group and split, with commas between")
    if not rows:
        raise FmucError(f"{where}: has no row below its header: list the sound files")
    files = [_in_row(line, row, source.parent) for line, row in rows]
    without = [file for file in files if not file.split]
    if 0 < len(without) < len(files):
        raise FmucError(f"{without[0].where}: the split is empty, but other rows have one: give it in all rows or none")
    return files


def _in_row(where: str, row: dict[str, str], base: Path) -> SoundFile:
    if None in row or None in row.values():
        raise FmucError(f"{where}: has more or fewer fields than the header: put quotation marks around a field with a "
                        "comma")
    label, group, split = (tidy(row.get(column, "")) for column in ("label", "group", "split"))
    if split and split.lower() not in SPLIT_NAMES:
        raise FmucError(f"{where}: unknown split {split!r}: use {', '.join(SPLITS)}")
    path = os.path.normpath(base / os.path.expanduser(row["path"]))
    if Path(path).is_relative_to(base):
        path = os.path.relpath(path, base)
    label = "" if label.lower() in UNLABELLED else label
    return SoundFile(where, path, label, group or tidy(path), SPLIT_NAMES.get(split.lower(), ""))


def check_names(base: Path, files: Iterable[SoundFile]) -> None:
    """Refuse control characters, and a file that is listed twice: it could be in training and in test."""
    first: dict[str, SoundFile] = {}
    for file in files:
        if _CONTROL.search("".join(file)):
            raise FmucError(f"{file.where}: {file.path!r} or its label has a control character or is not UTF-8: rename "
                            "it (in a CSV file, a quotation mark may be missing)")
        keys = (os.path.realpath(base / file.path), tidy(file.path))
        if before := first.get(keys[0]) or first.get(keys[1]):
            raise FmucError(f"{file.where}: {file.path!r} is the same file as {before.path!r}: keep one of them")
        first.update(dict.fromkeys(keys, file))
