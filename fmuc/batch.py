"""Many jobs over a cluster: longest first, lost ones elsewhere, failing ones reported, interrupted ones kept.

The order and the number of jobs that are out are decided here and not by Dask's scheduler, which would hand all jobs
out at the start: so the longest begin first whatever workers come and go, a worker's death touches only what it was
at, and another batch on the same folder is given way to.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from tqdm import tqdm

from fmuc import launch, paths
from fmuc.cluster import Pool, check
from fmuc.errors import FmucError
from fmuc.launch import Outcome

FAILURES = 1  # further tries after an error of the run's own
LOSSES = 5  # times in a row that a job may lose its worker or process without getting on
_TICK = 1.0  # seconds between two looks at workers and at other batches
_STOP = 15.0  # seconds that interrupted processes have to end in


@dataclass(frozen=True)
class Job:
    """``label`` for people; ``steps`` of progress; ``claim`` and ``lock``: files below the data folder, locked while a
    batch or a single process is at it; ``content`` for :mod:`fmuc.run_process`; ``finished`` tells."""

    name: str
    label: str
    steps: int
    claim: str
    lock: str
    content: dict
    finished: Callable[[], bool]


@dataclass(frozen=True)
class Failure:
    """A run that ended with an error: its name and the last line it printed."""

    run: str
    message: str


class Batch:
    """Carries out ``jobs``, in this order as workers get free; ``task`` of a worker: from a job's dict to an
    :class:`~fmuc.launch.Outcome`."""

    def __init__(self, pool: Pool, jobs: Sequence[Job], required: dict, *, progress: bool = True,
                 nouns: tuple[str, str] = ("runs", "epoch"),
                 task: Callable[[dict], Outcome] = launch.carry_out) -> None:
        self.pool, self.task, self.required = pool, task, required
        self.plan = f"fmuc-{os.urandom(4).hex()}"
        self.jobs = {job.name: job for job in jobs}
        self.waiting = list(self.jobs)  # names
        self.out: dict[str, tuple[str, object]] = {}  # by key: name and future
        self.news: SimpleQueue = SimpleQueue()
        self.steps, self.since = Counter(), Counter()  # done; done when it was last lost
        self.tries, self.losses, self.serial = Counter(), Counter(), 0
        self.rest: dict[str, float] = {}  # when a job that was busy elsewhere may be looked at again
        self.failures: list[Failure] = []
        self.slots, self.code, self.looked = 0, "", float("-inf")
        self.noun, unit = nouns
        self.bar = tqdm(total=sum(job.steps for job in jobs), unit=unit, disable=not progress)

    def run(self) -> list[Failure]:
        """All jobs to their end; those that failed. :class:`FmucError` if no worker may go on with any of them.

        ``KeyboardInterrupt``, like every other error, is raised after all processes of the plan were ended.
        """
        client = self.pool.client
        client.subscribe_topic(self.plan, lambda event: self.news.put(("said", event[1])))
        try:
            with self.bar:
                while self.waiting or self.out:
                    self._fill()
                    self._next()
        except BaseException:
            self._stop()
            raise
        finally:
            with suppress(Exception):  # of a scheduler that has gone
                client.unsubscribe_topic(self.plan)
        return self.failures

    def _fill(self) -> None:
        """Hand out jobs while there are free workers."""
        if time.monotonic() - self.looked > _TICK:
            self.slots, self.code, self.looked = self._count(), launch.sources(), time.monotonic()
        while len(self.out) < self.slots and (name := self._take()):
            self._submit(name)
        self.bar.set_description_str(f"{len(self.jobs)} {self.noun}, {self.slots} at a time", refresh=False)

    def _count(self) -> int:
        try:
            return self.pool.slots()
        except OSError:
            raise self._gone() from None

    def _take(self) -> str | None:
        """The first job that nobody else is at; those that others have finished are done."""
        now, i = time.monotonic(), 0
        while i < len(self.waiting):
            name = self.waiting[i]
            job = self.jobs[name]
            if self.rest.get(name, now) > now:
                i += 1
            elif job.finished():
                del self.waiting[i]
                self._progress(name, job.steps)
            elif taken(job):
                self.rest[name] = now + _TICK
            else:
                del self.waiting[i]
                return name
        if self.waiting and not self.out:
            self.bar.set_postfix_str(f"another batch is at the {len(self.waiting)} {self.noun} left: waiting for it")
        return None

    def _submit(self, name: str) -> None:
        self.serial += 1
        job, key = self.jobs[name], f"{name}/{self.plan}-{self.serial}"
        sent = {"plan": self.plan, "name": name, "claim": job.claim, "content": job.content, "code": self.code,
                "required": self.required, "threads": self.pool.threads, "gpus": self.pool.gpus}
        future = self.pool.client.submit(self.task, sent, key=key, pure=False, resources=self.pool.resources or None)
        self.out[key] = name, future
        future.add_done_callback(lambda future: self.news.put(("ended", future.key)))

    def _next(self) -> None:
        """Wait for news, if there is none yet, and see to them."""
        with suppress(Empty):
            kind, what = self.news.get(timeout=_TICK)
            while True:
                if kind == "said":
                    self._said(**what)
                elif what in self.out:
                    self._ended(*self.out.pop(what))
                kind, what = self.news.get_nowait()

    def _said(self, name: str, step: int = 0, text: str = "", warning: str = "", **_: str) -> None:
        if warning:
            tqdm.write(f"fmuc: {warning}", file=sys.stderr)
        else:
            self._progress(name, step)
            self.bar.set_postfix_str(f"{self.jobs[name].label}: {text}", refresh=False)

    def _progress(self, name: str, step: int) -> None:
        if step > self.steps[name]:
            self.bar.update(step - self.steps[name])
            self.steps[name] = step

    def _ended(self, name: str, future: object) -> None:
        outcome = self._outcome(future)
        if outcome.end == "done":
            self._progress(name, self.jobs[name].steps)
        elif outcome.end == "busy":
            self.rest[name] = time.monotonic() + _TICK
            self.waiting.insert(0, name)
        elif outcome.end == "failed":
            self.tries[name] += 1
            self._again_or_never(name, self.tries[name] <= FAILURES, outcome.message, len(self.waiting))
        elif outcome.end in ("lost", "unfit"):
            self.losses[name] = 1 if self.steps[name] > self.since[name] else self.losses[name] + 1
            self.since[name] = self.steps[name]
            if outcome.end == "unfit" and self.losses[name] > 1:
                raise FmucError(outcome.message)
            self._again_or_never(name, self.losses[name] < LOSSES, outcome.message, 0)

    def _outcome(self, future: object) -> Outcome:
        from distributed import KilledWorker

        if future.status == "cancelled":
            raise self._gone()
        if future.status == "finished":
            return Outcome(*future.result())
        error = future.exception()
        return Outcome("lost", "its workers were lost") if isinstance(error, KilledWorker) else Outcome(
            "failed", str(error) or repr(error))

    def _again_or_never(self, name: str, again: bool, message: str, place: int) -> None:
        if again:
            self.waiting.insert(place, name)
        else:
            self.failures.append(Failure(name, message))

    def _gone(self) -> FmucError:
        return FmucError("the Dask scheduler has gone, and its workers with it: start it again; the same command then "
                         "goes on from the last finished epochs")

    def _stop(self) -> None:
        """End the plan's processes, here and elsewhere."""
        with suppress(Exception):  # of a scheduler or worker that has gone
            self.pool.client.run(launch.stop, self.plan, on_error="ignore")
            end = time.monotonic() + _STOP
            while self.out and (left := end - time.monotonic()) > 0:
                kind, what = self.news.get(timeout=left)
                if kind == "ended":
                    self.out.pop(what, None)
            self.pool.client.cancel([future for _, future in self.out.values()])


def taken(job: Job) -> bool:
    """Whether another process holds one of the job's locks."""
    for name in (job.claim, job.lock):
        path = paths.data_root() / name
        if path.exists():
            with launch.claim(Path(path)) as free:
                if not free:
                    return True
    return False


def carry_out(pool: Pool, jobs: Sequence[Job], *, progress: bool = True,
              nouns: tuple[str, str] = ("runs", "epoch")) -> list[Failure]:
    """Check the workers, then carry out the jobs; those that failed (see :meth:`Batch.run`)."""
    try:
        held = launch.token()
    except OSError as error:
        where = paths.relative(paths.data_root())
        raise FmucError(f"{where}: cannot be written ({error.strerror or error}): make room or make it writable, or "
                        "let FMUC_DATA name another folder") from None
    path = Path(held.lock_file)
    try:
        required = launch.requirements(path)
        check(pool, required | {"code": launch.sources()})
        return Batch(pool, jobs, required, progress=progress, nouns=nouns).run()
    finally:
        path.unlink(missing_ok=True)
        held.release()
