"""Validation report: every kind of planted fault is found and named, and clean data have no finding."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import write_nsynth_split

from fmuc.datasets import DEVELOPMENT, EVALUATION, LABELS, NSYNTH_FAMILIES, Clip, Dataset, load_nsynth, load_tut2017
from fmuc.own.check import CLIPPED_SHARE, PUBLISHED, Finding, Published, Report, check, format_report

RATE, SECONDS = 44_100, 0.1


def noise(seed: int, frames: int = round(RATE * SECONDS), channels: int = 2) -> np.ndarray:
    """(frames, channels) at 24 bits, peak below 0.5."""
    return np.random.default_rng(seed).integers(-(2**22), 2**22, (frames, channels)) / 2**23


def write_tut(root: Path, train: int = 2, test: int = 1) -> Path:
    """``train`` and ``test`` clips of each of the 15 classes in TUT2017's layout: 24-bit stereo, a recording each."""
    audio = {part: root / part / "audio" for part in (DEVELOPMENT, EVALUATION)}
    for folder in audio.values():
        folder.mkdir(parents=True)
        (folder.parent / "evaluation_setup").mkdir()
    names = [f"a{i:03d}" for i in range(15 * train)]
    for i, name in enumerate(names):
        soundfile.write(audio[DEVELOPMENT] / f"{name}_0_10.wav", noise(i), RATE, subtype="PCM_24")
    for i in range(15 * test):
        soundfile.write(audio[EVALUATION] / f"{i}.wav", noise(1000 + i), RATE, subtype="PCM_24")
    setup = root / EVALUATION / "evaluation_setup"
    (root / DEVELOPMENT / "meta.txt").write_text("".join(
        f"audio/{name}_0_10.wav\t{LABELS[i % 15]}\t{name}\n" for i, name in enumerate(names)))
    (setup / "evaluate.txt").write_text("".join(f"audio/{i}.wav\t{LABELS[i % 15]}\n" for i in range(15 * test)))
    (setup / "map.txt").write_text("".join(f"audio/b{i:03d}_0_10.wav\taudio/{i}.wav\n" for i in range(15 * test)))
    return root


@pytest.fixture(scope="module")
def _clean_tut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tut(tmp_path_factory.mktemp("clean") / "scenes")


@pytest.fixture
def tut(_clean_tut: Path, tmp_path: Path) -> Path:
    """A clean tree of its own for each test."""
    return Path(shutil.copytree(_clean_tut, tmp_path / "scenes"))


def train_file(root: Path, number: int) -> Path:
    return root / DEVELOPMENT / "audio" / f"a{number:03d}_0_10.wav"


def test_file(root: Path, number: int) -> Path:
    return root / EVALUATION / "audio" / f"{number}.wav"


test_file.__test__ = False


def checked(root: Path, name: str = "scenes", **changes) -> Report:
    dataset = load_tut2017(root, name)
    return check(replace(dataset, **changes) if changes else dataset, workers=1, progress=False)


def found(report: Report) -> dict[str, tuple]:
    """Findings by kind; every kind once."""
    kinds = [finding.kind for finding in report.findings]
    assert len(kinds) == len(set(kinds)), kinds
    return {finding.kind: (finding.severity, finding.count, finding.examples) for finding in report.findings}


def of_files(files: Mapping[str, tuple[Path, str | None, str]], classes: tuple[str, ...] = ("x", "y")) -> Dataset:
    """A data set of ``id: (file, label, split)``, every clip a group of its own."""
    return Dataset("own", classes, tuple(Clip(id, path, label, id, split) for id, (path, label, split) in
                                         files.items()))


def test_a_clean_set_has_no_finding(tut):
    report = checked(tut)
    assert report.findings == () and not report.failed
    assert (report.sample_rates, report.channels, report.subtypes) == ({"44100": 45}, {"2": 45}, {"PCM_24": 45})
    classes = {**dict.fromkeys(LABELS, 2), "unlabelled": 0}
    assert report.counts == {"train": classes, "test": {**dict.fromkeys(LABELS, 1), "unlabelled": 0}}
    assert report.seconds == pytest.approx({"min": 0.1, "median": 0.1, "max": 0.1, "hours": 45 * 0.1 / 3600})
    assert "nothing found" in format_report(report)


def as_text(path: Path) -> None:
    path.write_text("this is no sound")


def as_nothing(path: Path) -> None:
    path.write_bytes(b"")


def as_header_only(path: Path) -> None:
    soundfile.write(path, np.zeros((0, 2)), RATE)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_beginning(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 7 // 10])


def claiming(size: int):
    """Make a header claim ``size`` bytes of samples."""
    def claim(path: Path) -> None:
        content = bytearray(path.read_bytes())
        place = content.index(b"data") + 4
        content[place : place + 4] = struct.pack("<I", size)
        content[4:8] = struct.pack("<I", min(size + place - 4, 0xFFFFFFFF))
        path.write_bytes(content)
    return claim


def unclosed(path: Path) -> None:
    """As a recorder leaves it that lost power: the header says no samples."""
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = content[4:8] = bytes(4)
    path.write_bytes(content)


def size_of_the_file(path: Path) -> None:
    """The RIFF size is that of the file, which many writers take for right: no sample is missing."""
    content = bytearray(path.read_bytes())
    content[4:8] = struct.pack("<I", len(content))
    path.write_bytes(content)


def header_field(offset: int, content: bytes):
    """Overwrite ``content`` in the header (22: channels, 24: sample rate, 34: bits)."""
    def overwrite(path: Path) -> None:
        whole = bytearray(path.read_bytes())
        whole[offset : offset + len(content)] = content
        path.write_bytes(whole)
    return overwrite


def as_floats(value: float):
    def write(path: Path) -> None:
        samples = noise(77).astype(np.float32)
        samples[-1, 1] = value
        soundfile.write(path, samples, RATE, subtype="FLOAT")
    return write


def scaled(dbfs: float):
    def write(path: Path) -> None:
        samples = noise(5)
        soundfile.write(path, samples / np.abs(samples.mean(axis=1)).max() * 10 ** (dbfs / 20), RATE, subtype="PCM_24")
    return write


def negative(path: Path) -> None:
    soundfile.write(path, -np.abs(noise(5)), RATE, subtype="PCM_24")


def opposite(path: Path) -> None:
    """Two channels that cancel out."""
    soundfile.write(path, noise(5)[:, :1] * [1, -1], RATE, subtype="PCM_24")


def driven(path: Path) -> None:
    time = np.arange(round(RATE * SECONDS)) / RATE
    soundfile.write(path, np.clip(3 * np.sin(2 * np.pi * np.array([[300, 301]]) * time[:, None]), -1, 1), RATE,
                    subtype="PCM_24")


def lasting(seconds: float):
    return lambda path: soundfile.write(path, noise(5, round(RATE * seconds)), RATE, subtype="PCM_24")


@pytest.mark.parametrize(("plant", "kind", "severity"), [
    (as_text, "unreadable", "error"),
    (as_folder, "unreadable", "error"),
    (as_pipe, "unreadable", "error"),
    (header_field(22, b"\xff\xff"), "unreadable", "error"),
    (header_field(22, b"\x00\x00"), "unreadable", "error"),
    (header_field(24, b"\x00\x00\x00\x00"), "unreadable", "error"),
    (as_nothing, "unreadable", "error"),
    (as_header_only, "unreadable", "error"),
    (as_beginning, "truncated", "error"),
    (claiming(0x10000000), "truncated", "error"),
    (claiming(0xFFFFFFF0), "odd", "note"),
    (claiming(0xFFFFFFFF), "odd", "note"),
    (unclosed, "odd", "note"),
    (as_floats(np.nan), "unreadable", "error"),
    (as_floats(-np.inf), "unreadable", "error"),
    (scaled(-81), "silent", "note"),
    (opposite, "silent", "note"),
    (driven, "clipped", "note"),
    (lasting(0.06), "short", "note"),
])
def test_a_planted_fault_is_the_only_finding(tut, plant, kind, severity):
    plant(train_file(tut, 4))
    report = checked(tut)
    assert found(report) == {kind: (severity, 1, ("development/a004_0_10",))}
    assert report.failed == (severity == "error")
    assert "development/a004_0_10" in format_report(report)


@pytest.mark.parametrize("innocent", [scaled(-79), negative, lasting(0.07), as_floats(0.25), as_floats(-0.0),
                                      size_of_the_file])
def test_nothing_is_found_just_on_the_other_side(tut, innocent):
    innocent(train_file(tut, 4))
    assert checked(tut).findings == ()


def test_a_missing_file_is_a_finding_with_its_reason(tut):
    dataset = load_tut2017(tut, "scenes")
    train_file(tut, 3).unlink()
    as_text(train_file(tut, 9))
    findings = check(dataset, workers=1, progress=False).findings
    assert {(finding.kind, finding.what, finding.examples) for finding in findings} == {
        ("unreadable", "sound file does not exist", ("development/a003_0_10",)),
        ("unreadable", "sound file is not sound that libsndfile reads (Format not recognised)",
         ("development/a009_0_10",))}


@pytest.mark.parametrize("kind", ["flac", "ogg", "mp3"])
def test_a_cut_file_of_another_format_is_no_exception(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, noise(0, 50_000), RATE, format=kind.upper())
    whole = check(of_files({"a": (path, "x", "train")}), workers=1, progress=False)
    assert whole.seconds["max"] == pytest.approx(50_000 / RATE)
    as_beginning(path)
    cut = check(of_files({"a": (path, "x", "train")}), workers=1, progress=False)
    assert cut.seconds.get("max", 0) < 0.9 * whole.seconds["max"]
    assert kind == "ogg" or {"unreadable", "truncated"} & set(found(cut))  # Ogg does not state its length


def test_single_peaks_at_full_scale_are_not_clipping(tut):
    samples = noise(5)
    samples[::10] = 1.0
    samples[1::10] = -1.0
    soundfile.write(train_file(tut, 4), samples, RATE, subtype="PCM_24")
    assert checked(tut).findings == ()
    samples[:4] = 1.0  # two samples of a run of four in each of two channels
    soundfile.write(train_file(tut, 4), samples, RATE, subtype="PCM_24")
    assert 4 / samples.size > CLIPPED_SHARE and set(found(checked(tut))) == {"clipped"}


def test_a_duplicate_within_a_split_is_a_note(tut):
    train_file(tut, 15).write_bytes(train_file(tut, 0).read_bytes())  # both are of class 0
    report = checked(tut)
    assert found(report) == {"duplicate": ("note", 2, ("development/a000_0_10 = development/a015_0_10",))}
    assert not report.failed


def test_a_duplicate_in_train_and_test_is_a_leak(tut):
    test_file(tut, 3).write_bytes(train_file(tut, 3).read_bytes())
    report = checked(tut)
    assert found(report) == {"duplicate_between_splits": ("error", 2, ("development/a003_0_10 = evaluation/3",))}
    assert report.failed


def test_a_duplicate_with_another_label_is_an_error(tut):
    train_file(tut, 1).write_bytes(train_file(tut, 0).read_bytes())
    pair = ("development/a000_0_10 = development/a001_0_10",)
    assert found(checked(tut)) == {"duplicate_other_label": ("error", 2, pair), "duplicate": ("note", 2, pair)}


def test_a_duplicate_without_a_label_contradicts_no_label(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(0), RATE)
    path = tmp_path / "a.wav"
    dataset = of_files({"a": (path, "x", "train"), "b": (path, None, "train"), "c": (path, None, "train")}, ("x",))
    report = check(dataset, workers=1, progress=False)
    assert found(report)["duplicate"] == ("note", 3, ("a = b = c",)) and "duplicate_other_label" not in found(report)
    assert report.counts["train"] == {"x": 1, "unlabelled": 2}


@pytest.mark.parametrize("disguise", [
    {"format": "FLAC", "subtype": "PCM_16"}, {"format": "AIFF", "subtype": "PCM_24"}, {"format": "WAVEX"},
    {"format": "WAV", "subtype": "FLOAT"}, {"format": "W64", "samplerate": 8000},
])
def test_neither_container_nor_bit_depth_nor_rate_hides_a_duplicate(tmp_path, disguise):
    """16-bit sound of several blocks: every copy decodes to the same samples."""
    samples = np.round(noise(0, 300_000, 1) * 2**15) / 2**15
    samples[50] = 0
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="PCM_16")
    soundfile.write(tmp_path / "b.x", samples, **{"samplerate": RATE, **disguise})
    soundfile.write(tmp_path / "stereo.wav", np.repeat(samples, 2, axis=1), RATE)
    almost = samples.copy()
    almost[-1] += 2**-15
    soundfile.write(tmp_path / "c.wav", almost, RATE, subtype="PCM_16")
    files = {"a": (tmp_path / "a.wav", "x", "train"), "b": (tmp_path / "b.x", "x", "test"),
             "c": (tmp_path / "c.wav", "x", "test"), "d": (tmp_path / "stereo.wav", "x", "test")}
    report = check(of_files(files, ("x",)), workers=1, progress=False)
    assert found(report) == {"duplicate_between_splits": ("error", 3, ("a = b",)),
                             "duplicate": ("note", 2, ("b = d",))}


def test_silent_files_are_no_duplicates_of_each_other(tut):
    for path in (train_file(tut, 0), train_file(tut, 1), test_file(tut, 2)):
        soundfile.write(path, np.zeros((4410, 2)), RATE, subtype="PCM_24")
    assert found(checked(tut)) == {
        "silent": ("note", 3, ("development/a000_0_10", "development/a001_0_10", "evaluation/2"))}


def test_examples_are_few_and_sorted_whatever_the_order_of_the_clips(tut):
    for number in (12, 3, 7, 9, 1):
        as_text(train_file(tut, number))
    dataset = load_tut2017(tut, "scenes")
    reports = [check(replace(dataset, clips=clips), workers=1, progress=False)
               for clips in (dataset.clips, dataset.clips[::-1])]
    for report in reports:
        assert found(report)["unreadable"] == (
            "error", 5, ("development/a001_0_10", "development/a003_0_10", "development/a007_0_10"))
    assert reports[0].findings == reports[1].findings


def test_groups_in_two_splits_leak(tut):
    clips = {clip.id: clip for clip in load_tut2017(tut, "scenes").clips}
    for test, group in ((0, "a005"), (1, "a005"), (2, "a004")):
        clips[f"evaluation/{test}"] = replace(clips[f"evaluation/{test}"], group=group)
    report = checked(tut, clips=tuple(clips.values()))
    assert found(report) == {"group_leak": ("error", 2, ("a004", "a005"))}


def write_nsynth(root: Path, counts: Mapping[str, int], absent: Mapping[str, tuple[str, ...]] | None = None,
                 instruments: Mapping[str, str] | None = None) -> Path:
    """``counts[split]`` notes of each family, every split with its own sounds."""
    for number, (split, count) in enumerate(counts.items()):
        families = [family for family in NSYNTH_FAMILIES if family not in (absent or {}).get(split, ())]
        of = (instruments or {}).get(split, split)
        notes = {f"{family}_acoustic_{of}-{60 + i:03d}-{100 + number}": family for family in families
                 for i in range(count)}
        folder = write_nsynth_split(root, split, notes, length=64_000 // 20)
        for i, note in enumerate(notes):
            sound = np.round(noise(1000 * number + i, 3200, 1) * 2**15) / 2**15
            soundfile.write(folder / "audio" / f"{note}.wav", sound, 16_000, subtype="PCM_16")
    return root


def test_clean_notes_have_no_finding_and_synth_lead_absent_from_test_is_a_note(tmp_path):
    write_nsynth(tmp_path / "whole", {"train": 2, "valid": 1, "test": 1})
    report = check(load_nsynth(tmp_path / "whole", "notes"), workers=1, progress=False)
    assert report.findings == () and (report.sample_rates, report.channels) == ({"16000": 44}, {"1": 44})
    write_nsynth(tmp_path / "published", {"train": 1, "valid": 1, "test": 1},
                 {"valid": ("synth_lead",), "test": ("synth_lead", "organ")})
    report = check(load_nsynth(tmp_path / "published", "notes"), workers=1, progress=False)
    assert [(f.kind, f.severity, f.what, f.examples) for f in report.findings] == [
        ("class_absent", "note", "class without a labelled clip in valid", ("synth_lead",)),
        ("class_absent", "note", "class without a labelled clip in test", ("organ", "synth_lead"))]


def test_valid_and_test_may_share_instruments_as_published_but_not_with_train(tmp_path):
    write_nsynth(tmp_path / "a", {"train": 1, "valid": 1, "test": 1}, instruments={"valid": "v", "test": "v"})
    report = check(load_nsynth(tmp_path / "a", "notes"), workers=1, progress=False)
    assert found(report) == {"group_leak": ("note", 11, ("bass_acoustic_v", "brass_acoustic_v", "flute_acoustic_v"))}
    write_nsynth(tmp_path / "b", {"train": 1, "test": 1}, instruments={"train": "v", "test": "v"})
    report = check(load_nsynth(tmp_path / "b", "notes"), workers=1, progress=False)
    assert found(report)["group_leak"][:2] == ("error", 11)


def test_a_class_without_labelled_training_clip_is_an_error(tut):
    clips = [replace(clip, label=None) if clip.label == "tram" and clip.split == "train" else clip
             for clip in load_tut2017(tut, "scenes").clips if (clip.label, clip.split) != ("bus", "train")]
    report = checked(tut, clips=tuple(clips))
    assert found(report) == {"class_untrained": ("error", 2, ("bus", "tram"))}


@pytest.mark.parametrize(("absent", "severity"), [("train", "error"), ("test", "note")])
def test_an_absent_split_is_named(tut, absent, severity):
    clips = tuple(clip for clip in load_tut2017(tut, "scenes").clips if clip.split != absent)
    report = checked(tut, clips=clips)
    assert found(report) == {"split_absent": (severity, 1, ())} and report.findings[0].what == f"split absent: {absent}"


def test_no_clip_at_all_is_reported(tmp_path):
    report = check(Dataset("none", ("x",), ()), workers=1, progress=False)
    assert [(f.severity, f.what) for f in report.findings] == [
        ("error", "split absent: train"), ("note", "split absent: test")]
    assert report.counts == {} and report.seconds == {}
    json.dumps(report.asdict(), allow_nan=False)
    assert "split absent: train" in format_report(report)


def test_published_values_are_those_of_the_data_sets_pages():
    assert PUBLISHED["nsynth"].clips == {"train": 289_205, "valid": 12_678, "test": 4_096}
    assert sum(PUBLISHED["nsynth"].groups.values()) - 53 == 1_006  # valid and test share their instruments
    assert (PUBLISHED["tut2017"].clips, PUBLISHED["tut2017"].errors) == ({"train": 4_680, "test": 1_620}, 84)


def test_tut2017_is_compared_with_what_was_published(tut, monkeypatch):
    (tut.parent / "tut2017").symlink_to(tut)
    monkeypatch.setenv("FMUC_DATA", str(tut.parent))
    published = Published({"train": 30, "test": 15}, SECONDS, RATE, 2, "PCM_24", errors=1)
    monkeypatch.setitem(PUBLISHED, "tut2017", published)
    errors = tut / DEVELOPMENT / "error.txt"
    errors.write_text("audio/a001_0_10.wav\t0\t0.05\tbreak\n")
    assert checked(tut, "tut2017").findings == ()
    errors.write_text(2 * errors.read_text())
    lasting(0.2)(train_file(tut, 2))
    soundfile.write(test_file(tut, 5), noise(9, 800), 8000, subtype="PCM_16")
    soundfile.write(test_file(tut, 6), noise(8), RATE, subtype="PCM_16")
    soundfile.write(test_file(tut, 7), noise(7, channels=1), RATE, subtype="PCM_24")
    dataset = load_tut2017(tut, "tut2017")
    report = check(replace(dataset, clips=dataset.clips[1:]), workers=1, progress=False)
    assert {(f.kind, f.what, f.count) for f in report.findings} == {
        ("published_count", "29 clips in train, 30 were published", 1),
        ("published_count", "2 entries in the list of recording errors, 1 were published", 1),
        ("duration", "not 0.1 s long as published", 1),
        ("format", "not as published: 44,100 Hz, 2 channel(s), PCM_24", 3)}
    (tut / EVALUATION).rename(tut / "elsewhere")
    assert found_one(checked(tut, "tut2017"), "split_absent").severity == "error"


def found_one(report: Report, kind: str) -> Finding:
    (finding,) = [finding for finding in report.findings if finding.kind == kind]
    return finding


def test_nsynth_is_compared_with_what_was_published(tmp_path, monkeypatch):
    write_nsynth(tmp_path, {"train": 3, "valid": 1})
    published = Published({"train": 35, "valid": 11}, 0.2, 16_000, 1, "PCM_16", groups={"train": 11, "valid": 53})
    monkeypatch.setitem(PUBLISHED, "nsynth", published)
    report = check(load_nsynth(tmp_path, "nsynth"), workers=1, progress=False)
    assert {(f.kind, f.severity, f.what, f.count) for f in report.findings} == {
        ("published_count", "error", "33 clips in train, 35 were published", 2),
        ("published_count", "error", "11 groups in valid, 53 were published", 42),
        ("split_absent", "note", "split absent: test", 1)}


def test_the_report_does_not_depend_on_the_number_of_workers_and_is_json(tut):
    as_text(train_file(tut, 4))
    as_floats(np.nan)(train_file(tut, 5))
    driven(train_file(tut, 6))
    test_file(tut, 3).write_bytes(train_file(tut, 3).read_bytes())
    dataset = load_tut2017(tut, "scenes")
    reports = [check(dataset, workers=workers, progress=False) for workers in (1, 2)]
    texts = [json.dumps(report.asdict(), allow_nan=False) for report in reports]
    assert texts[0] == texts[1] and format_report(reports[0]) == format_report(reports[1])
    stored = json.loads(texts[0])
    assert stored["failed"] is True and stored["counts"]["train"]["beach"] == 2
    assert stored["subtypes"] == {"PCM_24": 43}
    assert {finding["kind"] for finding in stored["findings"]} == {
        "unreadable", "clipped", "duplicate_between_splits"}
    assert [finding["severity"] for finding in stored["findings"]] == ["error"] * 3 + ["note"]


def test_the_text_is_aligned_and_keeps_names_as_they_are(tmp_path):
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", noise(ord(name)), RATE)
    dataset = of_files({"007": (tmp_path / "a.wav", "1e3", "train"), "b": (tmp_path / "b.wav", "total", "test")},
                       ("1e3", "total"))
    report = check(dataset, workers=1, progress=False)
    lines = format_report(report).splitlines()
    assert lines[0].startswith("own: 2 clips, 0.00 hours")
    rows = [line.split() for line in lines[2:8]]
    assert rows[0] == ["class", "train", "test", "total"] and rows[2:] == [
        ["1e3", "1", "0", "1"], ["total", "0", "1", "1"], ["unlabelled", "0", "0", "0"], ["total", "1", "1", "2"]]
    assert len({len(line) for line in lines[3:8]}) == 1
