"""A job of a plan in a process of its own: what a Dask worker, here or on another machine, does with a run.

Training has a process of its own for each run (:mod:`fmuc.process_pool`): nothing is left over from the run before, a
crash ends one run only, and a run can be ended at once. The worker itself imports no PyTorch; it passes epochs on and
waits.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from fmuc import paths
from fmuc.process_pool import UNFIT, follow
from fmuc.records import code_digest, is_finished

# glibc keeps freed memory instead of returning it to the system: a third less time on large activations
_ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "99999999999", "MALLOC_TOP_PAD_": "268435456"}
_VISIBLE = 5.0  # seconds within which a new file must be seen on another machine
_POLL = 0.2  # seconds between two looks for it
_stopped: set[str] = set()  # plans that were interrupted


class Outcome(NamedTuple):
    """How a job ended: "done", "failed" by an error of its own, "lost" with its process or worker, "busy" elsewhere,
    "stopped" with its plan, or not begun on a machine that is "unfit"; what it said last."""

    end: str
    message: str = ""


def environment(threads: int | None) -> dict[str, str]:
    """Variables of a process that computes: allocator, data folder and, unless 0 or None, its number of threads."""
    variables = {**_ALLOCATOR, **os.environ} if sys.platform == "linux" else dict(os.environ)
    variables["FMUC_DATA"] = str(paths.data_root())  # absolute: the process runs from the repository root
    if threads:
        variables |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return variables


# What a worker must have in common with the process that sends the plan


def token() -> FileLock:
    """A new locked file in the data folder, by which a worker shows that it sees the folder and its locks.

    Those that killed processes have left are removed. Raises ``OSError`` if the folder cannot be written.
    """
    root = paths.data_root()
    root.mkdir(parents=True, exist_ok=True)
    for path in root.glob(".plan-*"):
        with claim(path) as mine:
            if mine:
                path.unlink(missing_ok=True)
    lock = FileLock(root / f".plan-{os.urandom(6).hex()}", thread_local=False)
    lock.acquire(timeout=0)
    return lock


def versions() -> dict[str, str]:
    """Of Python and of the libraries that compute; a build's suffix ("+cu126") does not count."""
    packages = ("torch", "torchaudio", "librosa", "numpy", "numba")
    return {"Python": ".".join(platform.python_version_tuple()[:2]),
            **{name: version(name).partition("+")[0] for name in packages}}


def sources() -> str:
    """Digest of the package's code as it is on the disk now; it may have been edited since this process began."""
    return code_digest.__wrapped__()


def requirements(token: Path) -> dict:
    """What :func:`misfit` compares: data folder (by a file in it) and versions of this process."""
    return {"token": token.name, "data": str(token.parent), "versions": versions()}


def misfit(required: dict) -> str:
    """Why this worker must not train for the plan, in a line with the remedy; empty if it may."""
    me, here = f"the worker on {socket.gethostname()}", paths.data_root()
    end = time.monotonic() + _VISIBLE
    while not (here / required["token"]).exists():
        if time.monotonic() > end:
            return (f"{me} does not share the data folder: it has {here}, the plan {required['data']}: set FMUC_DATA "
                    "to one shared folder for both")
        time.sleep(_POLL)
    with claim(here / required["token"]) as mine:
        if mine:
            return (f"{me} does not see file locks of other machines in {here}: mount it with locks "
                    "(NFS: without 'nolock' or 'local_lock')")
    if required.get("code", sources()) != sources():
        return f"{me} has other code of fmuc in {paths.ROOT}: update it there"
    wrong = [f"{name} {found}, not {required['versions'][name]}" for name, found in versions().items()
             if found != required["versions"][name]]
    return f"{me} has {'; '.join(wrong)}: install requirements.lock there" if wrong else ""


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Hold the lock file ``path`` if nobody else does; yields whether. A killed process holds nothing."""
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


# Tasks


def stop(plan: str) -> None:
    """End the processes of a plan on this worker; it gets no others."""
    _stopped.add(plan)


def carry_out(job: dict) -> Outcome:
    """The task of a Dask worker: one job in a process, unless somebody else is at it."""
    if problem := misfit(job["required"]):
        return Outcome("unfit", problem)
    place = paths.data_root() / job["claim"]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with claim(place) as mine:
            if not mine:
                return Outcome("busy")
            folder = job["content"].get("folder")  # of a run, which another batch may just have finished
            return Outcome("done") if folder and is_finished(paths.data_root() / folder) else _in_a_process(job)
    except OSError as error:  # of the disk, as far as one can tell
        return Outcome("failed", f"{error.strerror or error}: {paths.relative(place.parent)}")


def wait(job: dict) -> Outcome:
    """A task that computes nothing, by which :mod:`fmuc.scaling` measures what scheduling costs."""
    from distributed import get_worker

    time.sleep(job["content"]["seconds"])
    get_worker().log_event(job["plan"], {"name": job["name"], "step": 1})
    return Outcome("done")


def _in_a_process(job: dict) -> Outcome:
    from distributed import Status, get_worker

    worker, variables = get_worker(), environment(job["threads"]) | _ALLOCATOR  # a nanny of Dask sets another
    if job["gpus"]:
        variables["CUDA_VISIBLE_DEVICES"] = job["gpus"][int(worker.name)]

    def unwanted() -> str:
        if job["plan"] in _stopped:
            return "stopped"
        return "" if worker.status in (Status.running, Status.paused) else "lost"

    status, last, ended = follow(job["content"] | {"code": job["code"]}, variables, unwanted,
                                 lambda said: worker.log_event(job["plan"], {"name": job["name"], **said}))
    if ended:
        return Outcome(ended, "its worker was closed")
    if status < 0:
        return Outcome("lost", f"its process was ended by {signal.Signals(-status).name} (too little memory?)")
    return Outcome({0: "done", UNFIT: "unfit"}.get(status, "failed"), last or f"exit status {status}")
