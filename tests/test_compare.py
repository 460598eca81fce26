"""Yours beside the shipped runs and the paper, on fabricated records (see ``synthetic_records``)."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from synthetic_records import synthetic_plan, synthetic_record, with_pool, without_truth

from fmuc import compare, experiments
from fmuc.errors import FmucError

NAME = "nsynth-gm"


@pytest.fixture(scope="module")
def whole_plan():
    return synthetic_plan(NAME)


@pytest.fixture
def stored(monkeypatch):
    """Let ``compare`` find these records instead of those in the folders."""
    def use(**sources):
        monkeypatch.setattr(compare, "available", lambda profile, source, dataset: sources.get(source, []))

    return use


def row_of(result, metric, variant):
    return next(row for row in result["numbers"] if (row["metric"], row["variant"]) == (metric, variant))


def test_compare_sets_yours_beside_the_shipped_ones_and_the_paper(stored):
    shipped = [synthetic_record("FM", [0.8] * 40, [0.9] * 40, seed=seed, test=test, unlabelled=0.7)
               for seed, test in enumerate((0.60, 0.61, 0.62))]
    shipped.append(synthetic_record("FMUC w. temp. 4", [0.9] * 20, [0.3] * 20))
    yours = [synthetic_record("FM", [0.8] * 40, [0.5] * 40, seed=seed, test=test, unlabelled=0.7)
             for seed, test in enumerate((0.61, 0.62, 0.63))]
    yours += [synthetic_record("FMUC w. temp. 4", [0.8] * 20, [0.3] * 20)]
    yours.append(replace(yours[0], run=replace(yours[0].run, variant="my rule")))
    stored(shipped=shipped, runs=yours)
    comparison = json.loads(json.dumps(compare.compare("mini")))
    result = comparison["data sets"][NAME]
    assert result["runs"] == {"shipped": 4, "yours": 5}
    test = row_of(result, "test", "FM")
    half = 4.302653 * 1.0 * math.sqrt(2 / 3)  # t with 2 degrees of freedom, three seeds beside three
    assert (test["low"], test["high"]) == pytest.approx((61 - half, 61 + half), abs=1e-3)
    assert (test["paper"], test["shipped_mean"], test["yours_mean"], test["verdict"]) == (71.0, 61.0, 62.0, "within")
    assert row_of(result, "quality", "FM")["verdict"] == "equal"
    assert row_of(result, "quantity", "FM")["verdict"] == "outside"  # equal in all shipped seeds
    assert row_of(result, "quality", "FMUC w. temp. 4")["verdict"] == "one seed"
    assert row_of(result, "quality", "my rule")["shipped_mean"] is None
    text = compare.as_text(comparison)
    for part in ("nsynth-gm (stand-in) | paper: NSynth", "62.0 ± 1.0 (n=3)", "within", "my rule", "95 % prediction"):
        assert part in text
    assert "nan" not in text


@pytest.mark.parametrize(("source", "said"), [("shipped", "30 shipped, 0 yours"), ("runs", "0 shipped, 30 yours")])
def test_compare_with_one_side_only(stored, whole_plan, source, said):
    stored(**{source: whole_plan})
    text = compare.as_text(compare.compare("mini"))
    assert said in text and "nan" not in text and "in spread?  " not in text
    assert "contradicted" not in text.split("± is")[0]


def test_several_data_sets_fit_into_120_columns_and_are_summed_up(stored, whole_plan):
    records = [with_pool(r, 0.5) if r.run.variant in ("FM", "FMUC") else r for r in whole_plan]
    records += [replace(r, run=replace(r.run, dataset="fsdd")) for r in records]
    stored(shipped=records, runs=records)
    text = compare.as_text(json.loads(json.dumps(compare.compare("mini"))))
    assert max(map(len, text.splitlines())) <= 120
    fsdd, gm = text.split("nsynth-gm (stand-in) | paper: NSynth\n", 1)
    assert fsdd.startswith("FSDD (real recordings; not in the paper)\nRuns: 30 shipped, 30 yours")
    assert "78.4" not in fsdd and "78.4" in gm  # the paper's FM
    assert " ".join(text.split()).count("FMUC's rule is") == 4  # of each data set, shipped and yours
    assert "FMUC better, probability" in gm and "100.0 [100.0, 100.0]" in gm


def test_compare_without_any_record_names_the_remedy(stored):
    stored()
    with pytest.raises(FmucError, match="of nsynth-gm, neither shipped nor yours.*train --profile mini"):
        compare.compare("mini", NAME)


def test_rows_that_kept_nothing_support_no_claim_and_break_nothing(stored, whole_plan):
    stored(runs=[replace(record, kept=np.zeros_like(record.kept)) for record in whole_plan])
    result = compare.compare("mini")["data sets"][NAME]
    assert all(row["yours_mean"] is None for row in result["numbers"] if row["metric"] == "quality")
    by_key = {claim["key"]: claim["verdict"] for claim in result["claims"]["yours"]}
    assert (by_key["quality_every_third"], by_key["temperature_4"]) == ("not decidable", "contradicted")  # as few


def test_compare_of_your_own_audio_has_no_number_of_the_paper(stored, whole_plan, monkeypatch):
    preset = replace(experiments.preset("mini", "scenes-sim"), dataset="birds")
    monkeypatch.setattr(compare, "chosen", lambda profile, dataset: {"birds": preset})
    stored(runs=[without_truth(replace(record, run=replace(record.run, dataset="birds")), {10: (0.72, 0.55)})
                 for record in whole_plan])
    result = json.loads(json.dumps(compare.compare("mini", dataset="birds")))
    assert all(row["paper"] is None for row in result["data sets"]["birds"]["numbers"])
    text = compare.as_text(result)
    assert "unknown" in text and "validation files" in text and "nan" not in text
