"""The process of one worker's jobs: ``python -m fmuc.run_process`` reads each as a line of JSON from standard input.

On Linux it does the imports, which take longer than some runs of mini, once, and each job that computes on the CPU in
a fork of itself: a process of its own all the same. Elsewhere, and for a GPU, whose driver may not survive a fork, it
does one job itself.

A job prints a line of JSON for each epoch; a fork's end is ``{"status": ...}``, and :data:`END` on standard error. All
end when the other end of standard input does, so that a worker that was killed leaves no process behind.
Exit status as that of the command line.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing.connection import wait
from threading import Thread
from typing import IO

from fmuc import paths
from fmuc.config import Features, run_from_dict
from fmuc.errors import FmucError
from fmuc.launch import sources
from fmuc.process_pool import END, IMPORTS, UNFIT, forks
from fmuc.records import code_digest


def main() -> int:
    """Carry out jobs until there are no more, or one: a run, a data set's features or, to be timed, nothing. Returns
    the exit status."""
    reports, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no report
    code_digest()  # of what is imported from now on
    while line := sys.stdin.readline():
        job = json.loads(line)
        for module in () if "dataset" in job else IMPORTS:
            importlib.import_module(module)
        if not forks(job.get("device", "cpu")):
            Thread(target=_end_with_worker, daemon=True).start()
            return _carry_out(job, reports)
        status = _in_a_fork(job, reports)
        print(f"\n{END}", file=sys.stderr, flush=True)  # a line of its own, even after the half line of one killed
        print("\n" + json.dumps({"status": status}), file=reports, flush=True)
    os._exit(0)  # tidying up all that was imported takes a second


def _in_a_fork(job: dict, reports: IO[str]) -> int:
    """Carry out a job in a process that is forked from this one; returns its exit status."""
    process = multiprocessing.get_context("fork").Process(target=_fork, args=(job, reports))
    process.start()
    if process.sentinel not in wait([process.sentinel, sys.stdin]):
        _kill_group(os.getpid())
    process.join()
    return process.exitcode


def _fork(job: dict, reports: IO[str]) -> None:
    Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    sys.exit(_carry_out(job, reports))


def _carry_out(job: dict, reports: IO[str]) -> int:
    if not job["code"] == code_digest() == sources():  # modules that are imported late are as the disk has them
        print(f"{paths.ROOT} on {socket.gethostname()} has other code of fmuc than the plan: update it there",
              file=sys.stderr)
        return UNFIT

    def report(row: dict) -> None:
        print(json.dumps(row), file=reports, flush=True)

    try:
        if "run" in job:
            _train(job, report)
        elif "dataset" in job:
            _extract(job, report)
    except (FmucError, ValueError) as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return 1
    return 0


def _train(job: dict, report: Callable[[dict], None]) -> None:
    from fmuc import train

    run = run_from_dict(job["run"])
    train.train(run, device=job["device"], folder=paths.data_root() / job["folder"], progress=False,
                on_epoch=lambda row: report({"step": row["epoch"], "text": train.describe(row)}))


def _extract(job: dict, report: Callable[[dict], None]) -> None:
    from fmuc import datasets, features

    cache = features.extract(datasets.load(job["dataset"]), Features(**job["features"]), workers=job["workers"],
                             progress=False)
    report({"step": 1, "text": f"{len(cache.patches)} patches"})


def _end_with_worker() -> None:
    os.read(0, 1)  # returns when the worker has ended, however it did; not sys.stdin, whose lock would outlive us
    _kill_group(os.getpid())


def _end_with(process: multiprocessing.process.BaseProcess) -> None:
    process.join()
    _kill_group(process.pid)


def _kill_group(leader: int) -> None:
    """End this process and, if ``leader`` has a group of its own, all others of that, pools included."""
    if os.getpgrp() == leader:
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
