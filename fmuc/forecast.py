"""From seconds of a step to hours of a plan: steps, evaluations, shared warm starts, start-up, workers side by side."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from fmuc.calibration import Speed, kind
from fmuc.config import Run
from fmuc.footprint import Extent


def training_seconds(run: Run, size: Extent, speed: Speed) -> float:
    """Steps and the evaluations between them: a record's "wall_seconds", a warm start apart."""
    training = run.training
    steps = training.epochs * training.iterations_per_epoch
    evaluations = -(-training.epochs // training.evaluate_every)  # the last epoch always has one
    return steps * speed.steps[kind(run)] + evaluations * evaluated_patches(run, size) * speed.patches[run.dataset]


def warm_seconds(run: Run, speed: Speed) -> float:
    """The warm start (D12), which the first run of a seed makes for all its rows."""
    if run.selection is None or not run.training.warm_start:
        return 0.0
    return run.training.warm_start * speed.steps[run.dataset, None]


def evaluated_patches(run: Run, size: Extent) -> int:
    """Patches of the test and the unlabelled files."""
    unlabelled = 1 - run.labelled_share if run.labels == "part" else 0
    return size.patches(run.features, "test") + round(unlabelled * size.patches(run.features, "train"))


def run_seconds(runs: Sequence[Run], sizes: Mapping[str, Extent], speed: Speed, *, start: bool = True) -> list[float]:
    """Seconds of each run in the order of the plan, the first of a data set and seed with the warm start.

    ``start``: with the final predictions and, unless a worker's runs share it, the start of its process, which a
    record's "wall_seconds" leave out.
    """
    warmed, seconds = set(), []
    for run in runs:
        size = sizes[run.dataset]
        total = training_seconds(run, size, speed)
        if run.selection is not None and (run.dataset, run.seed) not in warmed:
            warmed.add((run.dataset, run.seed))
            total += warm_seconds(run, speed)
        if start:
            total += evaluated_patches(run, size) * speed.patches[run.dataset]
            total += 0 if speed.shares_start else speed.start
        seconds.append(total)
    return seconds


def until_the_end(seconds: Sequence[float], workers: int, speed: Speed) -> float:
    """Seconds until the last of the runs ends, the start that they share included."""
    return elapsed(seconds, workers) + (speed.start if len(seconds) and speed.shares_start else 0)


def elapsed(seconds: Sequence[float], workers: int) -> float:
    """Seconds until the last of the runs ends, begun longest first by whichever of the workers is free."""
    ends = [0.0] * workers
    for duration in sorted(seconds, reverse=True):
        heapq.heapreplace(ends, ends[0] + duration)
    return max(ends)
