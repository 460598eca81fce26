"""Seconds of our own steps on this machine, measured in processes like those that train, and as many at a time.

So the allocator, the number of threads and what two processes take from each other are those of the real runs. Patches
are random: a convolution takes as long for them as for sound.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median

import numpy as np
import torch
from tqdm import tqdm

from fmuc import parallel as schedule
from fmuc import paths, process_pool, train
from fmuc.config import Features, Run, run_from_dict
from fmuc.cost import wait
from fmuc.errors import FmucError
from fmuc.features import FeatureCache
from fmuc.selection import PseudoLabelCounts

Kind = tuple[str, int | None]  # data set; dropout passes of the weak view, None: a supervised step
LONGEST = 0.6  # seconds of a step on a CPU above which a part of its batch is timed: a patch costs the same there
_FEWEST = 3  # timed calls


@dataclass(frozen=True)
class Speed:
    """Seconds of a step by kind and of a patch's prediction by data set, ``workers`` at a time; of the start of a
    process, which ``shares_start`` with the others of its worker or not."""

    steps: Mapping[Kind, float]
    patches: Mapping[str, float]
    start: float
    workers: int
    device: str
    shares_start: bool = False


def kind(run: Run) -> Kind:
    """What the time of a step depends on within a profile: rules and thresholds cost nothing."""
    return run.dataset, None if run.selection is None else run.selection.passes


def kinds(runs: Sequence[Run]) -> dict[Kind, Run]:
    """A run of every kind, the supervised step of a warm start included."""
    found: dict[Kind, Run] = {}
    for run in runs:
        found.setdefault(kind(run), run)
        if run.selection is not None and run.training.warm_start:
            found.setdefault((run.dataset, None), replace(run, selection=None))
    return found


def measure(runs: Sequence[Run], classes: Mapping[str, int], *, device: str = "auto", workers: int | None = None,
            seconds: float = 2.0, progress: bool = True) -> Speed:
    """Time every kind of step of ``runs`` for about ``seconds`` each, ``workers`` processes at once (default: as many
    as would train). ``classes``: their number by data set. :class:`FmucError` if a process fails."""
    workers = schedule.default_workers(device) if workers is None else workers
    if workers < 1:
        raise FmucError(f"--workers must be at least 1, not {workers}")
    chosen = kinds(runs)
    job = {"runs": [asdict(run) for run in chosen.values()], "classes": [classes[name] for name, _ in chosen],
           "device": device, "seconds": seconds, "asked": time.time()}
    starts, results = zip(*_together(job, workers, len(chosen), progress), strict=True)
    steps = {key: fmean(result[i][0] for result in results) for i, key in enumerate(chosen)}
    patches = {name: fmean(result[i][1] for result in results) for i, (name, _) in enumerate(chosen)}
    name = str(train.pick_device(device))
    return Speed(steps, patches, fmean(starts), workers, name, process_pool.forks(name))


def _together(job: dict, workers: int, lines: int, progress: bool) -> list[tuple[float, list]]:
    """Seconds that its start took, and the ``lines`` that it then printed, of each process."""
    command = [sys.executable, "-c", "from fmuc import calibration; calibration.report()"]
    with tempfile.TemporaryFile("w+") as errors:
        processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                                      env=schedule.environment(1 if workers > 1 else None), cwd=paths.ROOT)
                     for _ in range(workers)]
        try:
            _tell(processes, json.dumps(job))
            starts = [json.loads(process.stdout.readline()) for process in processes]
            _tell(processes, "")  # all are ready: go
            shown = tqdm(range(lines), "timing steps", unit="kind", leave=False, disable=not progress)
            results = [[json.loads(processes[0].stdout.readline()) for _ in shown]]
            results += [[json.loads(process.stdout.readline()) for _ in range(lines)] for process in processes[1:]]
        except (OSError, ValueError):  # the pipe of a process that has ended
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["no message"])[-1]
            raise FmucError(f"the measurement of a step failed: {last}") from None
        finally:
            for process in processes:
                process.kill()
                process.communicate()
    return list(zip(starts, results, strict=True))


def _tell(processes: Sequence[subprocess.Popen], line: str) -> None:
    for process in processes:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()


def report() -> None:
    """A measuring process: job from standard input, seconds of its start, wait for a line, a line of results a kind."""
    job = json.loads(sys.stdin.readline())
    start, runs = time.time() - job["asked"], [run_from_dict(run) for run in job["runs"]]
    device = train.pick_device(job["device"])
    DryRun(runs[0], job["classes"][0], device, shrink=8).step()  # kernels may have to be compiled, once on a machine
    print(json.dumps(start), flush=True)
    sys.stdin.readline()
    for run, classes in zip(runs, job["classes"], strict=True):
        print(json.dumps(_timed(run, classes, device, job["seconds"])), flush=True)


def _timed(run: Run, classes: int, device: torch.device, budget: float) -> tuple[float, float]:
    """Seconds of a whole step, and of the prediction of a patch."""
    shrink = 1
    if device.type == "cpu":
        whole = 8 * seconds_of(DryRun(run, classes, device, shrink=8).step, 0, fewest=1)
        while whole / shrink > LONGEST and shrink < 8:
            shrink *= 2
    dry = DryRun(run, classes, device, shrink=shrink)
    return shrink * seconds_of(dry.step, budget), seconds_of(dry.predict, budget / 4) / dry.patches


class DryRun:
    """Steps of a run on 1/``shrink`` of its batch, and predictions, of random ``patches`` (default: a step's)."""

    def __init__(self, run: Run, classes: int, device: torch.device, *, shrink: int = 1, patches: int = 0) -> None:
        sizes = ("labelled_batch", "unlabelled_batch", "supervised_batch")
        smaller = {size: max(getattr(run.training, size) // shrink, 2) for size in sizes}
        self.run = replace(run, training=replace(run.training, **smaller))
        training, semi = self.run.training, run.selection is not None
        batch = training.labelled_batch + training.unlabelled_batch if semi else training.supervised_batch
        self.patches = patches or batch
        self.source = train.PatchSource(random_cache(run.features, self.patches), device)
        self.net, self.optimiser = train.build(self.run, classes, device)
        self.net.train()
        self.labels = torch.arange(self.patches, device=device) % classes
        self.sizes = (training.labelled_batch, training.unlabelled_batch) if semi else (batch,)
        self.rng, self.draws = torch.Generator(device).manual_seed(run.seed), np.random.default_rng(run.seed)
        self.counts = PseudoLabelCounts(classes, device)

    def step(self) -> None:
        """Read a batch and learn from it."""
        drawn = (torch.from_numpy(self.draws.integers(self.patches, size=size)) for size in self.sizes)
        parts = [part for rows in drawn for part in (self.source.gather(rows), self.labels[rows])]
        batch = train.Batch(*parts, *(None,) * (4 - len(parts)))
        train.step(self.net, self.optimiser, batch, self.run, self.rng, self.counts)

    def predict(self) -> None:
        """Predict every patch."""
        train.predict(self.net, self.source, np.arange(self.patches), self.run)


def random_cache(features: Features, patches: int) -> FeatureCache:
    """Normalised random patches in memory."""
    shape = (patches, features.mel_bands, features.patch_frames)
    values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32).astype(np.float16)
    bands = np.zeros(features.mel_bands, np.float32)
    return FeatureCache(values, np.arange(patches), bands, bands + 1, features, "")


def seconds_of(function: Callable[[], object], budget: float, fewest: int = _FEWEST) -> float:
    """Median seconds of the calls that fit into ``budget`` seconds, after two that are not counted."""
    function()
    function()
    wait()
    times, end = [], time.perf_counter() + budget
    while len(times) < fewest or time.perf_counter() < end:
        started = time.perf_counter()
        function()
        wait()
        times.append(time.perf_counter() - started)
    return median(times)
