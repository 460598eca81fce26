"""Check a data set: decode every clip once, then report what is there and what is wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
_EXAMPLES = 3  # named in the text


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
    """A kind of fault: an "error" makes results wrong, a "note" is to be known. ``names``: the clips that have it (or
    groups, classes, splits, numbers: ``what`` says it); clips that sound the same are one name, "a = b"."""

    kind: str
    severity: str
    what: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """Result of :func:`check`.

    ``counts``: split -> class or "unlabelled" -> clips; ``seconds``: min, median and max of the clips that hold sound,
    and the hours of all; ``formats``: sample rates, channels and subtypes (libsndfile's names), and clips of each.
    """

    dataset: str
    digest: str
    counts: dict[str, dict[str, int]]
    seconds: dict[str, float]
    formats: dict[str, dict[str, int]]
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> bool:
        """Whether something makes results wrong."""
        return any(finding.severity == "error" for finding in self.findings)


def check(dataset: Dataset, workers: int | None = None, *, progress: bool = True) -> Report:
    """Decode every clip and report. A sound file that cannot be read, or is odd, is a finding."""
    measures = measure_all([clip.path for clip in dataset.clips], f"check of {dataset.name}", workers=workers,
                           progress=progress)
    rows = [(clip.id, clip.split, clip.label, clip.group, *measured)
            for clip, measured in zip(dataset.clips, measures, strict=True)]
    frame = pd.DataFrame(rows, columns=["id", "split", "label", "group", *Measures._fields]).sort_values("id")
    heard, counts = frame[frame.problem == ""], pd.crosstab(frame.label.fillna("unlabelled"), frame.split)
    counts = counts.reindex(index=[*dataset.classes, "unlabelled"],
                            columns=[split for split in SPLITS if split in counts], fill_value=0)
    findings = [*_about_counts(counts), *_about_files(frame, heard), *_about_duplicates(heard), *_about_groups(frame),
                *_against_published(dataset.name, frame)]
    seconds = heard.seconds.agg(["min", "median", "max"]).fillna(0).to_dict()
    formats = {name: {str(key): int(count) for key, count in heard[column].value_counts().sort_index().items()}
               for name, column in (("sample rate in Hz", "rate"), ("channels", "channels"), ("subtype", "subtype"))}
    return Report(dataset.name, dataset.digest, counts.to_dict(), seconds | {"hours": heard.seconds.sum() / 3600},
                  formats, tuple(sorted((f for f in findings if f.names), key=lambda finding: finding.severity)))


def format_report(report: Report) -> str:
    """The report as aligned plain text."""
    counts = pd.DataFrame(report.counts)
    counts.loc["total"] = counts.sum()
    counts["total"] = counts.sum(axis=1)
    lengths = "shortest {min:g}, median {median:g}, longest {max:g}".format(**report.seconds)
    formats = [[name, ", ".join(f"{key} ({count:,} clips)" for key, count in found.items())]
               for name, found in report.formats.items()]
    findings = [[finding.severity, len(finding.names), f"{finding.what}\n{', '.join(finding.names[:_EXAMPLES])}"]
                for finding in report.findings]
    return "\n\n".join([
        f"{report.dataset}: {counts.loc['total', 'total']:,} clips, {report.seconds['hours']:.2f} hours",
        tabulate(counts, ["class", *counts.columns], "simple", intfmt=","),
        tabulate([["length in s", lengths], *formats], tablefmt="plain"),
        tabulate(findings, ["severity", "number", "finding"], "simple", intfmt=",") if findings else "nothing found",
    ])


def _about_counts(counts: pd.DataFrame) -> Iterator[Finding]:
    for split, severity in (("train", "error"), ("test", "note")):
        yield Finding("split_absent", severity, "split absent", () if split in counts else (split,))
    for split, number in counts.drop("unlabelled").items():
        kind, severity = ("class_untrained", "error") if split == "train" else ("class_absent", "note")
        yield Finding(kind, severity, f"class without a labelled clip in {split}", tuple(number.index[number == 0]))


def _about_files(frame: pd.DataFrame, heard: pd.DataFrame) -> Iterator[Finding]:
    bad, odd = frame[frame.problem != ""], heard[(heard.note != "") & ~heard.cut]
    yield Finding("unreadable", "error", "sound file that cannot be used", tuple(bad.id + " " + bad.problem))
    yield Finding("odd", "note", "odd sound file, nothing is missing", tuple(odd.id + ": " + odd.note))
    yield Finding("truncated", "error", "sound file cut short or damaged: samples are missing",
                  tuple(heard.id[heard.cut]))
    yield Finding("silent", "note", f"silent: peak below {SILENT_DBFS} dBFS",
                  tuple(heard.id[heard.peak < 10 ** (SILENT_DBFS / 20)]))
    yield Finding("clipped", "note", "clipped: three and more samples in a row at full scale "
                  f"({CLIPPED_SHARE:.2%} or more of all)", tuple(heard.id[heard.clipped >= CLIPPED_SHARE]))


def _about_duplicates(heard: pd.DataFrame) -> Iterator[Finding]:
    same = heard[(heard.content != b"") & heard.duplicated("content", keep=False)].groupby("content", sort=False)
    names, splits = same.id.agg(lambda ids: " = ".join(ids[:_EXAMPLES])), same.split.agg(set)
    yield Finding("duplicate_other_label", "error", "sound of clips of several classes",
                  tuple(names[same.label.nunique() > 1]))
    yield Finding("duplicate", "note", "sound of several clips of a split", tuple(names[splits.map(len) == 1]))
    for severity, where, crossing in _crossing(splits):
        yield Finding("duplicate_between_splits", severity, f"sound of several clips, {where}", tuple(names[crossing]))


def _about_groups(frame: pd.DataFrame) -> Iterator[Finding]:
    splits = frame.groupby("group").split.agg(set)
    for severity, where, crossing in _crossing(splits):
        yield Finding("group_leak", severity, f"group (instrument, recording) {where}", tuple(splits.index[crossing]))


def _crossing(splits: pd.Series) -> Iterator[tuple[str, str, pd.Series]]:
    """Severity, place, and which of the sets of splits are so: shared by train, and by valid and test alone."""
    shared, train = splits.map(len) > 1, splits.map(lambda each: "train" in each).astype(bool)
    yield "error", "in train and in valid or test", shared & train
    yield "note", "in valid and in test", shared & ~train


def _against_published(name: str, frame: pd.DataFrame) -> Iterator[Finding]:
    clips, groups = frame.split.value_counts(), frame.groupby("split").group.nunique()
    found = {f"clips in {split}": clips[split] for split in clips.index}
    found |= {f"groups in {split}": groups[split] for split in groups.index}
    if name in PUBLISHED:
        found["entries in the list of recording errors"] = len(read_error_list(paths.dataset_dir(name)))
    other = [f"{found.get(what, 0):,} {what} instead of {count:,}" for what, count in PUBLISHED.get(name, {}).items()
             if found.get(what, 0) != count]
    yield Finding("published_count", "error", "number other than published", tuple(other))
