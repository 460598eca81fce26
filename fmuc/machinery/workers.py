"""Worker processes on this machine (joblib's loky), for sound files, runs and notebooks."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm import tqdm

from fmuc.errors import FmucError

# Read when a process starts; what the environment says goes first
ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
if sys.platform == "linux":  # glibc keeps freed memory: training spends a third less time in page faults
    ENVIRONMENT |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "99999999999", "MALLOC_TOP_PAD_": "268435456"}


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_workers(workers: int, variables: Mapping[str, str] | None = None) -> ProcessPoolExecutor:
    """Worker processes with these environment ``variables``, single-threaded unless the environment says otherwise.

    They end with this process, however it ends. ``shutdown(kill_workers=True)`` ends them and their children at once.
    """
    return ProcessPoolExecutor(workers, initializer=_start, initargs=(os.getpid(),),
                               env={**ENVIRONMENT, **os.environ, **(variables or {})})


def run_parallel(function: Callable, tasks: Iterable[tuple], workers: int) -> Iterator:
    """Yield ``function(*task)`` of each task in order, computed by ``workers`` processes.

    Few tasks are in flight at a time, so memory does not grow with their number. ``function`` must be importable and
    catch the errors that it wants to report. With one worker, all happens in this process. Raises :class:`FmucError`
    if a worker was killed.
    """
    if workers == 1:
        yield from (function(*task) for task in tasks)
        return
    executor, flying = start_workers(workers), deque()
    try:
        for task in tasks:
            flying.append(executor.submit(function, *task))
            if len(flying) == 2 * workers:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
    except TerminatedWorkerError:
        raise FmucError("a worker process was killed (out of memory?): free memory or use fewer workers; the same "
                        "command goes on from what is finished") from None
    finally:
        executor.shutdown(kill_workers=True)


def _start(parent: int) -> None:
    """In a worker: leave Ctrl-C to the parent, and end when it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(threading.RLock())  # the default one leaves a semaphore when a worker is killed
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
