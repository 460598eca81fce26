"""A Dask scheduler on this machine, and workers to be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from fmuc import paths

DASK = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "20s", "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "false"}


def variables() -> dict[str, str]:
    """Environment of a process that imports this checkout and reads the data folder of this process."""
    return {**os.environ, "FMUC_DATA": str(paths.data_root()), "PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"}


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

    def add(self) -> None:
        self.workers.append(self._start("worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard"))

    def kill(self, worker: subprocess.Popen, number: int = signal.SIGKILL) -> None:
        worker.send_signal(number)
        worker.wait()
        self.workers.remove(worker)

    def _start(self, kind: str, *arguments: str) -> subprocess.Popen:
        with open(self.folder / f"{kind}-{len(self.workers)}.log", "ab") as log:
            return subprocess.Popen([sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments],
                                    env={**variables(), **DASK}, stdout=log, stderr=log, cwd=self.folder)


def wait_for(condition, seconds: float = 180.0):
    """The first true value of ``condition()``; fails after ``seconds``, which only a broken program needs."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {condition}"
        time.sleep(0.02)
    return value
