from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from fmuc.errors import FmucError
from fmuc.experiments import PROFILES, TABLE_1, TABLE_2, VARIANTS, make_run, plan, preset, presets, run_units

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
def test_the_rows_differ_in_nothing_but_the_selection(profile, name):
    """And in the length of the training, where a row belongs to Table II as well."""
    runs = [make_run(profile, name, row) for row in TABLE_1]
    training, factor = preset(profile, name).training, preset(profile, name).table_2_factor
    assert {run.variant: run.selection for run in runs} == TABLE_1
    assert len({replace(run, variant="", selection=None, training=training).id for run in runs}) == 1
    for run in runs:
        epochs = training.epochs * (factor if run.variant in TABLE_2 else 1)
        assert run.training == replace(training, epochs=epochs)


@pytest.mark.parametrize(("profile", "name"), EVERY_PRESET)
def test_the_baselines_have_no_pseudo_labels(profile, name):
    fm, part, full = (make_run(profile, name, row) for row in ("FM", "Labelled part only", "Fully supervised"))
    assert part == replace(fm, variant=part.variant, selection=None)
    assert full == replace(part, variant=full.variant, labels="all")


def test_the_plan_of_mini_is_each_row_once_and_the_rows_of_table_2_three_times():
    for name in presets("mini"):
        runs = plan("mini", name)
        assert len(runs) == 18 == len({run.id for run in runs}) == len({run.name for run in runs})
        assert Counter(run.variant for run in runs) == {
            row: 3 if row in ("FM", "FMUC", "Labelled part only", "Fully supervised") else 1 for row in VARIANTS}
        assert {run.seed for run in runs if run.variant not in TABLE_2} == {0}
        assert {run.seed for run in runs if run.variant in TABLE_2} == {0, 1, 2}
    assert plan("mini") == [run for name in presets("mini") for run in plan("mini", name)]


@pytest.mark.parametrize(("call", "named"), [
    (lambda: plan("maxi"), "maxi.*smoke, mini, paper"),
    (lambda: plan("mini", "esc50"), "esc50.*nsynth-gm"),
    (lambda: make_run("mini", "nsynth-gm", "FlexMatch"), "FlexMatch.*FMUC two thresh."),
])
def test_unknown_names_are_refused_with_the_known_ones(call, named):
    with pytest.raises(FmucError, match=named) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("variant", "steps", "units"), [
    ("FM", 40, 112 + 3 * 128), ("FMUC", 40, 5 * 112 + 3 * 128), ("FMUC w/o MC-Dr.", 20, 112 + 3 * 128),
    ("Labelled part only", 40, 3 * 32),
])
def test_work_is_counted_in_forward_passes_of_one_patch(variant, steps, units):
    """20 epochs of 48 steps, twice as many in Table II; 4,000 supervised steps before rows with pseudo-labels."""
    warm_start = 0 if variant == "Labelled part only" else 4000 * 3 * 32
    assert run_units(make_run("mini", "nsynth-gm", variant)) == steps * 48 * units + warm_start
