"""A plan's missing runs -> processes on this machine, single-threaded or one on each GPU, or any Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial

import torch

from fmuc import batch, cluster, datasets, experiments, paths
from fmuc.batch import Failure, Job
from fmuc.config import Features, Run
from fmuc.errors import FmucError
from fmuc.experiments import run_units
from fmuc.features import open_cache
from fmuc.launch import environment
from fmuc.records import is_finished

__all__ = ["Failure", "default_workers", "environment", "extract_features", "missing", "train_plan"]


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
               compiled: bool = False, progress: bool = True, scheduler: str | None = None,
               runs_per_gpu: int = 1) -> list[Failure]:
    """Train the missing runs of a plan, each in a process of its own; returns the runs that failed.

    ``workers``: runs at a time, on all machines together (default: one per core; ``runs_per_gpu`` on each GPU; all that
    the workers of a cluster declare). ``scheduler``: address or scheduler file of a Dask cluster whose workers share
    the data folder; default: this machine. Finished runs are kept, interrupted ones go on from their last epoch, those
    of another batch on this folder are left to it. Raises :class:`FmucError` for a cluster that cannot be used, and
    ``KeyboardInterrupt`` after stopping all processes.
    """
    for name, value in (("--workers", workers), ("--runs-per-gpu", runs_per_gpu)):
        if value is not None and value < 1:
            raise FmucError(f"{name} must be at least 1, not {value}")
    todo = missing(runs, profile)
    if not todo:
        return []
    with _pool(len(todo), device, workers, scheduler, runs_per_gpu) as pool:
        jobs = [run_job(run, profile, pool.device, compiled) for run in todo]
        return batch.carry_out(pool, jobs, progress=progress)


def _pool(jobs: int, device: str, workers: int | None, scheduler: str | None,
          runs_per_gpu: int) -> AbstractContextManager[cluster.Pool]:
    if scheduler:
        return cluster.remote(scheduler, device, most=workers, per_gpu=runs_per_gpu)
    if device == "auto" and not torch.cuda.is_available():
        device = "cpu"  # the runs' processes may then share their imports
    gpus = visible_gpus(device)
    if workers is None:
        workers = max(len(gpus), 1) * runs_per_gpu if default_workers(device) == 1 else default_workers(device)
    return cluster.local(workers, device, gpus if min(workers, jobs) > 1 else ())


def visible_gpus(device: str) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES may be set to for one GPU each; none where ``device`` names a single one or the CPU."""
    count = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(named.split(",")[:count] if named else map(str, range(count)))


def run_job(run: Run, profile: str, device: str, compiled: bool = False) -> Job:
    """The job that trains a run in its place below the data folder: its configuration and nothing else."""
    folder = paths.runs_dir(profile) / run.name
    place = folder.relative_to(paths.data_root()).as_posix()
    content = {"run": asdict(run), "folder": place, "device": device, "compiled": compiled}
    return Job(run.name, f"{run.variant}, seed {run.seed}", run.training.epochs, f"{place}/.claim", f"{place}/.lock",
               content, partial(is_finished, folder))


def extract_features(profile: str, names: Sequence[str], scheduler: str, *, workers: int | None = None,
                     progress: bool = True) -> list[Failure]:
    """Build the missing feature caches of data sets on a cluster, a data set in one place: writing the cache is a
    sequence. ``workers``: processes there (default: one per core that the worker may use)."""
    jobs = []
    for name in names:
        dataset, features = datasets.load(name), experiments.preset(profile, name).features
        claim = f"features/.{name}-{features.id}.claim"
        content = {"dataset": name, "features": asdict(features), "workers": workers}
        jobs.append(Job(f"features of {name}", name, 1, claim, claim, content,
                        partial(_has_cache, dataset, features)))
    jobs = [job for job in jobs if not job.finished()]
    if not jobs:
        return []
    with cluster.remote(scheduler) as pool:
        return batch.carry_out(pool, jobs, progress=progress, nouns=("data sets", "data set"))


def _has_cache(dataset: datasets.Dataset, features: Features) -> bool:
    try:
        open_cache(dataset, features)
    except FmucError:
        return False
    return True
