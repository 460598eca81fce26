"""The paper's confusions beside ours, and what simulated scenes decide beforehand, against slow loops."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from synthetic_records import SCENES

from fmuc import analysis as confusions
from fmuc import datasets as tut2017
from fmuc import paths
from fmuc.standins import scene_places

KEPT = np.zeros((16, 15), dtype=int)  # kept pseudo-labels of scenes; the last row: of unknown class
INDEX = {name: i for i, name in enumerate(SCENES)}


def counts(cells):
    kept = KEPT.copy()
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
    table = confusions.named_confusions(fm, fmuc, SCENES, "scenes-sim").set_index(["true", "pseudo-label"])
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
    assert confusions.named_confusions(fm, fm, SCENES, dataset).empty


def test_pairs_are_counted_in_both_directions(fm):
    shares = confusions.pair_confusions(fm, SCENES)
    assert len(shares) == 105
    for one, other in combinations(SCENES, 2):
        i, j = INDEX[one], INDEX[other]
        both = fm[i, :].sum() + fm[j, :].sum()
        expected = 100 * (fm[i, j] + fm[j, i]) / both if both else np.nan
        assert shares[one, other] == pytest.approx(expected, nan_ok=True)


def test_overlap_of_sources():
    table = confusions.shared_sources({"a": ["wind", "birds"], "b": ["birds", "wind", "dog"], "c": ["engine", "dog"]})
    assert list(table.index) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert list(table["in common"]) == ["wind, birds", "", "dog"]
    assert list(table["overlap"]) == pytest.approx([200 / 3, 0, 25])
    assert list(table["place"]) == [1, 3, 2]


def test_recipes_and_the_papers_pairs_have_the_same_classes():
    recipes = confusions.shared_sources({name: scene.sources for name, scene in scene_places.SCENES.items()})
    assert {name for pair in recipes.index for name in pair} == set(tut2017.LABELS) == set(SCENES)
    for row in pd.read_csv(paths.PUBLISHED / "fig3.csv").itertuples():
        assert recipes.loc[tuple(sorted((row.true, row.pseudo_label))), "in common"]
