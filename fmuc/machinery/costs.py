"""What runs cost on this machine: a few timed steps of the dearest of each data set, the others by units of work."""

from __future__ import annotations

import resource
from dataclasses import replace
from timeit import timeit

import torch

from fmuc import datasets, experiments, features
from fmuc.batches import RESIDENT_BYTES
from fmuc.config import Run
from fmuc.devices import pick_device
from fmuc.errors import FmucError
from fmuc.fixmatch import Batch, build, step
from fmuc.machinery.parallel import worker_variables
from fmuc.machinery.workers import run_parallel
from fmuc.model import parameter_count

PATCHES = {"nsynth": 305_979, "tut2017": 4 * 6_300}  # where the data set is not there yet


def estimate(runs: list[Run], device: str = "auto", workers: int | None = None) -> dict[str, float]:
    """Steps, hours with ``workers`` runs at a time, GB of memory for all of them, GB of disk; without evaluations."""
    workers, units = workers or len(worker_variables(device)), experiments.step_units
    shared = {(run.dataset, run.seed, run.labels, run.labelled_share, run.outside): run for run in runs}  # warm starts
    phases = [(replace(run, selection=None), run.training.warm_start) for run in shared.values()]
    phases += [(run, run.training.epochs * run.training.iterations_per_epoch) for run in runs]
    dearest = {run.dataset: run for run in sorted(runs, key=units)}
    tasks = [(run, device) for run in dearest.values() for _ in range(workers)]
    timed = dict(zip(dearest, [*run_parallel(_measure, tasks, workers)][::workers], strict=True))
    seconds = sum(steps * units(run) * timed[run.dataset][0] for run, steps in phases) / workers
    values = [_values(run) for run in dearest.values()]
    memory = max(used for _, used, _ in timed.values()) + max(min(4 * count, RESIDENT_BYTES) for count in values)
    disk = 2 * sum(values) + sum(12 * timed[run.dataset][2] for run in runs)  # float16; weights and two moments
    return {"steps": sum(steps for _, steps in phases), "workers": workers, "hours": seconds / 3600,
            "memory_gb": workers * memory / 1e9, "disk_gb": disk / 1e9}


def _measure(run: Run, device: str) -> tuple[float, int, int]:
    """In a worker, on random patches: seconds of a unit of work, bytes of memory, parameters."""
    shape, training = (run.features.mel_bands, run.features.patch_frames), run.training
    labelled = training.supervised_batch if run.selection is None else training.labelled_batch
    with pick_device(device) as where:
        batch = Batch(torch.randn(labelled, *shape), torch.zeros(labelled, dtype=torch.long),
                      torch.randn(training.unlabelled_batch, *shape))
    (net, optimiser), rng = build(run, 15, where), torch.Generator(where)
    torch.set_num_threads(1 if where.type == "cpu" else torch.get_num_threads())
    each = [timeit(lambda: step(net, optimiser, batch, run, rng).tolist(), number=1) for _ in range(4)]
    return (sum(each[1:]) / 3 / experiments.step_units(run),  # the first one compiles
            1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, parameter_count(net))


def _values(run: Run) -> int:
    """Numbers in the features of a run's data set; of a published one that is not there, as many as there will be."""
    try:
        return features.open_cache(datasets.load(run.dataset), run.features).patches.size
    except FmucError:
        return PATCHES.get(run.dataset, 0) * run.features.mel_bands * run.features.patch_frames
