"""The benchmark's frame: rows, targets, environment, files and errors; no test depends on a time."""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import bench
from benchmarks import jobs as bench_jobs
from benchmarks.bench import JOBS, Job, ratio_bars, readable, run, table, write
from benchmarks.timing import Row, faster, peak_bytes, take_turns, two_at_a_time
from fmuc import experiments, paths, train
from fmuc import records as runs
from fmuc.calibration import Speed
from fmuc.config import Features, Run
from fmuc.errors import FmucError

ROWS = [
    faster("step", (6.0, 1.5), 4, "whole batch"),
    faster("view", (1.0, 0.5), 5),
    Row("memory | N", 10.0, 1.01, "times", 1.01, 1.05, True),
    Row("wait", float("nan"), 3.0, "%", 3.0, 2, True),
    Row("two at a time", 2.0, 1.0, "s", 2.0),
]
TINY = Features(sample_rate=16_000, window=512, hop=512, mel_bands=12, patch_frames=8)


def test_a_target_is_a_least_or_a_largest_ratio():
    assert [row.met for row in ROWS] == ["yes", "no", "yes", "no", "–"]


@pytest.mark.parametrize("at_most", [False, True])
def test_the_target_itself_is_enough(at_most):
    assert Row("a", 1.0, 1.0, "s", 1.7, 1.7, at_most).met == "yes"


def test_the_ratio_of_a_faster_job_is_the_textbooks_time_by_ours():
    assert ROWS[0].ratio == 4.0 and (ROWS[0].reference, ROWS[0].ours) == (6.0, 1.5)


def test_the_ratio_of_several_rounds_is_the_median_of_their_ratios():
    """A machine that is three times slower in one round does not matter where both sides met it."""
    row = faster("step", [[6, 2], [18, 6], [5, 1]], 3)
    assert (row.reference, row.ours, row.ratio, row.met) == (6, 2, 3, "yes")


def test_a_table_has_a_line_a_row_with_its_target_in_words():
    frame = table(ROWS)
    assert list(frame["target"]) == ["≥ 4", "≥ 5", "≤ 1.05", "≤ 2", "–"]
    assert list(frame.columns) == ["job", "reference", "ours", "unit", "ratio", "target", "met", "note"]
    shown = readable(frame)
    assert list(shown["reference"].str.strip()) == ["6 s", "1 s", "10 times", "–", "2 s"]
    assert list(shown["ratio"]) == ["4.00", "2.00", "1.01", "3.00", "2.00"]


# Taking turns


class Clock:
    """A clock that stands still unless a job takes its time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.order = 0.0, []
        monkeypatch.setattr(bench_jobs.time, "perf_counter", lambda: self.now)

    def job(self, name: str, seconds: list[float]) -> Callable[[], None]:
        remaining = iter(seconds)

        def work() -> None:
            self.order.append(name)
            self.now += next(remaining)

        return work


def test_functions_take_turns_and_the_first_calls_are_left_out(monkeypatch):
    clock = Clock(monkeypatch)
    slow, fast = clock.job("slow", [90, 1, 7, 5, 6]), clock.job("fast", [80, 1, 2, 1, 9])
    assert take_turns([slow, fast], 3).tolist() == [[7, 2], [5, 1], [6, 9]]
    assert clock.order == ["slow"] * 2 + ["fast"] * 2 + ["slow", "fast"] * 3


def test_short_calls_are_timed_several_at_once(monkeypatch):
    clock = Clock(monkeypatch)
    np.testing.assert_allclose(take_turns([clock.job("short", [0.05] * 100)], 2, shortest=0.2), [[0.05], [0.05]])
    assert len(clock.order) == 2 + 2 * 4


# Steps


@pytest.fixture
def small_run() -> Run:
    made = experiments.make_run("smoke", "nsynth-gm-smoke", "FMUC")
    return replace(made, features=TINY, training=replace(made.training, labelled_batch=16, unlabelled_batch=64))


@pytest.mark.parametrize("make", [bench_jobs.textbook_step, bench_jobs.our_step])
def test_a_step_learns_from_patches_in_memory_or_in_a_file(make, small_run, tmp_path, monkeypatch):
    trained = []
    for module in (bench_jobs.textbook, bench_jobs.train):
        built = module.build
        monkeypatch.setattr(module, "build", lambda *args, built=built: trained.append(built(*args)) or trained[-1])
    for path in (None, tmp_path / "patches.npy"):
        cache = bench_jobs._random_cache(TINY, 60, path)
        assert cache.patches.shape == (60, 12, 8) and cache.patches.dtype == np.float16
        assert isinstance(cache.patches, np.memmap) == (path is not None)
        step = make(small_run, cache)
        before = [p.clone() for p in trained[-1][0].parameters()]
        step()
        assert not any(torch.equal(p, old) for p, old in zip(trained[-1][0].parameters(), before, strict=True))


def test_a_file_of_many_patches_repeats_the_first_thousand(tmp_path):
    patches = bench_jobs._random_cache(TINY, 2500, tmp_path / "patches.npy").patches
    assert patches.shape == (2500, 12, 8)
    assert np.array_equal(patches[2048:], patches[:452]) and np.array_equal(patches[1024:2048], patches[:1024])
    assert abs(float(patches.astype("f4").std()) - 1) < 0.02


@pytest.mark.parametrize(("longest", "batch", "note"), [
    (1e9, (16, 64), "16 + 64 patches"), (0.0, (2, 8), "an eighth of the batch: 2 + 8 patches"),
])
def test_an_eighth_of_the_batch_where_the_textbook_takes_too_long(longest, batch, note, small_run, monkeypatch):
    monkeypatch.setitem(bench_jobs.LONGEST, False, longest)
    chosen, said = bench_jobs._affordable(small_run, bench_jobs._random_cache(TINY, 60), False)
    assert (chosen.training.labelled_batch, chosen.training.unlabelled_batch) == batch
    assert said == note


def test_the_wait_is_the_share_of_the_batches_in_the_training_loop(small_run, data_root, monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(train, "RESIDENT_BYTES", train.RESIDENT_BYTES)  # put back afterwards
    monkeypatch.setattr(bench_jobs, "forget", lambda file: clock.order.append(file.name))
    gather, step = train.PatchSource.gather, train.step

    def counted(source: train.PatchSource, patches: torch.Tensor) -> torch.Tensor:
        assert source.resident is None
        clock.now += 1
        return gather(source, patches)

    monkeypatch.setattr(train.PatchSource, "gather", counted)
    monkeypatch.setattr(train, "step", lambda *args: clock.job("step", [6])() or step(*args))
    share, peak = bench_jobs._wait_and_memory(small_run, 1500)
    assert share == pytest.approx(2 / 8) and peak > 0
    assert clock.order == ["patches.npy"] + ["step"] * 6
    assert list(data_root.iterdir()) == []


# Features and memory


@pytest.mark.parametrize(("start", "shared"), [(0.0, False), (60.0, False), (60.0, True)])
def test_the_minutes_of_mini_hold_the_start_of_each_run_or_worker(start, shared, monkeypatch):
    records = runs.load_all("mini", "shipped")
    monkeypatch.setattr(bench_jobs.runs, "load_all", lambda *_: records)
    speed = Speed(defaultdict(lambda: 0.1), defaultdict(float), start, 2, "cpu", shared)
    monkeypatch.setattr(bench_jobs.calibration, "measure", lambda *_, **__: speed)
    monkeypatch.setattr(bench_jobs.schedule, "default_workers", lambda *_: 2)
    took, forecast = bench_jobs.mini_profile(quick=True)
    recorded = [record.provenance["wall_seconds"] for record in records]
    ends = [start if shared else 0] * 2
    for seconds in sorted(recorded, reverse=True):  # longest first
        ends[np.argmin(ends)] += seconds + (0 if shared else start)
    assert took.ours == pytest.approx(max(ends) / 60) and took.ratio == took.ours
    assert forecast.reference == took.ours and f"{sum(recorded) / 60:.1f} of computing" in took.note


def test_clips_are_written_in_the_asked_format(tmp_path):
    files = bench_jobs.write_clips(tmp_path, 2, 0.5, 44_100, 2, "PCM_24")
    for file in files:
        info = bench_jobs.soundfile.info(file)
        assert (info.samplerate, info.channels, info.subtype, info.frames) == (44_100, 2, "PCM_24", 22_050)
    assert files[0].read_bytes() != files[1].read_bytes()


def test_log_mel_far_from_librosas_is_an_error(tmp_path, monkeypatch):
    files = bench_jobs.write_clips(tmp_path, 1, 0.5, 16_000, 1, "PCM_16")
    right = bench_jobs.features.log_mel
    monkeypatch.setattr(bench_jobs.features, "log_mel", lambda *args: right(*args) + 2e-4)
    with pytest.raises(FmucError, match="log-Mel differs from librosa's by 0.0002"):
        bench_jobs._log_mel_row("log-Mel", files, TINY, 1, "")


def test_the_peak_of_memory_includes_what_was_freed():
    before = peak_bytes()
    np.ones(before // 8 + 2**24)
    assert peak_bytes() >= before + 2**26


def test_a_forgotten_file_keeps_its_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 5000)
    bench_jobs.forget(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"abc" * 5000


# Processes


def test_two_at_a_time_is_once_in_each_process_and_twice_in_one():
    rounds = two_at_a_time(_size_and_whether_alone, 7, 2)
    assert rounds == [(14, 1007)] * 2


def _size_and_whether_alone(size, ready):
    return size if ready is None else size + 1000 * (ready.wait() >= 0)


def test_every_job_has_the_same_environment_for_both_sides(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    variables = bench.environment(1)
    assert {variables[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")} == {"1"}
    assert bench.environment(0)["OMP_NUM_THREADS"] == "7"
    if sys.platform == "linux":
        assert variables["MALLOC_MMAP_MAX_"] == os.environ.get("MALLOC_MMAP_MAX_", "0")


def test_a_job_is_measured_in_a_process_of_its_own():
    frame = run(["strong-view"], quick=True, progress=False)
    (row,) = frame.to_dict("records")
    assert row["job"] == "strong view" and row["target"] == "≥ 5" and row["note"] == "28 patches"
    assert min(row["reference"], row["ours"], row["ratio"]) > 0 and row["met"] == ("yes" if row["ratio"] >= 5 else "no")


def test_an_unknown_job_is_an_error():
    with pytest.raises(FmucError, match="unknown job 'speed' of the benchmark: choose from fm-step, "):
        run(["strong-view", "speed"])


def test_a_failed_job_does_not_lose_what_the_others_measured(monkeypatch):
    monkeypatch.setitem(JOBS, "nothing", Job(lambda quick: []))  # not known in the process that is started
    frame = run(["nothing", "strong-view"], quick=True, progress=False)
    assert frame["job"].tolist() == ["nothing", "strong view"] and frame["met"][0] == "failed"
    assert frame["note"][0] == "job nothing of the benchmark failed: KeyError: 'nothing'"
    assert bench.readable(frame)["ratio"][0] == "–" and len(ratio_bars(frame).axes) == 1


def test_report_prints_rows_as_the_last_line(monkeypatch, capsys):
    monkeypatch.setitem(JOBS, "some", Job(lambda quick: ROWS[:2] if quick else [], threads=0))
    bench.report("some", True)
    assert [Row(*row) for row in json.loads(capsys.readouterr().out.splitlines()[-1])] == ROWS[:2]


def test_quick_leaves_out_what_is_slow(monkeypatch):
    measured = []
    monkeypatch.setattr(bench, "_measure", lambda name, quick: measured.append(name) or ROWS[:1])
    assert len(run(quick=True, progress=False)) == len(measured)
    assert measured == [name for name in JOBS if name != "figures"]
    run(quick=False, progress=False)
    assert measured[-len(JOBS):] == list(JOBS)


# Files


def test_the_table_is_written_as_csv_markdown_and_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "FIGURES", tmp_path / "figures")
    frame = table(ROWS)
    files = write(frame)
    assert sorted(file.name for file in (tmp_path / "figures").iterdir()) == ["bench.csv", "bench.md", "bench.png"]
    assert {file.suffix for file in files} == {".csv", ".md", ".png"}
    read = pd.read_csv(tmp_path / "figures" / "bench.csv")
    pd.testing.assert_frame_equal(read.drop(columns="note"), frame.drop(columns="note"), check_dtype=False)
    text = (tmp_path / "figures" / "bench.md").read_text(encoding="utf-8")
    assert "| step" in text and r"memory \| N" in text and "Measured on: " in text and str(paths.ROOT) not in text
    assert (tmp_path / "figures" / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_bars_show_every_ratio_its_target_and_what_is_missed():
    frame = table(ROWS)
    axes = ratio_bars(frame).axes
    assert [[text.get_text() for text in ax.texts] for ax in axes] == [["4.00", "2.00 (missed)", "2.00"],
                                                                      ["1.01", "3.00 (missed)"]]
    bars = [[bar.get_width() for bar in ax.patches] for ax in axes]
    assert bars == [[4.0, 2.0, 2.0], [pytest.approx(1.01 / 1.05), 1.5]]
    np.testing.assert_array_equal(axes[0].lines[0].get_xdata(), [4, 5, np.nan])
    np.testing.assert_array_equal(axes[1].lines[0].get_xdata(), [1, 1])
    assert [label.get_text() for label in axes[1].get_yticklabels()] == ["memory | N", "wait"]


def test_a_part_of_the_table_can_be_drawn():
    assert len(ratio_bars(table(ROWS[:2])).axes) == len(ratio_bars(table(ROWS[2:4])).axes) == 1
