"""How cost grows with the number of clips, of dropout passes N and of runs: measured points and the model through them.

A model line is computed from constants that are measured at one or two numbers; the other points show whether it holds.
Everything runs single-threaded in a process like a worker's, in less than a minute.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch

from fmuc import experiments, features, footprint, forecast, paths, train
from fmuc import parallel as schedule
from fmuc.calibration import DryRun, random_cache, seconds_of
from fmuc.config import Run
from fmuc.datasets import Clip, Dataset
from fmuc.errors import FmucError

MINI, PAPER = (experiments.make_run(*names, "FM") for names in (("mini", "nsynth-gm"), ("paper", "nsynth")))
CLASSES, CPU = 11, torch.device("cpu")
COLUMNS = ("against", "number", "what", "unit", "value", "source")
CLIPS = np.logspace(2, 6, 41)  # of the lines; the points lie where they are quickly measured
PASSES, RUNS = (1, 2, 5, 10, 20), (1, 2, 4)
PART, STEP = 8, "a step of FMUC"  # an eighth of the paper's batch, for the growth with N
STEPS = 30  # of a short run
MEGA = 1e6
Row = tuple[str, float, str, str, float, str]


def growth() -> pd.DataFrame:
    """Measured and modelled values, one a row: what ("features", ...) costs ``value`` ``unit`` (s, MB) at ``number``
    of ``against`` ("clips", "N", "runs"); source "measured" or "model". Raises :class:`FmucError` if it fails."""
    code = "from fmuc import growth; growth.report()"
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, env=schedule.environment(1),
                          capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise FmucError(f"the measurement of how cost grows failed: {last}")
    return pd.DataFrame(json.loads(done.stdout.splitlines()[-1]), columns=COLUMNS)


def report() -> None:
    """Measure in this process and print the rows as one line of JSON, the last one."""
    torch.set_num_threads(1)
    print(json.dumps([*with_clips(), *with_passes(), *with_runs()]))


def with_clips() -> Iterator[Row]:
    """Memory of the patches, of mini's size and of NSynth's; time of the features, an epoch and predictions of mini."""
    before = anonymous_bytes()
    for name, run, points in (("mini", MINI, (3_000, 30_000)), ("NSynth", PAPER, (8_000,))):
        patch = run.features.mel_bands * run.features.patch_frames * 4  # float32 in memory, one patch a clip
        for clips in points:  # each larger than all before, so that the heap has to grow
            yield "clips", clips, f"patches, {name}", "MB", _patch_bytes(run, clips, before) / MEGA, "measured"
        for clips in CLIPS:
            fits = clips * patch <= train.RESIDENT_BYTES
            yield "clips", clips, f"patches, {name}", "MB", clips * patch / MEGA if fits else 0.0, "model"
    an_epoch = MINI.training.iterations_per_epoch
    yield from _line("log-Mel features", _feature_seconds, (100, 300, 1_000), 1)
    yield from _line("an epoch of FM", lambda n: an_epoch * seconds_of(_dry(n).step, 0.7), (300, 3_000, 30_000), 0)
    yield from _line("predictions", lambda n: seconds_of(_dry(n).predict, 0.0), (300, 3_000, 10_000), 1)


def _dry(patches: int) -> DryRun:
    return DryRun(MINI, CLASSES, CPU, patches=patches)


def _patch_bytes(run: Run, clips: int, before: int) -> int:
    """Memory that this process has gained when the patches of ``clips`` clips are there."""
    cache = random_cache(run.features, 1)  # repeated without memory of its own
    many = replace(cache, patches=np.broadcast_to(cache.patches, (clips, *cache.patches.shape[1:])))
    source = train.PatchSource(many, CPU)
    gained = anonymous_bytes() - before
    del source
    return gained


def anonymous_bytes() -> int:
    """Memory of this process that no file backs; where the system does not tell, its peak."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) * 1024
    return footprint.program_bytes()


def _line(what: str, seconds: Callable[[int], float], points: Sequence[int], power: int) -> Iterator[Row]:
    """Measured points and the line through the last one that grows with this power of the number of clips."""
    values = [seconds(clips) for clips in points]
    for clips, value in zip(points, values, strict=True):
        yield "clips", clips, what, "s", value, "measured"
    for clips in CLIPS:
        yield "clips", clips, what, "s", values[-1] * (clips / points[-1]) ** power, "model"


def _feature_seconds(clips: int) -> float:
    """Seconds of :func:`fmuc.features.extract` for ``clips`` notes of 4 s."""
    preset, rng = experiments.NSYNTH_SMALL, np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as root:
        files = [Path(root) / f"{i}.wav" for i in range(20)]
        for file in files:
            soundfile.write(file, 0.1 * rng.standard_normal(4 * preset.sample_rate), preset.sample_rate)
        made = tuple(Clip(str(i), files[i % len(files)], "a", str(i), "train") for i in range(clips))
        before, os.environ["FMUC_DATA"] = os.environ["FMUC_DATA"], root
        try:
            features.extract(Dataset("warm", ("a",), made[:20]), preset, workers=1, progress=False)
            started = time.perf_counter()
            features.extract(Dataset("growth", ("a",), made), preset, workers=1, progress=False)
            return time.perf_counter() - started
        finally:
            os.environ["FMUC_DATA"] = before


def with_passes() -> list[Row]:
    """Time and memory of a step of FMUC, the paper's net on a part of its batch, in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return pool.submit(_steps_with_passes).result()


def _steps_with_passes() -> list[Row]:
    """Measured points; the time's line through the first and the last of them, that of memory by formula."""
    fmuc, rows, times = experiments.make_run("paper", "nsynth", "FMUC"), [], {}
    needed = footprint.memory(fmuc, footprint.extent("nsynth"))
    DryRun(fmuc, CLASSES, CPU, shrink=16 * PART).step()  # so that libraries and kernels do not count
    before = anonymous_bytes()
    for passes in PASSES:
        dry = DryRun(replace(fmuc, selection=replace(fmuc.selection, passes=passes)), CLASSES, CPU, shrink=PART)
        times[passes] = seconds_of(dry.step, 0.7)
        rows += [("N", passes, STEP, "s", times[passes], "measured"),
                 ("N", passes, STEP, "MB", (anonymous_bytes() - before) / MEGA, "measured")]
        del dry
    first, last = PASSES[0], PASSES[-1]
    each = (times[last] - times[first]) / (last - first)
    for passes in range(first, last + 1):
        rows += [("N", passes, STEP, "s", times[first] + each * (passes - first), "model"),
                 ("N", passes, STEP, "MB", (needed.weights + needed.activations / PART) / MEGA, "model")]
    return rows


def with_runs() -> Iterator[Row]:
    """Time and memory of short runs, one or all workers at a time: the line from the first point of each."""
    for workers in sorted({1, min(schedule.default_workers("cpu"), max(RUNS))}):
        what, context = f"{workers} at a time", get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(_short_run, range(workers)))  # start and compile
            one = 0.0
            for count in (count for count in RUNS if count >= workers):
                started = time.perf_counter()
                memory = dict(pool.map(_short_run, range(count)))
                seconds = time.perf_counter() - started
                one = one or seconds
                yield "runs", count, what, "s", seconds, "measured"
                yield "runs", count, what, "MB", sum(memory.values()) / MEGA, "measured"
        for count in range(1, 2 * max(RUNS) + 1):
            yield "runs", count, what, "s", forecast.elapsed([one] * count, workers), "model"
            yield "runs", count, what, "MB", min(count, workers) * max(memory.values()) / MEGA, "model"


def _short_run(_: int) -> tuple[int, int]:
    """Some steps of FM, mini: the process that made them and its memory."""
    dry = DryRun(MINI, CLASSES, CPU)
    for _ in range(STEPS):
        dry.step()
    return os.getpid(), footprint.program_bytes()
