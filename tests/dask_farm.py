"""Processes of their own on this machine: a Dask scheduler, workers to be killed, and the command ``train``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fmuc import paths
from fmuc.config import Run

DASK = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "20s", "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "false"}


def variables(**more: str) -> dict[str, str]:
    """Environment of a process that imports this checkout and reads the data folder of this process."""
    return {**os.environ, "FMUC_DATA": str(paths.data_root()), "PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1",
            **more}


class Farm:
    """``with Farm(folder) as farm``: a scheduler whose file is ``farm.file``; workers by :meth:`add`, each without a
    nanny, so that one that is killed stays dead."""

    def __init__(self, folder: Path) -> None:
        self.file, self.folder = folder / "scheduler.json", folder
        self.workers: list[subprocess.Popen] = []

    def __enter__(self) -> Farm:
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
                                     "--scheduler-file", str(self.file))
        self.address = wait_for(self._address)
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()

    def _address(self) -> str:
        try:
            return json.loads(self.file.read_text())["address"]
        except (OSError, ValueError):  # missing or half written
            return ""

    def add(self, *arguments: str, threads: int = 1, data: Path | None = None) -> subprocess.Popen:
        """A further worker; ``data``: its data folder, if not that of this process."""
        worker = self._start("worker", str(self.address), "--nthreads", str(threads), "--no-nanny", "--no-dashboard",
                             *arguments, **({"FMUC_DATA": str(data)} if data else {}))
        self.workers.append(worker)
        return worker

    def kill(self, worker: subprocess.Popen, number: int = signal.SIGKILL) -> None:
        worker.send_signal(number)
        worker.wait()
        self.workers.remove(worker)

    def _start(self, kind: str, *arguments: str, **more: str) -> subprocess.Popen:
        with open(self.folder / f"{kind}-{len(self.workers)}.log", "ab") as log:
            return subprocess.Popen([sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments],
                                    env=variables(**DASK, **more), stdout=log, stderr=log, cwd=self.folder)


def wait_for(condition, seconds: float = 180.0):
    """The first true value of ``condition()``; fails after ``seconds``, which only a broken program needs."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {condition}"
        time.sleep(0.02)
    return value


TRAIN = """
import json, sys
from fmuc import __main__ as cli, config, experiments
from fmuc.machinery import cluster
cluster.REPLY = 5
runs = [config.run_from_dict(run) for run in json.loads(sys.argv[1])]
experiments.plan = lambda *_: runs
if __name__ == "__main__":
    sys.exit(cli.main(["train", "--profile", "smoke", "--device", "cpu", *sys.argv[2:]]))
"""


def start_training(runs: Sequence[Run], *arguments: str, **more: str) -> subprocess.Popen:
    """The command ``train`` for these runs."""
    content = json.dumps([asdict(run) for run in runs])
    return subprocess.Popen([sys.executable, "-c", TRAIN, content, *arguments], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=variables(**more), cwd=paths.ROOT, text=True)
