from __future__ import annotations

import random
import statistics
from dataclasses import replace

import pandas as pd
import pytest
from synthetic_records import synthetic_record

from benchmarks import precision
from fmuc import parallel as schedule
from fmuc import paths
from fmuc.errors import FmucError


def records(precisely: str, shift: float) -> list:
    rows = [synthetic_record(variant, [0.8 + shift], [0.9], seed=seed, test=0.4 + 0.02 * seed + shift, unlabelled=0.7)
            for variant in ("FM", "FMUC", "FM thresh. 0.99") for seed in (0, 1, 2)]
    return [replace(row, provenance=row.provenance | {"precision": precisely}) for row in rows]


@pytest.fixture
def trained(monkeypatch) -> list:
    """The runs that were asked for; the float32 records are a little better than those of bfloat16."""
    asked = []
    low, high = records("bfloat16", 0.0), {precision.in_float32(r.run).name: r for r in records("float32", 0.01)}
    monkeypatch.setattr(precision, "load_all", lambda profile, source, dataset: low)
    monkeypatch.setattr(precision, "load_record", lambda folder: high[folder.name])
    monkeypatch.setattr(schedule, "train_plan", lambda runs, *_, **__: asked.extend(runs) or [])
    return asked


def test_rows_of_table_2_are_trained_in_float32_and_compared(trained):
    frame = precision.compare("mini", "nsynth-gm")
    assert {(run.variant, run.seed, run.training.precision) for run in trained} == {
        (variant, seed, "float32") for variant in ("FM", "FMUC") for seed in (0, 1, 2)}
    test = frame.loc["FM", "accuracy, test files"]
    assert test["float32"] - test["bfloat16"] == pytest.approx(test["difference"]) == pytest.approx(1)
    assert test["std_bfloat16"] == pytest.approx(2) and test["seeds"] == 3 and test["within"]
    quality = frame.loc["FMUC", "quality"]  # equal in all seeds: any difference is more than none
    assert quality["std_float32"] == pytest.approx(0, abs=1e-9) and not quality["within"]
    assert frame.loc["FM", "quantity"]["difference"] == 0 and frame.loc["FM", "quantity"]["within"]


def test_the_comparison_is_written_with_its_verdict(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "FIGURES", tmp_path)
    frame = precision.compare("mini", "nsynth-gm")
    csv, markdown = precision.write(frame, "nsynth-gm")
    read = pd.read_csv(csv, index_col=["variant", "metric"])
    pd.testing.assert_frame_equal(read, frame, rtol=1e-3, check_dtype=False)
    text = markdown.read_text(encoding="utf-8")
    assert f"{frame['within'].sum()} of 8 means" in text and "42.0 ± 2.0" in text and "43.0 ± 2.0" in text
    assert "+1.0" in text and "| yes" in text and "| no" in text
    assert "1.7 of them would be expected to differ by more" in text  # 8 times 21 %


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_so_many_means_would_be_outside_by_chance(seeds):
    draw, outside = random.Random(1), 0
    for _ in range(20_000):
        one, two = ([draw.gauss(7, 3) for _ in range(seeds)] for _ in range(2))  # whatever mean and deviation
        allowed = max(statistics.stdev(one), statistics.stdev(two))
        outside += abs(statistics.mean(one) - statistics.mean(two)) > allowed
    assert precision.expected_outside(seeds) == pytest.approx(outside / 20_000, abs=0.012)  # 3 standard errors


def test_runs_that_were_not_in_bfloat16_and_failures_are_errors(trained, monkeypatch):
    monkeypatch.setattr(schedule, "train_plan", lambda *_, **__: [schedule.Failure("one", "out of memory")])
    with pytest.raises(FmucError, match="run one failed: out of memory"):
        precision.compare("mini", "nsynth-gm")
    monkeypatch.setattr(precision, "load_all", lambda *_: records("float32", 0.0))
    with pytest.raises(FmucError, match="trained in float32: this machine has no fast bfloat16"):
        precision.compare("mini", "nsynth-gm")
