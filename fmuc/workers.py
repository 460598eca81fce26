"""Worker processes on this machine (joblib's loky): one pool for sound files, runs and notebooks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError

from fmuc.errors import FmucError


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_parallel(function: Callable, tasks: Iterable[tuple], workers: int, *, ordered: bool = True) -> Iterator:
    """Yield ``function(*task)`` of each task from ``workers`` processes, in order or as they finish; few are in flight.

    ``function`` must be importable and catch the errors that it wants to report. With one worker, all happens in this
    process. Workers end with this process, however it ends. Raises :class:`FmucError` if a worker was killed.
    """
    if workers == 1:
        yield from (function(*task) for task in tasks)
        return
    pool = Parallel(workers, backend="loky", return_as="generator" if ordered else "generator_unordered", batch_size=1,
                    pre_dispatch="2*n_jobs", max_nbytes=None)  # no memory maps: nothing is left in temporary folders
    try:
        yield from pool(delayed(_guarded)(os.getpid(), function, task) for task in tasks)
    except TerminatedWorkerError:
        raise FmucError("a worker process was killed (out of memory?): free memory or use fewer workers; the same "
                        "command goes on from what is finished") from None


_parents: set[int] = set()  # processes that this worker already watches


def _guarded(parent: int, function: Callable, task: tuple) -> object:
    if parent not in _parents:
        _parents.add(parent)
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    return function(*task)


def _end_with(parent: int) -> None:
    """End this process as soon as ``parent`` is gone: a killed command leaves no worker behind."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
