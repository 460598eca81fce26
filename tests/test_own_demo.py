from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import birds
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from scipy.stats import binomtest
from torch import nn

from fmuc import datasets
from fmuc.datasets import Clip, Dataset
from fmuc.experiments import FM, make_run
from fmuc.own import importing
from fmuc.own.check import check

SMALL = {"recordings": 6, "unlabelled": 12, "strangers": 4}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("demo") / "field"
    return folder, birds.make(folder, 0, **SMALL)


def sounds(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix in (".wav", ".flac", ".ogg"))


def test_the_folder_has_what_its_docstring_says(made):
    folder, truth = made
    assert {path.name for path in folder.iterdir()} == {*birds.SPECIES, "unlabelled", "notes.txt"}
    for species in birds.SPECIES:
        parts = [len(sounds(path)) if path.is_dir() else 1 for path in sorted((folder / species).iterdir())]
        assert parts == [3, 1] * 3
    assert truth.keys() == {f"unlabelled/{path.name}" for path in (folder / "unlabelled").iterdir()}
    assert len(truth) == 12 and list(truth.values()).count(birds.STRANGER) == 4
    assert set(truth.values()) <= {*birds.SPECIES, birds.STRANGER}


def test_files_differ_in_format_but_not_within_a_recording(made):
    infos = {file: soundfile.info(file) for file in sounds(made[0])}
    found = {file: (file.suffix, info.samplerate, info.channels, info.subtype) for file, info in infos.items()}
    assert set(found.values()) == {each[:-1] for each in birds.RECORDERS}
    assert all(len({found[file] for file in sounds(path)}) == 1 for path in made[0].glob("*/rec*") if path.is_dir())
    assert all(1.2 <= info.frames / info.samplerate <= 4 for info in infos.values())
    for file in infos:
        peak = np.abs(soundfile.read(file)[0]).max()
        assert 0.005 < peak < 1, file


def test_the_same_seed_makes_the_same_sounds_and_another_one_others(made, tmp_path):
    folder, truth = made
    assert birds.make(tmp_path / "again", 0, **SMALL) == truth
    assert birds.make(tmp_path / "other", 1, **SMALL) != truth
    again = sounds(tmp_path / "again")
    assert [file.relative_to(tmp_path / "again") for file in again] == [f.relative_to(folder) for f in sounds(folder)]
    for one, two in zip(again, sounds(folder), strict=True):
        assert np.array_equal(soundfile.read(one)[0], soundfile.read(two)[0])


def test_it_can_be_imported_and_the_withheld_files_are_unlabelled(made, data_root):
    folder, truth = made
    report = importing.import_audio(folder, "birds", progress=False)
    assert report.skipped == {".txt": 1}
    data = datasets.load("birds")
    assert data.classes == tuple(birds.SPECIES)
    assert {clip.id for clip in data.clips if clip.label is None} == truth.keys()


def test_the_planted_faults_are_what_the_check_finds(made, data_root, tmp_path):
    shutil.copytree(made[0], tmp_path / "field")
    importing.import_audio(tmp_path / "field", "birds", progress=False)
    table = pd.read_csv(data_root / "birds" / "clips.csv", keep_default_na=False).drop(columns="id")
    before = table.copy()
    birds.with_faults(table, tmp_path / "field").to_csv(tmp_path / "field" / "faulty.csv", index=False)
    assert table.equals(before)
    importing.import_audio(tmp_path / "field" / "faulty.csv", "faulty", progress=False)
    clean, faulty = (check(datasets.load(name), workers=1, progress=False) for name in ("birds", "faulty"))
    assert clean.findings == ()
    assert [(f.kind, f.severity, len(f.names)) for f in faulty.findings] == [
        ("duplicate_between_splits", "error", 1), ("group_leak", "error", 1), ("silent", "note", 1)]


class Loud(nn.Module):
    """Class 1 where the first value of a patch is positive, else class 0; sure of itself by that value's size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = x[:, 0, 0, 0]
        return torch.stack([-value, value], dim=1)


@pytest.fixture
def predictor() -> SimpleNamespace:
    """Two patches a file: a sure one, of class "b" if its file is called b..., and one of which nothing is known."""
    def patches(path: Path) -> torch.Tensor:
        x = torch.zeros(2, 1, 4, 6)
        x[0] = 5.0 if path.name.startswith("b") else -5.0
        return x
    run = make_run("smoke", "scenes-sim-smoke", "FM")
    return SimpleNamespace(run=run, classes=("a", "b"), net=Loud(), selection=FM, patches=patches)


def test_judged_has_a_row_for_each_view_of_each_patch_of_the_named_clips(predictor):
    clips = [Clip(name, Path(f"{name}.wav"), None, f"group of {name[0]}", "train") for name in ("a1", "a2", "b1")]
    rows = birds.judged(predictor, Dataset("x", ("a", "b"), tuple(clips)), {"b1": "b", "a1": "wren"}, views=3)
    assert list(rows.columns) == ["file", "group", "true", "pseudo", "kept"]
    assert rows["file"].tolist() == ["a1"] * 6 + ["b1"] * 6
    kept = rows[rows["kept"]]
    assert kept.drop_duplicates().values.tolist() == [["a1", "group of a", "wren", "a", True],
                                                      ["b1", "group of b", "b", "b", True]]
    assert len(kept) == 6  # one of the two patches, three views of it
    assert birds.assess(rows)[0::3] == (0.5, 0.5)


def test_an_assessment_counts_kept_rows_and_their_groups():
    rows = pd.DataFrame({"group": ["one"] * 4 + ["two"] * 4 + ["three"] * 2, "true": ["a"] * 10,
                         "pseudo": ["a"] * 5 + ["b"] * 5, "kept": [True] * 6 + [False] * 4})
    result = birds.assess(rows)
    assert (result.quality, result.quantity, result.groups) == (pytest.approx(5 / 6), 0.6, 2)
    assert (result.low, result.high) == birds.interval(5 / 6, 2)
    assert 0 <= result.low < 5 / 6 < result.high <= 1


@pytest.mark.parametrize(("right", "trials"), [(0, 5), (1, 1), (7, 10), (10, 10), (95, 100)])
def test_interval_is_the_exact_binomial_one(right, trials):
    expected = binomtest(right, trials).proportion_ci(method="exact")
    assert birds.interval(right / trials, trials) == pytest.approx((expected.low, expected.high), abs=1e-9)
