"""Own sound files: folders and CSV files of many formats, grouped splits, broken input in one clear line each."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from fmuc.datasets import SPLITS, load, own_settings
from fmuc.errors import FmucError
from fmuc.features import extract
from fmuc.machinery.sound import wav
from fmuc.own.importing import Report, choose_features, draw_splits, import_audio

SOUND = wav(np.linspace(-0.5, 0.5, 80), 8000)


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


def imported(source: Path, data: Path, **options) -> tuple[Report, pd.DataFrame]:
    """The report, and clips.csv by id; the loader must agree with both."""
    report = import_audio(source, "mine", progress=False, **options)
    table = pd.read_csv(data / "mine" / "clips.csv", keep_default_na=False, index_col="id", dtype=str)
    dataset, stored = load("mine"), own_settings("mine")
    assert [(clip.id, clip.label or "", clip.group, clip.split) for clip in dataset.clips] == list(
        table[["label", "group", "split"]].itertuples(name=None))
    assert {split: len(dataset.indices(split)) for split in SPLITS} == report.splits
    assert (len(table), sum(table.label == "")) == (report.clips, report.unlabelled)
    assert len(dataset.classes) == report.classes and all(clip.path.is_file() for clip in dataset.clips)
    assert (stored.labelled_share, stored.features) == (report.labelled_share, report.features)
    return report, table


def refused(data: Path, match: str, source: Path, **options) -> None:
    before = sorted(path.name for path in data.rglob("[!.]*"))
    with pytest.raises(FmucError, match=match) as caught:
        import_audio(source, options.pop("name", "mine"), progress=False, **options)
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(path.name for path in data.rglob("[!.]*")) == before


def csv_file(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "list.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_folder_per_class_becomes_a_data_set_and_nothing_is_copied(sounds, data):
    report, table = imported(sounds, data)
    assert sorted(path.name for path in (data / "mine").iterdir()) == ["clips.csv", "own.json"]
    assert table.index.tolist() == table.path.tolist() == table.group.tolist() == [*names("cat"), *names("dog")]
    assert [clip.path for clip in load("mine").clips] == [sounds / path for path in table.path]
    assert (table.label == table.path.str[:3]).all()
    assert report == Report("mine", 12, 2, 0, 12, report.splits, 0.2, 0.12, report.features, {}, {})
    assert all(report.splits[split] >= 2 for split in SPLITS)
    assert json.loads((data / "mine" / "own.json").read_text())["report"] == asdict(report)


def test_any_format_of_any_length_is_imported_and_has_features(data):
    """The codecs that cannot be sought in (GSM 6.10), too."""
    formats = {  # name -> rate in Hz, channels, samples, subtype
        "a.WAV": (48_000, 5, 99, "PCM_24"), "b.flac": (22_050, 2, 2205, "PCM_16"), "c.ogg": (16_000, 1, 8000, "VORBIS"),
        "d.mp3": (44_100, 2, 44_100, "MPEG_LAYER_III"), "e.wav": (8000, 1, 640, "GSM610")}
    root = data.parent / "sounds"
    for label in ("x", "y"):
        (root / label).mkdir(parents=True)
        for name, (rate, channels, length, subtype) in formats.items():
            noise = np.random.default_rng(0).uniform(-0.3, 0.3, (length, channels))
            soundfile.write(root / label / name, noise, rate, subtype=subtype)
    report, _ = imported(root, data)
    assert report.seconds == pytest.approx(2 * sum(n / rate for rate, _, n, _ in formats.values()), abs=0.3)
    assert len(np.unique(extract(load("mine"), report.features, workers=1, progress=False).clip_of_patch)) == 10


def test_what_is_no_sound_is_skipped_and_counted(sounds, data):
    write(sounds, "readme.txt", "dog/notes.txt", "dog/cover.jpg", "dog/LICENSE", "dog/._0.wav", ".git/a.wav",
          "papers/list.PDF", content=b"text")
    report, _ = imported(sounds, data)
    assert report.skipped == {".jpg": 1, ".pdf": 1, ".txt": 2, "hidden": 1, "no extension": 1}
    assert (report.clips, report.classes) == (12, 2)


def test_without_unlabelled_files_labels_are_hidden_to_measure_quality(sounds, data):
    assert imported(sounds, data, labelled_share=0.5)[0].labelled_share == 0.5
    refused(data, r"--labelled-share 0.99 leaves none of the \d training files .*: lower it", sounds,
            labelled_share=0.99, force=True)
    write(sounds, "unlabelled/a.wav", "Unlabeled/deep/b.wav")
    report, table = imported(sounds, data, force=True)
    assert report.unlabelled == 2 and report.labelled_share == 1.0
    assert table.split[table.label == ""].tolist() == ["train"] * 2


def test_files_of_a_sub_folder_share_a_group(data):
    root = write(data.parent / "s", *(f"{label}/{i}/{name}" for label in ("dog", "cat") for i in range(4)
                                      for name in ("a.wav", "later/b.wav")), "dog/alone.wav")
    _, table = imported(root, data)
    assert sorted(set(table.group)) == sorted([*(f"{label}/{i}" for label in ("dog", "cat") for i in range(4)),
                                               "dog/alone.wav"])


def test_group_pattern_takes_unlabelled_files_along(data):
    root = write(data.parent / "s", *(f"{label}/day{d}_{i}.wav" for label in ("dog", "cat", "unlabelled")
                                      for d in range(6) for i in range(2)), "unlabelled/day9_0.wav")
    _, table = imported(root, data, group_pattern=r"(day\d)_")
    split_of = table.groupby("group").split.agg(set)
    assert split_of.index.tolist() == [f"day{d}" for d in (0, 1, 2, 3, 4, 5, 9)]
    assert all(len(splits) == 1 for splits in split_of) and split_of["day9"] == {"train"}


@pytest.mark.parametrize("folders", [("train", "test", "valid"), ("Training", "eval", "dev")])
def test_folders_named_as_splits_are_splits(data, folders):
    root = write(data.parent / "s", *(f"{folder}/{name}" for folder in folders for label in ("dog", "cat")
                                      for name in names(label, 3)), f"{folders[0]}/dog/rec/a.wav",
                 f"{folders[0]}/unlabelled/u.wav", "unlabelled/w.wav")
    report, table = imported(root, data)
    assert report.classes == 2 and report.splits == {"train": 9, "valid": 6, "test": 6}
    split_of = dict(zip(folders, ("train", "test", "valid"), strict=True)) | {"unlabelled": "train"}
    assert all(table.split == table.index.str.split("/").str[0].map(split_of))
    assert table.group[f"{folders[0]}/dog/rec/a.wav"] == f"{folders[0]}/dog/rec"


@pytest.mark.parametrize(("encoding", "end"), [("utf-8", "\n"), ("utf-8-sig", "\r\n")])
def test_csv_with_quotation_marks_blanks_and_gaps_with_and_without_bom_and_crlf(sounds, data, encoding, end):
    body = ("path, label,group,split", 'dog/0.wav, "dog, ""old""",a,train', '"dog/1.wav","dog, ""old""",,eval',
            "cat/0.wav,  cat ,b,train", "cat/1.wav,,b,val", "cat/2.wav,,,train", "", "")
    _, table = imported(csv_file(sounds, end.join(body), encoding), data)
    assert [*table.drop(columns="path").itertuples(name=None)] == [
        ("cat/0.wav", "cat", "b", "train"), ("cat/1.wav", "", "b", "valid"), ("cat/2.wav", "", "cat/2.wav", "train"),
        ("dog/0.wav", 'dog, "old"', "a", "train"), ("dog/1.wav", 'dog, "old"', "dog/1.wav", "test")]


def test_csv_paths_may_be_absolute_of_the_home_or_outside_its_folder(sounds, data, monkeypatch):
    monkeypatch.setenv("HOME", str(sounds))
    lists = write(data.parent / "lists", "here.wav")
    write(data.parent, "x.wav")
    rows = [f"{sounds / 'dog' / '0.wav'},dog", "../sounds/cat/0.wav,cat", f"{lists / 'here.wav'},cat", "./../x.wav,dog",
            "~/dog/5.wav,dog"]
    csv_file(lists, "\n".join(["path,label", *rows]))
    _, table = imported(Path("~/../lists/list.csv"), data, test_share=0, valid_share=0)
    outside = [str(sounds / name) for name in ("cat/0.wav", "dog/0.wav", "dog/5.wav")]
    assert table.index.tolist() == sorted([*outside, str(data.parent / "x.wav"), "here.wav"])
    assert set(table.split) == {"train"}


def test_any_characters_in_names(data):
    """Letters that a file system decomposes are the same class, and one class may be called "train"."""
    labels = ("Käse, \"alt\"", "猫 🐈‍⬛", "שלום", r"pay$\frac$=6", "caf\u00e9", "train")
    root = write(data.parent / "s", *(f"{label}/a, {i}.wav" for label in labels for i in range(4)), "cafe\u0301/4.wav")
    assert imported(root, data)[0].clips == 25
    assert set(load("mine").classes) == set(labels)


def test_links_are_followed_but_not_in_circles(sounds, data):
    elsewhere = write(data.parent / "elsewhere", "one.wav", "more/two.wav")
    (sounds / "dog" / "linked.wav").symlink_to(elsewhere / "one.wav")
    (sounds / "cat" / "more").symlink_to(elsewhere / "more")
    (sounds / "cat" / "up").symlink_to(sounds)
    (elsewhere / "more" / "back").symlink_to(sounds / "cat")
    (sounds / "cat" / "self").symlink_to("self")
    _, table = imported(sounds, data)
    assert {*table.index} - {*names("dog"), *names("cat")} == {"dog/linked.wav", "cat/more/two.wav"}


def test_shares_come_out_closely_for_each_class(data):
    _, table = imported(write(data.parent / "s", *names("a", 60), *names("b", 100)), data)
    counts = table.value_counts(["label", "split"])
    for label, count in (("a", 60), ("b", 100)):
        assert (counts[label, "test"], counts[label, "valid"]) == pytest.approx((0.2 * count, 0.1 * count), abs=3)


@pytest.mark.parametrize("seed", range(20))
def test_drawn_splits_share_no_group_and_hold_every_class(seed):
    rng = np.random.default_rng(seed)
    shares = {"test": rng.choice([0, 0.05, 0.2, 0.33, 0.5]), "valid": rng.choice([0, 0.1, 0.4])}
    clips = [(label, f"{label}{group}") for label in "abc" for group in range(rng.integers(3, 7))
             for _ in range(rng.integers(1, 10))] + [("", f"{label}{i}") for label in "abz" for i in range(2)]
    table = pd.DataFrame(rng.permutation(clips), columns=["label", "group"])
    table["split"] = draw_splits("here", table, shares, seed)
    assert (table.groupby("group").split.nunique() == 1).all()
    wanted = {"train", *(split for split, share in shares.items() if share)}
    found = table[table.label != ""].groupby("split").label.agg(set).to_dict()
    assert found == {split: {"a", "b", "c"} for split in wanted}


@pytest.mark.parametrize(("text", "match"), [
    ("", r"list\.csv, line 1: the columns are missing"),
    ("path,labels\ndog/0.wav,dog\n", r"list\.csv, line 1: the columns are 'path', 'labels': there must be path"),
    ("path,label\ndog/0.wav,dog\n\ncat/0.wav\n", r"line 4: has more or fewer fields than the header"),
    ("path,label\ndog/0.wav,dog\n,cat\n", r"line 3: '\.' is a folder"),
    ("path,label\ndog/0.wav,dog\ncat/9.wav,cat\ncat/8.wav,cat\n", r"line 3: 'cat/9\.wav' does not exist \(2 of 3"),
    ("path,label\ndog/0.wav,dog\ncat/0.wav,cat\n./dog/../dog/0.wav,dog\n", r"line 4: .*same file as"),
    ("path,label,split\ndog/0.wav,dog,train\ncat/0.wav,cat,held\n", r"line 3: unknown split 'held': use train, valid"),
    ("path,label,split\ndog/0.wav,dog,train\ncat/0.wav,cat,\n", r"line 3: the split is empty, but other rows"),
    ("path,label,split\ndog/0.wav,dog,train\ncat/0.wav,cat,test\n", r"class 'cat' has no labelled file in train"),
    ("path,label\ndog/0.wav,\"dog\n2\"\ncat/0.wav,cat\n", r"line 3: 'dog/0.wav' or its label has a control character"),
    ("path,label\ndog/0.wav,dog\ncat/0.wav,\"cat\n\n", r"after 1 rows: cannot be read \(unexpected end of data"),
    ("path,label\ndog/0.wav,dog\ncat/0.wav,k\u00e4se\n", r"utf-8.*save it as CSV UTF-8"),
])
def test_broken_csv_is_one_clear_line_and_leaves_nothing(sounds, data, text, match):
    refused(data, match, csv_file(sounds, text, "latin-1"))


def _only(root: Path, keep: str) -> None:
    for folder in root.iterdir():
        if folder.name != keep:
            folder.rename(root.parent / f"away-{folder.name}")


BROKEN_FOLDERS = [
    (lambda root: write(root, "a.wav", "b.flac"), r"sounds: 'a\.wav' is in no class folder .*named unlabelled"),
    (lambda root: _only(root, "dog"), r"classes with sound files: dog: at least two"),
    (lambda root: [_only(root, ""), write(root, "dog/a.m4a")], r"no sound file .*skipped: 1 \.m4a\).*WAV, FLAC"),
    (lambda root: [_only(root, "cat"), (root / "cat").rename(root / "Unlabelled")], r"classes with sound files: none"),
    (lambda root: (root / "cat/all").symlink_to(root / "dog"), r"'dog/0\.wav' is the same file as 'cat/all/0\.wav'"),
    (lambda root: write(root, "dog/two\nlines.wav"), r"'dog/two\\nlines\.wav' or its label has a control character"),
    (lambda root: write(root, "bird/a.wav", "bird/b.wav"), r"class 'bird' has labelled files in 2"),
    (lambda root: write(root, " /a.wav"), r"' /a\.wav' is in no class folder with a name"),
    (lambda root: [_only(root, ""), write(root, "train/a.wav", "test/dog/a.wav")], r"'train/a\.wav' is in no class"),
    (lambda root: write(root, "train/dog/a.wav", "test/dog/a.wav"), r"'cat/0\.wav' is beside the folders of splits"),
]


@pytest.mark.parametrize(("damage", "match"), BROKEN_FOLDERS, ids=[match for _, match in BROKEN_FOLDERS])
def test_broken_folder_is_one_clear_line_and_leaves_nothing(sounds, data, damage, match):
    damage(sounds)
    refused(data, match, sounds)


def test_bad_files_are_called_what_they_are_or_left_out(sounds, data):
    write(sounds, "dog/empty.wav", content=b"")
    write(sounds, "dog/text.wav", content=b"no sound")
    (sounds / "dog" / "missing.wav").symlink_to("nowhere")
    refused(data, r"sounds: 'dog/empty\.wav' is empty .*\(3 of 15 files cannot be used\): .*--skip-unreadable", sounds)
    report, _ = imported(sounds, data, skip_unreadable=True)
    assert report.clips == 12
    assert report.unreadable["dog/missing.wav"] == "does not exist" and len(report.unreadable) == 3
    assert json.loads((data / "mine" / "own.json").read_text())["report"]["unreadable"] == report.unreadable
    shutil.rmtree(sounds / "dog")
    write(sounds, "dog/0.wav", content=b"")
    refused(data, "classes with sound files: cat: at least two", sounds, skip_unreadable=True, force=True)


def test_groups_that_cannot_be_divided_are_refused(data):
    root = write(data.parent / "s", *(f"{number}.wav" for number in range(6)))
    # each class is in two of the groups 1, 2 and 3, so whichever is held out, one class stays whole or is gone
    rows = [f"{i}.wav,{label},{group}" for i, (label, group) in enumerate(zip("aabbcc", "122331", strict=True))]
    source = csv_file(root, "\n".join(["path,label,group", *rows]))
    refused(data, r"every class in train, valid, test .*class 'a' has labelled files in 2", source)
    assert imported(source, data, valid_share=0, test_share=0)[0].groups == 3
    refused(data, r"every class in train, test with whole groups .*hold out less", source, name="other", valid_share=0,
            test_share=0.5)


@pytest.mark.parametrize(("options", "match"), [
    *(({"name": name}, "is taken or unfit: choose one of at most 40 lower-case letters")
      for name in ("Mine", "../mine", "", "a" * 41, "a\n", "nsynth")),
    *(({"group_pattern": pattern}, "one capture group") for pattern in ("(", "dog", "(d)(o)")),
    ({"group_pattern": "cat|(dog)"}, r"finds no group in 'cat/0\.wav'"),
])
def test_a_name_or_a_pattern_that_cannot_be_used_is_refused(sounds, data, options, match):
    refused(data, match, sounds, **options)


def test_bad_source_is_named(sounds, data):
    refused(data, r"absent does not exist", data.parent / "absent")
    refused(data, r"0\.wav is neither a folder nor a \.csv file", sounds / "dog" / "0.wav")
    source = csv_file(sounds, "path,label\n")
    refused(data, "a CSV file has a column group", source, group_pattern="(a)")


@pytest.mark.parametrize(("seconds", "rates", "options", "expected"), [  # rate, window, hop
    ([0.4, 0.5, 0.6], [8000] * 3, {}, (8000, 512, 125)),
    ([10.0] * 3, [44_100, 48_000, 44_100], {}, (22_050, 2048, 1723)),
    ([60.0] * 3, [16_000] * 3, {"patch_seconds": 10}, (16_000, 8192, 5000)),
])
def test_features_suit_the_files(seconds, rates, options, expected):
    features = choose_features(seconds, rates, **options)
    assert (features.sample_rate, features.window, features.hop) == expected
    assert (features.mel_bands, features.patch_frames) == (32, 32) and features.hop <= features.window


def test_the_same_import_again_changes_nothing_and_another_one_replaces_only_with_force(sounds, data):
    def state() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (data / "mine").iterdir()}

    first = import_audio(sounds, "mine", progress=False)
    before = state()
    assert import_audio(sounds / ".." / "sounds", "mine", progress=False) == first and state() == before
    refused(data, r"mine is an import with other settings, or damaged: use --force", sounds, seed=1)
    write(sounds, "dog/bad.wav", content=b"")
    refused(data, r"bad\.wav", sounds, force=True)
    assert state() == before
    write(sounds, "dog/bad.wav")
    assert imported(sounds, data)[0].clips == 13  # new files are taken in
    (data / "mine" / "own.json").write_text("[]")
    refused(data, r"or damaged", sounds)
    report, _ = imported(sounds, data, force=True, sample_rate=4000, patch_seconds=0.5)
    assert (report.features.sample_rate, report.features.hop * 32) == (4000, 1984)


@pytest.mark.parametrize("content", [["a.wav"], ["own.json", "clips.csv", "a.wav"], ["clips.csv"]])
def test_a_folder_with_anything_else_is_never_replaced(sounds, data, content):
    write(data / "mine", *content)
    refused(data, r"mine holds other things than an import of own audio: choose another name", sounds, force=True)
