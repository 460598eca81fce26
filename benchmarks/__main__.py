"""Speed and memory of our code beside the textbook's: ``python -m benchmarks``, ``--quick`` to see whether it works.

Writes the table to ``figures/bench.csv`` and ``.md``. Every job has a process of its own with one thread and the
allocator settings of training, the same for the textbook and for ours.
"""

from __future__ import annotations

import argparse
import os
import platform
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from benchmarks import jobs
from fmuc import experiments, paths
from fmuc.machinery.workers import ENVIRONMENT

JOBS = (
    partial(jobs.steps, "mini", "nsynth-gm", rounds=15, least=3),
    partial(jobs.steps, "paper", "nsynth", rounds=5, least=4),
    partial(jobs.memory, "paper", "nsynth", shrink=8),
    partial(jobs.log_mel, experiments.NSYNTH, 4, 16_000, rounds=15, least=3),
    partial(jobs.log_mel, experiments.TUT, 10, 44_100, rounds=15, least=3),
    jobs.mini_runs,
    jobs.figures,
)
SMALL = ("smoke", "nsynth-gm-smoke")
QUICK = (
    partial(jobs.steps, *SMALL, rounds=1, least=3),
    partial(jobs.memory, *SMALL, shrink=1),
    partial(jobs.log_mel, experiments.NSYNTH, 0.5, 16_000, rounds=1, least=3),
    jobs.mini_runs,
)


def measure(quick: bool = False) -> pd.DataFrame:
    """One row for each figure of merit; ``quick``: tiny sizes within this process, whose numbers mean nothing."""
    os.environ.update(ENVIRONMENT | {"NUMBA_NUM_THREADS": "1"})  # for the processes started from here on
    rows = []
    for job in tqdm(QUICK if quick else JOBS, "benchmark"):
        rows += job() if quick else jobs.in_process(job)
    return pd.DataFrame([row._asdict() | {"met": row.met} for row in rows])


def machine() -> str:
    """Processor, cores and versions that the numbers depend on."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = names[0] if names else platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with three significant digits and "–" for what does not exist."""
    shown = frame.drop(columns="unit").assign(met=frame["met"].map({True: "yes", False: "no"}))
    for column in jobs.KINDS:
        values = [f"{value:.3g} {unit}" for value, unit in zip(frame[column], frame["unit"], strict=True)]
        shown[column] = pd.Series(values).where(frame[column].notna(), "–")
    return shown.assign(ratio=frame["ratio"].map("{:.2f}".format))


def write(frame: pd.DataFrame, folder: Path) -> None:
    """``bench.csv`` and ``bench.md`` in ``folder``."""
    frame.to_csv(folder / "bench.csv", index=False, float_format="%.6g")
    table = readable(frame).to_markdown(index=False, disable_numparse=True)
    (folder / "bench.md").write_text(f"{table}\n\nMeasured on: {machine()}.\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see whether it works")
    parser.add_argument("--output", type=Path, default=paths.FIGURES, help="folder of the table")
    options = parser.parse_args()
    frame = measure(options.quick)
    print(readable(frame).to_string(index=False))
    write(frame, options.output)


if __name__ == "__main__":
    main()
