"""How far the scheduling carries: measured with Dask workers that wait, simulated to a thousand, worked out for GPUs.

Efficiency is the time that workers spend on runs, as a part of all their time until the last run ends.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean, median

import pandas as pd
from tqdm import tqdm

from benchmarks.bench import machine
from fmuc import batch, experiments, footprint, forecast, gpu_arithmetic, launch, paths, planning
from fmuc import figures as figure_files
from fmuc import records as runs
from fmuc.cluster import Pool
from fmuc.errors import FmucError
from fmuc.process_pool import follow

WAIT = 0.5  # seconds that a run waits where scheduling is measured
MEASURED = (1, 2, 4, 8, 16, 32)  # workers
SIMULATED = (*MEASURED, 64, 128, 256, 512, 1000)
RUNS = 100_000  # simulated
GPU_COUNTS = (1, 8, 64)
_ROUNDS = 8  # waiting runs for each worker
_EMPTY = 1000  # runs of no duration, for what one costs
_PROCESSES = 4  # that the waiting workers share
HOUR = 3600


@dataclass(frozen=True)
class Overhead:
    """Seconds of a run that are not training: ``serial`` of the one scheduling process, in which runs take turns;
    ``latency`` until it begins on its worker; ``start`` and end of its process."""

    serial: float
    latency: float
    start: float


def simulate(durations: Sequence[float], workers: int, overhead: Overhead) -> float:
    """Seconds until the last run ends, the longest begun first by whichever worker is free, one dispatched at a
    time."""
    free, dispatcher, last = [0.0] * workers, 0.0, 0.0
    for duration in sorted(durations, reverse=True):
        dispatcher = max(dispatcher, free[0]) + overhead.serial
        end = dispatcher + overhead.latency + overhead.start + duration
        heapq.heapreplace(free, end)
        last = max(last, end)
    return last


def efficiency(durations: Sequence[float], workers: int, seconds: float) -> float:
    """Part of ``workers`` times ``seconds`` that the runs themselves take."""
    return sum(durations) / (workers * seconds)


def many(durations: Sequence[float], count: int) -> list[float]:
    """A plan of ``count`` runs with the run times of a small one: the same with further seeds."""
    return [durations[i % len(durations)] for i in range(count)]


# Measured


@contextmanager
def _waiting(workers: int) -> Iterator[Pool]:
    from distributed import Client, LocalCluster

    processes = min(workers, _PROCESSES)
    each = workers // processes
    with (LocalCluster(n_workers=processes, threads_per_worker=each, processes=True, resources={"core": each},
                       host="127.0.0.1", dashboard_address=None, memory_limit=0) as cluster,
          Client(cluster) as client):
        yield Pool(client, {"core": 1}, "cpu")


def seconds_of_waiting(pool: Pool, count: int, seconds: float) -> float:
    """Wall time of ``count`` runs that wait, scheduled as those that train."""
    jobs = [batch.Job(f"wait-{i}", "waiting", 1, f".wait-{i}", f".wait-{i}", {"seconds": seconds}, lambda: False)
            for i in range(count)]
    started = time.perf_counter()
    if failures := batch.Batch(pool, jobs, {}, progress=False, task=launch.wait).run():
        raise FmucError(f"a waiting run failed: {failures[0].message}")
    return time.perf_counter() - started


def measure(workers: Sequence[int] = MEASURED, *, progress: bool = True) -> tuple[Overhead, dict[int, float]]:
    """The overhead of a run here, and the seconds of ``_ROUNDS`` waiting runs for each of so many workers."""
    took = {}
    for count in tqdm(workers, "waiting runs", unit="cluster", disable=not progress):
        with _waiting(count) as pool:
            seconds_of_waiting(pool, 2 * count, 0)  # not counted: connections, imports
            took[count] = seconds_of_waiting(pool, _ROUNDS * count, WAIT)
    with _waiting(_PROCESSES) as pool:
        serial = seconds_of_waiting(pool, _EMPTY, 0) / _EMPTY
    with _waiting(1) as pool:
        seconds_of_waiting(pool, 2, 0)
        gap = seconds_of_waiting(pool, 2 * _ROUNDS, WAIT) / (2 * _ROUNDS) - WAIT
    return Overhead(serial, max(gap - serial, 0.0), start_seconds()), took


def start_seconds(repeats: int = 3) -> float:
    """Median seconds of the process of a run on the CPU that has nothing to do, after the first, whose imports it may
    share."""
    def once() -> float:
        started = time.perf_counter()
        status, error, _ = follow({"code": launch.sources()}, launch.environment(1), lambda: "", lambda said: None)
        if status:
            raise FmucError(f"a run's process failed: {error}")
        return time.perf_counter() - started

    once()
    return median(once() for _ in range(repeats))


# Run times


@cache
def recorded() -> tuple[float, ...]:
    """Seconds that the runs of mini took, those trained here or, if there are none, the shipped ones."""
    try:
        records = runs.load_all("mini")
    except FmucError:
        records = runs.load_all("mini", "shipped")
    return tuple(record.provenance["wall_seconds"] for record in records)


@cache
def paper_seconds(gpu: gpu_arithmetic.GPU) -> tuple[float, ...]:
    """Seconds expected of each run of the paper's plan on ``gpu``, its start included: computed, not measured."""
    plan = experiments.plan("paper")
    sizes = {name: footprint.extent(name) for name in dict.fromkeys(run.dataset for run in plan)}
    classes = {name: size.classes for name, size in sizes.items()}
    speed = gpu_arithmetic.expected_speed([planning.plain(run) for run in plan], classes, gpu)
    return tuple(forecast.run_seconds(plan, sizes, speed))


# Tables


def waiting_table(overhead: Overhead, took: dict[int, float]) -> pd.DataFrame:
    """Efficiency by workers: waiting runs measured and simulated, then two plans of ``RUNS`` runs simulated."""
    gpu, no_start = gpu_arithmetic.GPUS[0], replace(overhead, start=0.0)
    on_gpu = [seconds - gpu_arithmetic.START_SECONDS for seconds in paper_seconds(gpu)]
    plans = {"mini": (many(recorded(), RUNS), overhead),
             gpu.name: (many(on_gpu, RUNS), replace(overhead, start=gpu_arithmetic.START_SECONDS))}
    rows = []
    for workers in SIMULATED:
        waits = [WAIT] * (_ROUNDS * workers)
        row = {"workers": workers,
               "waiting, measured": efficiency(waits, workers, took[workers]) if workers in took else float("nan"),
               "waiting, simulated": efficiency(waits, workers, simulate(waits, workers, no_start))}
        rows.append(row | {name: efficiency(durations, workers, simulate(durations, workers, lost))
                           for name, (durations, lost) in plans.items()})
    return pd.DataFrame(rows)


def gpu_table() -> pd.DataFrame:
    """The paper's plan on some numbers of GPUs, one run on each: hours until the last run ends, and what limits."""
    rows = []
    for gpu in gpu_arithmetic.GPUS:
        durations = paper_seconds(gpu)
        for count in GPU_COUNTS:
            seconds = forecast.elapsed(durations, count)
            limit = "work" if seconds > 1.001 * max(durations) else "longest run"
            used = min(count, len(durations))
            rows.append({"GPU": gpu.name, "GPUs": count, "runs": len(durations), "GPUs used": used,
                         "hours": seconds / HOUR, "longest run, hours": max(durations) / HOUR,
                         "efficiency": efficiency(durations, count, seconds), "limit": limit})
    return pd.DataFrame(rows)


def report(progress: bool = True) -> tuple[Overhead, pd.DataFrame, pd.DataFrame]:
    """Measure, simulate, work out: the overhead and both tables."""
    overhead, took = measure(progress=progress)
    return overhead, waiting_table(overhead, took), gpu_table()


def readable(overhead: Overhead, waiting: pd.DataFrame, gpus: pd.DataFrame) -> str:
    """Both tables in Markdown with what they mean."""
    def percent(value: float) -> str:
        return "–" if pd.isna(value) else f"{value:.1%}"

    mini, paper = recorded(), paper_seconds(gpu_arithmetic.GPUS[0])
    names = {"mini": f"{RUNS:,} runs of mini's length", gpu_arithmetic.GPUS[0].name: f"{RUNS:,} of the paper's"}
    shown = waiting.assign(**{name: waiting[name].map(percent) for name in waiting.columns[1:]})
    shown = shown.assign(workers=waiting["workers"].map("{:,}".format)).rename(columns=names)
    exact = {"hours": "{:.3g}".format, "longest run, hours": "{:.3g}".format, "efficiency": percent}
    work = gpus.assign(**{name: gpus[name].map(form) for name, form in exact.items()})
    work = work.assign(**{name: gpus[name].map(str) for name in ("GPUs", "runs", "GPUs used")})
    return (f"Efficiency. Waiting: {_ROUNDS} runs a worker that wait {WAIT} s in Dask workers on this machine, where "
            f"all share its cores. Simulated: longest first, {1000 * overhead.serial:.1f} ms of the scheduling process "
            f"a run, {1000 * overhead.latency:.1f} ms until it begins and, in the last two columns, "
            f"{overhead.start:.2f} s for the start of its process (on a GPU, assumed: "
            f"{gpu_arithmetic.START_SECONDS:.0f} s). Lengths of runs: mini's as recorded "
            f"({fmean(mini):.0f} s on average), the paper's as expected on one {gpu_arithmetic.GPUS[0].name} "
            f"({fmean(paper) / HOUR:.1f} h).\n\n"
            f"{figure_files.markdown(shown.set_index('workers'))}\n\n"
            "The paper's plan, one run on a GPU at a time, expected from published peaks, not measured:\n\n"
            f"{figure_files.markdown(work.set_index('GPU'))}\n\nMeasured on: {machine()}.")


def write(overhead: Overhead, waiting: pd.DataFrame, gpus: pd.DataFrame) -> None:
    """``figures/scaling.md`` and ``.csv``, each whole or not at all."""
    long = waiting.melt("workers", var_name="runs", value_name="efficiency").dropna()
    plan = gpus.assign(runs=gpus["GPU"].map("the paper's plan, {}".format), workers=gpus["GPUs"])
    frame = pd.concat([long, plan[["workers", "runs", "efficiency", "hours"]]])[["runs", "workers", "efficiency",
                                                                                 "hours"]]
    csv = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    for kind, text in (("md", f"{readable(overhead, waiting, gpus)}\n"), ("csv", csv)):
        figure_files.write_file(paths.FIGURES / f"scaling.{kind}", text.encode())
