"""How the benchmark measures: rows of its table, rounds in turns, processes of their own (see :mod:`benchmarks.bench`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier
from typing import NamedTuple

import numpy as np
import torch


class Row(NamedTuple):
    """One line of the table. ``ratio`` is compared with ``target``: at least, or ``at_most``; NaN: no target."""

    job: str
    reference: float
    ours: float
    unit: str
    ratio: float
    target: float = float("nan")
    at_most: bool = False
    note: str = ""
    failed: bool = False

    @property
    def met(self) -> str:
        if np.isnan(self.target):
            return "failed" if self.failed else "–"
        return "yes" if (self.ratio <= self.target if self.at_most else self.ratio >= self.target) else "no"

    @property
    def aim(self) -> str:
        return "–" if np.isnan(self.target) else f"{'≤' if self.at_most else '≥'} {self.target:g}"


def faster(job: str, seconds: Sequence[float] | np.ndarray, target: float, note: str = "") -> Row:
    """The row of a job from the seconds of the textbook and of ours, in one round or in several (rounds, 2).

    The ratio is the median of the rounds' own ratios: what else the machine does meets both sides of a round.
    """
    rounds = np.atleast_2d(seconds)
    reference, ours = np.median(rounds, axis=0)
    ratio = float(np.median(rounds[:, 0] / rounds[:, 1]))
    return Row(job, float(reference), float(ours), "s", ratio, target, note=note)


def take_turns(functions: Sequence[Callable[[], object]], repeats: int, shortest: float = 0.2) -> np.ndarray:
    """Seconds of a call of each function, one after the other in each of ``repeats`` rounds: (rounds, functions).

    The first call of each is not counted; calls that take less than ``shortest`` seconds are timed several at once.
    """
    calls = []
    for function in functions:
        function()
        calls.append(max(1, round(shortest / max(seconds_of_a_call(function, 1), 1e-6))))
    return np.array([[seconds_of_a_call(function, n) for function, n in zip(functions, calls, strict=True)]
                     for _ in range(repeats)])


def seconds_of_a_call(function: Callable[[], object], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - started) / calls


def two_at_a_time(work: Callable[[int, Barrier | None], float], size: int, rounds: int) -> list[tuple[float, float]]:
    """Seconds of ``work`` of that ``size``, twice in one process and once in each of two; in each of ``rounds``."""
    context, seconds = get_context("spawn"), []
    with (ProcessPoolExecutor(2, context, initializer=torch.set_num_threads, initargs=(1,)) as pool,
          context.Manager() as manager):
        ready = manager.Barrier(2)
        for _ in range(rounds):
            together = max(pool.map(work, [size] * 2, [ready] * 2))
            seconds.append((2 * pool.submit(work, size, None).result(), together))
    return seconds


def ceiling(rounds: int) -> str:
    """What this machine's cores allow, in words: how much faster two processes are that need no memory."""
    one, two = np.transpose(two_at_a_time(_products, 10_000, rounds))
    return f"matrix products within the cache reach {np.median(one / two):.2f}"


def _products(count: int, ready: Barrier | None) -> float:
    """Seconds of ``count`` products of small matrices, begun when every process is ``ready``."""
    x = torch.ones(128, 128)
    x @ x
    if ready is not None:
        ready.wait()
    return count * seconds_of_a_call(lambda: x @ x, count)


def in_a_process(function: Callable, *arguments: object) -> object:
    """The result of a function in a fresh process with this one's environment."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return pool.submit(function, *arguments).result()


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count the parent's memory at the start of this process
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def last_line(text: str) -> str:
    """What a process said last."""
    return (text.strip().splitlines() or ["no message"])[-1]
