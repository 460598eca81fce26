"""Which sound files there are, from a folder of class folders or from a CSV file, checked and in a fixed order."""

from __future__ import annotations

import codecs
import csv
import io
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import soundfile
from tqdm import tqdm

from fmuc import paths
from fmuc.datasets import SPLITS
from fmuc.errors import FmucError

UNLABELLED = ("unlabelled", "unlabeled")  # class folders of files whose class nobody knows
# What soundfile opens by itself; not .raw (no header) nor .mat (rarely sound).
EXTENSIONS = frozenset((
    ".8svx", ".aif", ".aifc", ".aiff", ".au", ".avr", ".bwf", ".caf", ".flac", ".htk", ".iff", ".ircam", ".mp1", ".mp2",
    ".mp3", ".nist", ".oga", ".ogg", ".opus", ".paf", ".pvf", ".rf64", ".sds", ".sf", ".snd", ".sph", ".svx", ".voc",
    ".w64", ".wav", ".wave", ".wve", ".xi",
))
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # surrogates: a file name that is not UTF-8


@dataclass(frozen=True)
class SoundFile:
    """A sound file as found: ``path`` POSIX, ``label`` empty if unknown, ``split`` empty if it is to be drawn."""

    where: str  # folder, or CSV file and line, for messages
    path: str
    label: str
    group: str
    split: str = ""

    @cached_property
    def id(self) -> str:
        return unicodedata.normalize("NFC", self.path)  # some file systems decompose the letters of a name


def from_folder(root: Path, group_pattern: str | None) -> tuple[list[SoundFile], Counter[str]]:
    """The sound files in the class folders of ``root``, sorted, and what was skipped."""
    where, files, skipped = paths.relative(root), [], Counter()
    for path in _walk(root, frozenset(), skipped):
        suffix = os.path.splitext(path)[1].lower()
        if suffix in EXTENSIONS:
            files.append(os.path.relpath(path, root))
        else:
            skipped[suffix or "no extension"] += 1
    unfit = [path for path in files if _CONTROL.search(path)]
    if unfit:
        raise FmucError(f"{where}: {unfit[0]!r} has a control character in its name or is not UTF-8: rename it")
    stray = [path for path in files if os.sep not in path]
    if stray:
        raise FmucError(f"{where}: {stray[0]!r} is in no class folder ({len(stray)} such sound files): move each to "
                        "the folder of its class, or to one named unlabelled")
    if not files:
        left_out = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items())) or "nothing"
        raise FmucError(f"{where}: no sound file in any class folder (skipped: {left_out}): give a folder of class "
                        "folders with files that soundfile reads, as WAV, FLAC, OGG or MP3")
    return [_in_class(where, path, group_pattern) for path in files], skipped


def _walk(folder: Path | str, above: frozenset[str], skipped: Counter[str]) -> Iterator[str]:
    """Files under ``folder``, sorted, hidden ones left out; links are followed, except to a folder that holds them."""
    above |= {os.path.realpath(folder)}
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise FmucError(f"{paths.relative(Path(folder))}: cannot be listed ({error.strerror}): change its access "
                        "rights or move it away") from None
    for name in names:
        path = os.path.join(folder, name)
        if name.startswith("."):
            skipped["hidden"] += 1
        elif not os.path.isdir(path):
            yield path
        elif os.path.realpath(path) not in above:
            yield from _walk(path, above, skipped)


def _in_class(where: str, path: str, group_pattern: str | None) -> SoundFile:
    label, below = path.split(os.sep)[:2]
    group = f"{label}/{below}"  # the file itself, or the sub-folder that it is in
    if group_pattern is not None:
        found = re.search(group_pattern, path)
        group = _tidy(found[1] or "") if found else ""
        if not group:
            raise FmucError(f"{where}: group_pattern {group_pattern!r} finds no group in {path!r}: correct the pattern "
                            "or the file's name")
    if not _tidy(label):
        raise FmucError(f"{where}: {path!r} is in a class folder named by spaces only: rename it")
    return SoundFile(where, path, "" if _is_unlabelled(label) else _tidy(label), _tidy(group))


def _tidy(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def _is_unlabelled(label: str) -> bool:
    return _tidy(label).lower() in UNLABELLED


def from_csv(source: Path) -> tuple[list[SoundFile], Counter[str]]:
    """The sound files that a CSV file lists, in its order; nothing is skipped."""
    rows = read_csv(source, ("path",), ("label", "group", "split"), "correct the CSV file")
    files = [_in_row(where, row, source.parent) for where, row in rows]
    without = [file for file in files if not file.split]
    if 0 < len(without) < len(files):
        raise FmucError(f"{without[0].where}: the split is empty, but other rows have one: give it in all rows or none")
    return files, Counter()


def _in_row(where: str, row: dict[str, str], base: Path) -> SoundFile:
    for column, value in row.items():
        if _CONTROL.search(value):
            raise FmucError(f"{where}: the {column} {value!r} has a line break or another control character: take it "
                            "out (perhaps a quotation mark is missing)")
    label, group, split = (_tidy(row.get(column, "")) for column in ("label", "group", "split"))
    if not row["path"].strip():
        raise FmucError(f"{where}: the path is empty: name a sound file or delete the row")
    if split not in (*SPLITS, ""):
        raise FmucError(f"{where}: unknown split {split!r}: use {', '.join(SPLITS)}")
    if _is_unlabelled(label):
        raise FmucError(f"{where}: the label {label!r} would be a class: leave it empty where the class is unknown")
    path = os.path.normpath(base / row["path"])
    if os.path.commonpath((path, base)) == str(base):
        path = os.path.relpath(path, base)
    return SoundFile(where, path, label, group or _tidy(path), split)


def read_csv(path: Path, required: Sequence[str], optional: Sequence[str],
              remedy: str) -> list[tuple[str, dict[str, str]]]:
    """Rows of a CSV file in UTF-8 with a header: (file and the line where the row begins, column -> text)."""
    where = paths.relative(path)
    reader = csv.reader(io.StringIO(_read_text(path, remedy), newline=""), strict=True)
    header, rows, line = None, [], 1
    try:
        for fields in reader:
            if fields and header is None:
                header = _header(f"{where}, line {line}", fields, required, optional, remedy)
            elif fields and len(fields) != len(header):
                raise FmucError(f"{where}, line {line}: {len(fields)} fields instead of {len(header)} (a field with a "
                                f"comma needs quotation marks around it); {remedy}")
            elif fields:
                rows.append((f"{where}, line {line}", dict(zip(header, fields, strict=True))))
            line = reader.line_num + 1
    except csv.Error as error:
        raise FmucError(f"{where}, line {line}: is no CSV row ({error}); {remedy}") from None
    if not rows:
        raise FmucError(f"{where}: has no row below a header; {remedy}")
    return rows


def _read_text(path: Path, remedy: str) -> str:
    content = b""
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise FmucError(f"{paths.relative(path)}, line {line}: is not UTF-8 text: save it as CSV UTF-8") from None
    except OSError as error:
        raise FmucError(f"{paths.relative(path)}: cannot be read ({error.strerror}); {remedy}") from None


def _header(where: str, fields: list[str], required: Sequence[str], optional: Sequence[str],
            remedy: str) -> list[str]:
    header, known = [field.strip() for field in fields], (*required, *optional)
    for problem, columns in (("unknown", [column for column in header if column not in known]),
                             ("missing", [column for column in required if column not in header]),
                             ("repeated", [column for column in known if header.count(column) > 1])):
        if columns:
            may = f", may have {', '.join(optional)}" if optional else ""
            raise FmucError(f"{where}: {problem} column {', '.join(map(repr, columns))}: the header must have "
                            f"{', '.join(required)}{may}, with commas between; {remedy}")
    return header


def require_distinct(base: Path, files: Iterable[SoundFile]) -> None:
    """A file that is listed twice, through a link perhaps, could be in training and in test."""
    first: dict[str, SoundFile] = {}
    for file in files:
        keys = (os.path.realpath(base / file.path), file.id)
        before = first.get(keys[0]) or first.get(keys[1])
        if before:
            seen = f" in {before.where}" if before.where != file.where else ""
            raise FmucError(f"{file.where}: {file.path!r} is the same file as {before.path!r}{seen}: keep one of them")
        first.update(dict.fromkeys(keys, file))


def require_two_classes(where: str, files: Iterable[SoundFile]) -> None:
    """:class:`FmucError` that begins with ``where`` unless the files with a label have two classes or more."""
    labels = sorted({file.label for file in files if file.label})
    if len(labels) < 2:
        found = f"{labels[0]!r} is the only class" if labels else "no file has a class"
        raise FmucError(f"{where}: {found}: at least two classes with files are needed")


def probe(base: Path, files: Sequence[SoundFile], progress: bool) -> float:
    """Seconds of audio; files that are not there, no sound or empty are refused, all in one message."""
    seconds, bad = [], []
    for file in tqdm(files, desc="sound files", unit="file", disable=not progress):
        try:
            seconds.append(_duration(os.path.join(base, file.path)))
        except ValueError as error:
            bad.append(f"{file.where}: {file.path!r} {error}")
    if bad:
        raise FmucError(f"{bad[0]} ({len(bad)} of {len(files)} files cannot be used): remove or repair them")
    return round(math.fsum(seconds), 3)


def _duration(path: str) -> float:
    """Length of a sound file in s; ValueError says why it has none."""
    if not os.path.isfile(path):
        raise ValueError("is no file" if os.path.lexists(path) else "does not exist")
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: .raw, which has no header
        raise ValueError(f"cannot be read as sound ({getattr(error, 'error_string', error)})") from None
    if not info.frames:
        raise ValueError("holds no samples")
    if info.frames >= 2**62:  # a FLAC stream's header may leave the length open
        raise ValueError("does not tell its length")
    return info.frames / info.samplerate
