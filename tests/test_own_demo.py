from __future__ import annotations

import birds
import pandas as pd
import pytest
from scipy.stats import binomtest

from fmuc import datasets
from fmuc.own import importing
from fmuc.own.check import check


def test_the_demonstration_can_be_imported_and_its_planted_faults_are_what_the_check_finds(data_root, tmp_path):
    truth = birds.make(tmp_path / "field", 0, recordings=6, unlabelled=12, strangers=4)
    importing.import_audio(tmp_path / "field", "birds", progress=False)
    data = datasets.load("birds")
    assert data.classes == tuple(birds.SPECIES)
    assert {clip.id for clip in data.clips if clip.label is None} == truth.keys()
    table = pd.read_csv(data_root / "birds" / "clips.csv", keep_default_na=False).drop(columns="id")
    birds.with_faults(table, tmp_path / "field").to_csv(tmp_path / "field" / "faulty.csv", index=False)
    importing.import_audio(tmp_path / "field" / "faulty.csv", "faulty", progress=False)
    clean, faulty = (check(each, workers=1, progress=False) for each in (data, datasets.load("faulty")))
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
