"""A plan's missing runs -> single-threaded worker processes on this machine, or one after another on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import IO

import torch
from tqdm import tqdm

from fmuc import paths
from fmuc.config import Run
from fmuc.cost import run_units
from fmuc.errors import FmucError
from fmuc.runs import is_finished

# glibc keeps freed memory instead of returning it to the system: a third less time on large activations
_ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "99999999999", "MALLOC_TOP_PAD_": "268435456"}


@dataclass(frozen=True)
class Failure:
    """A run that ended with an error: its name and the last line it printed."""

    run: str
    message: str


def default_workers(device: str = "auto") -> int:
    """One run at a time on a GPU, else one single-threaded run per core that this process may use."""
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def missing(runs: Sequence[Run], profile: str) -> list[Run]:
    """Those of ``runs`` that have no finished record yet, longest first so that the workers end together."""
    open_runs = [run for run in runs if not is_finished(paths.runs_dir(profile) / run.name)]
    return sorted(open_runs, key=run_units, reverse=True)


def train_plan(runs: Sequence[Run], profile: str, *, device: str = "auto", workers: int | None = None,
               compiled: bool = False, progress: bool = True) -> list[Failure]:
    """Train the missing runs of a plan, each in a process of its own; returns the runs that failed.

    Finished runs are kept, interrupted ones go on from their last epoch. Raises ``KeyboardInterrupt`` after stopping
    all workers.
    """
    todo = missing(runs, profile)
    workers = default_workers(device) if workers is None else workers
    if workers < 1:
        raise FmucError(f"--workers must be at least 1, not {workers}")
    processes: list[subprocess.Popen] = []
    lock, stop, failures = threading.Lock(), threading.Event(), []
    total = sum(run.training.epochs for run in todo)
    with (tqdm(total=total, desc=f"{len(todo)} runs, {workers} at a time", unit="epoch", disable=not progress) as bar,
          ThreadPoolExecutor(workers) as pool):

        def work(run: Run) -> None:
            with tempfile.TemporaryFile("w+") as errors:  # a file, not a pipe: it never fills up and blocks the worker
                with lock:
                    if stop.is_set():
                        return
                    process = _start(run, profile, device, 1 if workers > 1 else None, compiled, errors)
                    processes.append(process)
                _follow(process, run, bar, lock)
                if status := process.wait():
                    errors.seek(0)
                    last = errors.read().strip().splitlines()[-1:] or [f"exit status {status}"]
                    failures.append(Failure(run.name, last[0]))

        futures = [pool.submit(work, run) for run in todo]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            with lock:  # from here on no worker is started
                stop.set()
            for process in processes:
                process.terminate()
            raise
    return failures


def _start(run: Run, profile: str, device: str, threads: int | None, compiled: bool,
           errors: IO[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "fmuc", "train", "--profile", profile, "--dataset", run.dataset,
               "--variant", run.variant, "--seed", str(run.seed), "--device", device, "--json-lines"]
    command += ["--compile"] if compiled else []
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment(threads),
                            cwd=paths.ROOT)


def environment(threads: int | None) -> dict[str, str]:
    """Variables of a process that computes: allocator, data folder and, unless 0 or None, its number of threads."""
    variables = {**_ALLOCATOR, **os.environ} if sys.platform == "linux" else dict(os.environ)
    variables["FMUC_DATA"] = str(paths.data_root())  # absolute: the process runs from the repository root
    if threads:
        variables |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return variables


def _follow(process: subprocess.Popen, run: Run, bar: tqdm, lock: threading.Lock) -> None:
    """Advance the bar with each epoch that the worker reports, until it ends."""
    done = 0
    for line in process.stdout:
        row = json.loads(line)
        with lock:
            bar.update(row["epoch"] - done)
            bar.set_postfix_str(f"{run.variant}, seed {run.seed}: {row['text']}")
        done = row["epoch"]
