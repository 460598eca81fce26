"""Numbers in README and docs are those of the presets and of the shipped records."""

from __future__ import annotations

from dataclasses import replace

import pytest
from synthetic_records import synthetic_record

from fmuc import experiments, paths
from fmuc.errors import FmucError
from tools import readme, ship


def test_the_answers_name_losses_first():
    accuracies = {"fsdd": (0.5, 0.6, 0.7), "nsynth-gm": (0.5, 0.6, 0.5)}
    rows = ("Labelled part only", "FM", "FMUC")
    records = [synthetic_record(row, [0.8] * 10, [0.5] * 10, seed=seed, dataset=name, test=test + 0.01 * seed,
                                unlabelled=0.7 + 0.1 * (seed == 1) * (row == "FM"))
               for name, values in accuracies.items() for row, test in zip(rows, values, strict=True)
               for seed in range(3)]
    helps, accurate, better, _, *table = readme.answers("mini", records).splitlines()
    assert helps.endswith("On test files: yes on fsdd, nsynth-gm.")
    assert "On test files: no, less on nsynth-gm; yes on fsdd" in accurate
    assert accurate.endswith("On the unlabelled files: undecided on fsdd, nsynth-gm.")
    assert better.endswith("Not compared yet.")  # without scores of the whole pool
    assert "+10.0 [+10.0, +10.0]" in table[2] and "−10.0 [−10.0, −10.0] | –" in " ".join(table[3].split())


def test_the_cost_is_that_of_what_reproduce_trains():
    runs = [*experiments.reproduced("mini")[:2], experiments.make_run("mini", "fsdd", "FM thinned")]
    record = synthetic_record("FM", [0.9], [0.9])
    records = [replace(record, run=run, provenance={"wall_seconds": 3600}) for run in runs]
    text = readme.cost("mini", records)
    assert "trains 2 of mini's 3 runs; the shipped ones of these took 60 minutes on two cores" in text


def test_the_readme_is_short():
    assert len(readme.README.read_text(encoding="utf-8").splitlines()) <= 150


def test_records_are_shipped_whole_or_not_at_all(data_root, monkeypatch):
    monkeypatch.setattr(paths, "SHIPPED_RECORDS", data_root / "records")
    kept = data_root / "records" / "smoke" / "run"
    kept.mkdir(parents=True)
    with pytest.raises(FmucError, match="fsdd-smoke"):  # nothing is trained
        ship.ship_records("smoke")
    assert [path.name for path in (data_root / "records").rglob("*")] == ["smoke", "run"]
