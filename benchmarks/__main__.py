"""Speed and memory of our code beside the textbook's: ``python -m benchmarks``, ``--quick`` to see whether it works.

Writes the table to ``figures/bench.csv``, ``.md`` and ``.png``. Every job has a process of its own with one thread and
the allocator settings of the Makefile, the same for the textbook and for ours.
"""

from __future__ import annotations

import argparse
import os
import platform
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks import jobs
from fmuc import experiments, paths

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MALLOC_MMAP_MAX_": "0",
               "MALLOC_TRIM_THRESHOLD_": "99999999999", "MALLOC_TOP_PAD_": "268435456"}
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
    os.environ.update(ENVIRONMENT)  # for the processes started from here on
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


def picture(frame: pd.DataFrame) -> Figure:
    """How far each ratio lies on the right side of its target: bars beyond the line at 1 meet it."""
    limits = frame["target"].str.split().str[1].astype(float)
    margin = (frame["ratio"] / limits).where(frame["target"].str.startswith("≥"), limits / frame["ratio"])
    fig, ax = plt.subplots(figsize=(7, 0.8 + 0.3 * len(frame)), layout="constrained")
    bars = ax.barh(np.arange(len(frame)), margin, color=frame["met"].map({True: "#0072B2", False: "#E69F00"}))
    ax.bar_label(bars, frame["ratio"].map("{:.2f}".format) + " (" + frame["target"] + ")", padding=4, fontsize=7)
    ax.axvline(1, color="black", linewidth=0.8)
    ax.set(yticks=np.arange(len(frame)), yticklabels=frame["job"], xlabel="margin to the target (1: just met)",
           xlim=(0, 1.3 * margin.max()))
    ax.invert_yaxis()
    return fig


def write(frame: pd.DataFrame, folder: Path) -> None:
    """``bench.csv``, ``bench.md`` and ``bench.png`` in ``folder``."""
    frame.to_csv(folder / "bench.csv", index=False, float_format="%.6g")
    table = readable(frame).to_markdown(index=False, disable_numparse=True)
    (folder / "bench.md").write_text(f"{table}\n\nMeasured on: {machine()}.\n", encoding="utf-8")
    picture(frame).savefig(folder / "bench.png", dpi=150, metadata={"Software": None})


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
