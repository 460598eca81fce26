"""Train runs side by side: a worker process per core or GPU of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, redirect_stderr, suppress
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from fmuc import paths, train
from fmuc.config import Run, run_from_dict
from fmuc.devices import pick_device
from fmuc.errors import FmucError
from fmuc.experiments import run_units
from fmuc.machinery import checkpoints
from fmuc.machinery.atomic import is_locked
from fmuc.machinery.cluster import Cluster
from fmuc.machinery.workers import cores, start_workers
from fmuc.records import is_finished

LOSSES = 5  # times that a run may lose its worker


@dataclass(frozen=True)
class Failure:
    """A run that ended with an error."""

    run: str
    message: str


@dataclass(frozen=True)
class _Job:
    run: Run
    folder: Path
    force: bool

    def payload(self) -> dict:
        """What a worker needs; its data folder may have another path."""
        folder = self.folder.relative_to(paths.data_root()).as_posix()
        return {"run": asdict(self.run), "folder": folder, "force": self.force}

    def epochs(self) -> int:
        """Number of finished epochs."""
        newest = next(iter(checkpoints.files(self.folder)), None)
        return int(newest.stem.rpartition("-")[2]) if newest else 0

    @property
    def history(self) -> Path:
        return self.folder / "history.csv"

    def is_free(self) -> bool:
        """Whether no process trains the run."""
        return not self.folder.is_dir() or not is_locked(self.folder / ".lock")


def states(runs: Sequence[Run], profile: str) -> list[str]:
    """Of each run: "missing", "done", "stale" (of other data than now) or "unchecked" (finished, but its data are
    gone). Each data set is read once."""
    data, found = {}, []
    for run in runs:
        folder, key = paths.runs_dir(profile) / run.name, (run.dataset, run.features.id)
        if not is_finished(folder):
            found.append("missing")
            continue
        if key not in data:
            with suppress(FmucError):
                data[key] = train.load_data(run)
            data.setdefault(key, None)
        current = data[key] and train.is_current(run, folder, data[key])
        found.append({None: "unchecked", True: "done", False: "stale"}[current])
    return found


def missing(runs: Sequence[Run], profile: str) -> list[Run]:
    """The runs to train. Those that cannot be checked count as done; one line on stderr says so."""
    found = states(runs, profile)
    if count := found.count("unchecked"):
        print(f"fmuc: {count} finished runs are used as they are: the sound or the features that they belong to are "
              "gone or have changed; 'python -m fmuc features' makes them again", file=sys.stderr)
    return [run for run, state in zip(runs, found, strict=True) if state in ("missing", "stale")]


def train_plan(runs: Sequence[Run], profile: str, *, device: str = "auto", workers: int | None = None,
               progress: bool = True, scheduler: str | None = None, force: bool = False) -> list[Failure]:
    """Train runs, the longest first, each in a worker process, on the CPU with one thread; return those that failed.

    ``workers``: runs at a time (default: one per core, one per GPU, or all workers of the cluster). ``scheduler``:
    address or file of a Dask scheduler. A run whose worker is killed continues in another one from its last epoch;
    runs that another command trains come last. ``force``: train finished runs again. ``KeyboardInterrupt`` ends all
    workers; finished epochs are kept.
    """
    if workers is not None and workers < 1:
        raise FmucError(f"--workers must be at least 1, not {workers}")
    longest_first = sorted(runs, key=run_units, reverse=True)  # so that the workers end together
    jobs = [_Job(run, paths.runs_dir(profile) / run.name, force) for run in longest_first]
    if not jobs:
        return []
    with (closing(Cluster(scheduler, device, workers) if scheduler else _Machine(device, workers)) as pool,
          tqdm(total=sum(job.run.training.epochs for job in jobs), unit="epoch", miniters=1,
               disable=not progress) as bar):
        return _train_all(jobs, pool, bar)


def _train_all(jobs: list[_Job], pool: _Machine | Cluster, bar: tqdm) -> list[Failure]:
    waiting, running = list(jobs), {}
    failures, losses = [], Counter()
    while waiting or running:
        workers = pool.workers()
        while len(running) < workers and (job := next(filter(_Job.is_free, waiting), None)):
            waiting.remove(job)
            running[pool.submit(_train, job.payload())] = job
        what = f"{len(running)} of {len(jobs)} runs" if running else "waiting for a worker or another command"
        bar.set_description_str(what, refresh=False)
        time.sleep(pool.tick)
        for future in [future for future in running if future.done()]:
            job = running.pop(future)
            try:
                if said := future.result():
                    bar.write(said.rstrip(), file=sys.stderr)
            except pool.lost:
                losses[job.run] += 1
                if losses[job.run] < LOSSES:
                    waiting.insert(0, replace(job, force=job.force and is_finished(job.folder)))
                else:
                    failures.append(Failure(job.run.name, "its worker was killed again and again (out of memory?)"))
            except Exception as error:  # whatever ended this run: the others go on
                failures.append(Failure(job.run.name, str(error).partition("\n")[0] or type(error).__name__))
        _follow(jobs, bar)
    return failures


def _follow(jobs: list[_Job], bar: tqdm) -> None:
    """Bring the bar to the finished epochs, and let it say how the last one went."""
    epochs = sum(map(_Job.epochs, jobs))
    if epochs == bar.n:
        return
    with suppress(Exception):  # the file is just being written
        newest = max((job for job in jobs if job.history.exists()), key=lambda job: job.history.stat().st_mtime)
        row = pd.read_csv(newest.history).ffill().iloc[-1].to_dict()
        bar.set_postfix_str(f"{newest.run.variant}, seed {newest.run.seed}: {train.describe(row)}", refresh=False)
    bar.update(epochs - bar.n)


def _train(payload: dict, on_epoch: Callable[[dict], None] | None = None) -> str:
    """In a worker: train a run; return what was said on stderr, which may be that of another machine."""
    if pick_device(payload["device"]).type == "cpu":
        torch.set_num_threads(1)
    with redirect_stderr(StringIO()) as said:
        train.train(run_from_dict(payload["run"]), device=payload["device"], progress=False, on_epoch=on_epoch,
                    folder=paths.data_root() / payload["folder"], force=payload["force"])
    return said.getvalue()


def worker_variables(device: str, workers: int | None = None) -> list[dict[str, str]]:
    """Environment variables of each worker of this machine: one of the visible GPUs, in turn, or none."""
    count = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if not count:
        return [{}] * (workers or (1 if device.startswith("cuda") else cores()))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",")[:count] if visible else [str(index) for index in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": gpus[index % count]} for index in range(workers or count)]


class _Machine:
    """Worker processes of this machine; each has an executor of its own, so that a killed one ends only its run."""

    tick, lost = 0.1, BrokenProcessPool

    def __init__(self, device: str, workers: int | None) -> None:
        pick_device(device)  # refuses one that is not there
        self.device, self.variables = device, worker_variables(device, workers)
        self.executors = [start_workers(1, variables) for variables in self.variables]
        self.futures: list[Future | None] = [None] * len(self.variables)

    def workers(self) -> int:
        return len(self.variables)

    def submit(self, function: Callable, payload: dict) -> Future:
        index = next(i for i, future in enumerate(self.futures) if future is None or future.done())
        if self.futures[index] and isinstance(self.futures[index].exception(), self.lost):
            self.executors[index] = start_workers(1, self.variables[index])
        self.futures[index] = self.executors[index].submit(function, payload | {"device": self.device})
        return self.futures[index]

    def close(self) -> None:
        for executor in self.executors:
            executor.shutdown(kill_workers=True)
