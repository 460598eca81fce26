"""The benchmark: every fast job beside the textbook's version of it (``tests.textbook``), as ratios from one run.

Each job has a process of its own with a fixed number of threads. Its environment, glibc's allocator settings of
``fmuc.parallel`` included, is the same for the textbook and for ours. Within the process they take turns, so that
whatever else the machine does meets both; seconds are medians over the rounds, ratios medians of the rounds' own, after
calls that are not counted.
"""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks.jobs import (
    feature_processes,
    figures,
    fm_step,
    fmuc_step,
    log_mel,
    memory,
    memory_map,
    mini_profile,
    mini_steps,
    parallel_runs,
    strong_view,
)
from benchmarks.timing import Row, last_line
from fmuc import figures as figure_files
from fmuc import parallel as schedule
from fmuc import paths
from fmuc.errors import FmucError


@dataclass(frozen=True)
class Job:
    """A measurement in a process of its own; ``threads`` 0: as many as there are; ``slow``: not part of --quick."""

    measure: Callable[[bool], list[Row]]
    threads: int = 1
    slow: bool = False


JOBS = {
    "fm-step": Job(fm_step), "fmuc-step": Job(fmuc_step), "memory": Job(memory), "log-mel": Job(log_mel),
    "feature-processes": Job(feature_processes), "strong-view": Job(strong_view), "memory-map": Job(memory_map),
    "mini-steps": Job(mini_steps), "parallel-runs": Job(parallel_runs), "mini-profile": Job(mini_profile),
    "figures": Job(figures, threads=0, slow=True),
}


def run(jobs: Sequence[str] = (), *, quick: bool = False, progress: bool = True) -> pd.DataFrame:
    """Measure ``jobs`` (keys of ``JOBS``; default: all) one after another: one row per figure of merit.

    ``quick``: smaller batches and fewer repeats, a rough picture within two minutes. Columns: job, reference, ours,
    unit, ratio, target, met ("yes", "no", "–": none, "failed": the note says why), note. Raises :class:`FmucError` for
    an unknown job.
    """
    for name in jobs:
        if name not in JOBS:
            raise FmucError(f"unknown job {name!r} of the benchmark: choose from {', '.join(JOBS)}")
    chosen = jobs or [name for name, job in JOBS.items() if not (quick and job.slow)]
    bar = tqdm(chosen, "benchmark", unit="job", disable=not progress)
    return table([row for name in bar for row in _measured(name, quick)])


def table(rows: Sequence[Row]) -> pd.DataFrame:
    """Rows with their target in words and whether it is met."""
    return pd.DataFrame([{"job": row.job, "reference": row.reference, "ours": row.ours, "unit": row.unit,
                          "ratio": row.ratio, "target": row.aim, "met": row.met, "note": row.note} for row in rows])


def environment(threads: int) -> dict[str, str]:
    """Variables of a job's process: allocator and number of threads, the same for the textbook and for ours."""
    variables = schedule.environment(threads)
    return variables | ({f"{name}_NUM_THREADS": str(threads) for name in ("OPENBLAS", "NUMBA")} if threads else {})


def _measured(name: str, quick: bool) -> list[Row]:
    """The rows of a job, or one that says how it failed: what the others measured is not lost."""
    try:
        return _measure(name, quick)
    except FmucError as error:
        return [Row(name, *[float("nan")] * 2, "", float("nan"), failed=True, note=str(error))]


def _measure(name: str, quick: bool) -> list[Row]:
    code = "import sys; from fmuc import bench; bench.report(sys.argv[1], sys.argv[2] == 'quick')"
    done = subprocess.run([sys.executable, "-c", code, name, "quick" if quick else "full"], cwd=paths.ROOT,
                          env=environment(JOBS[name].threads), capture_output=True, text=True, check=False)
    if done.returncode:
        raise FmucError(f"job {name} of the benchmark failed: {last_line(done.stderr)}")
    return [Row(*row) for row in json.loads(last_line(done.stdout))]


def report(name: str, quick: bool) -> None:
    """Measure one job in this process and print its rows as one line of JSON, the last one."""
    if JOBS[name].threads:
        torch.set_num_threads(JOBS[name].threads)
    print(json.dumps(JOBS[name].measure(quick)))


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with three significant digits and ratios to two decimals, "–" for what does not exist."""
    def digits(value: float) -> str:
        return "–" if np.isnan(value) else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"

    shown = frame.copy()
    for column in ("reference", "ours"):
        shown[column] = frame[column].map(digits) + " " + frame["unit"].where(frame[column].notna(), "")
    shown["ratio"] = frame["ratio"].map(lambda ratio: "–" if np.isnan(ratio) else f"{ratio:.2f}")
    return shown.drop(columns="unit")


def machine() -> str:
    """Processor, cores and versions that the figures depend on."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line.partition(":")[2].strip() for line in information.read_text().splitlines()
                 if line.startswith("model name")]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


@figure_files.styled
def write(frame: pd.DataFrame) -> list[Path]:
    """``figures/bench.csv``, ``.md`` and ``.png``, each whole or not at all. Meant for a full table alone."""
    picture = io.BytesIO()
    ratio_bars(frame).savefig(picture, format="png", metadata={"Software": None})
    text = f"{figure_files.markdown(readable(frame).set_index('job'))}\n\nMeasured on: {machine()}.\n"
    contents = {"csv": frame.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode(),
                "md": text.encode(), "png": picture.getvalue()}
    files = []
    for kind, content in contents.items():
        files.append(paths.FIGURES / f"bench.{kind}")
        figure_files.write_file(files[-1], content)
    return files


@figure_files.styled
def ratio_bars(frame: pd.DataFrame) -> Figure:
    """Bars with the targets as lines: above, ratios that should be large, below, the used part of what is allowed."""
    frame = frame.dropna(subset="ratio")
    most, target = frame["target"].str.startswith("≤"), frame["target"].str.extract(r"([\d.]+)")[0].astype(float)
    above = frame.assign(bar=frame["ratio"], line=target)[~most]
    below = frame.assign(bar=frame["ratio"] / target, line=1.0)[most]
    titles = ("times as fast as the textbook (line: at least)",
              "part of what is allowed (line: at most; numbers as measured)")
    parts = [(part, title) for part, title in zip((above, below), titles, strict=True) if len(part)]
    fig, axes = plt.subplots(len(parts), figsize=(figure_files.WIDTHS["double"], 0.9 + 0.24 * len(frame)),
                             height_ratios=[len(part) + 1 for part, _ in parts], squeeze=False)
    for ax, (part, title) in zip(axes[:, 0], parts, strict=True):
        places = np.arange(len(part))
        ax.barh(places, part["bar"], 0.6, color=part["met"].map({"yes": "#0072B2", "no": "#E69F00", "–": "#999999"}))
        ax.plot(part["line"], places, "|", color="black", markersize=11)
        right = part[["bar", "line"]].max(axis=1)
        for place, (end, ratio, met) in enumerate(zip(right, part["ratio"], part["met"], strict=True)):
            ax.annotate(f"{ratio:.2f}{' (missed)' if met == 'no' else ''}", (end, place), (4, 0),
                        textcoords="offset points", va="center", fontsize=6)
        ax.set(yticks=places, yticklabels=part["job"], title=title, xlim=(0, 1.2 * right.max()))
        ax.invert_yaxis()
        ax.grid(visible=False, axis="y")
    return fig
