"""The benchmark runs from end to end, and its rows say what was measured; no test depends on a time."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from benchmarks import gpu
from benchmarks.__main__ import readable
from benchmarks.jobs import Row
from fmuc import experiments
from fmuc.paths import ROOT


def test_quick_measures_steps_memory_and_features(tmp_path):
    done = subprocess.run([sys.executable, "-m", "benchmarks", "--quick", "--output", tmp_path], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    frame = pd.read_csv(tmp_path / "bench.csv")
    assert [job.split(",")[0] for job in frame["job"]] == [
        "FM step", "FMUC step", "FMUC step / FM step", "peak memory of the FMUC step", "log-Mel of 0.5 s at 16000 Hz",
        "all runs of mini"]
    assert (frame[["ours", "ratio"]] > 0).all(axis=None)
    assert "Measured on: " in (tmp_path / "bench.md").read_text(encoding="utf-8")


ROWS = [Row("step", 6.0, 3.0, 1.5, "s", 4.0, "≥ 4"), Row("view", 1.0, 1.0, 0.5, "s", 2.0, "≥ 5"),
        Row("memory", np.nan, np.nan, 1.01, "times", 1.01, "≤ 1.05"),
        Row("figures", np.nan, np.nan, 91, "s", 91, "≤ 90")]


def test_a_target_is_a_least_or_a_largest_ratio():
    assert [row.met for row in ROWS] == [True, False, True, False]
    frame = pd.DataFrame([row._asdict() | {"met": row.met} for row in ROWS])
    shown = readable(frame)
    assert list(shown["met"]) == ["yes", "no", "yes", "no"] and list(shown["textbook"]) == ["6 s", "1 s", "–", "–"]


def test_the_gpu_script_checks_and_times_the_cpu_where_there_is_no_gpu(capsys):
    arguments = ["--device", "cpu", "--profile", "smoke", "--dataset", "nsynth-gm-smoke", "--steps", "1"]
    assert gpu.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "float32 against the CPU: weights differ by 0.0e+00" in printed
    assert len(re.findall(r"^FM(UC)? .*(float32|bfloat16) +off", printed, re.M)) == 4
    assert float(re.search(r"hours of the plan smoke, one run at a time: (\S+)", printed)[1]) >= 0


def test_a_device_that_computes_otherwise_is_found(monkeypatch):
    run, rates, build = experiments.make_run("smoke", "nsynth-gm-smoke", "FM"), iter((1e-3, 1.1e-3)), gpu.build
    monkeypatch.setattr(gpu, "build", lambda run, *rest: build(
        replace(run, training=replace(run.training, learning_rate=next(rates))), *rest))
    assert gpu.largest_difference(run, torch.device("cpu")) > 0.01
