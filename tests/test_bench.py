"""The benchmark runs from end to end, and its rows say what was measured; no test depends on a time."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import torch

from benchmarks import gpu
from fmuc import experiments
from fmuc.paths import ROOT


def test_quick_measures_steps_memory_and_features(tmp_path):
    done = subprocess.run([sys.executable, "-m", "benchmarks", "--quick", "--output", tmp_path], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    frame = pd.read_csv(tmp_path / "bench.csv")
    assert [job.split(",")[0] for job in frame["job"]] == [
        "FM step", "FMUC step", "FMUC step / FM step", "peak memory of the FMUC step", "log-Mel of 0.5 s at 16000 Hz",
        "runs that make reproduce trains"]
    assert (frame[["ours", "ratio"]] > 0).all(axis=None)
    assert "Measured on: " in (tmp_path / "bench.md").read_text(encoding="utf-8")


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
