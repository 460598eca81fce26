from __future__ import annotations

import json
import random
import re

import pandas as pd
import pytest

from fmuc import experiments, forecast, gpu_arithmetic, paths, scaling
from fmuc import figures as figure_files
from fmuc.__main__ import main
from fmuc.errors import FmucError
from fmuc.scaling import Overhead, efficiency, simulate

NOTHING = Overhead(0.0, 0.0, 0.0)
SOME = Overhead(serial=0.002, latency=0.01, start=4.0)


def test_a_simulation_by_hand():
    """Two workers: the first run begins after 0.5 + 0.5 s, the second is dispatched after it, the third when the
    second has ended at 3.5 s."""
    assert simulate([1, 3, 2], 2, Overhead(serial=0.5, latency=0.25, start=0.25)) == 3.5 + 0.5 + 0.5 + 1
    assert simulate([1, 3, 2], 1, Overhead(serial=0.5, latency=0.25, start=0.25)) == 3 * 1 + 6
    assert simulate([1, 3], 5, NOTHING) == 3


def test_without_overhead_it_is_the_forecast():
    rng = random.Random(0)
    durations = [rng.uniform(1, 100) for _ in range(500)]
    for workers in (1, 3, 64, 1000):
        assert simulate(durations, workers, NOTHING) == pytest.approx(forecast.elapsed(durations, workers))


def test_the_one_dispatcher_is_the_limit_of_short_runs_and_not_of_long_ones():
    short, long, serial = [0.1] * 10_000, [3600.0] * 10_000, Overhead(0.002, 0.01, 0.0)
    assert simulate(short, 1000, serial) == pytest.approx(10_000 * 0.002, rel=0.01)
    assert simulate(short, 10, serial) == pytest.approx(1000 * 0.112, rel=0.01)  # dispatched while others wait
    assert efficiency(long, 1000, simulate(long, 1000, serial)) > 0.999


def test_efficiency_falls_with_what_a_run_loses():
    durations = [60.0] * 100
    assert efficiency(durations, 10, simulate(durations, 10, NOTHING)) == 1
    seconds = simulate(durations, 1, SOME)
    assert efficiency(durations, 1, seconds) == pytest.approx(60 / (60 + SOME.serial + SOME.latency + SOME.start))


def test_a_large_plan_has_the_run_times_of_the_small_one():
    durations = scaling.many([1.0, 2.0, 4.0], 3000)
    assert len(durations) == 3000 and sum(durations) == 7000


def test_waiting_runs_take_as_long_as_they_wait_and_cost_little(data_root, monkeypatch):
    """Real Dask workers, the batch's own scheduling; what is measured is put into the simulation."""
    for name, value in (("WAIT", 0.05), ("_EMPTY", 40), ("start_seconds", lambda: 4.0)):
        monkeypatch.setattr(scaling, name, value)
    overhead, took = scaling.measure((1, 2), progress=False)
    assert set(took) == {1, 2} and all(seconds > scaling._ROUNDS * 0.05 for seconds in took.values())
    assert 0 < overhead.serial < 1 and overhead.latency >= 0 and overhead.start == 4.0


def test_the_start_of_a_run_is_timed_and_its_failure_is_reported(monkeypatch):
    assert scaling.start_seconds(1) > 0
    monkeypatch.setattr(scaling, "follow", lambda *_: (1, "no memory", ""))
    with pytest.raises(FmucError, match="a run's process failed: no memory"):
        scaling.start_seconds(1)


def test_the_papers_plan_on_gpus():
    """One GPU: the sum; more GPUs than runs: as long as the longest run, however many there are."""
    table = scaling.gpu_table().set_index(["GPU", "GPUs"])
    count = len(experiments.plan("paper"))
    for gpu in gpu_arithmetic.GPUS:
        durations = scaling.paper_seconds(gpu)
        assert len(durations) == count
        one, eight, many = (table.loc[gpu.name, number] for number in (1, 8, 64))
        assert one["hours"] * 3600 == pytest.approx(sum(durations)) and one["efficiency"] == pytest.approx(1)
        assert eight["hours"] * 3600 == pytest.approx(forecast.elapsed(durations, 8)) and eight["limit"] == "work"
        assert many["hours"] * 3600 == pytest.approx(max(durations)) and many["limit"] == "longest run"
        assert many["GPUs used"] == count < 64
        assert many["efficiency"] == pytest.approx(sum(durations) / (64 * max(durations)))


@pytest.fixture
def tables(monkeypatch, tmp_path) -> tuple:
    """Tables of a small simulation, written to a folder of their own."""
    monkeypatch.setattr(paths, "FIGURES", tmp_path)
    monkeypatch.setattr(scaling, "recorded", lambda: (30.0, 60.0, 90.0))
    monkeypatch.setattr(scaling, "RUNS", 1000)
    monkeypatch.setattr(scaling, "SIMULATED", (1, 2, 1000))
    return SOME, scaling.waiting_table(SOME, {1: 5.0, 2: 8.0}), scaling.gpu_table()


def test_tables_say_what_was_measured_and_what_simulated(tables):
    overhead, waiting, gpus = tables
    assert list(waiting["workers"]) == [1, 2, 1000]
    assert list(waiting["waiting, measured"][:2]) == [8 * scaling.WAIT / 5, 16 * scaling.WAIT / (2 * 8)]
    assert pd.isna(waiting["waiting, measured"][2])
    mini = scaling.many((30.0, 60.0, 90.0), 1000)
    assert waiting["mini"][1] == efficiency(mini, 2, simulate(mini, 2, SOME))
    text = scaling.readable(overhead, waiting, gpus)
    assert "2.0 ms of the scheduling process" in text and "10.0 ms until it begins" in text and "4.00 s" in text
    assert f"| {waiting['mini'][2]:.1%}" in text and "| –" in text


def test_both_files_are_written_and_agree(tables, tmp_path):
    scaling.write(*tables)
    frame = pd.read_csv(tmp_path / "scaling.csv").set_index(["runs", "workers"])
    text = (tmp_path / "scaling.md").read_text(encoding="utf-8")
    for value in frame["efficiency"]:
        assert f"{value:.1%}" in text
    assert frame.loc[("the paper's plan, H100 SXM", 64), "hours"] == pytest.approx(tables[2]["hours"][2], rel=1e-5)


def test_nothing_is_written_by_halves(tables, tmp_path, monkeypatch):
    scaling.write(*tables)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(figure_files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        scaling.write(Overhead(1, 1, 1), *tables[1:])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_command_prints_the_tables_or_json(tables, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(scaling, "report", lambda progress: tables)
    assert main(["scale"]) == 0
    assert re.search(r"^\| 1,000 ", capsys.readouterr().out, re.MULTILINE)
    assert main(["scale", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["overhead"] == {"serial": 0.002, "latency": 0.01, "start": 4.0} and len(result["gpus"]) == 6
    assert {path.name for path in tmp_path.iterdir()} == {"scaling.md", "scaling.csv"}


def test_the_readme_shows_what_was_written_last():
    text = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    shown = text.split("<!-- scaling -->\n")[1].split("\n<!-- /scaling -->")[0]
    assert shown == (paths.FIGURES / "scaling.md").read_text(encoding="utf-8").strip()
