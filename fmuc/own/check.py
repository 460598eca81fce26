"""Check a data set: decode every clip once, then report what is there and what is wrong with it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tabulate import tabulate
from tqdm import tqdm

from fmuc import paths
from fmuc.datasets import SPLITS, Dataset, read_error_list
from fmuc.machinery.sound import SoundError, read_sound
from fmuc.machinery.workers import cores, run_parallel

SILENT_DBFS = -80  # three steps of 16 bits: normalised to its peak, such a file is mostly rounding noise
CLIPPED_SHARE = 1e-4  # of the samples: those that are the third or later at full scale in a row
PUBLISHED = {  # release 1.0.10; Engel et al. 2017; Zenodo records 400515 and 1040168
    "fsdd": {"clips in train": 1_500, "clips in valid": 500, "clips in test": 1_000},
    "nsynth": {"clips in train": 289_205, "clips in valid": 12_678, "clips in test": 4_096,
               "groups in train": 953, "groups in valid": 53, "groups in test": 53},
    "tut2017": {"clips in train": 4_680, "clips in test": 1_620, "entries in the list of recording errors": 84},
}
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
    content = hashlib.sha256((sound.samples + 0).tobytes()).digest() if peak else b""  # + 0: no negative zero
    return Measures("", sound.note, sound.cut, len(size) / sound.rate, sound.rate, sound.channels, sound.subtype, peak,
                    clipped, content)


def measure_all(files: Sequence[Path], title: str, *, workers: int | None = None,
                progress: bool = True) -> Iterator[Measures]:
    """Measure each file, in ``workers`` processes (default: one per core, or none for a few files)."""
    workers = workers or (cores() if len(files) > _FEW else 1)
    found = run_parallel(measure, ((file,) for file in files), workers)
    return iter(tqdm(found, title, len(files), unit="file", disable=not progress))


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
    """Result of :func:`check`.

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
        """Everything, with ``failed``, ready for JSON."""
        return {**asdict(self), "failed": self.failed}


def check(dataset: Dataset, workers: int | None = None, *, progress: bool = True) -> Report:
    """Decode every clip and report. A sound file that cannot be read, or is odd, is a finding."""
    measures = measure_all([clip.path for clip in dataset.clips], f"check of {dataset.name}", workers=workers,
                           progress=progress)
    rows = [(clip.id, clip.split, clip.label, clip.group, *measured)
            for clip, measured in zip(dataset.clips, measures, strict=True)]
    frame = pd.DataFrame(rows, columns=["id", "split", "label", "group", *Measures._fields]).sort_values("id")
    heard, counts = frame[frame.problem == ""], _counts(dataset)
    findings = [*_about_splits(dataset, counts), *_about_files(frame, heard), *_about_duplicates(heard),
                *_about_groups(frame), *_against_published(dataset)]
    seconds = heard.seconds.agg(["min", "median", "max"]).fillna(0).to_dict()
    formats = [{str(key): int(count) for key, count in heard[column].value_counts().sort_index().items()}
               for column in ("rate", "channels", "subtype")]
    return Report(dataset.name, dataset.digest, counts, seconds | {"hours": float(heard.seconds.sum() / 3600)},
                  *formats, tuple(sorted((f for f in findings if f.count), key=lambda finding: finding.severity)))


def format_report(report: Report) -> str:
    """The report as aligned plain text."""
    counts = pd.DataFrame(report.counts)
    counts.loc["total"] = counts.sum()
    counts["total"] = counts.sum(axis=1)
    lengths = "shortest {min:g}, median {median:g}, longest {max:g}".format(**report.seconds)
    formats = [[name, ", ".join(f"{key} ({count:,} clips)" for key, count in found.items())] for name, found in (
        ("sample rate in Hz", report.sample_rates), ("channels", report.channels), ("subtype", report.subtypes))]
    findings = [[finding.severity, finding.count, "\n".join([finding.what, ", ".join(finding.examples)]).strip()]
                for finding in report.findings]
    return "\n\n".join([
        f"{report.dataset}: {counts.loc['total', 'total']:,} clips, {report.seconds['hours']:.2f} hours",
        tabulate(counts, ["class", *counts.columns], "simple", intfmt=","),
        tabulate([["length in s", lengths], *formats], tablefmt="plain"),
        tabulate(findings, ["severity", "number", "finding"], "simple", intfmt=",") if findings else "nothing found",
    ])


def _counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    counts = Counter((clip.split, clip.label or "unlabelled") for clip in dataset.clips)
    there = {clip.split for clip in dataset.clips}
    return {split: {label: counts[split, label] for label in (*dataset.classes, "unlabelled")}
            for split in SPLITS if split in there}


def _finding(kind: str, severity: str, what: str, found: Collection[str], count: int | None = None) -> Finding:
    return Finding(kind, severity, what, len(found) if count is None else count, tuple(found)[:_EXAMPLES])


def _about_splits(dataset: Dataset, counts: dict[str, dict[str, int]]) -> Iterator[Finding]:
    for split, severity in (("train", "error"), ("test", "note")):
        if split not in counts:
            yield _finding("split_absent", severity, f"split absent: {split}", (), 1)
    for split, found in counts.items():
        missing = [label for label in dataset.classes if not found[label]]
        kind, severity = ("class_untrained", "error") if split == "train" else ("class_absent", "note")
        yield _finding(kind, severity, f"class without a labelled clip in {split}", missing)


def _about_files(frame: pd.DataFrame, heard: pd.DataFrame) -> Iterator[Finding]:
    for problem, rows in frame[frame.problem != ""].groupby("problem"):
        yield _finding("unreadable", "error", f"sound file {problem}", rows.id)
    for note, rows in heard[(heard.note != "") & ~heard.cut].groupby("note"):
        yield _finding("odd", "note", f"sound file {note}", rows.id)
    yield _finding("truncated", "error", "sound file cut short or damaged: samples are missing", heard.id[heard.cut])
    yield _finding("silent", "note", f"silent: peak below {SILENT_DBFS} dBFS",
                   heard.id[heard.peak < 10 ** (SILENT_DBFS / 20)])
    yield _finding("clipped", "note", "clipped: three and more samples in a row at full scale "
                   f"({CLIPPED_SHARE:.2%} or more of all)", heard.id[heard.clipped >= CLIPPED_SHARE])


def _about_duplicates(heard: pd.DataFrame) -> Iterator[Finding]:
    same = heard[(heard.content != b"") & heard.duplicated("content", keep=False)]
    within = same[same.duplicated(["content", "split"], keep=False)]
    yield _finding("duplicate", "note", "clip with the sound of another clip of its split",
                   _equal(within, ["content", "split"], "id"), len(within))
    for severity, where, rows in _crossing(same, "content"):
        yield _finding("duplicate_between_splits", severity, f"clip with the sound of another clip, {where}",
                       _equal(rows, ["content"], "split"), len(rows))
    labels = same.groupby("content").label.nunique()  # of the known ones
    differ = same[same.label.notna() & same.content.isin(labels.index[labels > 1])]
    yield _finding("duplicate_other_label", "error", "clip with the sound of a clip of another class",
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
        yield _finding("group_leak", severity, f"group (instrument, recording) {where}", sorted(rows.group.unique()))


def _against_published(dataset: Dataset) -> Iterator[Finding]:
    found = Counter(f"clips in {clip.split}" for clip in dataset.clips)
    found.update(f"groups in {split}" for split, _ in {(clip.split, clip.group) for clip in dataset.clips})
    if dataset.name in PUBLISHED:
        found["entries in the list of recording errors"] = len(read_error_list(paths.dataset_dir(dataset.name)))
    for what, count in PUBLISHED.get(dataset.name, {}).items():
        yield _finding("published_count", "error", f"{found[what]:,} {what}, {count:,} were published", (),
                       abs(found[what] - count))
