"""The process of one job: ``python -m fmuc.run_process`` reads what to do as a line of JSON from standard input.

It prints a line of JSON for each epoch and ends when the other end of its standard input does, so that a worker that
was killed leaves no process behind. Exit status as that of the command line.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from threading import Thread

from fmuc import paths
from fmuc.config import Features, run_from_dict
from fmuc.errors import FmucError
from fmuc.launch import UNFIT
from fmuc.runs import code_digest


def main() -> int:
    """Carry out the job; returns the exit status."""
    reports, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no report
    job = json.loads(sys.stdin.readline())
    Thread(target=_end_with_parent, daemon=True).start()
    if job["code"] != code_digest():
        print(f"{paths.ROOT} on {socket.gethostname()} has other code of fmuc than the plan: update it there",
              file=sys.stderr)
        return UNFIT

    def report(row: dict) -> None:
        print(json.dumps(row), file=reports, flush=True)

    try:
        (_train if "run" in job else _extract)(job, report)
    except (FmucError, ValueError) as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return 1
    return 0


def _train(job: dict, report: Callable[[dict], None]) -> None:
    from fmuc import train

    run = run_from_dict(job["run"])
    train.train(run, device=job["device"], folder=paths.data_root() / job["folder"], compiled=job["compiled"],
                progress=False, on_epoch=lambda row: report({"step": row["epoch"], "text": train.describe(row)}))


def _extract(job: dict, report: Callable[[dict], None]) -> None:
    from fmuc import datasets, features

    cache = features.extract(datasets.load(job["dataset"]), Features(**job["features"]), workers=job["workers"],
                             progress=False)
    report({"step": 1, "text": f"{len(cache.patches)} patches"})


def _end_with_parent() -> None:
    os.read(0, 1)  # returns when the parent has ended, however it did; not sys.stdin, whose lock would outlive us
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with all processes of a pool
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
