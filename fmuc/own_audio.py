"""The user's own sound files as a data set: a folder per class, or a CSV file. No sound is copied.

``data/<name>/`` gets two files: ``clips.csv`` (id, path, label or empty, group, split) and ``own.json`` (settings and
report). Paths are relative to the folder, or to that of the CSV file, and absolute outside of it; so the same files and
the same seed give the same ``clips.csv`` on any machine.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from fmuc import paths
from fmuc.datasets import LOADERS, SPLITS, Clip, Dataset
from fmuc.errors import FmucError
from fmuc.grouped_splits import draw_splits, require_training_labels
from fmuc.rendering import whole_folder, write_json
from fmuc.sound_lists import SoundFile, from_csv, from_folder, probe, read_csv, require_distinct, require_two_classes

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

    Splits that are not given are drawn (:func:`fmuc.grouped_splits.draw_splits`). ``labelled_share`` is the part of the
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
