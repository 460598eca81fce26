"""What the missing runs of a plan cost on this machine: steps, disk, memory and hours, from a few timed steps."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import NamedTuple

import torch

from fmuc.batches import RESIDENT_BYTES
from fmuc.config import Run, run_from_dict
from fmuc.datasets import load
from fmuc.devices import pick_device
from fmuc.errors import FmucError
from fmuc.features import open_cache
from fmuc.fixmatch import Batch, build, step
from fmuc.machinery.parallel import worker_variables
from fmuc.machinery.workers import run_parallel
from fmuc.model import parameter_count

TIMED = 4  # steps of each kind; the first does not count
CLASSES = 15
PATCHES = {"nsynth": 305_979, "tut2017": 4 * 6_300}  # of data sets that may not be there yet


class Cost(NamedTuple):
    """``hours`` with ``workers`` runs at a time; ``memory_gb`` of all of them; ``disk_gb`` of features and runs."""

    steps: int
    workers: int
    hours: float
    memory_gb: float
    disk_gb: float


def estimate(runs: Sequence[Run], device: str = "auto", workers: int | None = None) -> Cost:
    """Time a few steps of each kind of run, as many at a time as would train. Evaluations are left out."""
    workers = workers or len(worker_variables(device))
    phases = list(_phases(runs))
    kinds = {_kind(run): run for run, _ in phases}
    tasks = [(asdict(run), device) for run in kinds.values()]
    timed = dict(zip(kinds, run_parallel(_measure, tasks, workers), strict=True))
    seconds = sum(steps * timed[_kind(run)].seconds for run, steps in phases)
    values = [_patch_count(run) * run.features.mel_bands * run.features.patch_frames
              for run in {run.dataset: run for run in runs}.values()]  # of each data set's patches
    resident = max(min(4 * count, RESIDENT_BYTES) for count in values)
    memory = workers * (max(part.memory for part in timed.values()) + resident)
    disk = 2 * sum(values) + sum(12 * timed[_kind(run)].parameters for run in runs)
    return Cost(sum(steps for _, steps in phases), workers, seconds / workers / 3600, memory / 1e9, disk / 1e9)


def _phases(runs: Sequence[Run]) -> Iterator[tuple[Run, int]]:
    """Runs and their steps; a warm start is a run of its own, which the rows of a seed share (D12)."""
    yield from ((run, run.training.epochs * run.training.iterations_per_epoch) for run in runs)
    started = {(run.dataset, run.seed, run.labels, run.labelled_share, run.outside): run
               for run in runs if run.training.warm_start}
    yield from ((replace(run, selection=None), run.training.warm_start) for run in started.values())


def _kind(run: Run) -> tuple:
    """Runs of one kind have steps of one cost."""
    return run.dataset, run.selection and run.selection.passes, run.network.kind


class _Timing(NamedTuple):
    seconds: float  # of a step
    memory: int  # bytes, largest of the process
    parameters: int


def _measure(content: dict, device: str) -> _Timing:
    """In a worker: time steps on random patches."""
    run, device = run_from_dict(content), pick_device(device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    training, shape = run.training, (run.features.mel_bands, run.features.patch_frames)
    labelled = training.supervised_batch if run.selection is None else training.labelled_batch
    batch = Batch(torch.randn(labelled, *shape, device=device), torch.zeros(labelled, dtype=torch.int64, device=device))
    if run.selection is not None:
        batch = replace(batch, unlabelled=torch.randn(training.unlabelled_batch, *shape, device=device))
    (net, optimiser), rng, seconds = build(run, CLASSES, device), torch.Generator(device), []
    for _ in range(TIMED):
        started = time.perf_counter()
        step(net, optimiser, batch, run, rng).tolist()  # which waits for a GPU
        seconds.append(time.perf_counter() - started)
    memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _Timing(statistics.median(seconds[1:]), memory, parameter_count(net))


def _patch_count(run: Run) -> int:
    """Patches of a run's data set; of a published one that is not there, as many as it will have."""
    try:
        return len(open_cache(load(run.dataset), run.features).patches)
    except FmucError:
        return PATCHES.get(run.dataset, 0)
