"""Check a data set: decode every clip once, then report what is there and what is wrong with it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tabulate import tabulate
from tqdm import tqdm

from fmuc import paths
from fmuc.datasets import DEVELOPMENT, SPLITS, Dataset
from fmuc.machinery.sound import SoundError, read_sound
from fmuc.machinery.workers import cores, run_parallel

SILENT_DBFS = -80  # three steps of 16 bits: normalised to its peak, such a file is mostly rounding noise
CLIPPED_SHARE = 1e-4  # of the samples: those that are the third or later at full scale in a row
SHORTEST = 0.064  # seconds of the paper's longest analysis window
_FULL_SCALE = 1 - 2**-15  # the largest positive value of 16 bits
_FEW = 200  # files for which worker processes are not worth their start
_EXAMPLES = 3


class Measures(NamedTuple):
    """What decoding a file told. ``problem``: why it cannot be used; ``content``: a hash of what is heard."""

    problem: str = ""
    note: str = ""
    cut: bool = False
    seconds: float = 0.0
    rate: int = 0
    channels: int = 0
    subtype: str = ""
    peak: float = 0.0  # of the mean of the channels
    clipped: float = 0.0  # share of the samples
    content: bytes = b""  # b"" for digital silence


def measure(path: Path) -> Measures:
    """Decode the whole file and measure it."""
    try:
        sound = read_sound(path)
    except SoundError as error:
        return Measures(error.reason)
    size = np.abs(sound.samples)
    peak, full = float(size.max()), size >= _FULL_SCALE
    clipped = np.count_nonzero(full[2:] & full[1:-1] & full[:-2]) / len(size)
    heard = (sound.samples + 0).tobytes() if peak else b""  # + 0: no negative zero
    return Measures("", sound.note, sound.cut, len(size) / sound.rate, sound.rate, sound.channels, sound.subtype, peak,
                    clipped, hashlib.sha256(heard).digest() if heard else b"")


@dataclass(frozen=True)
class Published:
    """A data set as published: ``clips`` and ``groups`` per split, entries of the list of recording ``errors``, and the
    format of its files. Sources: Engel et al. 2017; Zenodo records 400515 and 1040168."""

    clips: Mapping[str, int]
    seconds: float
    rate: int
    channels: int
    subtype: str
    groups: Mapping[str, int] = field(default_factory=dict)
    errors: int | None = None


PUBLISHED = {
    "nsynth": Published({"train": 289_205, "valid": 12_678, "test": 4_096}, 4, 16_000, 1, "PCM_16",
                        groups={"train": 953, "valid": 53, "test": 53}),
    "tut2017": Published({"train": 4_680, "test": 1_620}, 10, 44_100, 2, "PCM_24", errors=84),
}


@dataclass(frozen=True)
class Finding:
    """A kind of fault: an "error" makes results wrong, a "note" is to be known. ``count``: clips (or groups, classes,
    splits: ``what`` says it) that have it; ``examples``: the first of them."""

    kind: str
    severity: str
    what: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """Result of :func:`check`; ``asdict()`` is ready for JSON.

    ``counts``: split -> class or "unlabelled" -> clips; ``seconds``: min, median and max of the clips that hold sound,
    and the hours of all; ``sample_rates`` in Hz, ``channels`` and ``subtypes`` (libsndfile's names): clips of each.
    """

    dataset: str
    digest: str
    counts: dict[str, dict[str, int]]
    seconds: dict[str, float]
    sample_rates: dict[str, int]
    channels: dict[str, int]
    subtypes: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> bool:
        """Whether something makes results wrong."""
        return any(finding.severity == "error" for finding in self.findings)

    def asdict(self) -> dict:
        """Everything, with ``failed``."""
        return {**asdict(self), "failed": self.failed}


def check(dataset: Dataset, workers: int | None = None, *, progress: bool = True) -> Report:
    """Decode every clip in ``workers`` processes (default: one per core) and report.

    A sound file that cannot be read, or is odd, is a finding.
    """
    tasks = [(clip.path,) for clip in dataset.clips]
    found = run_parallel(measure, tasks, workers or (cores() if len(tasks) > _FEW else 1))
    measures = tqdm(found, f"check of {dataset.name}", len(tasks), unit="clip", disable=not progress)
    rows = [(clip.id, clip.split, clip.label, clip.group, *measured)
            for clip, measured in zip(dataset.clips, measures, strict=True)]
    frame = pd.DataFrame(rows, columns=["id", "split", "label", "group", *Measures._fields])
    frame = frame.astype({"cut": bool}).sort_values("id")
    heard, counts = frame[frame.problem == ""], _counts(dataset)
    findings = [*_about_splits(dataset, counts), *_about_files(frame, heard), *_about_duplicates(heard),
                *_about_groups(frame), *_against_published(dataset, frame, heard)]
    seconds = {"min": heard.seconds.min(), "median": heard.seconds.median(), "max": heard.seconds.max(),
               "hours": heard.seconds.sum() / 3600} if len(heard) else {}
    formats = [{str(key): int(count) for key, count in heard[column].value_counts().sort_index().items()}
               for column in ("rate", "channels", "subtype")]
    return Report(dataset.name, dataset.digest, counts, {key: float(value) for key, value in seconds.items()}, *formats,
                  tuple(sorted(findings, key=lambda finding: finding.severity)))


def format_report(report: Report) -> str:
    """The report as aligned plain text."""
    splits = report.counts
    classes = next(iter(splits.values()), {})
    rows = [[label, *(splits[split][label] for split in splits)] for label in classes]
    rows.append(["total", *(sum(splits[split].values()) for split in splits)])
    rows = [[label, *(f"{count:,}" for count in (*counts, sum(counts)))] for label, *counts in rows]
    seconds = report.seconds or dict.fromkeys(("min", "median", "max", "hours"), 0.0)
    formats = [[name, ", ".join(f"{key} ({count:,} clips)" for key, count in found.items())] for name, found in (
        ("sample rate in Hz", report.sample_rates), ("channels", report.channels), ("subtype", report.subtypes))]
    findings = [[finding.severity, f"{finding.count:,}", "\n".join([finding.what, ", ".join(finding.examples)]).strip()]
                for finding in report.findings]
    return "\n\n".join([
        f"{report.dataset}: {rows[-1][-1]} clips, {seconds['hours']:.2f} hours",
        tabulate(rows, ["class", *splits, "total"], "simple", colalign=["left"] + ["right"] * (len(splits) + 1)),
        tabulate([["length in s", "shortest {min:g}, median {median:g}, longest {max:g}".format(**seconds)], *formats],
                 tablefmt="plain"),
        tabulate(findings, ["severity", "number", "finding"], "simple", colalign=["left", "right", "left"])
        if findings else "nothing found",
    ])


def _counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    counts = Counter((clip.split, clip.label or "unlabelled") for clip in dataset.clips)
    there = {clip.split for clip in dataset.clips}
    return {split: {label: counts[split, label] for label in (*dataset.classes, "unlabelled")}
            for split in SPLITS if split in there}


def _finding(kind: str, severity: str, what: str, examples: Sequence[str], count: int | None = None
             ) -> Iterator[Finding]:
    """The finding if there is any example."""
    if len(examples):
        yield Finding(kind, severity, what, len(examples) if count is None else count, tuple(examples[:_EXAMPLES]))


def _about_splits(dataset: Dataset, counts: dict[str, dict[str, int]]) -> Iterator[Finding]:
    needed = PUBLISHED[dataset.name].clips if dataset.name in PUBLISHED else ("train",)
    for split in SPLITS:
        if split not in counts and (split in needed or split == "test"):
            yield Finding("split_absent", "error" if split in needed else "note", f"split absent: {split}", 1, ())
        elif split in counts:
            missing = [label for label in dataset.classes if not counts[split][label]]
            kind, severity = ("class_untrained", "error") if split == "train" else ("class_absent", "note")
            yield from _finding(kind, severity, f"class without a labelled clip in {split}", missing)


def _about_files(frame: pd.DataFrame, heard: pd.DataFrame) -> Iterator[Finding]:
    for problem, rows in frame[frame.problem != ""].groupby("problem"):
        yield from _finding("unreadable", "error", f"sound file {problem}", list(rows.id))
    for note, rows in heard[(heard.note != "") & ~heard.cut].groupby("note"):
        yield from _finding("odd", "note", f"sound file {note}", list(rows.id))
    for rows, kind, severity, what in (
        (heard[heard.cut], "truncated", "error", "sound file cut short or damaged: samples are missing"),
        (heard[heard.peak < 10 ** (SILENT_DBFS / 20)], "silent", "note", f"silent: peak below {SILENT_DBFS} dBFS"),
        (heard[heard.clipped >= CLIPPED_SHARE], "clipped", "note",
         f"clipped: three and more samples in a row at full scale ({CLIPPED_SHARE:.2%} or more of all)"),
        (heard[heard.seconds < SHORTEST], "short", "note",
         f"shorter than an analysis window ({1000 * SHORTEST:.0f} ms)"),
    ):
        yield from _finding(kind, severity, what, list(rows.id))


def _about_duplicates(heard: pd.DataFrame) -> Iterator[Finding]:
    same = heard[(heard.content != b"") & heard.duplicated("content", keep=False)]
    within = same[same.duplicated(["content", "split"], keep=False)]
    yield from _finding("duplicate", "note", "clip with the sound of another clip of its split",
                        _equal(within, ["content", "split"], "id"), len(within))
    for severity, where, rows in _crossing(same, "content"):
        yield from _finding("duplicate_between_splits", severity, f"clip with the sound of another clip, {where}",
                            _equal(rows, ["content"], "split"), len(rows))
    labels = same.groupby("content").label.nunique()  # of the known ones
    differ = same[same.label.notna() & same.content.isin(labels.index[labels > 1])]
    yield from _finding("duplicate_other_label", "error", "clip with the sound of a clip of another class",
                        _equal(differ, ["content"], "label"), len(differ))


def _equal(rows: pd.DataFrame, same: list[str], differ: str) -> list[str]:
    """The first clips, as "a = b", of each group of rows that agree in ``same`` and not in ``differ``."""
    return [" = ".join(group.drop_duplicates(differ).id[:3]) for _, group in rows.groupby(same, sort=False)]


def _crossing(frame: pd.DataFrame, column: str) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Severity, place and rows of what train shares with another split, and of what only valid and test share."""
    splits = frame[[column, "split"]].drop_duplicates()
    shared = set(splits[column][splits.duplicated(column)])
    train = shared & set(splits[column][splits.split == "train"])
    yield "error", "in train and in valid or test", frame[frame[column].isin(train)]
    yield "note", "in valid and in test", frame[frame[column].isin(shared - train)]


def _about_groups(frame: pd.DataFrame) -> Iterator[Finding]:
    for severity, where, rows in _crossing(frame, "group"):
        yield from _finding("group_leak", severity, f"group (instrument, recording) {where}",
                            sorted(rows.group.unique()))


def _against_published(dataset: Dataset, frame: pd.DataFrame, heard: pd.DataFrame) -> Iterator[Finding]:
    published = PUBLISHED.get(dataset.name)
    if not published:
        return
    pairs = [(f"clips in {split}", int((frame.split == split).sum()), count)
             for split, count in published.clips.items()]
    pairs += [(f"groups in {split}", frame.group[frame.split == split].nunique(), count)
              for split, count in published.groups.items()]
    if published.errors is not None:
        listed = paths.dataset_dir(dataset.name) / DEVELOPMENT / "error.txt"
        found = len(listed.read_text(encoding="utf-8", errors="replace").splitlines()) if listed.is_file() else 0
        pairs.append(("entries in the list of recording errors", found, published.errors))
    for what, found, count in pairs:
        if found not in (0, count):  # a split that is absent has a finding already
            yield Finding("published_count", "error", f"{found:,} {what}, {count:,} were published", abs(found - count),
                          ())
    other = heard[(heard.seconds - published.seconds).abs() > 0.01]
    yield from _finding("duration", "note", f"not {published.seconds:g} s long as published", list(other.id))
    other = heard[(heard.rate != published.rate) | (heard.channels != published.channels)
                  | (heard.subtype != published.subtype)]
    yield from _finding("format", "note", f"not as published: {published.rate:,} Hz, {published.channels} channel(s), "
                        f"{published.subtype}", list(other.id))
