from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from fmuc.experiments import (
    ENSEMBLE,
    EQUAL_QUANTITY,
    PROFILES,
    STUDIED,
    TABLE_1,
    TABLE_2,
    VARIANTS,
    make_run,
    plan,
    preset,
    presets,
    reproduced,
)
from fmuc.selection import ADAPTIVE

# §V-A and Table I: rule, threshold, threshold of the standard deviation, temperature, passes
ROWS = {
    "FM": ("confidence", 0.95, None, 1, 0),
    "FM thresh. 0.99": ("confidence", 0.99, None, 1, 0),
    "FMUC": ("mean_minus_std", 0.9, None, 2, 5),
    "FMUC thresh. 0.95": ("mean_minus_std", 0.95, None, 2, 5),
    "FMUC two thresh.": ("two_thresholds", 0.7, 0.05, 2, 5),
    "FMUC w/o temp.": ("mean_minus_std", 0.9, None, 1, 5),
    "FMUC w. temp. 4": ("mean_minus_std", 0.9, None, 4, 5),
    "FMUC w/o MC-Dr.": ("mean_minus_std", 0.9, None, 2, 0),
}
EVERY_PRESET = [(profile, name) for profile, sets in PROFILES.items() for name in sets]


def test_the_eight_rows_have_the_papers_settings_in_the_papers_order():
    ours = {name: (s.rule, s.threshold, s.std_threshold, s.temperature, s.passes) for name, s in TABLE_1.items()}
    assert ours == ROWS and list(ours) == list(ROWS)
    assert {(s.batch_norm, s.score) for s in TABLE_1.values()} == {("running", "argmax_of_mean")}


def test_the_paper_profile_trains_as_the_paper_does():
    for name, epochs, share in (("nsynth", 200, 0.01), ("tut2017", 100, 0.05)):
        p = preset("paper", name)
        t = p.training
        assert (t.labelled_batch, t.unlabelled_batch, t.learning_rate) == (32, 224, 1e-3)
        assert (t.iterations_per_epoch, t.epochs, p.table_2_epochs, t.warm_start) == (500, epochs, 2 * epochs, 0)
        assert (p.labelled_share, len(p.seeds), p.network.dropout) == (share, 3, 0.1)


@pytest.mark.parametrize(("profile", "name"), EVERY_PRESET)
def test_the_rows_differ_in_nothing_but_the_selection_and_the_baselines_have_none(profile, name):
    """And in the length of the training, where a row belongs to Table II as well."""
    runs = [make_run(profile, name, row) for row in TABLE_1]
    assert {run.variant for run in runs if run.training.scored_passes} == {"FM", "FMUC"}
    training, factor = preset(profile, name).training, preset(profile, name).table_2_factor
    assert {run.variant: run.selection for run in runs} == TABLE_1
    assert len({replace(run, variant="", selection=None, training=training).id for run in runs}) == 1
    for run in runs:
        epochs = training.epochs * (factor if run.variant in TABLE_2 else 1)
        assert replace(run.training, scored_passes=0) == replace(training, epochs=epochs)
    fm, part, full = (make_run(profile, name, row) for row in ("FM", "Labelled part only", "Fully supervised"))
    unscored = replace(fm.training, scored_passes=0)
    assert part == replace(fm, variant=part.variant, selection=None, training=unscored)
    assert full == replace(part, variant=full.variant, labels="all")


def test_mini_has_every_row_with_five_seeds_and_reproduces_both_tables_with_fewer():
    for name in presets("mini"):
        runs, quick = plan("mini", name), reproduced("mini", name)
        assert len({run.id for run in runs}) == len({run.name for run in runs}) == len(runs)
        expected = (*VARIANTS, *EQUAL_QUANTITY) if name in STUDIED else VARIANTS
        assert Counter(run.variant for run in runs) == dict.fromkeys(expected, 5)
        assert {run.seed for run in runs} == {0, 1, 2, 3, 4}
        assert Counter(run.variant for run in quick) == {row: 2 if row in TABLE_2 else 1 for row in VARIANTS}
        assert {*quick} < {*runs}
    assert plan("mini") == [run for name in presets("mini") for run in plan("mini", name)]
    assert all(reproduced(profile) == plan(profile) for profile in PROFILES if profile != "mini")


def test_the_studies_vary_one_thing_at_a_time():
    base = make_run("beyond", "fsdd", "FM")
    for run in plan("beyond", "fsdd"):
        same = replace(run, variant=base.variant, seed=0, selection=base.selection, training=base.training,
                       outside=None, split_seed=None, labelled_share=base.labelled_share)
        assert same == base
        changed = [run.outside is not None, run.split_seed is not None, "labels" in run.variant,
                   run.selection is not None and run.selection.rule in ADAPTIVE]
        assert sum(changed) == 1
    members = [run for run in plan("beyond", "fsdd") if run.variant == ENSEMBLE]
    assert Counter(run.split_seed for run in members) == {0: 5, 1: 5, 2: 5}
    assert [run.training.epochs for run in plan("long", "fsdd")] == [200] * 15  # 10 x the 20 of Table I
