"""Which sound files there are, from a folder of class folders or from a CSV file, checked and in a fixed order."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import os
import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile
from filelock import FileLock
from tqdm import tqdm

from fmuc import paths
from fmuc.atomic import whole_folder, write_json
from fmuc.datasets import LOADERS, SPLITS, Clip, Dataset
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


_FEW_FOLDS, _MOST_FOLDS = 10, 50


def groups_per_class(files: Iterable[SoundFile]) -> dict[str, int]:
    """How many groups have a labelled file of each class, sorted by class."""
    groups = defaultdict(set)
    for file in files:
        if file.label:
            groups[file.label].add(file.group)
    return {label: len(groups[label]) for label in sorted(groups)}


def require_training_labels(where: str, files: Sequence[SoundFile], splits: Sequence[str]) -> None:
    """:class:`FmucError` if a class has no labelled file in train."""
    trained = {file.label for file, split in zip(files, splits, strict=True) if split == "train"}
    for label, count in groups_per_class(files).items():
        if label not in trained:
            raise FmucError(f"{where}: class {label!r} ({count} groups) has no labelled file in train: give some of "
                            "them the split train, or leave the column split out")


def draw_splits(where: str, files: Sequence[SoundFile], shares: dict[str, float], seed: int) -> list[str]:
    """A split for each file, no group in two of them; ``shares`` of test and then valid, 0 for none.

    Groups with labelled files are dealt out so that each class has its share of files in each split as far as whole
    groups allow, and one file at least. Where each file is a group, the shares come out to 0.03 and a few files of each
    class; few or unequal groups make them coarser. Shares below 0.02 are taken for 0.02. Files of unknown class go with
    their group, and to train if no file of it is labelled.
    """
    wanted = {split: share for split, share in shares.items() if share}
    known = [file for file in files if file.label]
    counts = groups_per_class(known)
    label = min(counts, key=counts.get)
    found = f"{where}: class {label!r} has labelled files in {counts[label]} group{'s'[:counts[label] != 1]}"
    remedy = "add recordings, hold out fewer splits (a share of 0), or give a column split in a CSV file"
    if counts[label] <= len(wanted):
        raise FmucError(f"{found}, but {', '.join(('train', *reversed(wanted)))} need one each: {remedy}")
    names, groups = np.unique([file.group for file in known], return_inverse=True)
    labels = np.unique([file.label for file in known], return_inverse=True)[1]
    place = np.full(len(names), "train", dtype=object)
    for position, (split, share) in enumerate(wanted.items()):
        rest = np.flatnonzero(place[groups] == "train")
        held = _hold_out(labels[rest], groups[rest], share * len(known) / len(rest), len(wanted) - position, seed)
        if held is None:
            raise FmucError(f"{found}, some of which it shares with other classes: no way was found to have every "
                            f"class in {', '.join(('train', *reversed(wanted)))} with whole groups: {remedy}")
        place[held] = split
    placed = dict(zip(names.tolist(), place, strict=True))
    return [placed.get(file.group, "train") for file in files]


def _hold_out(labels: np.ndarray, groups: np.ndarray, share: float, remain: int, seed: int) -> np.ndarray | None:
    """Groups with about ``share`` of the files: every class is in them, and in ``remain`` groups or more of the rest.

    ``labels`` and ``groups`` (files,) are numbered from 0. The files are dealt into folds, of which neighbouring ones
    are held out; of several ways the one closest to ``share``, None if there is none.
    """
    codes, groups = np.unique(groups, return_inverse=True)
    sizes, present = np.bincount(groups), np.zeros((len(codes), labels.max() + 1), dtype=bool)
    present[groups, labels] = True
    for parts, folds in _fractions(share, min(len(codes), np.bincount(labels).max())):
        fold = _deal(labels, groups, folds, seed)
        windows = [(fold - first) % folds < parts for first in range(folds)]
        fit = [held for held in windows if present[held].any(axis=0).all()
               and (present[~held].sum(axis=0) >= remain).all()]
        if fit:
            return codes[min(fit, key=lambda held: abs(sizes[held].sum() - share * sizes.sum()))]
    return None


def _fractions(share: float, most: int) -> list[tuple[int, int]]:
    """(parts, folds) from the closest to ``share`` on; more than ten folds only for a small share."""
    counts = {*range(2, _FEW_FOLDS + 1), min(round(1 / share), _MOST_FOLDS)}
    fractions = {Fraction(parts, folds) for folds in counts if 2 <= folds <= most
                 for parts in range(1, folds if folds <= _FEW_FOLDS else 2)}
    return [part.as_integer_ratio() for part in sorted(fractions, key=lambda part: (abs(part - share), part))]


def _deal(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each group, stratified by class: (groups,)."""
    from sklearn.model_selection import StratifiedGroupKFold  # a second, which loading a data set need not wait for

    fold = np.empty(groups.max() + 1, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes with fewer files than folds: see _hold_out
        dealt = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups)
        for number, (_, held) in enumerate(dealt):
            fold[groups[held]] = number
    return fold


FORMAT = 1
RECORD, CLIPS = "own.json", "clips.csv"
COLUMNS = ("id", "path", "label", "group", "split")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_TAKEN = ("features", "published", "records", "runs")  # folders of data/ with another purpose
_AGAIN = "import it again (python -m fmuc data folder PATH --name NAME --force)"


@dataclass(frozen=True)
class Report:
    """What an import found. ``shared_groups``: groups in more than one split, where a CSV file gave the splits (drawn
    ones share none); ``splits``: clips per split; ``seconds`` of audio; ``skipped``: files left out, by extension."""

    name: str
    clips: int
    classes: int
    unlabelled: int
    groups: int
    shared_groups: int
    splits: dict[str, int]
    labelled_share: float
    seconds: float
    skipped: dict[str, int]


def import_audio(source: Path, name: str, *, seed: int = 0, test_share: float = 0.2, valid_share: float = 0.1,
                 labelled_share: float | None = None, group_pattern: str | None = None, force: bool = False,
                 progress: bool = True) -> Report:
    """Make the sound files of ``source`` known as data set ``name``; the same call again changes nothing.

    A folder holds a folder per class; one named "unlabelled" holds files of unknown class. A file directly in its
    class is a group of its own; the files of a class' sub-folder, at any depth, are one group. ``group_pattern``, a
    regular expression with one capture group that is searched in the path relative to ``source``, replaces this rule.
    Hidden files and those that are no sound by their extension are skipped and counted.

    A CSV file has a column path (relative to its own folder, or absolute) and may have label (empty: unknown), group
    (empty: the file's own) and split (train, valid or test, in all rows or in none).

    Splits that are not given are drawn (:func:`fmuc.own.importing.draw_splits`). ``labelled_share`` is the part of the
    training labels that training may use: by default all if there are unlabelled training files, else 0.2, so that the
    other labels can tell how good the pseudo-labels are. Raises :class:`FmucError`, before anything is written, for
    whatever cannot be used. ``force`` replaces an import of the same name that differs, and never a folder that is
    something else.
    """
    source, out = Path(source).expanduser().resolve(), paths.dataset_dir(name)
    kind = "folder" if source.is_dir() else "csv"
    settings = {"kind": kind, "source": str(source), "seed": seed, "test_share": test_share,
                "valid_share": valid_share, "labelled_share": labelled_share, "group_pattern": group_pattern}
    _check_settings(name, **settings)
    _require_same_settings(out, settings, force)
    where, base = paths.relative(source), _base(kind, source)
    files, skipped = from_csv(source) if kind == "csv" else from_folder(source, group_pattern)
    require_distinct(base, files)
    require_two_classes(where, files)
    seconds = probe(base, files, progress)
    if any(file.split for file in files):
        splits = [file.split for file in files]
        require_training_labels(where, files, splits)
    else:
        splits = draw_splits(where, files, {"test": test_share, "valid": valid_share}, seed)
    report = _report(name, files, splits, labelled_share, seconds, skipped)
    _write(out, {"format": FORMAT, "settings": settings, "report": asdict(report)}, _as_csv(files, splits), force)
    return report


def is_own(folder: Path) -> bool:
    """Whether ``folder`` is a data set made by :func:`import_audio`, perhaps a damaged one."""
    return (folder / RECORD).is_file()


def labelled_share(folder: Path) -> float:
    """The part of the training labels that training may use, in (0, 1]; :class:`FmucError` if the record is damaged."""
    return _record(folder)["report"]["labelled_share"]


def load_own(folder: Path, name: str) -> Dataset:
    """The clips of an import, sorted by id; the classes are the labels that occur, sorted.

    Raises :class:`FmucError` for a damaged record or list (with its line) and for sound files that are gone.
    """
    settings = _record(folder)["settings"]
    base = _base(settings["kind"], Path(settings["source"]))
    clips: dict[str, Clip] = {}
    for where, row in read_csv(folder / CLIPS, COLUMNS, (), _AGAIN):
        empty = [column for column in ("id", "path", "group") if not row[column]]
        if empty:
            raise FmucError(f"{where}: the {empty[0]} is empty; {_AGAIN}")
        if row["split"] not in SPLITS:
            raise FmucError(f"{where}: unknown split {row['split']!r}, known are {', '.join(SPLITS)}; {_AGAIN}")
        if row["id"] in clips:
            raise FmucError(f"{where}: the id {row['id']!r} occurs twice; {_AGAIN}")
        clips[row["id"]] = Clip(row["id"], base / row["path"], row["label"] or None, row["group"], row["split"])
    _require_files(paths.relative(folder / CLIPS), [clip.path for clip in clips.values()])
    classes = sorted({clip.label for clip in clips.values() if clip.label})
    return Dataset(name, tuple(classes), tuple(clips.values()))


def _check_settings(name: str, kind: str, source: str, seed: int, test_share: float, valid_share: float,
                    labelled_share: float | None, group_pattern: str | None) -> None:
    if not _NAME.fullmatch(name):
        raise FmucError(f"name {name!r}: use at most 40 lower-case letters, digits and hyphens, no hyphen first")
    if name in LOADERS or name in _TAKEN:
        raise FmucError(f"name {name!r} has another meaning already: choose another name")
    if kind == "csv" and not (source.lower().endswith(".csv") and os.path.isfile(source)):
        problem = "is neither a folder nor a .csv file" if os.path.exists(source) else "does not exist"
        raise FmucError(f"{paths.relative(Path(source))} {problem}: give a folder of class folders, or a CSV file")
    if not 0 <= seed < 2**32:
        raise FmucError(f"seed must lie in [0, 2**32), not {seed}")
    for parameter, share in (("test_share", test_share), ("valid_share", valid_share)):
        if not 0 <= share <= 0.5:
            raise FmucError(f"{parameter} must lie in [0, 0.5], not {share}")
    if test_share + valid_share == 1:
        raise FmucError("test_share and valid_share of 0.5 leave nothing for training: lower one of them")
    if labelled_share is not None and not 0 < labelled_share <= 1:
        raise FmucError(f"labelled_share must lie in (0, 1], not {labelled_share}")
    if group_pattern is not None:
        _check_pattern(group_pattern, kind)


def _check_pattern(pattern: str, kind: str) -> None:
    if kind == "csv":
        raise FmucError("group_pattern is for a folder: give groups to the rows of a CSV file in its column group")
    try:
        captures = re.compile(pattern).groups
    except re.error as error:
        raise FmucError(f"group_pattern {pattern!r} is no regular expression ({error}): correct it") from None
    if captures != 1:
        raise FmucError(f"group_pattern {pattern!r} must have one capture group (...), not {captures}; "
                        "write (?:...) where nothing is to be captured")


def _base(kind: str, source: Path) -> Path:
    """What the listed paths are relative to."""
    return source if kind == "folder" else source.parent


def _report(name: str, files: Sequence[SoundFile], splits: Sequence[str], labelled_share: float | None, seconds: float,
            skipped: Counter[str]) -> Report:
    unlabelled = [split for file, split in zip(files, splits, strict=True) if not file.label]
    placed = {(file.group, split) for file, split in zip(files, splits, strict=True)}
    of_group = Counter(group for group, _ in placed)
    if labelled_share is None:
        labelled_share = 1.0 if "train" in unlabelled else 0.2
    return Report(name, len(files), len({file.label for file in files} - {""}), len(unlabelled), len(of_group),
                  sum(count > 1 for count in of_group.values()), {split: splits.count(split) for split in SPLITS},
                  labelled_share, seconds, dict(sorted(skipped.items())))


def _as_csv(files: Sequence[SoundFile], splits: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(sorted((file.id, file.path, file.label, file.group, split)
                            for file, split in zip(files, splits, strict=True)))
    return text.getvalue()


def _stored(out: Path) -> tuple[dict, str] | None:
    """Record and list of the import in ``out``, None if nothing is there; what is no import is refused."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not is_own(out) or {path.name for path in out.iterdir()} - {RECORD, CLIPS, ".DS_Store"}:
        raise FmucError(f"{paths.relative(out)} holds other things than an import of own audio: choose another name")
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        return record if isinstance(record, dict) else {}, (out / CLIPS).read_bytes().decode("utf-8")
    except (OSError, ValueError, RecursionError):
        return {}, ""  # damaged: different from any


def _require_same_settings(out: Path, settings: dict, force: bool) -> None:
    """Refuse early, before the sound files are read."""
    stored = _stored(out)
    if stored is None or force:
        return
    before = stored[0].get("settings")
    other = [key for key in settings if not isinstance(before, dict) or before.get(key, ...) != settings[key]]
    if other:
        raise FmucError(f"{paths.relative(out)} is another import or damaged ({', '.join(other)} differ): use --force "
                        "to replace it, or another name")


def _write(out: Path, record: dict, clips: str, force: bool) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_name(f".{out.name}.lock")):
        stored = _stored(out)
        if stored == (record, clips):
            return
        if stored is not None and not force:
            raise FmucError(f"{paths.relative(out)}: the files have changed since they were imported: use --force to "
                            "import them again, or another name")
        with whole_folder(out) as folder:
            (folder / CLIPS).write_text(clips, encoding="utf-8", newline="\n")
            write_json(folder / RECORD, record)


def _record(folder: Path) -> dict:
    """The checked content of ``own.json``."""
    where = paths.relative(folder / RECORD)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        version, settings, share = record["format"], record["settings"], record["report"]["labelled_share"]
        fit = settings["kind"] in ("folder", "csv") and isinstance(settings["source"], str) and 0 < share <= 1
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FmucError(f"{where}: is damaged ({type(error).__name__}: {error}); {_AGAIN}") from None
    if version != FORMAT:
        raise FmucError(f"{where}: has format {version!r}, but this version reads {FORMAT}; {_AGAIN}")
    if not fit:
        raise FmucError(f"{where}: is damaged (kind, source or labelled_share); {_AGAIN}")
    return record


def _require_files(where: str, files: Sequence[Path]) -> None:
    """One listing per folder instead of one ``stat`` per file, which is slow on a network disk."""
    listed = {folder: _plain_files(folder) for folder in {file.parent for file in files}}
    # not in the listing, yet there: a link, or the file system folds case or composes letters
    missing = [file for file in files if file.name not in listed[file.parent] and not os.path.isfile(file)]
    if missing:
        raise FmucError(f"{where}: missing sound file {paths.relative(missing[0])} ({len(missing)} of {len(files)} are "
                        f"missing): put them back, or {_AGAIN}")


def _plain_files(folder: Path) -> set[str]:
    """Names of the files in a folder, links left out; none where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
    except (OSError, ValueError):
        return set()
