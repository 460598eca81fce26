"""What the missing runs of a plan cost on this machine, from a few timed steps of the dearest run of each data set."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

import torch

from fmuc import config, datasets, features
from fmuc.batches import RESIDENT_BYTES
from fmuc.devices import pick_device
from fmuc.errors import FmucError
from fmuc.experiments import step_units
from fmuc.fixmatch import Batch, build, step
from fmuc.machinery.parallel import worker_variables
from fmuc.machinery.workers import run_parallel
from fmuc.model import parameter_count

PATCHES = {"nsynth": 305_979, "tut2017": 4 * 6_300}  # of data sets that may not be there yet


def estimate(runs: Sequence[config.Run], device: str = "auto", workers: int | None = None) -> dict[str, float]:
    """Steps, hours with ``workers`` runs at a time, GB of memory of all of them, GB of disk for features and runs.

    As many steps at a time are timed as would train; other runs are reckoned by their units of work. No evaluations.
    """
    workers = workers or len(worker_variables(device))
    shared = {(run.dataset, run.seed, run.labels, run.labelled_share, run.outside): run for run in runs}  # warm starts
    phases = [(replace(run, selection=None), run.training.warm_start) for run in shared.values()]
    phases += [(run, run.training.epochs * run.training.iterations_per_epoch) for run in runs]
    dearest = {run.dataset: run for run in sorted(runs, key=step_units)}.values()
    tasks = [(asdict(run), device) for run in dearest for _ in range(workers)]
    timed = {task[0]["dataset"]: each for task, each in zip(tasks, run_parallel(_measure, tasks, workers), strict=True)}
    seconds = sum(steps * step_units(run) * timed[run.dataset][0] for run, steps in phases) / workers
    values = [_values(run) for run in dearest]
    memory = max(used for _, used, _ in timed.values()) + max(min(4 * count, RESIDENT_BYTES) for count in values)
    disk = 2 * sum(values) + sum(12 * timed[run.dataset][2] for run in runs)  # float16; weights and two moments
    return {"steps": sum(steps for _, steps in phases), "workers": workers, "hours": seconds / 3600,
            "memory_gb": workers * memory / 1e9, "disk_gb": disk / 1e9}


def _measure(content: dict, device: str) -> tuple[float, int, int]:
    """In a worker, on random patches: seconds of a unit of work, bytes of memory, parameters."""
    run, device = config.run_from_dict(content), pick_device(device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    shape = run.features.mel_bands, run.features.patch_frames
    labelled = run.training.supervised_batch if run.selection is None else run.training.labelled_batch
    unlabelled = None if run.selection is None else torch.randn(run.training.unlabelled_batch, *shape, device=device)
    batch = Batch(torch.randn(labelled, *shape, device=device), torch.zeros(labelled, device=device).long(), unlabelled)
    (net, optimiser), rng, ends = build(run, 15, device), torch.Generator(device), []
    for _ in range(4):
        step(net, optimiser, batch, run, rng).tolist()  # which waits for a GPU
        ends.append(time.perf_counter())
    seconds = (ends[-1] - ends[0]) / 3  # without the first step
    return seconds / step_units(run), 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, parameter_count(net)


def _values(run: config.Run) -> int:
    """Numbers in the features of a run's data set; of a published one that is not there, as many as there will be."""
    try:
        return features.open_cache(datasets.load(run.dataset), run.features).patches.size
    except FmucError:
        return PATCHES.get(run.dataset, 0) * run.features.mel_bands * run.features.patch_frames
