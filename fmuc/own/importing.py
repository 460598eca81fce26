"""Import your own audio: a folder of class folders, or a CSV list, becomes a data set. No sound file is copied.

An import is two files: ``clips.csv``, a row per clip, and ``own.json``, its settings and report. ``datasets.load`` and
``datasets.own_settings`` read them.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from fmuc import paths
from fmuc.config import Features
from fmuc.datasets import LOADERS, SPLITS
from fmuc.errors import FmucError
from fmuc.machinery.atomic import folder_lock, whole_folder, write_json
from fmuc.own.check import measure_all

FORMAT, RECORD, CLIPS = 1, "own.json", "clips.csv"
_TAKEN = ("features", "published", "records", "runs")  # folders of data/ with another purpose
COLUMNS = ("path", "label", "group", "split")
EXTENSIONS = frozenset((  # what libsndfile opens by itself; not .raw (no header) nor .mat (rarely sound)
    ".8svx", ".aif", ".aifc", ".aiff", ".au", ".avr", ".bwf", ".caf", ".flac", ".htk", ".iff", ".ircam", ".mp1", ".mp2",
    ".mp3", ".nist", ".oga", ".ogg", ".opus", ".paf", ".pvf", ".rf64", ".sds", ".sf", ".snd", ".sph", ".svx", ".voc",
    ".w64", ".wav", ".wave", ".wve", ".xi"))
SPLIT_NAMES = {"train": "train", "training": "train", "valid": "valid", "validation": "valid", "val": "valid",
               "dev": "valid", "test": "test", "testing": "test", "eval": "test", "evaluation": "test"}
UNLABELLED = ("unlabelled", "unlabeled")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # surrogates: a file name that is not UTF-8


@dataclass(frozen=True)
class Report:
    """What an import found: clips per split, seconds of audio, the number of other files ``skipped`` by extension, and
    the sound files left out as ``unreadable``, and why."""

    name: str
    clips: int
    classes: int
    unlabelled: int
    groups: int
    splits: dict[str, int]
    labelled_share: float
    seconds: float
    features: Features
    skipped: dict[str, int]
    unreadable: dict[str, str]


def import_audio(path: Path, name: str, *, seed: int = 0, test_share: float = 0.2, valid_share: float = 0.1,
                 labelled_share: float | None = None, group_pattern: str | None = None, sample_rate: int | None = None,
                 patch_seconds: float | None = None, skip_unreadable: bool = False, force: bool = False,
                 progress: bool = True) -> Report:
    """Make the sound files of a folder or a CSV file known as data set ``name``; the same call again changes nothing.

    What ``path`` may hold is told in data/README.md. Splits that are not given are drawn: :func:`draw_splits`. Training
    may use ``labelled_share`` of its labels: by default all if there are unlabelled training files, else 0.2, so that
    the others tell how good the pseudo-labels are. ``sample_rate`` and ``patch_seconds``: see :func:`choose_features`.
    Every file is decoded to its end. Those that cannot be used raise :class:`FmucError`, or are left out and listed
    with ``skip_unreadable``. Nothing is written before all is checked. ``force`` replaces another import of this name.
    """
    settings = {"test_share": test_share, "valid_share": valid_share, "labelled_share": labelled_share, "seed": seed,
                "group_pattern": group_pattern, "sample_rate": sample_rate, "patch_seconds": patch_seconds,
                "skip_unreadable": skip_unreadable}
    source, out = Path(path).expanduser().resolve(), paths.dataset_dir(name)
    _check_arguments(source, name, group_pattern)
    settings |= {"kind": "folder" if source.is_dir() else "csv", "source": str(source)}
    _require_replaceable(out, settings, force)
    where, base = paths.relative(source), source if source.is_dir() else source.parent
    files, skipped = from_folder(source, group_pattern) if source.is_dir() else (from_csv(source), {})
    check_names(base, files)
    measures = measure_all([base / file.path for file in files], "sound files", progress=progress)
    table, unreadable = _usable(pd.DataFrame(files).join(pd.DataFrame(measures)), skip_unreadable)
    classes = sorted({*table.label} - {""})
    if len(classes) < 2:
        raise FmucError(f"{where}: classes with sound files: {', '.join(classes) or 'none'}: at least two are needed")
    if not files[0].split:
        table["split"] = draw_splits(where, table, {"test": test_share, "valid": valid_share}, seed)
    report = Report(
        name, len(table), len(classes), unlabelled=int((table.label == "").sum()), groups=table.group.nunique(),
        splits={split: int((table.split == split).sum()) for split in SPLITS},
        labelled_share=_check_labelled_share(where, table, labelled_share), seconds=round(math.fsum(table.seconds), 3),
        features=choose_features(table.seconds, table.rate, sample_rate, patch_seconds), skipped=skipped,
        unreadable=unreadable)
    rows = table.assign(id=table.path.map(tidy)).sort_values("id")[["id", *COLUMNS]]
    with folder_lock(out), whole_folder(out) as folder:
        rows.to_csv(folder / CLIPS, index=False, lineterminator="\n")
        write_json(folder / RECORD, {"format": FORMAT, "settings": settings, "report": asdict(report)})
    return report


# --- which sound files there are, and what they are ---


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


# --- what becomes of them ---


def choose_features(seconds: Sequence[float], rates: Sequence[int], sample_rate: int | None = None,
                    patch_seconds: float | None = None) -> Features:
    """Log-Mel patches of 32 bands and 32 frames that suit the files (D18); an option replaces what is chosen.

    The sample rate is the most common one of the files, at most 22,050 Hz. A patch is as long as the median file, at
    most 2.5 s. The window is the power of two next to 46 ms, as TUT2017's (D2), and not below the hop, so that every
    sample counts. The profile "paper" keeps rate, window and patch length, with its own numbers of bands and frames.
    """
    rate = sample_rate or min(int(pd.Series(rates).mode()[0]), 22_050)
    hop = max(1, round((patch_seconds or min(2.5, np.median(seconds))) * rate / 32))
    exponent = max(8, round(math.log2(0.046 * rate)), math.ceil(math.log2(hop)))
    return Features(sample_rate=rate, window=2**exponent, hop=hop, mel_bands=32, patch_frames=32)


def _check_arguments(source: Path, name: str, pattern: str | None) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name) or name in LOADERS or name in _TAKEN:
        raise FmucError(f"--name {name!r} is taken or unfit: choose one of at most 40 lower-case letters, digits and "
                        "hyphens, no hyphen first")
    if not source.is_dir() and not (source.suffix.lower() == ".csv" and source.is_file()):
        problem = "is neither a folder nor a .csv file" if source.exists() else "does not exist"
        raise FmucError(f"{paths.relative(source)} {problem}: give a folder of class folders, or a CSV file")
    try:
        fits = pattern is None or (source.is_dir() and re.compile(pattern).groups == 1)
    except re.error:
        fits = False
    if not fits:
        raise FmucError(f"--group-pattern {pattern!r} must be a regular expression with one capture group (...), for a "
                        "folder; a CSV file has a column group")


def _usable(table: pd.DataFrame, skip: bool) -> tuple[pd.DataFrame, dict[str, str]]:
    """The rows of files that can be used, and what is wrong with the others."""
    bad = table[table.problem != ""]
    if len(bad) and not skip:
        first = bad.iloc[0]
        raise FmucError(f"{first['where']}: {first['path']!r} {first['problem']} ({len(bad)} of {len(table)} files "
                        "cannot be used): repair or remove them, or leave them out with --skip-unreadable")
    return table.drop(bad.index), dict(zip(bad.path, bad.problem, strict=True))


def draw_splits(where: str, table: pd.DataFrame, shares: dict[str, float], seed: int) -> pd.Series:
    """A split for each row of label and group: no group in two of them, every class in each of them.

    ``shares`` of test, then valid (0: none) are rounded to 1/2, 1/3, 1/4, ...; few groups make them coarser.
    Files of unknown class go with their group, and to train if no file of it is labelled.
    """
    wanted, known = {split: share for split, share in shares.items() if share}, table[table.label != ""]
    groups_of = known.groupby("label").group.nunique()
    place = dict.fromkeys(known.group, "train")
    for number, (split, share) in enumerate(wanted.items()):
        rest = known[known.group.map(place) == "train"]
        held = _hold_out(rest, share * len(known) / len(rest), len(wanted) - number, seed)
        if not held:
            raise FmucError(f"{where}: no way to have every class in {', '.join(('train', *reversed(wanted)))} with "
                            f"whole groups (class {groups_of.idxmin()!r} has labelled files in {groups_of.min()}): add "
                            "recordings, hold out less (--valid-share 0), or list splits in a CSV file")
        place |= dict.fromkeys(held, split)
    return table.group.map(place).fillna("train")


def _hold_out(rest: pd.DataFrame, share: float, remain: int, seed: int) -> set[str]:
    """Groups with about ``share`` of the files: each class is in them and in ``remain`` or more others."""
    from sklearn.model_selection import StratifiedGroupKFold  # takes a second

    classes, groups = rest.label.nunique(), rest.groupby("label").group.nunique().min()
    most = min(rest.group.nunique(), rest.label.value_counts().max(), max(10, round(1 / share)))
    ways = range(2, most + 1) if groups > remain else ()
    for folds in sorted(ways, key=lambda folds: abs(1 / folds - share)):
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of classes with fewer files than folds
            cut = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
            dealt = list(cut.split(rest, rest.label, rest.group))
        for others, held in dealt:
            left = rest.iloc[others].groupby("label").group.nunique()
            if rest.iloc[held].label.nunique() == len(left) == classes and left.min() >= remain:
                return set(rest.iloc[held].group)
    return set()


def _check_labelled_share(where: str, table: pd.DataFrame, share: float | None) -> float:
    """The share to use. Every class needs a labelled training file, and some training file must stay unlabelled."""
    train = table.label[table.split == "train"]
    known = train[train != ""]
    absent = sorted({*table.label} - {*known, ""})
    if absent:
        raise FmucError(f"{where}: class {absent[0]!r} has no labelled file in train: move some of its files there")
    if len(known) < len(train):
        return share or 1.0
    share = share or 0.2
    if max(round(share * len(known)), known.nunique()) == len(known):
        raise FmucError(f"{where}: --labelled-share {share} leaves none of the {len(known)} training files for pseudo-"
                        "labels: lower it, add files, or put files of unknown class into a folder named unlabelled")
    return share


def _require_replaceable(out: Path, settings: dict, force: bool) -> None:
    """Refuse what is no import, and, without ``force``, an import with other settings."""
    there = {path.name for path in out.glob("*")} - {".DS_Store"}
    if there and not {RECORD} <= there <= {RECORD, CLIPS}:
        raise FmucError(f"{paths.relative(out)} holds other things than an import of own audio: choose another name")
    with suppress(ValueError, LookupError, TypeError):
        if force or not there or json.loads((out / RECORD).read_text(encoding="utf-8"))["settings"] == settings:
            return
    raise FmucError(f"{paths.relative(out)} is an import with other settings, or damaged: use --force to replace it, "
                    "or choose another name")
