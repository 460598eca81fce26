"""TUT Acoustic Scenes 2017 in its real layout: 24-bit stereo files, lists with their quirks, broken lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from fmuc.datasets import DEVELOPMENT, EVALUATION, LABELS, load, load_tut2017
from fmuc.errors import FmucError
from fmuc.experiments import TUT
from fmuc.features import extract
from fmuc.splits import draw_split

TRAIN = {  # as in meta.txt: file -> (label, recording)
    "b020_90_100": ("beach", "b020"), "b020_100_110": ("beach", "b020"), "a001_0_10": ("cafe/restaurant", "a001"),
    "a001_10_20": ("cafe/restaurant", "a001"), "a001_20_30": ("cafe/restaurant", "a001"), "b003_0_10": ("tram", "b003"),
}
TEST = {"7": ("beach", "a100_30_40"), "12": ("cafe/restaurant", "b101_0_10"), "3": ("beach", "a100_0_10")}


def sound(path: Path, seconds: float, seed: int) -> None:
    noise = np.random.default_rng(seed).uniform(-0.3, 0.3, (round(seconds * 44_100), 2))
    soundfile.write(path, noise, 44_100, subtype="PCM_24")


def write_development(root: Path, seconds: float = 0.01) -> Path:
    part = root / DEVELOPMENT
    (part / "audio").mkdir(parents=True)
    for seed, name in enumerate(TRAIN):
        sound(part / "audio" / f"{name}.wav", seconds, seed)
    (part / "meta.txt").write_bytes("".join(
        f"audio/{name}.wav\t{label}\t{recording}\n" for name, (label, recording) in TRAIN.items()).encode())
    return part


def write_evaluation(root: Path, seconds: float = 0.01) -> Path:
    part = root / EVALUATION
    setup = part / "evaluation_setup"
    (part / "audio").mkdir(parents=True)
    setup.mkdir()
    for seed, name in enumerate(TEST):
        sound(part / "audio" / f"{name}.wav", seconds, 100 + seed)
    for file, rows in {"evaluate.txt": [f"audio/{name}.wav\t{label}" for name, (label, _) in TEST.items()],
                       "test.txt": [f"audio/{name}.wav" for name in TEST],
                       "map.txt": [f"audio/{original}.wav\taudio/{name}.wav" for name, (_, original) in TEST.items()],
                       }.items():
        (setup / file).write_bytes("".join(f"{row}\r\n" for row in rows).encode())
    return part


@pytest.fixture
def root(data_root: Path) -> Path:
    """Data set ``tut2017`` in the real layout with very short sounds."""
    write_development(data_root / "tut2017")
    write_evaluation(data_root / "tut2017")
    return data_root / "tut2017"


def test_both_parts_load_with_labels_recordings_and_splits(root):
    dataset = load("tut2017")
    assert dataset.classes == LABELS == tuple(sorted(LABELS)) and len(LABELS) == 15
    assert {clip.id: (clip.label, clip.group, clip.split) for clip in dataset.clips} == {
        **{f"development/{name}": (label, recording, "train") for name, (label, recording) in TRAIN.items()},
        **{f"evaluation/{name}": (label, original.split("_")[0], "test") for name, (label, original) in TEST.items()},
    }
    assert all(clip.path.is_file() for clip in dataset.clips)
    assert [clip.id for clip in dataset.clips] == sorted(clip.id for clip in dataset.clips)


@pytest.mark.parametrize(("part", "split", "count"), [(EVALUATION, "train", 6), (DEVELOPMENT, "test", 3)])
def test_one_part_alone_loads(root, part, split, count):
    (root / part).rename(root / "elsewhere")
    dataset = load_tut2017(root, "tut2017")
    assert len(dataset.clips) == len(dataset.indices(split)) == count
    assert dataset.classes == LABELS


def test_without_a_map_every_evaluation_clip_is_its_own_recording(root):
    (root / EVALUATION / "evaluation_setup" / "map.txt").unlink()
    clips = [clip for clip in load_tut2017(root, "tut2017").clips if clip.split == "test"]
    assert [clip.group for clip in clips] == [clip.id for clip in clips] and len({clip.group for clip in clips}) == 3


def test_the_spelling_of_a_list_changes_nothing(root):
    """The columns of the map the other way round; carriage returns, a byte-order mark, empty lines, spaces at the ends
    and files without ``audio/``."""
    expected, path = load_tut2017(root, "tut2017").clips, root / EVALUATION / "evaluation_setup" / "map.txt"
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    path.write_text("".join(f"{new}\t{original}\n" for original, new in rows))
    assert load_tut2017(root, "tut2017").clips == expected
    for path in (root / DEVELOPMENT / "meta.txt", *(root / EVALUATION / "evaluation_setup").iterdir()):
        rows = path.read_text().replace("audio/", "").split("\n")
        rows = ["", *(row.replace("\t", " \t ") for row in rows), "  "]
        path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
    assert load_tut2017(root, "tut2017").clips == expected


def test_every_patch_of_every_recording_is_labelled_or_unlabelled(data_root):
    """The paper's footnote 1: an earlier version left three quarters of the unlabelled data out."""
    write_development(data_root / "tut2017", seconds=10)
    dataset = load("tut2017")
    cache = extract(dataset, TUT, workers=1, progress=False)
    assert cache.patches.shape == (4 * len(TRAIN), 80, 140)
    for labelled_share in (0.05, 0.5, 1.0):
        split = draw_split(dataset, labelled_share, seed=0)
        patches = [cache.patches_of(part) for part in (split.labelled, split.unlabelled)]
        assert sorted(np.concatenate(patches)) == list(range(4 * len(TRAIN)))


META, MAP = f"{DEVELOPMENT}/meta.txt", f"{EVALUATION}/evaluation_setup/map.txt"


def append(file: str, line: bytes):
    return lambda root: (root / file).write_bytes((root / file).read_bytes() + line)


@pytest.mark.parametrize(("break_it", "message"), [
    (lambda root: (root / META).unlink(), r"meta\.txt: cannot be read \(.*No such file.*data/README\.md"),
    (append(META, b"audio/b020_90_100.wav\tbeach"), r"meta\.txt: cannot be read .*b020_90_100.* has not 3 columns"),
    (append(META, b"audio/b020_90_100.wav\t\tb020"), r"meta\.txt: cannot be read .*b020_90_100.* has not 3 columns"),
    (append(META, "audio/café.wav\tbeach\tb020".encode("latin-1")), r"meta\.txt: cannot be read .*utf-8"),
    (append(META, b"audio/none.wav\tcafe\tb020"), "unknown label 'cafe'; known are beach, bus"),
    (append(META, b"audio/none.wav\tbeach\tb020"), r"missing sound file .*audio/none\.wav \(1 of 10 are"),
    (lambda root: (root / MAP).write_bytes(b"audio/7.wav\taudio/a100_30_40.wav\n"), r"map\.txt: does not name 12\.wav"),
])
def test_a_broken_tree_gives_one_line_that_names_the_list_and_the_file(root, break_it, message):
    break_it(root)
    with pytest.raises(FmucError, match=message) as caught:
        load("tut2017")
    assert "\n" not in str(caught.value)
