"""What notebooks compute beside the tables, against slow loops; records are fabricated."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from synthetic_records import synthetic_record

from fmuc import analysis, metrics, paths, tables
from fmuc.datasets import LABELS as SCENES

NAME = "nsynth-gm"
KEPT = np.array([[8, 2, 0], [1, 6, 3], [0, 0, 0], [4, 4, 4]])  # third class: nothing kept; last row: unknown class
SEEN = np.array([20, 10, 5, 50])


def test_outcomes_are_shares_of_all_offered_of_known_class():
    shares = analysis.outcomes(KEPT, SEEN)
    assert shares.to_dict() == pytest.approx({"kept, right": 100 * 14 / 35, "kept, wrong": 100 * 6 / 35,
                                              "left out": 100 * 15 / 35})
    assert analysis.outcomes(np.zeros((4, 3), int), np.zeros(4, int)).isna().all()


def test_top_confusions_by_share_of_the_true_class():
    table = analysis.top_confusions(KEPT, ["x", "y", "z"])
    assert table.to_dict("list") == {"true": ["y", "x", "y"], "pseudo-label": ["z", "y", "x"], "wrong": [3, 2, 1],
                                     "kept": [10, 10, 10], "share": [30.0, 20.0, 10.0]}
    assert analysis.top_confusions(0 * KEPT, ["x", "y", "z"]).empty


def test_surviving_mistakes_of_the_second_method():
    second = np.array([[4, 1, 0], [0, 6, 0], [0, 0, 2], [9, 9, 9]])
    table = analysis.surviving_mistakes(KEPT, second, ["x", "y", "z"], 2)
    assert list(table["true → pseudo-label"]) == ["y → z", "x → y", "all mistakes", "right ones"]
    assert list(table["FM"]) == [3, 2, 6, 14]
    assert list(table["FMUC"]) == [0, 1, 1, 12]
    assert list(table["FMUC keeps (%)"]) == pytest.approx([0, 50, 100 / 6, 100 * 12 / 14])
    nothing = analysis.surviving_mistakes(0 * KEPT, second, ["x", "y", "z"])
    assert list(nothing["FMUC"]) == [1, 12] and nothing["FMUC keeps (%)"].isna().all()


def test_concentration_of_errors():
    share, chance = analysis.error_concentration(KEPT, 2)
    assert share == pytest.approx(100 * 5 / 6)
    # six mistakes at random on six cells: the two fullest hold more than a third, by every one of the 6**6 outcomes
    outcomes = [np.bincount(cells, minlength=6) for cells in itertools.product(range(6), repeat=6)]
    assert chance == pytest.approx(100 * np.mean([np.sort(cells)[-2:].sum() / 6 for cells in outcomes]), abs=1)
    assert np.isnan(analysis.error_concentration(np.zeros((4, 3), int))).all()


def test_class_rates_against_loops():
    table = analysis.class_rates(KEPT, SEEN, ["x", "y", "z"])
    assert list(table["offered"]) == [20, 10, 5]
    assert list(table["kept"]) == [10, 10, 0]
    assert list(table["quantity"]) == pytest.approx([50, 100, 0])
    assert list(table["quality"]) == pytest.approx([80, 60, np.nan], nan_ok=True)
    assert list(table["precision"]) == pytest.approx([100 * 8 / 9, 75, 0])


def evaluated(variant, seed, values):
    record = synthetic_record(variant, [0.8] * len(values), [0.5] * len(values), seed=seed)
    record.history["test_accuracy"] = values
    return record


def test_accuracy_gap_on_common_steps_and_seeds():
    nan = np.nan
    records = [evaluated("FMUC", 0, [nan, 0.5, nan, 0.7]), evaluated("FM", 0, [nan, 0.6, nan, 0.6]),
               evaluated("FMUC", 1, [nan, 0.4, nan, 0.5]), evaluated("FM", 1, [nan, 0.4, nan, 0.3]),
               evaluated("FMUC", 2, [nan, 0.4, nan, 0.5])]
    gap = analysis.accuracy_gap(records, NAME, "test")
    steps = records[0].run.training.iterations_per_epoch
    assert list(gap.index) == [2 * steps, 4 * steps] and list(gap.columns) == [0, 1]
    np.testing.assert_allclose(gap, [[-10, 0], [0, 10]], atol=1e-9)  # the second: means of both evaluations
    assert analysis.accuracy_gap(records[:1], NAME, "test").empty
    assert analysis.accuracy_gap(records, NAME, "test", "FM thresh. 0.999", "FM").empty


def test_an_accuracy_is_the_mean_of_the_last_ten_evaluations():
    accuracies = np.linspace(0.3, 0.7, 15)
    rows = {"FMUC": accuracies, "FM": accuracies / 2}
    records = [evaluated(variant, 0, list(values)) for variant, values in rows.items()]
    assert analysis.accuracy_gap(records, NAME, "test").iloc[-1, 0] == pytest.approx(50 * accuracies[5:].mean())
    row = tables.measured(records, NAME).loc[("FMUC", 0)]
    assert (row["test"], row["test_last"]) == pytest.approx((100 * accuracies[5:].mean(), 70))
    assert tables.measured(records, NAME, 4).loc[("FMUC", 0), "test"] == pytest.approx(100 * accuracies[:4].mean())


def test_calibration_is_that_of_the_files_of_known_class():
    rng = np.random.default_rng(3)
    probabilities, labels = rng.dirichlet(np.full(11, 0.3), 200).astype(np.float16), rng.integers(-1, 11, 200)
    files = {"test_probabilities": probabilities, "test_labels": labels,
             "unlabelled_probabilities": probabilities[:0], "unlabelled_labels": labels[:0]}
    table = analysis.calibration([replace(synthetic_record("FM", [0.8], [0.5]), files=files)], NAME)
    known = [(float(p.max()), int(p.argmax()) == y) for p, y in zip(probabilities, labels, strict=True) if y >= 0]
    confidence, correct = map(np.array, zip(*known, strict=True))
    values = correct.mean(), confidence.mean(), metrics.expected_calibration_error(confidence, correct)
    (row,) = table.to_numpy().tolist()
    assert row[:3] == ["test", "FM", 0] and row[3:] == pytest.approx([100 * value for value in values])


# --- the paper's confusions beside ours ---

NOTHING = np.zeros((16, 15), dtype=int)  # kept pseudo-labels of scenes; the last row: of unknown class
INDEX = {name: i for i, name in enumerate(SCENES)}


def counts(cells):
    kept = NOTHING.copy()
    for (true, pseudo), number in cells.items():
        kept[INDEX[true], INDEX[pseudo]] = number
    kept[-1] = 100  # must not count
    return kept


@pytest.fixture
def fm():
    return counts({("forest_path", "forest_path"): 60, ("forest_path", "park"): 20, ("train", "train"): 9,
                   ("train", "tram"): 1, ("park", "park"): 1, ("park", "beach"): 1})


def test_named_confusions_stand_beside_the_papers(fm):
    fmuc = counts({("forest_path", "park"): 1, ("forest_path", "forest_path"): 3})
    table = analysis.named_confusions(fm, fmuc, SCENES, "scenes-sim").set_index(["true", "pseudo-label"])
    published = pd.read_csv(paths.PUBLISHED / "fig3.csv").set_index(["true", "pseudo_label"])["share"]
    assert table["paper, FM"].to_dict() == published.to_dict()
    forest, shop, train = (table.loc[pair] for pair in (("forest_path", "park"), ("grocery_store", "cafe/restaurant"),
                                                        ("train", "bus")))
    assert (forest["ours, FM"], forest["ours, FMUC"], forest["wrong"], forest["kept"]) == (25, 25, 20, 80)
    assert forest["place"] == 2  # half of the park's are wrong
    assert pd.isna(shop["ours, FM"]) and shop["kept"] == 0 and pd.isna(shop["place"])  # nothing kept
    assert (train["ours, FM"], train["kept"]) == (0, 10) and pd.isna(train["place"])  # never made
    assert pd.isna(train["ours, FMUC"])


@pytest.mark.parametrize("dataset", ["nsynth-gm", "birds"])
def test_other_data_sets_have_none_of_the_papers_confusions(fm, dataset):
    assert analysis.named_confusions(fm, fm, SCENES, dataset).empty
