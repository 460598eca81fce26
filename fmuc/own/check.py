"""One pass over the sound of every clip: length, format, peak, clipping, damage, and a hash of what is heard.

Files are read block by block in worker processes, and nothing that a header claims decides how much is allocated.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import reduce
from itertools import islice
from typing import NamedTuple

import numpy as np
import pandas as pd
import soundfile
from tabulate import tabulate
from tqdm import tqdm

from fmuc.datasets import SPLITS, Dataset
from fmuc.errors import FmucError
from fmuc.experiments import NSYNTH, TUT
from fmuc.workers import run_parallel

_FULL_SCALE = 1 - 2**-15  # the largest positive value of 16 bits
_BLOCK = 1 << 18  # samples (of all channels) in memory at a time, whatever a header claims
_TASK = 8  # files per task: short enough for an even load and a prompt Ctrl-C
_OPEN_LENGTH = 0x7FFFF000  # bytes and more: what writers to a pipe put where they cannot come back to
# libsndfile's log of a file whose header and size disagree; wrong byte rates look the same but for the name
_CLAIM = re.compile(r"^\s*(?:riff|riff size|form|data|data size|ssnd)\s*: (\d+) \(should be (\d+)\)", re.I | re.M)


class Sound(NamedTuple):
    """What decoding a file told about it; ``problem`` if that was not possible."""

    problem: str | None = None
    frames: int = 0
    rate: int = 0
    channels: int = 0
    subtype: str = ""
    content: bytes = b""  # hash of the samples, empty if they are all zero or not finite: these are found otherwise
    finite: bool = True
    peak: float = 0.0  # of the mean of the channels
    clipped: float = 0.0  # share of the samples
    cut: bool = False
    open_length: bool = False


def decoded(dataset: Dataset, workers: int | None, progress: bool) -> Iterator[Sound]:
    """The sounds of all clips in their order."""
    files = [os.fspath(clip.path) for clip in dataset.clips]
    tasks = [files[i : i + _TASK] for i in range(0, len(files), _TASK)]
    workers = max(1, min(workers or os.cpu_count() or 1, len(tasks)))
    try:
        with (tqdm(total=len(files), desc=f"check of {dataset.name}", unit="clip", disable=not progress) as bar,
              closing(run_parallel(_decode_all, ((task,) for task in tasks), workers)) as results):
            for sounds in results:
                bar.update(len(sounds))
                yield from sounds
    except BrokenProcessPool:
        raise FmucError(f"{dataset.name}: a process that reads sound files ended early (too little memory, or a script "
                        "without 'if __name__ == \"__main__\":'): use one worker") from None


def _decode_all(files: Sequence[str]) -> list[Sound]:
    return [decode(file) for file in files]


def decode(path: str) -> Sound:
    """The whole file, read once; whatever is wrong with it is its ``problem``."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe would block for ever
            return Sound(problem="no regular file")
        if not status.st_size:
            return Sound()
        with soundfile.SoundFile(path) as file, np.errstate(all="ignore"):
            return _measure(file)
    except Exception as error:  # whatever a decoder raises is a fact about the file
        reason = getattr(error, "error_string", None) or getattr(error, "strerror", None)
        return Sound(problem=(reason or f"{type(error).__name__}: {error}").rstrip("."))


def _measure(file: soundfile.SoundFile) -> Sound:
    """Read to the end of the file, not to the number of frames that its header claims."""
    content, frames, finite, peak, clipped = hashlib.sha256(), 0, True, 0.0, 0
    buffer = np.empty((max(1, _BLOCK // file.channels), file.channels), dtype=np.float32)
    before = np.zeros((2, file.channels), dtype=bool)  # whether the last two frames were at full scale
    while len(block := file.read(out=buffer)):
        high, low = block.max(), block.min()
        finite = finite and bool(np.isfinite(high) and np.isfinite(low))
        heard = reduce(np.add, block.T) / file.channels + 0  # + 0: no negative zero
        peak = max(peak, float(heard.max()), -float(heard.min()))
        if max(high, -low) >= _FULL_SCALE:
            full = np.concatenate([before, np.abs(block) >= _FULL_SCALE])
            clipped += np.count_nonzero(full[2:] & full[1:-1] & full[:-2])
            before = full[-2:]
        else:
            before = np.zeros_like(before)
        content.update(np.ascontiguousarray(heard))
        frames += len(block)
    claims = [int(claim) for claim, there in _CLAIM.findall(file.extra_info) if int(claim) > int(there) + 1]
    open_length = any(claim >= _OPEN_LENGTH for claim in claims)
    cut = frames < file.frames or (bool(claims) and not open_length)
    return Sound(None, frames, file.samplerate, file.channels, file.subtype,
                  content.digest() if finite and peak else b"", finite, peak,
                  clipped / max(1, frames * file.channels), cut, open_length)


SILENT_DBFS = -80  # three steps of 16 bits: normalised to its peak, such a file is mostly rounding noise
CLIPPED_SHARE = 1e-4  # of the samples, that are at least the third at full scale in a row in their channel
SHORTEST = max(f.window / f.sample_rate for f in (NSYNTH, TUT))  # seconds of the longest analysis window
_EXAMPLES = 3


@dataclass(frozen=True)
class Published:
    """A real data set as published: its files, ``clips`` per split (with ``per_class``: of each class in the split) and
    ``groups`` per split. Sources: Engel et al. 2017; Zenodo records 400515 and 1040168."""

    seconds: float
    sample_rate: int
    channels: int
    subtype: str
    clips: Mapping[str, int]
    per_class: bool = False
    groups: Mapping[str, int] = field(default_factory=dict)


PUBLISHED = {
    "nsynth": Published(4, 16_000, 1, "PCM_16", {"train": 289_205, "valid": 12_678, "test": 4_096},
                        groups={"train": 953, "valid": 53, "test": 53}),
    "tut2017": Published(10, 44_100, 2, "PCM_24", {"train": 312, "test": 108}, per_class=True),
}


@dataclass(frozen=True)
class Finding:
    """One kind of fault: an "error" makes results wrong, a "note" is to be known. ``count`` clips (or groups, classes,
    splits: ``what`` says it) have it; ``examples`` are the first of them in sorted order, duplicates as "a = b"."""

    kind: str
    severity: str
    what: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Report:
    """Result of :func:`check`.

    ``counts``: one row per split that there is and "total", one column per class, "unlabelled" and "total".
    ``seconds``: "min", "median", "max" per clip in s and "hours" of all, over the files that hold sound (empty without
    any); so are the counts of clips by ``sample_rates`` in Hz, ``channels`` and ``subtypes`` (libsndfile's names).
    """

    dataset: str
    digest: str
    counts: pd.DataFrame
    seconds: dict[str, float]
    sample_rates: dict[int, int]
    channels: dict[int, int]
    subtypes: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> bool:
        """Whether there is anything that makes results wrong."""
        return any(finding.severity == "error" for finding in self.findings)

    def asdict(self) -> dict:
        """Everything, ready for JSON."""
        counts = {split: {"classes": dict(zip(self.counts.columns[:-2], row[:-2], strict=True)),
                          "unlabelled": row[-2], "total": row[-1]}
                  for split, row in zip(self.counts.index, self.counts.to_numpy().tolist(), strict=True)}
        by = {name: {str(key): count for key, count in getattr(self, name).items()}
              for name in ("sample_rates", "channels", "subtypes")}
        return {"dataset": self.dataset, "digest": self.digest, "failed": self.failed, "counts": counts,
                "seconds": self.seconds, **by,
                "findings": [{**asdict(finding), "examples": list(finding.examples)} for finding in self.findings]}


def check(dataset: Dataset, *, workers: int | None = None, progress: bool = True) -> Report:
    """Decode every clip of ``dataset`` and report what is there and what is wrong, with ``workers`` processes (default:
    one per core, 1: in this one). The report does not depend on their number.

    A sound file that cannot be read is a finding. Raises :class:`FmucError` if a worker process dies.
    """
    rows = [(clip.id, clip.split, clip.label, clip.group, *sound)
            for clip, sound in zip(dataset.clips, decoded(dataset, workers, progress), strict=True)]
    rows.sort(key=lambda row: row[0])
    frame = pd.DataFrame(rows, columns=["id", "split", "label", "group", *Sound._fields])
    frame = frame.astype(dict.fromkeys(("finite", "cut", "open_length"), bool))  # without any clip, too
    frame["seconds"] = frame.frames / frame.rate.clip(lower=1)
    heard, counts = frame[frame.frames > 0], _counts(dataset)
    findings = (*_about_splits(dataset, counts), *_about_files(frame), *_about_duplicates(heard),
                *_about_groups(frame), *_against_published(dataset.name, counts, frame, heard))
    total = {"min": heard.seconds.min(), "median": heard.seconds.median(), "max": heard.seconds.max(),
             "hours": heard.seconds.sum() / 3600} if len(heard) else {}
    return Report(dataset.name, dataset.digest, counts, {key: float(value) for key, value in total.items()},
                  *(heard[column].value_counts().sort_index().to_dict() for column in ("rate", "channels", "subtype")),
                  tuple(sorted(findings, key=lambda finding: finding.severity)))


def format_report(report: Report) -> str:
    """The report as aligned plain text."""
    counts, seconds = report.counts, report.seconds
    parts = [f"{report.dataset}: {counts.iloc[-1, -1].item():,} clips, {seconds.get('hours', 0):.2f} hours"]
    table = [[column, *(f"{n:,}" for n in counts.iloc[:, i])] for i, column in enumerate(counts.columns)]
    parts.append(tabulate(table, ["class", *counts.index], "simple",
                          colalign=["left", *["right"] * len(counts.index)]))
    formats = [[name, ", ".join(f"{key} ({count:,} clips)" for key, count in found.items())] for name, found in (
        ("sample rate in Hz", report.sample_rates), ("channels", report.channels), ("subtype", report.subtypes))]
    if seconds:
        length = "shortest {min:g}, median {median:g}, longest {max:g}".format(**seconds)
        parts.append(tabulate([["length in s", length], *formats], tablefmt="plain"))
    rows = [[finding.severity, f"{finding.count:,}", "\n".join([finding.what, ", ".join(finding.examples)]).strip()]
            for finding in report.findings]
    parts.append(tabulate(rows, ["severity", "number", "finding"], "simple",
                          colalign=["left", "right", "left"]) if rows else "nothing found")
    return "\n\n".join(parts)


def _counts(dataset: Dataset) -> pd.DataFrame:
    table = np.zeros((len(SPLITS), len(dataset.classes) + 1), dtype=np.int64)
    splits = [SPLITS.index(clip.split) for clip in dataset.clips]
    np.add.at(table, (splits, dataset.labels()), 1)  # label -1 is the last column
    table = np.column_stack([table, table.sum(axis=1)])[table.any(axis=1)]
    index = [split for split in SPLITS if split in {clip.split for clip in dataset.clips}]
    return pd.DataFrame(np.vstack([table, table.sum(axis=0)]), [*index, "total"],
                        [*dataset.classes, "unlabelled", "total"])


def _finding(kind: str, severity: str, what: str, count: int, examples: Iterable[str] = ()) -> Iterator[Finding]:
    """The finding if there is any."""
    if count:
        yield Finding(kind, severity, what, int(count), tuple(islice(examples, _EXAMPLES)))


def _about_splits(dataset: Dataset, counts: pd.DataFrame) -> Iterator[Finding]:
    there = counts.index[:-1]
    published = PUBLISHED.get(dataset.name)
    needed = published.clips if published else ("train",)
    absent = [split for split in SPLITS if split not in there and (split in needed or split == "test")]
    for split in absent:
        yield from _finding("split_absent", "error" if split in needed else "note", f"split absent: {split}", 1)
    for split in there:
        row = counts.loc[split].to_numpy()
        missing = [label for label, count in zip(dataset.classes, row[:-2], strict=True) if not count]
        unlabelled = f" ({row[-2]:,} of its clips are unlabelled)" if row[-2] else ""
        kind, severity = ("class_untrained", "error") if split == "train" else ("class_absent", "note")
        yield from _finding(kind, severity, f"class without a labelled clip in {split}{unlabelled}", len(missing),
                            missing)


def _about_files(frame: pd.DataFrame) -> Iterator[Finding]:
    for problem, rows in frame[frame.problem.notna()].groupby("problem"):
        yield from _finding("unreadable", "error", f"sound file unreadable: {problem}", len(rows), rows.id)
    readable = frame[frame.problem.isna()]
    heard = readable[readable.frames > 0]
    for rows, kind, severity, what in (
        (readable[readable.frames == 0], "empty", "error", "sound file without samples"),
        (readable[readable.cut], "truncated", "error", "sound file cut short: its header claims more than it holds"),
        (heard[~heard.finite], "not_finite", "error", "sound file with NaN or infinite samples"),
        (heard[heard.finite & (heard.peak < 10 ** (SILENT_DBFS / 20))], "silent", "note",
         f"silent: peak below {SILENT_DBFS} dBFS"),
        (heard[heard.clipped >= CLIPPED_SHARE], "clipped", "note",
         f"clipped: runs of three and more samples at full scale ({CLIPPED_SHARE:.2%} or more of all samples)"),
        (heard[heard.seconds < SHORTEST], "short", "note",
         f"shorter than an analysis window ({1000 * SHORTEST:.0f} ms)"),
        (readable[readable.open_length], "open_length", "note",
         "header of a stream, without a length: read to its end"),
    ):
        yield from _finding(kind, severity, what, len(rows), rows.id)


def _about_duplicates(heard: pd.DataFrame) -> Iterator[Finding]:
    same = heard[(heard.content != b"") & heard.duplicated("content", keep=False)]
    within = same[same.duplicated(["content", "split"], keep=False)]
    yield from _finding("duplicate", "note", "clip with the sound of another clip of its split", len(within),
                        _equal(within, ["content", "split"], "id"))
    for severity, where, rows in _crossing(same, "content"):
        yield from _finding("duplicate_between_splits", severity, f"clip with the sound of another clip, {where}",
                            len(rows), _equal(rows, ["content"], "split"))
    labels = same.groupby("content").label.nunique()  # of the known ones
    differ = same[same.label.notna() & same.content.isin(labels.index[labels > 1])]
    yield from _finding("duplicate_other_label", "error", "clip with the sound of a clip of another class", len(differ),
                        _equal(differ, ["content"], "label"))


def _equal(rows: pd.DataFrame, same: list[str], differ: str) -> Iterator[str]:
    """The first clips of each group of rows that agree in ``same`` and not in ``differ``."""
    for _, group in rows.groupby(same, sort=False):
        yield " = ".join(group.drop_duplicates(differ).id[:3])


def _crossing(frame: pd.DataFrame, column: str) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Severity, place and rows of what train shares with another split, and of what only valid and test share."""
    splits = frame[[column, "split"]].drop_duplicates()
    shared = set(splits[column][splits.duplicated(column)])
    train = shared & set(splits[column][splits.split == "train"])
    yield "error", "in train and in valid or test", frame[frame[column].isin(train)]
    yield "note", "in valid and in test", frame[frame[column].isin(shared - train)]


def _about_groups(frame: pd.DataFrame) -> Iterator[Finding]:
    for severity, where, rows in _crossing(frame, "group"):
        groups = sorted(rows.group.unique())
        yield from _finding("group_leak", severity, f"group (instrument, recording) {where}", len(groups), groups)


def _difference(split: str, noun: str, found: int, published: int) -> Iterator[Finding]:
    what = f"{split} has {found:,} {noun}, {published:,} were published: difference"
    yield from _finding("published_count", "error", what, abs(found - published))


def _against_published(name: str, counts: pd.DataFrame, frame: pd.DataFrame, heard: pd.DataFrame) -> Iterator[Finding]:
    published = PUBLISHED.get(name)
    if not published:
        return
    for split in counts.index[:-1].intersection(list(published.clips)):
        row, expected = counts.loc[split], published.clips[split]
        if published.per_class:
            wrong = [f"{label} {count:,}" for label, count in row[:-2].items() if count != expected]
            yield from _finding("published_count", "error", f"class of {split} without the published {expected} clips",
                                len(wrong), wrong)
        else:
            yield from _difference(split, "clips", row["total"], expected)
        if split in published.groups:
            groups = frame.group[frame.split == split].nunique()
            yield from _difference(split, "groups", groups, published.groups[split])
    other = heard[(heard.seconds - published.seconds).abs() > 0.01]
    yield from _finding("duration", "note", f"not {published.seconds:g} s long as published", len(other), other.id)
    other = heard[(heard.rate != published.sample_rate) | (heard.channels != published.channels)
                  | (heard.subtype != published.subtype)]
    yield from _finding("format", "note", f"not as published: {published.sample_rate:,} Hz, {published.channels} "
                        f"channel(s), {published.subtype}", len(other), other.id)
