"""Own sound files: folders and CSV files of many formats, grouped splits, broken input in one clear line each."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from fmuc.datasets import SPLITS
from fmuc.errors import FmucError
from fmuc.features import read_audio
from fmuc.own import importing as own_audio
from fmuc.own.importing import import_audio, is_own, labelled_share, load_own
from fmuc.splits import draw_split


def wav_bytes(samples: int = 80) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.linspace(-0.5, 0.5, samples), 8000, format="WAV", subtype="PCM_16")
    return file.getvalue()


SOUND = wav_bytes()


def write(root: Path, *names: str, content: bytes = SOUND) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def names(label: str, count: int = 6) -> list[str]:
    return [f"{label}/{i}.wav" for i in range(count)]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("FMUC_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def sounds(data: Path) -> Path:
    """Two classes of six files each, beside the data folder."""
    return write(data.parent / "sounds", *names("dog"), *names("cat"))


def imported(source: Path, data: Path, **options) -> tuple[own_audio.Report, list[dict[str, str]]]:
    """The report and the rows of clips.csv; the loader must agree with both."""
    report = import_audio(source, "mine", progress=False, **options)
    with open(data / "mine" / "clips.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    dataset = load_own(data / "mine", "mine")
    assert [(c.id, c.label or "", c.group, c.split) for c in dataset.clips] == [
        (row["id"], row["label"], row["group"], row["split"]) for row in rows]
    assert {split: len(dataset.indices(split)) for split in SPLITS} == report.splits
    assert (len(dataset.clips), len(dataset.classes)) == (report.clips, report.classes)
    assert np.count_nonzero(dataset.labels() < 0) == report.unlabelled
    assert all(clip.path.is_file() for clip in dataset.clips)
    return report, rows


def csv_file(folder: Path, text: str | bytes) -> Path:
    path = folder / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_folder_per_class_becomes_a_data_set_and_nothing_is_copied(sounds, data):
    report, rows = imported(sounds, data)
    assert sorted(path.name for path in (data / "mine").iterdir()) == ["clips.csv", "own.json"]
    assert is_own(data / "mine") and not is_own(sounds)
    dataset = load_own(data / "mine", "mine")
    assert dataset.name == "mine" and dataset.classes == ("cat", "dog")
    assert [clip.id for clip in dataset.clips] == sorted([*names("cat"), *names("dog")])
    assert all(clip.path == sounds / clip.id and clip.label == clip.id[:3] for clip in dataset.clips)
    assert all(clip.group == clip.id for clip in dataset.clips)  # each file is a group
    assert report == own_audio.Report("mine", 12, 2, 0, 12, 0, report.splits, 0.2, 0.12, {})
    assert all(report.splits[split] >= 2 for split in SPLITS)
    assert json.loads((data / "mine" / "own.json").read_text())["report"] == asdict(report)
    assert rows[0]["path"] == "cat/0.wav"  # no path of this machine
    assert draw_split(dataset, 0.5, seed=0).test.tolist() == dataset.indices("test").tolist()


FORMATS = [  # name, rate in Hz, channels, samples, subtype
    ("a.wav", 44_100, 2, 4410, "PCM_16"), ("b.WAV", 48_000, 1, 100, "PCM_24"), ("c.wav", 11_025, 5, 1, "FLOAT"),
    ("d.flac", 22_050, 2, 2205, "PCM_16"), ("e.ogg", 16_000, 1, 8000, "VORBIS"), ("f.aiff", 8000, 2, 999, "PCM_16"),
    ("g.au", 8000, 1, 800, "ULAW"), ("h.caf", 96_000, 1, 960, "PCM_24"), ("i.w64", 32_000, 2, 320, "DOUBLE"),
    ("j.mp3", 44_100, 2, 44_100, "MPEG_LAYER_III"), ("k.mp3", 16_000, 1, 16_000, "MPEG_LAYER_III"),
]
FORMATS = [row for row in FORMATS if row[4] != "MPEG_LAYER_III" or "MP3" in soundfile.available_formats()]


def test_any_format_rate_channels_and_length(data):
    root = data.parent / "sounds"
    for label in ("x", "y"):
        (root / label).mkdir(parents=True)
        for name, rate, channels, length, subtype in FORMATS:
            noise = np.random.default_rng(0).uniform(-0.3, 0.3, (length, channels))
            soundfile.write(root / label / name, noise, rate, subtype=subtype)
    report, _ = imported(root, data)
    assert report.clips == 2 * len(FORMATS)
    assert report.seconds == pytest.approx(2 * sum(length / rate for _, rate, _, length, _ in FORMATS), abs=1e-3)
    for clip in load_own(data / "mine", "mine").clips:
        assert read_audio(clip.path, 16_000).ndim == 1


def test_what_is_no_sound_is_skipped_and_counted(sounds, data):
    write(sounds, "readme.txt", "dog/notes.txt", "dog/cover.jpg", "dog/LICENSE", "dog/._0.wav", ".git/a.wav",
          "papers/list.PDF", "dog/list.m3u", content=b"text")
    report, _ = imported(sounds, data)
    assert report.skipped == {".jpg": 1, ".m3u": 1, ".pdf": 1, ".txt": 2, "hidden": 2, "no extension": 1}
    assert (report.clips, report.classes) == (12, 2)


@pytest.mark.parametrize("folder", ["unlabelled", "Unlabeled"])
def test_unlabelled_files_go_to_train_and_every_label_is_used(sounds, data, folder):
    write(sounds, f"{folder}/a.wav", f"{folder}/deep/b.wav")
    report, rows = imported(sounds, data)
    assert report.unlabelled == 2 and report.classes == 2
    assert [(row["label"], row["split"]) for row in rows if row["id"].startswith(folder)] == [("", "train")] * 2
    assert report.labelled_share == labelled_share(data / "mine") == 1.0


@pytest.mark.parametrize(("given_share", "expected"), [(None, 0.2), (0.5, 0.5), (1, 1)])
def test_labelled_share_hides_labels_to_measure_quality(sounds, data, given_share, expected):
    imported(sounds, data, labelled_share=given_share)
    assert labelled_share(data / "mine") == expected


def test_files_of_a_sub_folder_share_a_group(data):
    root = write(data.parent / "s", *(f"{label}/{i}/{name}" for label in ("dog", "cat") for i in range(4)
                                      for name in ("a.wav", "later/b.wav")), "dog/alone.wav")
    report, rows = imported(root, data)
    assert {row["id"]: row["group"] for row in rows if "0/" in row["id"] or "alone" in row["id"]} == {
        "dog/0/a.wav": "dog/0", "dog/0/later/b.wav": "dog/0", "cat/0/a.wav": "cat/0", "cat/0/later/b.wav": "cat/0",
        "dog/alone.wav": "dog/alone.wav"}
    assert report.groups == 9


def test_group_pattern_takes_unlabelled_files_along(data):
    root = write(data.parent / "s", *(f"{label}/day{d}_{i}.wav" for label in ("dog", "cat", "unlabelled")
                                      for d in range(6) for i in range(2)), "unlabelled/day9_0.wav")
    report, rows = imported(root, data, group_pattern=r"(day\d)_")
    split_of = {row["group"]: row["split"] for row in rows}
    assert sorted(split_of) == [f"day{d}" for d in (0, 1, 2, 3, 4, 5, 9)] and report.groups == 7
    assert all(row["split"] == split_of[row["group"]] for row in rows)
    assert split_of["day9"] == "train" and set(split_of.values()) == set(SPLITS)


CSV_BODY = ("path,label,group,split", "dog/0.wav,dog,a,train", "dog/1.wav,dog,,test", "cat/0.wav,cat,b,train",
            "cat/1.wav,,b,valid", "cat/2.wav,,,train")


@pytest.mark.parametrize(("start", "end"), [(b"", b"\n"), (b"\xef\xbb\xbf", b"\r\n")])
def test_csv_with_and_without_bom_and_crlf(sounds, data, start, end):
    source = csv_file(sounds, start + end.join(line.encode() for line in CSV_BODY) + end + end)
    report, rows = imported(source, data)
    assert [tuple(row.values()) for row in rows] == [
        ("cat/0.wav", "cat/0.wav", "cat", "b", "train"), ("cat/1.wav", "cat/1.wav", "", "b", "valid"),
        ("cat/2.wav", "cat/2.wav", "", "cat/2.wav", "train"), ("dog/0.wav", "dog/0.wav", "dog", "a", "train"),
        ("dog/1.wav", "dog/1.wav", "dog", "dog/1.wav", "test")]
    assert report.shared_groups == 1 and report.unlabelled == 2 and report.labelled_share == 1.0


def test_csv_paths_may_be_absolute_or_outside_its_folder(sounds, data):
    lists = data.parent / "lists"
    lists.mkdir()
    write(lists, "here.wav")
    rows = [f"{sounds / 'dog' / '0.wav'},dog", "../sounds/cat/0.wav,cat", f"{lists / 'here.wav'},cat", "./../x.wav,dog"]
    write(data.parent, "x.wav")
    _, rows = imported(csv_file(lists, "\n".join(["path,label", *rows])), data, test_share=0, valid_share=0)
    outside = [str(sounds / "cat" / "0.wav"), str(sounds / "dog" / "0.wav"), str(data.parent / "x.wav")]
    assert [row["id"] for row in rows] == sorted([*outside, "here.wav"])
    assert {row["split"] for row in rows} == {"train"}


def test_any_unicode_and_commas_in_names(data):
    labels = ("Käse, \"alt\"", "猫 🐈‍⬛", "שלום")
    root = write(data.parent / "s", *(f"{label}/a, {i}.wav" for label in labels for i in range(3)))
    _, rows = imported(root, data)
    assert {row["label"] for row in rows} == set(labels) and {row["group"] for row in rows} == {r["id"] for r in rows}


def test_decomposed_letters_are_the_same_class(data):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    root = data.parent / "s"
    rows = [f"{i}.wav,{label}" for i, label in enumerate([composed, decomposed, composed, "tea", "tea", "tea"])]
    write(root, *(f"{i}.wav" for i in range(6)))
    imported(csv_file(root, "\n".join(["path,label", *rows])), data)
    assert load_own(data / "mine", "mine").classes == (composed, "tea")


def test_links_are_followed_but_not_in_circles(sounds, data):
    elsewhere = write(data.parent / "elsewhere", "one.wav", "more/two.wav")
    (sounds / "dog" / "linked.wav").symlink_to(elsewhere / "one.wav")
    (sounds / "cat" / "more").symlink_to(elsewhere / "more")
    (sounds / "cat" / "up").symlink_to(sounds)
    (elsewhere / "more" / "back").symlink_to(sounds / "cat")
    (sounds / "cat" / "self").symlink_to("self")
    _, rows = imported(sounds, data)
    assert {row["id"] for row in rows} - {*names("dog"), *names("cat")} == {"dog/linked.wav", "cat/more/two.wav"}


def test_same_tree_and_seed_give_the_same_list_anywhere_in_any_order(sounds, data, monkeypatch):
    imported(sounds, data, seed=3)
    before = (data / "mine" / "clips.csv").read_bytes()
    moved = sounds.rename(data.parent / "moved")
    monkeypatch.setattr(os, "listdir", lambda path, listdir=os.listdir: sorted(listdir(path), reverse=True))
    imported(moved, data, seed=3, force=True)
    assert (data / "mine" / "clips.csv").read_bytes() == before
    imported(moved, data, seed=4, force=True)
    assert (data / "mine" / "clips.csv").read_bytes() != before


@pytest.mark.parametrize(("test_share", "valid_share"), [(0.2, 0.1), (0.3, 0.0), (0.0, 0.4), (0.05, 0.05), (0.5, 0.25)])
def test_shares_come_out_closely_for_each_class(data, test_share, valid_share):
    root = write(data.parent / "s", *names("a", 60), *names("b", 100))
    _, rows = imported(root, data, test_share=test_share, valid_share=valid_share)
    for label, count in (("a", 60), ("b", 100)):
        for split, share in (("test", test_share), ("valid", valid_share)):
            found = sum(row["label"] == label and row["split"] == split for row in rows)
            assert abs(found - share * count) <= 0.03 * count + 2 and (found == 0) == (share == 0)


def test_a_small_class_does_not_spoil_the_shares_of_the_others(data):
    root = write(data.parent / "s", *names("a", 50), *names("b", 50), *names("rare", 3))
    report, rows = imported(root, data)
    assert sorted(row["split"] for row in rows if row["label"] == "rare") == ["test", "train", "valid"]
    assert abs(report.splits["test"] - 20) <= 3 and abs(report.splits["valid"] - 10) <= 3


def draw(clips: list[tuple[str, str]], shares: tuple[float, float], seed: int) -> list[dict[str, str]]:
    """Rows of an import of files with these (label, group); the same twice."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root, data = Path(folder).resolve() / "s", Path(folder).resolve() / "data"
        patch.setenv("FMUC_DATA", str(data))
        write(root, *(f"{i}.wav" for i in range(len(clips))))
        lines = [f"{i}.wav,{label},{group}" for i, (label, group) in enumerate(clips)]
        lists = []
        for order in (lines, lines[::-1]):  # the order of the rows does not matter
            source = csv_file(root, "\n".join(["path,label,group", *order]))
            options = {"seed": seed, "test_share": shares[0], "valid_share": shares[1], "force": True}
            lists.append(imported(source, data, **options)[1])
        assert lists[0] == lists[1]
        return lists[0]


def check_draw(rows: list[dict[str, str]], clips: list[tuple[str, str]], shares: tuple[float, float]) -> None:
    assert sorted(row["id"] for row in rows) == sorted(f"{i}.wav" for i in range(len(clips)))
    splits_of, labels_of = defaultdict(set), defaultdict(set)
    for row in rows:
        splits_of[row["group"]].add(row["split"])
        labels_of[row["split"]].add(row["label"])
    assert all(len(found) == 1 for found in splits_of.values())
    labels = {label for label, _ in clips if label}
    wanted = {"train", *(split for split, share in zip(("test", "valid"), shares, strict=True) if share)}
    assert set(labels_of) == wanted and all(labels <= labels_of[split] for split in wanted)


SHARES = st.tuples(st.sampled_from([0.0, 0.05, 0.2, 0.33, 0.5]), st.sampled_from([0.0, 0.1, 0.45]))
SEED = st.integers(0, 2**32 - 1)


@st.composite
def groups_of_one_class(draw) -> list[tuple[str, str]]:
    sizes = st.lists(st.integers(1, 9), min_size=3, max_size=6)  # files of each of three groups or more
    clips = [(label, f"{label}{number}") for label in "abc"[: draw(st.integers(2, 3))]
             for number, size in enumerate(draw(sizes)) for _ in range(size)]
    return draw(st.permutations(clips + [("", f"{label}{i}") for label in "abz" for i in range(2)]))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(groups_of_one_class(), SHARES, SEED)
def test_drawn_splits_share_no_group_and_hold_every_class(clips, shares, seed):
    check_draw(draw(clips, shares, seed), clips, shares)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", ""]), st.sampled_from("12345678")), min_size=8, max_size=30),
       SHARES, SEED)
def test_groups_across_classes_are_split_well_or_refused(clips, shares, seed):
    try:
        rows = draw(clips, shares, seed)
    except FmucError as error:
        message = str(error)
    else:
        return check_draw(rows, clips, shares)
    assert "at least two classes" in message or ("class '" in message and "a share of 0" in message)


def refused(data: Path, match: str, source: Path, **options) -> None:
    before = sorted(path.name for path in data.rglob("*"))
    with pytest.raises(FmucError, match=match) as caught:
        import_audio(source, options.pop("name", "mine"), progress=False, **options)
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(path.name for path in data.rglob("*")) == before


@pytest.mark.parametrize(("text", "match"), [
    ("", r"list\.csv: has no row"),
    ("path,label\n", r"list\.csv: has no row"),
    ("path,labels\ndog/0.wav,dog\n", r"list\.csv, line 1: unknown column 'labels'.*path, may have label, group, split"),
    ("path;label\ndog/0.wav;dog\n", r"line 1: unknown column 'path;label'.*commas"),
    ("label,group\ndog,1\n", r"line 1: missing column 'path'"),
    ("path,label,path\ndog/0.wav,dog,cat/0.wav\n", r"line 1: repeated column 'path'"),
    ("path,label\ndog/0.wav,dog\n\ncat/0.wav\n", r"line 4: 1 fields instead of 2"),
    ("path,label\ndog/0.wav,dog\n,cat\n", r"line 3: the path is empty"),
    ("path,label\ndog/0.wav,dog\ncat/9.wav,cat\ncat/8.wav,cat\n", r"line 3: 'cat/9\.wav' does not exist \(2 of 3"),
    ("path,label\ndog/0.wav,dog\ndog,cat\n", r"line 3: 'dog' is no file"),
    ("path,label\ndog/0.wav,dog\ncat/0.wav,cat\n./dog/../dog/0.wav,dog\n", r"line 4: .*same file as.*csv, line 2"),
    ("path,label,split\ndog/0.wav,dog,train\ncat/0.wav,cat,dev\n", r"line 3: unknown split 'dev': use train, valid"),
    ("path,label,split\ndog/0.wav,dog,train\ncat/0.wav,cat,\n", r"line 3: the split is empty, but other rows"),
    ("path,label,split\ndog/0.wav,dog,train\ncat/0.wav,cat,test\n", r"class 'cat' .*no labelled file in train"),
    ("path,label\ndog/0.wav,\"dog\n2\"\ncat/0.wav,cat\n", r"line 2: the label 'dog\\n2' has a line break"),
    ("path,label\ndog/0.wav\0,dog\n", r"line 2: the path 'dog/0.wav\\x00' has a line break or another control"),
    ("path,\"label\n\"\ndog/0.wav,dog\n,cat\n", r"line 4: the path is empty"),  # the header takes two lines
    ("path,label\ndog/0.wav,dog\ncat/0.wav,\"cat\n\n", r"line 3: is no CSV row"),
    ("path,label\ndog/0.wav,\"do\"g\n", r"line 2: is no CSV row"),
    ("path,label\ndog/0.wav,unlabelled\n", r"line 2: the label 'unlabelled' would be a class: leave it empty"),
    ("path,label\ndog/0.wav,dog\ndog/1.wav,dog\n", r"'dog' is the only class: at least two"),
    ("path\ndog/0.wav\ncat/1.wav\n", r"no file has a class"),
    ("path,label\ndog/0.wav,dog\ndog/1.wav,dog\ncat/0.wav,cat\n", r"class 'cat' .*in 1 group, but train, valid, test"),
    ("path,label\ndog/0.wav,dog\ncat/0.wav,k\u00e4se\n".encode("latin-1"), r"line 3: is not UTF-8 text"),
    ("path,label\ndog/0.wav,dog\n".encode("utf-16"), r"line 1: is not UTF-8 text"),
])
def test_broken_csv_is_one_clear_line_and_leaves_nothing(sounds, data, text, match):
    refused(data, match, csv_file(sounds, text))


def _only(root: Path, keep: str) -> None:
    for folder in root.iterdir():
        if folder.name != keep:
            folder.rename(root.parent / f"away-{folder.name}")


BROKEN_FOLDERS = [
    (lambda root: write(root, "a.wav", "b.flac"), r"sounds: 'a\.wav' is in no class folder \(2 .*named unlabelled"),
    (lambda root: _only(root, "dog"), r"'dog' is the only class"),
    (lambda root: [_only(root, ""), (root / "dog").mkdir()], r"no sound file in any class folder \(skipped: nothing\)"),
    (lambda root: [_only(root, ""), write(root, "dog/a.m4a")], r"no sound file .*skipped: 1 \.m4a\).*WAV, FLAC"),
    (lambda root: [_only(root, "cat"), (root / "cat").rename(root / "Unlabelled")], r"no file has a class"),
    (lambda root: write(root, "dog/bad.wav", content=b"no sound"), r"'dog/bad\.wav' cannot be read as sound \(Format"),
    (lambda root: write(root, "dog/x.mp3", "dog/y.wav", content=b""), r"'dog/x\.mp3' cannot be read.*\(2 of 14 files"),
    (lambda root: write(root, "cat/empty.wav", content=wav_bytes(0)), r"'cat/empty\.wav' holds no samples \(1 of 13"),
    (lambda root: write(root, "cat/half.wav", content=SOUND[:30]), r"'cat/half\.wav' cannot be read as sound"),
    (lambda root: write(root, "cat/open.flac", content=endless_flac()), r"'cat/open\.flac' does not tell its length"),
    (lambda root: (root / "cat" / "gone.wav").symlink_to("nowhere"), r"'cat/gone\.wav' is no file"),
    (lambda root: os.mkfifo(root / "cat" / "pipe.wav"), r"'cat/pipe\.wav' is no file"),
    (lambda root: (root / "cat/dog.wav").symlink_to(root / "dog/0.wav"), r"'dog/0\.wav' is the same file as 'cat/dog"),
    (lambda root: (root / "cat/all").symlink_to(root / "dog"), r"'dog/0\.wav' is the same file as 'cat/all/0\.wav'"),
    (lambda root: write(root, "dog/two\nlines.wav"), r"'dog/two\\nlines\.wav' has a control character"),
    (lambda root: write(root, "bird/a.wav", "bird/b.wav"), r"class 'bird' .* 2 groups, but train, valid, test need"),
    (lambda root: write(root, " /a.wav"), r"class folder named by spaces"),
]


def endless_flac() -> bytes:
    """FLAC as a recorder streams it: the header leaves the number of samples (36 bits) open."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(800), 8000, format="FLAC")
    content = bytearray(file.getvalue())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    return bytes(content)


@pytest.mark.parametrize(("damage", "match"), BROKEN_FOLDERS, ids=[match for _, match in BROKEN_FOLDERS])
def test_broken_folder_is_one_clear_line_and_leaves_nothing(sounds, data, damage, match):
    damage(sounds)
    refused(data, match, sounds)


def test_a_file_name_that_is_not_utf8_is_refused(sounds, data):
    try:
        write(sounds, os.fsdecode(b"dog/\xe9.wav"))
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    refused(data, r"is not UTF-8: rename it", sounds)


def test_groups_that_cannot_be_divided_are_refused(data):
    root = write(data.parent / "s", *(f"{number}.wav" for number in range(6)))
    # each class is in two of the groups 1, 2 and 3, so whichever is held out, one class stays whole or is gone
    rows = [f"{i}.wav,{label},{group}" for i, (label, group) in enumerate(zip("aabbcc", "122331", strict=True))]
    source = csv_file(root, "\n".join(["path,label,group", *rows]))
    refused(data, r"class 'a' has labelled files in 2 groups, but train, valid, test need one each", source)
    assert imported(source, data, valid_share=0, test_share=0)[0].groups == 3
    refused(data, r"2 groups, .* with other classes: .* train, test with whole groups: .*a share of 0", source,
            name="other", valid_share=0, test_share=0.5)


@pytest.mark.parametrize(("options", "match"), [
    ({"name": "Mine"}, r"name 'Mine': use .*lower-case"), ({"name": "../mine"}, "lower-case"),
    ({"name": ""}, "lower-case"), ({"name": "a" * 41}, "at most 40"), ({"name": "-a"}, "no hyphen first"),
    ({"name": "a\n"}, "lower-case"), ({"name": "nsynth"}, "choose another"), ({"name": "runs"}, "choose another"),
    ({"test_share": 0.6}, r"test_share must lie in \[0, 0\.5\], not 0\.6"), ({"valid_share": -0.1}, "valid_share must"),
    ({"valid_share": float("nan")}, "valid_share must"), ({"test_share": 0.5, "valid_share": 0.5}, "leave nothing"),
    ({"labelled_share": 0}, r"labelled_share must lie in \(0, 1\]"), ({"labelled_share": 1.1}, "labelled_share must"),
    ({"seed": -1}, "seed must"), ({"seed": 2**32}, "seed must"),
    ({"group_pattern": "("}, "no regular expression"), ({"group_pattern": "dog"}, "one capture group .* not 0"),
    ({"group_pattern": "(d)(o)"}, "one capture group .* not 2"),
    ({"group_pattern": r"/([1-9])"}, r"finds no group in 'cat/0\.wav'"),
    ({"group_pattern": r"cat|(dog)"}, r"finds no group in 'cat/0\.wav'"),
])
def test_bad_setting_is_named(sounds, data, options, match):
    refused(data, match, sounds, **options)


def test_bad_source_is_named(sounds, data):
    refused(data, r"absent does not exist", data.parent / "absent")
    refused(data, r"0\.wav is neither a folder nor a \.csv file", sounds / "dog" / "0.wav")
    source = csv_file(sounds, "path,label\n")
    refused(data, "group_pattern is for a folder", source, group_pattern="(a)")


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()}


def test_the_same_import_again_changes_nothing(sounds, data):
    first = import_audio(sounds, "mine", progress=False)
    before = state(data / "mine")
    assert import_audio(sounds, "mine", progress=False) == import_audio(sounds, "mine", progress=False, force=True)
    assert import_audio(sounds / ".." / "sounds", "mine", progress=False) == first
    assert state(data / "mine") == before


def test_another_import_replaces_only_with_force(sounds, data):
    import_audio(sounds, "mine", progress=False)
    before = state(data / "mine")
    refused(data, r"mine is another import or damaged \(seed differ\): use --force", sounds, seed=1)
    write(sounds, "dog/new.wav")
    refused(data, r"mine: the files have changed since they were imported: use --force", sounds)
    write(sounds, "dog/bad.wav", content=b"")
    refused(data, r"bad\.wav", sounds, force=True)
    assert state(data / "mine") == before
    (sounds / "dog" / "bad.wav").unlink()
    assert imported(sounds, data, force=True)[0].clips == 13
    (data / "mine" / "own.json").write_text("[]")
    refused(data, r"another import or damaged", sounds)
    assert imported(sounds, data, force=True)[0].clips == 13


@pytest.mark.parametrize("content", [["a.wav"], ["own.json", "clips.csv", "a.wav"], ["clips.csv"]])
def test_a_folder_with_anything_else_is_never_replaced(sounds, data, content):
    write(data / "mine", *content)
    refused(data, r"mine holds other things than an import of own audio: choose another name", sounds, force=True)


def test_an_empty_folder_or_a_new_data_folder_is_filled(sounds, data, monkeypatch):
    (data / "mine").mkdir()
    assert imported(sounds, data)[0].clips == 12
    monkeypatch.setenv("FMUC_DATA", str(data / "new"))
    assert imported(sounds, data / "new")[0].clips == 12


def test_a_failure_while_writing_leaves_nothing(sounds, data, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(own_audio, "write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        import_audio(sounds, "mine", progress=False)
    assert [path.name for path in data.iterdir() if path.suffix != ".lock"] == []


def edit_record(**change):
    def edit(folder: Path) -> None:
        record = json.loads((folder / "own.json").read_text())
        for key, value in change.items():
            part = next((part for part in (record["settings"], record["report"]) if key in part and key != "format"),
                        record)
            part[key] = value
        (folder / "own.json").write_text(json.dumps(record))
    return edit


def edit_list(old: str, new: str):
    def edit(folder: Path) -> None:
        text = (folder / "clips.csv").read_text()
        assert old in text
        (folder / "clips.csv").write_text(text.replace(old, new, 1))
    return edit


@pytest.mark.parametrize(("damage", "match"), [
    (lambda folder: (folder / "own.json").unlink(), r"own\.json: is damaged"),
    (lambda folder: (folder / "own.json").write_text("{"), r"own\.json: is damaged"),
    (lambda folder: (folder / "own.json").write_text('{"format": 1}'), r"own\.json: is damaged"),
    (edit_record(format=2), r"own\.json: has format 2, but this version reads 1"),
    (edit_record(kind="tape"), r"own\.json: is damaged \(kind"), (edit_record(source=3), r"own\.json: is damaged"),
    (edit_record(report={"labelled_share": 0}), r"own\.json: is damaged"),
    (lambda folder: (folder / "clips.csv").unlink(), r"clips\.csv: cannot be read"),
    (lambda folder: (folder / "clips.csv").write_text(""), r"clips\.csv: has no row"),
    (edit_list("id,path", "id,file"), r"clips\.csv, line 1: unknown column 'file'"),
    (edit_list(",group", ""), r"clips\.csv, line 1: missing column 'group'"),
    (edit_list(",cat,cat/1.wav", ",cat"), r"clips\.csv, line 3: 4 fields instead of 5"),
    (edit_list("cat/1.wav,cat/1.wav", "cat/0.wav,cat/1.wav"), r"clips\.csv, line 3: the id 'cat/0\.wav' occurs twice"),
    (edit_list("cat/1.wav,cat/1.wav", ",cat/1.wav"), r"clips\.csv, line 3: the id is empty"),
    (edit_list("cat/0.wav,cat,cat/0.wav", "cat/0.wav,cat,"), r"clips\.csv, line 2: the group is empty"),
    (edit_list(",test\n", ",dev\n"), r"clips\.csv, line \d+: unknown split 'dev'"),
])
def test_damaged_import_is_one_clear_line(sounds, data, damage, match):
    import_audio(sounds, "mine", progress=False)
    damage(data / "mine")
    with pytest.raises(FmucError, match=f"{match}.*import it again") as caught:
        load_own(data / "mine", "mine")
    assert len(str(caught.value).splitlines()) == 1


def test_sound_files_that_are_gone_are_named_and_counted(sounds, data):
    import_audio(sounds, "mine", progress=False)
    (sounds / "dog" / "3.wav").unlink()
    (sounds / "cat").rename(data.parent / "away")
    with pytest.raises(FmucError, match=r"missing sound file .*cat/0\.wav \(7 of 12 are missing\): .*import it again"):
        load_own(data / "mine", "mine")
