"""Killed Dask workers and killed commands: every run ends as in a single process, and no process is left.

``FMUC_KILLS=12`` kills that many workers during a plan of 12 runs, instead of 2 during one of 3.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from dask_farm import Farm, start_training, variables, wait_for
from test_parallel import folder_of, has_begun, same, small_run

from fmuc import paths, train
from fmuc.config import Run
from fmuc.machinery.parallel import train_plan
from fmuc.records import is_finished, load_record

KILLS = int(os.environ.get("FMUC_KILLS", "2"))


class Killer(threading.Thread):
    """Kills workers at random moments after an epoch of an unfinished run, and lets another one join each time."""

    def __init__(self, farm: Farm, runs: list[Run]) -> None:
        super().__init__()
        self.farm, self.runs, self.killed = farm, runs, 0
        self.over, self.rng = threading.Event(), np.random.default_rng(0)

    def checkpoints(self) -> set[Path]:
        return {path for run in self.runs if not is_finished(folder_of(run))
                for path in folder_of(run).glob("checkpoint*")}

    def run(self) -> None:
        before: set[Path] = set()
        while self.killed < KILLS and not self.over.wait(0.02):
            if self.checkpoints() - before and not self.over.wait(self.rng.uniform(0, 0.2)):
                worker = self.farm.workers[self.rng.integers(len(self.farm.workers))]
                self.farm.kill(worker, (signal.SIGKILL, signal.SIGTERM)[self.killed % 2])
                self.farm.add()
                self.killed, before = self.killed + 1, self.checkpoints()


def test_workers_are_killed_and_every_run_ends_as_in_a_single_process(trainable, one_thread, tmp_path,
                                                                      tmp_path_factory):
    count, epochs = (12, 40) if KILLS > 2 else (3, 10)
    runs = [small_run(variant, seed, epochs) for seed in range(4) for variant in ("Labelled part only", "FM", "FMUC")]
    with Farm(tmp_path_factory.mktemp("farm")) as farm:
        farm.add()
        farm.add()
        killer = Killer(farm, runs[:count])
        killer.start()
        try:
            failures = train_plan(runs[:count], "smoke", device="cpu", scheduler=str(farm.file), progress=False)
        finally:
            killer.over.set()
            killer.join()
    alone = [train.train(run, device="cpu", folder=tmp_path / "alone" / run.name, progress=False)
             for run in runs[:count]]
    identical = sum(same(load_record(folder_of(record.run)), record) for record in alone)
    print(f"{killer.killed} workers killed, {identical} of {count} runs identical")
    assert failures == [] and identical == count and killer.killed > 0


def features() -> subprocess.Popen:
    (paths.data_root() / "features").unlink()  # the link to those of all tests
    return command("features", "--profile", "smoke", "--dataset", "nsynth-gm-smoke", "--workers", "2")


def rendering() -> subprocess.Popen:
    (paths.data_root() / "nsynth-gm-smoke").unlink()
    return command("data", "nsynth-gm-smoke", "--workers", "2")


def training() -> subprocess.Popen:
    runs = [replace(small_run(), training=replace(small_run().training, epochs=3_000), seed=seed) for seed in (0, 1)]
    process = start_training(runs, "--workers", "2")
    wait_for(lambda: all(map(has_begun, runs)))
    return process


def command(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "fmuc", *arguments], env=variables(), cwd=paths.ROOT,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    children = psutil.process_iter(["ppid", "cmdline"])  # None for the command line of one that has just ended
    return [child for child in children if child.info["ppid"] == process.pid
            and "popen_loky" in " ".join(child.info["cmdline"] or ())]


def hidden(root: Path) -> list[str]:
    """Folders that a command fills before they get their names."""
    return [path.name for path in (*root.glob(".*"), *root.glob("features/.*")) if path.is_dir()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("start", [features, rendering, training])
def test_a_killed_command_leaves_no_process_and_no_half_filled_folder(trainable, start, number):
    process = start()
    wait_for(lambda: len(workers_of(process)) == 2)
    left = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    process.communicate(timeout=180)
    assert process.returncode in (130, -number)
    assert not psutil.wait_procs(left, timeout=60)[1]
    if number != signal.SIGKILL:  # after which the next command removes it
        assert not hidden(trainable)
