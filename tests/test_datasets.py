from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import note_names

from fmuc import datasets
from fmuc.datasets import NSYNTH_FAMILIES, Dataset, load, load_nsynth
from fmuc.errors import FmucError


def test_nsynth_lists_every_note_of_every_split_sorted(nsynth_root):
    dataset = load("nsynth")
    assert dataset.classes == NSYNTH_FAMILIES and len(dataset.classes) == 11
    for split, per_family in (("train", 4), ("valid", 1), ("test", 2)):
        expected = note_names(split, per_family)
        clips = [dataset.clips[i] for i in dataset.indices(split)]
        assert [clip.id for clip in clips] == sorted(expected)
        assert all(clip.label == expected[clip.id] and clip.split == split and clip.path.is_file() for clip in clips)
        assert {clip.group for clip in clips} == {f"{family}_acoustic_{split}" for family in set(expected.values())}
    assert [dataset.classes[i] for i in dataset.labels()] == [clip.label for clip in dataset.clips]
    with pytest.raises(ValueError, match="dev"):
        dataset.indices("dev")


def test_digest_covers_the_index_fingerprint_the_sound_and_neither_the_place(nsynth_root, tmp_path):
    first = load("nsynth")
    assert first.fingerprint != first.digest
    moved = load_nsynth(nsynth_root.rename(tmp_path / "elsewhere"), "nsynth")
    assert (moved.digest, moved.fingerprint) == (first.digest, first.fingerprint)
    path = moved.clips[3].path
    path.write_bytes(path.read_bytes()[:-2])
    assert replace(moved).fingerprint != first.fingerprint and replace(moved).digest == first.digest
    for change in ({"id": "other"}, {"label": "organ"}, {"group": "other"}, {"split": "test"}):
        clips = (replace(first.clips[0], **change), *first.clips[1:])
        assert Dataset("nsynth", first.classes, clips).digest != first.digest
    assert Dataset("nsynth", first.classes, first.clips[::-1]).digest != first.digest


NOTE = "bass_acoustic_train-061-100"


def edited(change):
    def damage(folder: Path) -> None:
        notes = json.loads((folder / "examples.json").read_text())
        change(notes)
        (folder / "examples.json").write_text(json.dumps(notes))

    return damage


@pytest.mark.parametrize(("damage", "message"), [
    (lambda folder: (folder / "examples.json").write_text('{\n "a": {},\n "b": \n'), r"json: cannot be read .*line 4"),
    (lambda folder: (folder / "examples.json").unlink(), r"json: cannot be read .*unpack the archive again"),
    (edited(lambda notes: notes[NOTE].update(instrument_str=3)), r"json: cannot be read"),
    (edited(lambda notes: notes[NOTE].pop("instrument_family_str")), r"json: cannot be read .*instrument_family_str"),
    (edited(lambda notes: notes[NOTE].update(instrument_str="")), f"clip {NOTE} belongs to no group"),
    (edited(lambda notes: notes[NOTE].update(instrument_family_str="kazoo")),
     f"clip {NOTE} has the unknown label 'kazoo'; known are bass"),
    (lambda folder: (folder / "audio" / f"{NOTE}.wav").unlink(), rf"missing sound file .*{NOTE}\.wav \(1 of 21 are"),
    (lambda folder: ((folder / "audio" / f"{NOTE}.wav").unlink(), (folder / "audio" / f"{NOTE}.wav").mkdir()),
     rf"missing sound file .*{NOTE}\.wav \(1 of 21 are"),
    (lambda folder: (folder / "audio").rename(folder / "gone"), r"missing sound file .*\(12 of 21"),
])
def test_a_broken_split_is_refused_and_named(nsynth_root, damage, message):
    damage(nsynth_root / "nsynth-train")
    with pytest.raises(FmucError, match=message):
        load("nsynth")


def test_fsdd_is_split_by_speaker_and_its_smoke_set_is_a_part_of_it(data_root):
    folder = data_root / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    for speaker in datasets.SPEAKERS:
        for number in (0, 3, 4, 10):
            (folder / f"7_{speaker}_{number}.wav").touch()
    whole, part = load("fsdd"), load("fsdd-smoke")
    assert whole.classes[:3] == ("zero", "one", "two") and {clip.label for clip in whole.clips} == {"seven"}
    assert [clip.id for clip in whole.clips] == sorted(path.stem for path in folder.iterdir())
    groups = {split: {whole.clips[i].group for i in whole.indices(split)} for split in datasets.SPLITS}
    assert groups == {"train": {"george", "jackson", "nicolas"}, "valid": {"yweweler"}, "test": {"lucas", "theo"}}
    assert part.clips == tuple(clip for clip in whole.clips if clip.id.endswith(("_0", "_3"))) and len(part.clips) == 12
    for name in ("7_george_0 (1).wav", "7_alexa_0.wav"):
        (folder / name).touch()
        with pytest.raises(FmucError, match=rf"{re.escape(name)}: FSDD has no such file.*lucas.*take it out"):
            load("fsdd")
        (folder / name).unlink()
    folder.rename(data_root / "elsewhere")
    with pytest.raises(FmucError, match=r"no sound files of fsdd-smoke under .*fsdd: run 'python -m fmuc data fsdd'"):
        load("fsdd-smoke")


@pytest.fixture
def own(data_root: Path) -> Path:
    """An import of own audio as :mod:`fmuc.own.importing` writes it."""
    folder, source = data_root / "mine", data_root / "sounds"
    folder.mkdir()
    (source / "dog").mkdir(parents=True)
    for name in ("b.wav", "a.wav", "x,y.wav"):
        (source / "dog" / name).write_bytes(b"sound")
    (folder / "own.json").write_text(json.dumps(
        {"format": 1, "settings": {"kind": "folder", "source": str(source)}, "report": {"labelled_share": 0.2}}))
    (folder / "clips.csv").write_text('id,path,label,group,split\ndog/a.wav,dog/a.wav,dog,g1,train\n'
                                      'dog/b.wav,dog/b.wav,,g2,test\n"dog/x,y.wav","dog/x,y.wav",cat,g3,train\n')
    return folder


@pytest.mark.parametrize(("file", "old", "new", "message"), [
    ("own.json", '"format": 1', '"format": 2', r"own\.json: is damaged .*import it again"),
    ("own.json", "0.2", "1.2", r"own\.json: is damaged"),
    ("own.json", "labelled_share", "share", r"own\.json: is damaged"),
    ("clips.csv", "group,", "", r"clips\.csv: cannot be read .*import it again"),
    ("clips.csv", "g1", "", r"clips\.csv: cannot be read .*empty"),
    ("clips.csv", ",test", ",dev", "has the split 'dev'"),
    ("clips.csv", "dog/b.wav,dog", "dog/a.wav,dog", "dog/a.wav occurs twice"),
    ("clips.csv", "dog/a.wav,dog/a", "dog/c.wav,dog/c", r"missing sound file .*c\.wav \(1 of 3 .*put them back"),
])
def test_damaged_import_is_refused(own, file, old, new, message):
    path = own / file
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(FmucError, match=message):
        load("mine")
