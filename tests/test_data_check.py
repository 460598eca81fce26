"""Validation report: every kind of planted fault is found and named, and clean data have no finding."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fmuc.datasets import DEVELOPMENT, Clip, Dataset
from fmuc.own.check import CLIPPED_SHARE, PUBLISHED, Report, check, format_report

RATE, SECONDS = 44_100, 0.1


def noise(seed: int, frames: int = round(RATE * SECONDS), channels: int = 2) -> np.ndarray:
    """(frames, channels) at 24 bits, peak below 0.5."""
    return np.random.default_rng(seed).integers(-(2**22), 2**22, (frames, channels)) / 2**23


def write(path: Path, samples: np.ndarray, **options) -> None:
    soundfile.write(path, samples, **{"samplerate": RATE, "subtype": "PCM_24", "format": "WAV"} | options)


@pytest.fixture
def clips(tmp_path: Path) -> dict[str, Clip]:
    """A clean set: six clips of each of two classes, four of them in train, each a group of its own."""
    found = {}
    for number in range(12):
        id = f"{'xy'[number % 2]}{number:02d}"
        write(tmp_path / id, noise(number))
        found[id] = Clip(id, tmp_path / id, id[0], id, "train" if number < 8 else "valid" if number < 10 else "test")
    return found


def checked(clips: dict[str, Clip], name: str = "own", **options) -> Report:
    return check(Dataset(name, ("x", "y"), tuple(clips.values())), **{"workers": 1, "progress": False} | options)


def found(report: Report) -> dict[str, tuple]:
    """Severity and names of the findings, by kind."""
    return {finding.kind: (finding.severity, *finding.names) for finding in report.findings}


def test_a_clean_set_has_no_finding(clips):
    report = checked(clips)
    assert report.findings == () and not report.failed and "nothing found" in format_report(report)
    assert report.counts == {"train": {"x": 4, "y": 4, "unlabelled": 0}, "valid": {"x": 1, "y": 1, "unlabelled": 0},
                             "test": {"x": 1, "y": 1, "unlabelled": 0}}
    assert list(report.formats.values()) == [{"44100": 12}, {"2": 12}, {"PCM_24": 12}]
    assert report.seconds == pytest.approx({"min": 0.1, "median": 0.1, "max": 0.1, "hours": 12 * 0.1 / 3600})


def scaled(dbfs: float) -> Callable[[Path], object]:
    loudest = np.abs(noise(5).mean(axis=1)).max()
    return lambda path: write(path, noise(5) / loudest * 10 ** (dbfs / 20))


@pytest.mark.parametrize(("plant", "kind", "severity", "what"), [
    (lambda path: path.write_text("no sound"), "unreadable", "error", "is not sound that libsndfile reads"),
    (lambda path: path.write_bytes(path.read_bytes()[:-3000]), "truncated", "error", "samples are missing"),
    (lambda path: path.write_bytes(2 * path.read_bytes()), "odd", "note", "more than one data chunk"),
    (scaled(-81), "silent", "note", "below -80 dBFS"),
    (lambda path: write(path, noise(5)[:, :1] * [1, -1]), "silent", "note", "silent"),  # the channels cancel out
    (lambda path: write(path, np.clip(3 * np.sin(np.arange(4410) / 20), -1, 1)), "clipped", "note", "at full scale"),
])
def test_a_planted_fault_is_the_only_finding(clips, plant, kind, severity, what):
    plant(clips["x04"].path)
    report = checked(clips)
    ((found_kind, (found_severity, name)),) = found(report).items()
    assert (found_kind, found_severity, name[:3]) == (kind, severity, "x04")
    assert what in report.findings[0].what + name
    assert report.failed == (severity == "error") and "x04" in format_report(report)


def test_nothing_is_found_just_on_the_other_side(clips):
    scaled(-79)(clips["x04"].path)
    samples = noise(6)
    samples[::10], samples[1::10] = 1.0, -1.0  # single peaks at full scale
    write(clips["x06"].path, samples)
    assert checked(clips).findings == ()
    samples[:4] = 1.0
    write(clips["x06"].path, samples)
    assert 2 / len(samples) > CLIPPED_SHARE and set(found(checked(clips))) == {"clipped"}


@pytest.mark.parametrize(("first", "second", "expected"), [
    ("x00", "x02", {"duplicate": ("note", "x00 = x02")}),
    ("x02", "x10", {"duplicate_between_splits": ("error", "x02 = x10")}),
    ("x08", "x10", {"duplicate_between_splits": ("note", "x08 = x10")}),
    ("x00", "y01", {"duplicate_other_label": ("error", "x00 = y01"), "duplicate": ("note", "x00 = y01")}),
])
def test_a_duplicate_matters_by_split_and_class(clips, first, second, expected):
    shutil.copy(clips[first].path, clips[second].path)
    assert found(checked(clips)) == expected
    clips[second] = replace(clips[second], label=None)  # contradicts no label
    assert "duplicate_other_label" not in found(checked(clips))


def test_neither_container_nor_bit_depth_nor_channels_hide_a_duplicate(clips):
    samples = np.round(noise(0, channels=1) * 2**15) / 2**15
    write(clips["x00"].path, samples)
    write(clips["x10"].path, np.repeat(samples, 2, axis=1), format="FLAC", subtype="PCM_16")
    write(clips["x02"].path, samples + np.eye(len(samples), 1) * 2**-15)  # almost the same
    assert found(checked(clips)) == {"duplicate_between_splits": ("error", "x00 = x10")}


def test_silent_files_are_no_duplicates_and_names_are_sorted_whatever_the_order_or_the_workers(clips):
    for id in ("y07", "y03", "x00", "x10"):
        write(clips[id].path, np.zeros((4410, 2)))
    report = checked(clips)
    assert found(report) == {"silent": ("note", "x00", "x10", "y03", "y07")}
    assert re.search(r"note +4 +silent: .*\n +x00, x10, y03\n?$", format_report(report))
    turned = checked(dict(reversed(clips.items())), workers=2)
    assert replace(turned, digest=report.digest) == report
    assert json.loads(json.dumps(asdict(report), allow_nan=False))["findings"][0]["kind"] == "silent"


@pytest.mark.parametrize(("splits", "severity"), [(("x00", "x10"), "error"), (("x08", "y11"), "note")])
def test_a_group_in_two_splits_leaks(clips, splits, severity):
    for id in splits:
        clips[id] = replace(clips[id], group="both")
    assert found(checked(clips)) == {"group_leak": (severity, "both")}


def test_classes_and_splits_that_are_absent_are_named(clips):
    known = {id: replace(clip, label=None) if clip.split == "train" and clip.label == "y" else clip
             for id, clip in clips.items() if id != "x10"}
    assert found(checked(known)) == {"class_untrained": ("error", "y"), "class_absent": ("note", "x")}
    for absent, severity in (("train", "error"), ("test", "note")):
        report = checked({id: clip for id, clip in clips.items() if clip.split != absent})
        assert found(report) == {"split_absent": (severity, absent)}


def test_a_real_set_is_compared_with_what_was_published(clips, tmp_path, monkeypatch):
    monkeypatch.setenv("FMUC_DATA", str(tmp_path))
    errors = tmp_path / "tut2017" / DEVELOPMENT / "error.txt"
    errors.parent.mkdir(parents=True)
    errors.write_text("audio/x00.wav\t0\t0.05\tbreak\n")
    monkeypatch.setitem(PUBLISHED, "tut2017", {
        "clips in train": 8, "clips in test": 2, "groups in train": 8, "entries in the list of recording errors": 1})
    assert checked(clips, "tut2017").findings == ()
    errors.write_text(2 * errors.read_text())
    clips["y03"] = replace(clips["y03"], group="x02")
    del clips["y11"]
    assert found(checked(clips, "tut2017")) == {"class_absent": ("note", "y"), "published_count": (
        "error", "1 clips in test instead of 2", "7 groups in train instead of 8",
        "2 entries in the list of recording errors instead of 1")}
