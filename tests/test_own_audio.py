"""Own sound files: folders and CSV files of many formats, grouped splits, broken input in one clear line each."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from fmuc.datasets import SPLITS, load, own_settings
from fmuc.errors import FmucError
from fmuc.features import extract
from fmuc.machinery.sound import read_audio
from fmuc.own.importing import Report, SoundFile, choose_features, draw_splits, import_audio
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


def imported(source: Path, data: Path, **options) -> tuple[Report, list[dict[str, str]]]:
    """The report and the rows of clips.csv; the loader must agree with both."""
    report = import_audio(source, "mine", progress=False, **options)
    with open(data / "mine" / "clips.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    dataset = load("mine")
    assert [(c.id, c.label or "", c.group, c.split) for c in dataset.clips] == [
        (row["id"], row["label"], row["group"], row["split"]) for row in rows]
    assert {split: len(dataset.indices(split)) for split in SPLITS} == report.splits
    assert (len(dataset.clips), len(dataset.classes)) == (report.clips, report.classes)
    assert np.count_nonzero(dataset.labels() < 0) == report.unlabelled
    assert all(clip.path.is_file() for clip in dataset.clips)
    stored = own_settings("mine")
    assert (stored.labelled_share, stored.features) == (report.labelled_share, report.features)
    return report, rows


def refused(data: Path, match: str, source: Path, **options) -> None:
    before = sorted(path.name for path in data.rglob("[!.]*"))
    with pytest.raises(FmucError, match=match) as caught:
        import_audio(source, options.pop("name", "mine"), progress=False, **options)
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(path.name for path in data.rglob("[!.]*")) == before


def csv_file(folder: Path, text: str | bytes) -> Path:
    path = folder / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_folder_per_class_becomes_a_data_set_and_nothing_is_copied(sounds, data):
    report, rows = imported(sounds, data)
    assert sorted(path.name for path in (data / "mine").iterdir()) == ["clips.csv", "own.json"]
    dataset = load("mine")
    assert dataset.name == "mine" and dataset.classes == ("cat", "dog")
    assert [clip.id for clip in dataset.clips] == sorted([*names("cat"), *names("dog")])
    assert all(clip.path == sounds / clip.id and clip.label == clip.id[:3] for clip in dataset.clips)
    assert all(clip.group == clip.id for clip in dataset.clips)  # each file is a group
    assert report == Report("mine", 12, 2, 0, 12, report.splits, 0.2, 0.12, report.features, {}, {})
    assert all(report.splits[split] >= 2 for split in SPLITS)
    assert json.loads((data / "mine" / "own.json").read_text())["report"] == asdict(report)
    assert rows[0]["path"] == "cat/0.wav"  # no path of this machine
    assert draw_split(dataset, 0.5, seed=0).test.tolist() == dataset.indices("test").tolist()


FORMATS = [  # name, rate in Hz, channels, samples, subtype
    ("a.wav", 44_100, 2, 4410, "PCM_16"), ("b.WAV", 48_000, 1, 100, "PCM_24"), ("c.wav", 11_025, 5, 1, "FLOAT"),
    ("d.flac", 22_050, 2, 2205, "PCM_16"), ("e.ogg", 16_000, 1, 8000, "VORBIS"), ("f.aiff", 8000, 2, 999, "PCM_16"),
    ("g.au", 8000, 1, 800, "ULAW"), ("h.caf", 96_000, 1, 960, "PCM_24"), ("i.w64", 32_000, 2, 320, "DOUBLE"),
    ("j.mp3", 44_100, 2, 44_100, "MPEG_LAYER_III"), ("k.wav", 8000, 1, 640, "GSM610"),
    ("l.wav", 8000, 1, 480, "G721_32"),
]


def test_any_format_of_any_length_is_imported_and_has_features(data):
    """The codecs that cannot be sought in (GSM 6.10, G.721), too."""
    root = data.parent / "sounds"
    for label in ("x", "y"):
        (root / label).mkdir(parents=True)
        for name, rate, channels, length, subtype in FORMATS:
            noise = np.random.default_rng(0).uniform(-0.3, 0.3, (length, channels))
            soundfile.write(root / label / name, noise, rate, subtype=subtype)
    report, _ = imported(root, data)
    assert report.clips == 2 * len(FORMATS)
    assert report.seconds == pytest.approx(2 * sum(length / rate for _, rate, _, length, _ in FORMATS), abs=0.3)
    assert all(read_audio(clip.path, 16_000).ndim == 1 for clip in load("mine").clips)
    assert len(np.unique(extract(load("mine"), report.features, workers=1, progress=False).clip_of_patch)) == 24


def test_what_is_no_sound_is_skipped_and_counted(sounds, data):
    write(sounds, "readme.txt", "dog/notes.txt", "dog/cover.jpg", "dog/LICENSE", "dog/._0.wav", ".git/a.wav",
          "papers/list.PDF", content=b"text")
    report, _ = imported(sounds, data)
    assert report.skipped == {".jpg": 1, ".pdf": 1, ".txt": 2, "hidden": 1, "no extension": 1}
    assert (report.clips, report.classes) == (12, 2)


@pytest.mark.parametrize("folder", ["unlabelled", "Unlabeled"])
def test_unlabelled_files_go_to_train_and_every_label_is_used(sounds, data, folder):
    write(sounds, f"{folder}/a.wav", f"{folder}/deep/b.wav")
    report, rows = imported(sounds, data)
    assert report.unlabelled == 2 and report.classes == 2
    assert [(row["label"], row["split"]) for row in rows if row["id"].startswith(folder)] == [("", "train")] * 2
    assert report.labelled_share == 1.0


def test_the_labelled_share_hides_labels_to_measure_quality(sounds, data):
    assert imported(sounds, data, labelled_share=0.5, force=True)[0].labelled_share == 0.5
    refused(data, r"--labelled-share 0.99 leaves none of the \d training files .*: lower it", sounds,
            labelled_share=0.99, force=True)
    write(sounds, "unlabelled/a.wav")
    assert imported(sounds, data, labelled_share=0.99, force=True)[0].labelled_share == 0.99


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


@pytest.mark.parametrize("folders", [("train", "test", "valid"), ("Training", "eval", "dev"), ("train", "test", "val")])
def test_folders_named_as_splits_are_splits(data, folders):
    root = write(data.parent / "s", *(f"{folder}/{name}" for folder in folders for label in ("dog", "cat")
                                      for name in names(label, 3)), f"{folders[0]}/dog/rec/a.wav",
                 f"{folders[0]}/unlabelled/u.wav", "unlabelled/w.wav")
    report, rows = imported(root, data)
    assert report.classes == 2 and report.splits == {"train": 9, "valid": 6, "test": 6} and report.unlabelled == 2
    split_of = dict(zip(folders, ("train", "test", "valid"), strict=True))
    assert all(row["split"] == split_of.get(row["id"].split("/")[0], "train") for row in rows)
    assert {row["label"] for row in rows} == {"dog", "cat", ""}
    assert next(row["group"] for row in rows if "rec" in row["id"]) == f"{folders[0]}/dog/rec"


def test_split_folders_with_anything_beside_them_are_refused(data):
    root = write(data.parent / "s", *(f"{split}/{name}" for split in ("train", "test") for name in names("dog")))
    refused(data, r"'train/a\.wav' is in no class folder", write(root, "train/a.wav"))
    (root / "train" / "a.wav").unlink()
    refused(data, r"'robin/0\.wav' is beside the folders of splits \(test, train\)", write(root, *names("robin")))


CSV_BODY = ("path,label,group,split", "dog/0.wav,dog,a,train", "dog/1.wav,dog,,eval", "cat/0.wav,cat,b,train",
            "cat/1.wav,,b,val", "cat/2.wav,,,train")


@pytest.mark.parametrize(("start", "end"), [(b"", b"\n"), (b"\xef\xbb\xbf", b"\r\n")])
def test_csv_with_and_without_bom_and_crlf(sounds, data, start, end):
    source = csv_file(sounds, start + end.join(line.encode() for line in CSV_BODY) + end + end)
    report, rows = imported(source, data)
    assert [tuple(row.values()) for row in rows] == [
        ("cat/0.wav", "cat/0.wav", "cat", "b", "train"), ("cat/1.wav", "cat/1.wav", "", "b", "valid"),
        ("cat/2.wav", "cat/2.wav", "", "cat/2.wav", "train"), ("dog/0.wav", "dog/0.wav", "dog", "a", "train"),
        ("dog/1.wav", "dog/1.wav", "dog", "dog/1.wav", "test")]
    assert report.unlabelled == 2 and report.labelled_share == 1.0


def test_quoted_fields_after_a_blank_lose_their_quotation_marks(sounds, data):
    rows = [f'"dog/{i}.wav", "dog, ""old"""' for i in range(4)] + [f"cat/{i}.wav,  cat " for i in range(4)]
    imported(csv_file(sounds, "\n".join(["path, label", *rows])), data)
    assert load("mine").classes == ("cat", 'dog, "old"')


def test_csv_paths_may_be_absolute_of_the_home_or_outside_its_folder(sounds, data, monkeypatch):
    monkeypatch.setenv("HOME", str(sounds))
    lists = write(data.parent / "lists", "here.wav")
    write(data.parent, "x.wav")
    rows = [f"{sounds / 'dog' / '0.wav'},dog", "../sounds/cat/0.wav,cat", f"{lists / 'here.wav'},cat", "./../x.wav,dog",
            "~/dog/5.wav,dog"]
    csv_file(lists, "\n".join(["path,label", *rows]))
    _, rows = imported(Path("~/../lists/list.csv"), data, test_share=0, valid_share=0)
    outside = [str(sounds / name) for name in ("cat/0.wav", "dog/0.wav", "dog/5.wav")]
    assert [row["id"] for row in rows] == sorted([*outside, str(data.parent / "x.wav"), "here.wav"])
    assert {row["split"] for row in rows} == {"train"}


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
    _, rows = imported(sounds, data)
    assert {row["id"] for row in rows} - {*names("dog"), *names("cat")} == {"dog/linked.wav", "cat/more/two.wav"}


@pytest.mark.parametrize(("test_share", "valid_share"), [(0.2, 0.1), (0.05, 0)])
def test_shares_come_out_closely_for_each_class(data, test_share, valid_share):
    root = write(data.parent / "s", *names("a", 60), *names("b", 100))
    _, rows = imported(root, data, test_share=test_share, valid_share=valid_share)
    for label, count in (("a", 60), ("b", 100)):
        for split, share in (("test", test_share), ("valid", valid_share)):
            found = sum(row["label"] == label and row["split"] == split for row in rows)
            assert abs(found - share * count) <= 0.03 * count + 2 and (found == 0) == (share == 0)


SHARES = st.tuples(st.sampled_from([0.0, 0.05, 0.2, 0.33, 0.5]), st.sampled_from([0.0, 0.1, 0.4]))
SEED = st.integers(0, 2**32 - 1)


@st.composite
def groups_of_one_class(draw) -> list[tuple[str, str]]:
    sizes = st.lists(st.integers(1, 9), min_size=3, max_size=6)  # files of each of three groups or more
    clips = [(label, f"{label}{number}") for label in "abc"[: draw(st.integers(2, 3))]
             for number, size in enumerate(draw(sizes)) for _ in range(size)]
    return draw(st.permutations(clips + [("", f"{label}{i}") for label in "abz" for i in range(2)]))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(groups_of_one_class(), SHARES, SEED)
def test_drawn_splits_share_no_group_and_hold_every_class(clips, shares, seed):
    files = [SoundFile("", str(number), label, group, "") for number, (label, group) in enumerate(clips)]
    splits = draw_splits("here", files, dict(zip(("test", "valid"), shares, strict=True)), seed)
    pairs = {(file.group, split) for file, split in zip(files, splits, strict=True)}
    assert len(pairs) == len({group for _, group in clips})
    wanted = {"train", *(split for split, share in zip(("test", "valid"), shares, strict=True) if share)}
    found = {(split, label) for split, (label, _) in zip(splits, clips, strict=True)}
    assert set(splits) == wanted and found >= {(split, label) for split in wanted for label, _ in clips if label}


@pytest.mark.parametrize(("text", "match"), [
    ("", r"list\.csv, line 1: the columns are missing"),
    ("path,labels\ndog/0.wav,dog\n", r"list\.csv, line 1: the columns are 'path', 'labels': there must be path"),
    ("path,label\ndog/0.wav,dog\n\ncat/0.wav\n", r"line 4: has more or fewer fields than the header"),
    ("path,label\ndog/0.wav,dog,old\n", r"line 2: has more or fewer fields than the header: put quotation marks"),
    ("path,label\ndog/0.wav,dog\n,cat\n", r"line 3: '\.' is a folder"),
    ("path,label\ndog/0.wav,dog\ncat/9.wav,cat\ncat/8.wav,cat\n", r"line 3: 'cat/9\.wav' does not exist \(2 of 3"),
    ("path,label\ndog/0.wav,dog\ncat/0.wav,cat\n./dog/../dog/0.wav,dog\n", r"line 4: .*same file as"),
    ("path,label,split\ndog/0.wav,dog,train\ncat/0.wav,cat,held\n", r"line 3: unknown split 'held': use train, valid"),
    ("path,label,split\ndog/0.wav,dog,train\ncat/0.wav,cat,\n", r"line 3: the split is empty, but other rows"),
    ("path,label,split\ndog/0.wav,dog,train\ncat/0.wav,cat,test\n", r"class 'cat' has no labelled file in train"),
    ("path,label\ndog/0.wav,\"dog\n2\"\ncat/0.wav,cat\n", r"line 3: 'dog/0.wav' or its label has a control character"),
    ("path,label\ndog/0.wav,dog\ncat/0.wav,\"cat\n\n", r"after 1 rows: cannot be read \(unexpected end of data"),
    ("path,label\ndog/0.wav,dog\ndog/1.wav,dog\ncat/0.wav,cat\n", r"every class in train, valid, test .*'cat' .*in 1"),
    ("path,label\ndog/0.wav,dog\ncat/0.wav,k\u00e4se\n".encode("latin-1"), r"utf-8.*save it as CSV UTF-8"),
])
def test_broken_csv_is_one_clear_line_and_leaves_nothing(sounds, data, text, match):
    refused(data, match, csv_file(sounds, text))


def _only(root: Path, keep: str) -> None:
    for folder in root.iterdir():
        if folder.name != keep:
            folder.rename(root.parent / f"away-{folder.name}")


BROKEN_FOLDERS = [
    (lambda root: write(root, "a.wav", "b.flac"), r"sounds: 'a\.wav' is in no class folder .*named unlabelled"),
    (lambda root: _only(root, "dog"), r"classes with sound files: dog: at least two"),
    (lambda root: [_only(root, ""), write(root, "dog/a.m4a")], r"no sound file .*skipped: 1 \.m4a\).*WAV, FLAC"),
    (lambda root: [_only(root, "cat"), (root / "cat").rename(root / "Unlabelled")], r"classes with sound files: none"),
    (lambda root: (root / "cat/dog.wav").symlink_to(root / "dog/0.wav"), r"'dog/0\.wav' is the same file as 'cat/dog"),
    (lambda root: (root / "cat/all").symlink_to(root / "dog"), r"'dog/0\.wav' is the same file as 'cat/all/0\.wav'"),
    (lambda root: write(root, "dog/two\nlines.wav"), r"'dog/two\\nlines\.wav' or its label has a control character"),
    (lambda root: write(root, "bird/a.wav", "bird/b.wav"), r"class 'bird' has labelled files in 2"),
    (lambda root: write(root, " /a.wav"), r"' /a\.wav' is in no class folder with a name"),
]


@pytest.mark.parametrize(("damage", "match"), BROKEN_FOLDERS, ids=[match for _, match in BROKEN_FOLDERS])
def test_broken_folder_is_one_clear_line_and_leaves_nothing(sounds, data, damage, match):
    damage(sounds)
    refused(data, match, sounds)


UNUSABLE = {  # file -> how to make it, and what the message says of it
    "missing.wav": (lambda path: path.symlink_to("nowhere"), "does not exist"),
    "empty.wav": (lambda path: path.write_bytes(b""), "is empty (0 bytes)"),
    "pipe.wav": (os.mkfifo, "is not a regular file"),
    "text.wav": (lambda path: path.write_text("no sound"), "is not sound that libsndfile reads"),
    "half.wav": (lambda path: path.write_bytes(SOUND[:30]), "is not sound that libsndfile reads"),
    "silent.wav": (lambda path: path.write_bytes(wav_bytes(0)), "holds no samples"),
    "nan.wav": (lambda path: soundfile.write(path, [0.1, np.nan], 8000, subtype="FLOAT"), "not finite"),
}


def test_bad_files_are_called_what_they_are_or_left_out(sounds, data):
    for name, (make, _) in UNUSABLE.items():
        make(sounds / "dog" / name)
    refused(data, r"sounds: 'dog/empty\.wav' is empty .*\(7 of 19 files cannot be used\): .*--skip-unreadable", sounds)
    report, rows = imported(sounds, data, skip_unreadable=True)
    assert report.clips == len(rows) == 12
    assert report.unreadable.keys() == {f"dog/{name}" for name in UNUSABLE}
    for name, (_, reason) in UNUSABLE.items():
        assert reason in report.unreadable[f"dog/{name}"]
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


@pytest.mark.parametrize("name", ["Mine", "../mine", "", "a" * 41, "a\n", "nsynth"])
def test_a_name_that_is_taken_or_unfit_is_refused(sounds, data, name):
    refused(data, "is taken or unfit: choose one of at most 40 lower-case letters", sounds, name=name)


@pytest.mark.parametrize(("pattern", "match"), [
    ("(", "one capture group"), ("dog", "one capture group"), ("(d)(o)", "one capture group"),
    (r"/([1-9])", r"finds no group in 'cat/0\.wav'"), (r"cat|(dog)", r"finds no group in 'cat/0\.wav'"),
])
def test_a_pattern_that_names_no_group_is_refused(sounds, data, pattern, match):
    refused(data, match, sounds, group_pattern=pattern)


def test_bad_source_is_named(sounds, data):
    refused(data, r"absent does not exist", data.parent / "absent")
    refused(data, r"0\.wav is neither a folder nor a \.csv file", sounds / "dog" / "0.wav")
    source = csv_file(sounds, "path,label\n")
    refused(data, "a CSV file has a column group", source, group_pattern="(a)")


@pytest.mark.parametrize(("seconds", "rates", "options", "expected"), [  # rate, window, hop
    ([0.4, 0.5, 0.6], [8000] * 3, {}, (8000, 512, 125)),
    ([10.0] * 3, [44_100, 48_000, 44_100], {}, (22_050, 2048, 1723)),
    ([10.0] * 3, [96_000] * 3, {"sample_rate": 96_000, "patch_seconds": 0.1}, (96_000, 4096, 300)),
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
