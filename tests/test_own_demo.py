from __future__ import annotations

import shutil
from pathlib import Path

import birds
import numpy as np
import pandas as pd
import pytest
import soundfile
from scipy.stats import binomtest

from fmuc import datasets
from fmuc.own import importing
from fmuc.own.check import check

SMALL = {"recordings": 6, "unlabelled": 12, "strangers": 4}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("demo") / "field"
    return folder, birds.make(folder, 0, **SMALL)


def sounds(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix in (".wav", ".flac", ".ogg"))


def test_the_same_seed_makes_the_same_sounds_and_another_one_others(made, tmp_path):
    folder, truth = made
    assert birds.make(tmp_path / "again", 0, **SMALL) == truth
    assert birds.make(tmp_path / "other", 1, **SMALL) != truth
    again = sounds(tmp_path / "again")
    assert [file.relative_to(tmp_path / "again") for file in again] == [f.relative_to(folder) for f in sounds(folder)]
    assert all(np.array_equal(soundfile.read(one)[0], soundfile.read(two)[0])
               for one, two in zip(again, sounds(folder), strict=True))


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
