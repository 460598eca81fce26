"""A real Dask cluster whose workers and scheduler are killed, and killed commands that leave no process.

``FMUC_KILLS=12`` kills that many workers during a plan of 12 runs, instead of one during one of 2.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from dask_farm import Farm, variables, wait_for
from test_kills import ending
from test_parallel import folder_of, has_begun, small_run

from fmuc import paths, train
from fmuc.config import Run
from fmuc.errors import FmucError
from fmuc.machinery.atomic import is_locked
from fmuc.machinery.parallel import train_plan
from fmuc.records import is_finished

KILLS = int(os.environ.get("FMUC_KILLS", "1"))


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


def is_free(run: Run) -> bool:
    return not is_locked(folder_of(run) / ".lock")


def test_killed_workers_ctrl_c_and_a_dead_scheduler(trainable, one_thread, tmp_path, tmp_path_factory):
    count, epochs = (12, 40) if KILLS > 1 else (2, 20)
    runs = [small_run(variant, seed, epochs) for seed in range(4) for variant in ("FM", "FMUC", "Labelled part only")]
    with Farm(tmp_path_factory.mktemp("farm")) as farm:
        farm.add()
        killer = Killer(farm, runs[:count])
        killer.start()
        try:
            train_plan(runs[:count], "smoke", device="cpu", scheduler=str(farm.file), progress=False)
        finally:
            killer.over.set()
            killer.join()
        assert killer.killed > 0
        check_stops(farm)
    for run in runs[:count]:
        alone = tmp_path / "alone" / run.name
        train.train(run, device="cpu", folder=alone, progress=False)
        assert ending(folder_of(run)) == ending(alone)


def check_stops(farm: Farm) -> None:
    """Ctrl-C stops the run and not its worker; a dead scheduler is one clear error."""
    run = small_run(epochs=3_000)

    def stop(how) -> None:
        def wait_and_stop() -> None:
            wait_for(lambda: has_begun(run) and not is_free(run))
            how()

        threading.Thread(target=wait_and_stop).start()
        train_plan([run], "smoke", device="cpu", scheduler=farm.address, progress=False)

    with pytest.raises(KeyboardInterrupt):
        stop(lambda: signal.raise_signal(signal.SIGINT))
    wait_for(lambda: is_free(run))
    assert all(worker.poll() is None for worker in farm.workers)
    with pytest.raises(FmucError, match="Dask scheduler is gone.*continues from the last"):
        stop(farm.scheduler.kill)
    wait_for(lambda: is_free(run))
    assert not [*paths.data_root().glob(".plan-*")]


COMMAND = """
import sys, time
from pathlib import Path
from fmuc import __main__ as cli, experiments
from fmuc.machinery import atomic, parallel, workers

def work(*_):
    with atomic.whole_folder(Path(sys.argv[1])):
        list(workers.run_parallel(time.sleep, [(1000,)] * 2, 2))

def train(*_):
    runs = [experiments.make_run("smoke", "fsdd-smoke", "FM", seed) for seed in (0, 1)]
    parallel._train = lambda payload: time.sleep(1000)
    parallel.train_plan(runs, "smoke", device="cpu", workers=2)

cli.experiments.plan = globals()[sys.argv[2]]
cli.main(["plan"])
"""


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    children = psutil.process_iter(["ppid", "cmdline"])  # None for the command line of one that has just ended
    return [child for child in children if child.info["ppid"] == process.pid
            and "popen_loky" in " ".join(child.info["cmdline"] or ())]


@pytest.mark.parametrize(("work", "number"), [
    ("work", signal.SIGTERM), ("work", signal.SIGKILL), ("train", signal.SIGINT), ("train", signal.SIGKILL)])
def test_a_killed_command_leaves_no_process_and_no_half_filled_folder(data_root, work, number):
    process = subprocess.Popen([sys.executable, "-c", COMMAND, str(data_root / "made"), work], env=variables(),
                               stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(workers_of(process)) == 2)
    left = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    errors = process.communicate(timeout=180)[1]
    assert not psutil.wait_procs(left, timeout=60)[1]
    if number == signal.SIGKILL:  # after which the next command removes the folder
        return
    assert process.returncode == 130 and "Traceback" not in errors
    assert errors.endswith("fmuc: interrupted; the same command goes on from here\n")
    assert not [*data_root.glob(".made*")]
