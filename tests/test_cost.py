"""Costs: the formula against counted forward passes, the forecast against a loop; no test depends on a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from fmuc import cost, datasets, experiments, train
from fmuc.config import Training

SMALL = Training(labelled_batch=3, unlabelled_batch=5, supervised_batch=7, iterations_per_epoch=2, epochs=3,
                 warm_start=4)


def small(variant: str):
    run = experiments.make_run("smoke", "nsynth-gm-smoke", variant)
    return replace(run, training=SMALL)


@pytest.mark.parametrize(("variant", "units"), [("FM", 992), ("FMUC", 1888), ("FMUC w/o MC-Dr.", 992),
                                                ("FMUC two thresh.", 1888), ("Fully supervised", 768)])
def test_units_at_the_papers_scale(variant, units):
    assert cost.step_units(experiments.make_run("paper", "nsynth", variant)) == units


@pytest.mark.parametrize("variant", experiments.VARIANTS)
def test_units_are_the_patches_that_pass_through_the_net(variant, monkeypatch):
    """A real step, its forward passes counted: without gradient once, with gradient three times."""
    units, head = [], nn.Linear.forward

    def counting(self: nn.Module, x):
        out = head(self, x)  # the end of every pass, with the modules or without
        units.append(len(x) * (3 if out.requires_grad else 1))
        return out

    monkeypatch.setattr(nn.Linear, "forward", counting)
    run = small(variant)
    net, optimiser = train.build(run, 3, train.pick_device("cpu"))
    net.train()
    generator = train.torch.Generator().manual_seed(0)
    train.step(net, optimiser, cost._random_batch(run, 3, train.pick_device("cpu")), run, generator)
    assert sum(units) == cost.step_units(run)


def test_a_run_adds_the_warm_start_only_where_there_is_one():
    assert cost.run_units(small("FM")) == 6 * (5 + 3 * 8) + 4 * 3 * 7
    assert cost.run_units(small("FMUC")) == 6 * (25 + 3 * 8) + 4 * 3 * 7
    assert cost.run_units(small("Labelled part only")) == 6 * 3 * 7


def test_the_forecast_adds_up_to_the_plan():
    plan = experiments.plan("paper")
    seconds = {name: 0.5 + index for index, name in enumerate(experiments.presets("paper"))}
    table = cost.forecast(plan, seconds)
    assert table["runs"].sum() == len(plan)
    for name, part in table.groupby("data set"):
        mine = [run for run in plan if run.dataset == name]
        assert part["hours"].sum() == pytest.approx(sum(cost.run_units(run) * seconds[name] / 3600 for run in mine))
        assert list(part["variant"]) == list(dict.fromkeys(run.variant for run in mine))


def test_parts_of_a_step_are_measured(trainable, tmp_path):
    run = small("FMUC")
    trainer = train.Trainer(run, datasets.load(run.dataset), tmp_path, "cpu")
    parts = cost.step_parts(trainer, repeats=1)
    assert list(parts.index) == ["read patches", "weak and strong views", "pseudo-labels", "training pass and Adam"]
    assert (parts >= 0).all() and parts["pseudo-labels"] > 0


def test_a_unit_takes_some_time():
    assert cost.seconds_per_unit(small("FM"), 3, "cpu", repeats=1, shrink=2) > 0
    assert cost.seconds_per_unit(small("Fully supervised"), 3, "cpu", repeats=1) > 0
