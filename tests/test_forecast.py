"""The forecast against hand sums, the measurement against a clock that we hold, the plan's text and tables."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from fmuc import calibration, experiments, forecast, planning
from fmuc.calibration import Speed
from fmuc.config import Training
from fmuc.errors import FmucError
from fmuc.footprint import Extent

TRAINING = Training(labelled_batch=3, unlabelled_batch=5, supervised_batch=7, iterations_per_epoch=10, epochs=5,
                    warm_start=4, evaluate_every=2)
SIZE = Extent(3, {"train": 100, "test": 20}, 4.0, 0)
NAME = "nsynth-gm-smoke"
SPEED = Speed({(NAME, None): 1.0, (NAME, 0): 10.0, (NAME, 5): 100.0}, {NAME: 0.01}, 3.0, 1, "cpu")


def small(variant: str, seed: int = 0):
    run = experiments.make_run("smoke", NAME, variant, seed)
    return replace(run, training=TRAINING, labelled_share=0.25)


@pytest.mark.parametrize(("variant", "seconds"), [
    ("FM", 50 * 10 + 3 * 95 * 0.01), ("FMUC", 50 * 100 + 3 * 95 * 0.01), ("FMUC w/o MC-Dr.", 50 * 10 + 3 * 95 * 0.01),
    ("Labelled part only", 50 + 3 * 95 * 0.01), ("Fully supervised", 50 + 3 * 20 * 0.01),
])
def test_a_run_is_its_steps_and_evaluations(variant, seconds):
    assert forecast.training_seconds(small(variant), SIZE, SPEED) == pytest.approx(seconds)


def test_the_first_run_of_a_seed_makes_the_warm_start_for_all():
    runs = [small("Fully supervised"), small("FMUC"), small("FMUC", 1), small("FM"), small("FM", 1)]
    plain = [forecast.training_seconds(run, SIZE, SPEED) for run in runs]
    seconds = forecast.run_seconds(runs, {NAME: SIZE}, SPEED, start=False)
    assert np.subtract(seconds, plain) == pytest.approx([0, 4, 4, 0, 0])
    assert forecast.run_seconds(runs, {NAME: SIZE}, SPEED)[1] == pytest.approx(seconds[1] + 3 + 0.95)
    shared = replace(SPEED, shares_start=True)
    assert forecast.run_seconds(runs, {NAME: SIZE}, shared)[1] == pytest.approx(seconds[1] + 0.95)


@pytest.mark.parametrize(("workers", "end"), [(1, 14), (2, 8), (3, 6), (9, 6)])
def test_workers_take_the_longest_run_that_is_left(workers, end):
    assert forecast.elapsed([1, 2, 6, 3, 2], workers) == (7 if workers == 2 else end)


@pytest.mark.parametrize(("shared", "end"), [(False, 8), (True, 8 + 3)])
def test_a_start_that_runs_share_is_waited_for_once(shared, end):
    speed = replace(SPEED, shares_start=shared)
    assert forecast.until_the_end([1, 2, 6, 3, 2, 2], 2, speed) == end
    assert forecast.until_the_end([], 2, speed) == 0


def test_kinds_are_what_a_step_depends_on():
    runs = [replace(run, training=TRAINING) for run in experiments.plan("smoke", NAME)]
    assert set(calibration.kinds(runs)) == set(SPEED.steps)
    assert set(calibration.kinds([small("FM")])) == {(NAME, 0), (NAME, None)}  # the warm start
    assert set(calibration.kinds([replace(small("FM"), training=replace(TRAINING, warm_start=0))])) == {(NAME, 0)}


@pytest.mark.parametrize("variant", ["FMUC", "FM", "Labelled part only"])
def test_a_dry_run_learns_from_a_part_of_the_batch(variant, monkeypatch):
    sizes, step = [], calibration.train.step
    monkeypatch.setattr(calibration.train, "step", lambda net, optimiser, batch, *rest: sizes.append(
        [len(part) for part in (batch.labelled, batch.unlabelled) if part is not None]) or step(
            net, optimiser, batch, *rest))
    run = replace(small(variant), training=replace(TRAINING, labelled_batch=4, unlabelled_batch=12,
                                                   supervised_batch=20))
    dry = calibration.DryRun(run, 3, torch.device("cpu"), shrink=2)
    before = [p.clone() for p in dry.net.parameters()]
    dry.step()
    dry.predict()
    assert sizes == [[2, 6] if run.selection else [10]]
    assert not any(torch.equal(p, old) for p, old in zip(dry.net.parameters(), before, strict=True))


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the job moves: its first two calls take long."""
    state = {"now": 0.0, "calls": 0}
    monkeypatch.setattr(calibration.time, "perf_counter", lambda: state["now"])

    def job() -> None:
        state["calls"] += 1
        state["now"] += 50 if state["calls"] <= 2 else 9 if state["calls"] == 4 else 1

    return job, state


@pytest.mark.parametrize(("budget", "calls"), [(0, 2 + 3), (20, 2 + 12)])
def test_seconds_are_the_median_of_the_calls_within_the_budget(clock, budget, calls):
    job, state = clock
    assert calibration.seconds_of(job, budget) == 1 and state["calls"] == calls


@pytest.mark.parametrize(("eighth", "shrink"), [(0.01, 1), (0.1, 2), (0.2, 4), (9.0, 8)])
def test_a_long_step_is_timed_on_a_part_of_its_batch(eighth, shrink, monkeypatch):
    made = []

    class Fake:
        patches = 10

        def __init__(self, run, classes, device, *, shrink):
            made.append(shrink)
            self.step, self.predict = ("step", shrink), ("predict", shrink)

    monkeypatch.setattr(calibration, "DryRun", Fake)
    monkeypatch.setattr(calibration, "seconds_of",
                        lambda job, *_, **__: 0.5 if job[0] == "predict" else eighth * 8 / job[1])
    assert calibration._timed(small("FM"), 3, torch.device("cpu"), 1.0) == (pytest.approx(8 * eighth), 0.05)
    assert made == [8, shrink]


def test_two_processes_measure_at_once():
    runs = [replace(small("FM"), training=replace(TRAINING, warm_start=0))]
    speed = calibration.measure(runs, {NAME: 3}, device="cpu", workers=2, seconds=0.01, progress=False)
    assert speed.workers == 2 and speed.device == "cpu" and set(speed.steps) == {(NAME, 0)}
    assert min(speed.steps[NAME, 0], speed.patches[NAME], speed.start) > 0


def test_a_measurement_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(calibration.schedule, "environment", lambda *_: {**os.environ, "PYTHONPATH": "/nowhere",
                                                                         "PYTHONHASHSEED": "no number"})
    with pytest.raises(FmucError, match="the measurement of a step failed: .+"):
        calibration.measure([small("FM")], {NAME: 3}, device="cpu", workers=1, progress=False)
    with pytest.raises(FmucError, match="--workers must be at least 1, not 0"):
        calibration.measure([small("FM")], {NAME: 3}, device="cpu", workers=0)


# The plan


@pytest.fixture
def measured(monkeypatch):
    """Steps of known length in place of a measurement."""
    def measure(runs, classes, **options):
        kinds = calibration.kinds(runs)
        return Speed(dict.fromkeys(kinds, 0.5), dict.fromkeys(classes, 0.0), 0.0, options["workers"], "cpu")

    monkeypatch.setattr(calibration, "measure", measure)


@pytest.mark.parametrize("profile", ["smoke", "mini", "paper"])
def test_the_plan_is_readable_in_100_columns_without_any_data(profile, data_root, measured):
    text = planning.readable(planning.make(profile, workers=2))
    assert max(len(line) for line in text.splitlines()) <= 100
    for name in experiments.presets(profile):
        assert text.count(name) > 10
    assert "not measured" in text and "for all runs" in text and "nan" not in text


def test_the_tables_add_up(data_root, measured):
    plan = planning.make("paper", workers=1)
    runs = experiments.plan("paper")
    steps = sum(run.training.epochs * run.training.iterations_per_epoch for run in runs)
    assert plan.variants["runs"].sum() == len(runs) == len(plan.runs) and plan.variants["steps"].sum() == steps
    assert plan.variants["hours"].sum() == pytest.approx(steps * 0.5 / 3600)
    assert forecast.elapsed(plan.left, 1) == pytest.approx(steps * 0.5)
    assert (plan.hours["both"] < plan.hours["Table I"] + plan.hours["Table II"]).all()
    assert (plan.hours["both"] > plan.hours["Table II"]).all()


def test_everything_is_in_the_json(data_root, measured):
    content = json.loads(json.dumps(planning.make("smoke", workers=2).asdict()))
    assert set(content) == {"profile", "workers", "runs", "variants", "memory", "disk", "gpu_steps", "gpu_hours",
                            "measured", "gpu_assumptions"}
    assert content["measured"]["hours"] == pytest.approx(content["measured"]["hours_left"])
    assert json.loads(json.dumps(planning.make("smoke", measured=False).asdict()))["measured"] is None


def test_a_run_that_is_finished_is_not_left(data_root, measured, monkeypatch):
    monkeypatch.setattr(planning.schedule, "missing", lambda runs, _: runs[1:])
    plan = planning.make("smoke", workers=1)
    assert plan.runs[0]["finished"] and len(plan.left) == len(plan.seconds) - 1 == len(plan.runs) - 1
    assert plan.variants["done"].sum() == 1


@pytest.mark.parametrize(("seconds", "text"), [(30, "30 s"), (600, "10.0 min"), (9000, "2.5 h"), (432000, "5.0 days")])
def test_durations_in_words(seconds, text):
    assert planning.duration(seconds) == text
