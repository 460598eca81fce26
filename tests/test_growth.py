"""Rows and picture of how cost grows; the measurement itself with small numbers; no test depends on a time."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmarks import jobs as bench_jobs
from fmuc import cost_plots, growth, paths, train
from fmuc.errors import FmucError


@pytest.fixture
def small(monkeypatch, data_root):
    """Few clips, passes and runs, and shortest measurements."""
    monkeypatch.setattr(growth, "seconds_of", lambda job, *_: job() or 0.5)
    monkeypatch.setattr(growth, "PASSES", (1, 2, 3))
    monkeypatch.setattr(growth, "PART", 64)


def tidy(rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=growth.COLUMNS)


def test_time_with_clips_is_a_line_through_the_last_point(small):
    frame = tidy(growth._line("work", {10: 1.0, 100: 30.0}.get, (10, 100), 1))
    model = frame[frame["source"] == "model"]
    assert (model["value"] / model["number"]).round(9).unique() == [0.3]
    assert list(frame[frame["source"] == "measured"]["value"]) == [1.0, 30.0]
    flat = tidy(growth._line("work", {10: 1.0, 100: 30.0}.get, (10, 100), 0))
    assert flat[flat["source"] == "model"]["value"].unique() == [30.0]


def test_features_are_extracted_elsewhere_and_the_data_folder_is_restored(small, data_root):
    before = paths.data_root()
    assert growth._feature_seconds(5) > 0
    assert paths.data_root() == before and list(data_root.iterdir()) == []


def test_memory_follows_n_by_formula_and_time_the_ends(small, monkeypatch):
    frame = tidy(growth._steps_with_passes())
    assert set(frame["number"]) == {1, 2, 3} and set(frame["unit"]) == {"s", "MB"}
    model = frame[(frame["source"] == "model") & (frame["unit"] == "MB")]
    assert model["value"].nunique() == 1 and model["value"].iloc[0] > 0


def gained() -> int:
    return growth._patch_bytes(growth.MINI, 20_000, growth.anonymous_bytes())


def test_patches_of_many_clips_are_counted():
    in_fresh_memory = bench_jobs.in_a_process(gained)  # here they may take room that other tests have left
    assert in_fresh_memory > 0.8 * 20_000 * 32 * 32 * 4
    assert train.RESIDENT_BYTES > 20_000 * 32 * 32 * 4


def test_a_failed_measurement_says_why(monkeypatch):
    monkeypatch.setattr(growth.schedule, "environment", lambda *_: {"PYTHONHASHSEED": "no number"})
    with pytest.raises(FmucError, match="how cost grows failed: .+"):
        growth.growth()


FRAME = tidy([(against, number, what, unit, 2.0 * number, source)
              for against, whats in (("clips", "ab"), ("N", "c"), ("runs", "de")) for what in whats
              for unit in ("s", "MB") for number in (1, 10, 100) for source in ("measured", "model")])


def test_the_figure_shows_points_and_lines_in_six_panels(tmp_path, monkeypatch):
    fig = cost_plots.growth_figure(FRAME)
    assert [len(ax.lines) for ax in fig.axes] == [4, 2, 4] * 2
    assert [ax.get_ylabel() for ax in fig.axes] == ["seconds"] * 3 + ["MB"] * 3
    assert fig.axes[0].get_xscale() == "log" and fig.axes[1].get_xscale() == "linear"
    for line in fig.axes[1].lines:
        assert list(line.get_ydata()) == [2, 20, 200]


def test_a_line_ends_where_the_patches_stay_on_the_disk():
    frame = FRAME.copy()
    frame.loc[(frame["number"] == 100) & (frame["source"] == "model") & (frame["unit"] == "MB")
              & (frame["what"] == "a"), "value"] = 0.0
    ax = cost_plots.growth_figure(frame).axes[3]
    assert list(ax.lines[0].get_xdata()) == [1, 10] and "disk" in ax.texts[0].get_text()


def test_the_files_are_the_same_bytes_again(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "FIGURES", tmp_path)
    files = cost_plots.write_growth(FRAME)
    first = [file.read_bytes() for file in files]
    assert sorted(file.name for file in files) == ["bench_growth.csv", "bench_growth.png"]
    assert [file.read_bytes() for file in cost_plots.write_growth(FRAME)] == first
